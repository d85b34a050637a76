import functools
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from skimage import data
from typer.testing import CliRunner, Result

from nullface_pipeline import face_search, model_sets
from nullface_pipeline.cli import UsageError, app, main
from nullface_pipeline.photo_folder import preview
from nullface_pipeline.photo_folder.planned_files import PREVIEW_SUFFIX
from nullface_pipeline.photo_records import FaceNotHiddenError, TooManyFacesError


# The paper's way, in so few steps that a face takes a second; it passes the check of its own.
QUICK = ("--identity", "opposite", "--num-inference-steps", "4", "--skip", "0.5")


@functools.cache
def astronaut_png() -> bytes:
    file = io.BytesIO()
    PIL.Image.fromarray(data.astronaut()).save(file, "PNG")
    return file.getvalue()


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def invoke_as_main(*arguments: object) -> Result:
    """With the exit code of the command, for which wrong usage is 2; whatever it raises is a
    traceback.
    """
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], standalone_mode=False)
    if isinstance(result.exception, UsageError):
        result.exit_code = 2
        result.output_bytes += result.exception.format_message().encode(errors="replace")
    elif result.exception is None:
        result.exit_code = result.return_value or 0
    else:
        raise result.exception
    return result


def contents(folder: Path) -> dict[Path, bytes | None]:
    """All files and folders in a folder, and what is in them."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def test_anonymize_a_folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    PIL.Image.fromarray(data.astronaut()).save(folder / "astronaut.jpg")
    PIL.Image.new("RGB", (200, 200), "white").save(folder / "wall.png")
    report, sheet = tmp_path / "report.jsonl", tmp_path / "sheet.png"
    arguments = ("anonymize", folder, "-o", tmp_path / "out", "--report", report, *QUICK)
    arguments += ("--contact-sheet", sheet, "--seed", 0)
    result = invoke(*arguments)
    assert result.exit_code == 4, result.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["astronaut.jpg"]
    assert "refused" in result.output and "wall.png" in result.output
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert [line["status"] for line in lines] == ["anonymized", "refused"]
    with PIL.Image.open(sheet) as page:
        assert page.size == (430, 254), "two fields"
    first = (tmp_path / "out" / "astronaut.jpg").read_bytes()

    (folder / "wall.png").unlink()
    again = invoke(*arguments)
    assert again.exit_code == 0 and "1 finished before" in again.output
    assert len(report.read_text().splitlines()) == 2, "nothing was done again"
    assert invoke(*arguments[:-2], "--no-resume").exit_code == 0
    assert (tmp_path / "out" / "astronaut.jpg").read_bytes() != first, "nobody can guess the seed"


def test_a_face_is_covered_by_what_was_asked_for(tmp_path):
    (tmp_path / "astronaut.png").write_bytes(astronaut_png())
    arguments = ("anonymize", tmp_path / "astronaut.png", "-o", tmp_path / "out", "--min-face", 500)
    for cover, fewest in (("solid", 1), ("mosaic", 9)):
        result = invoke(*arguments, "--cover", cover)
        assert result.exit_code == 3 and "finished before" not in result.output, "another cover is done anew"
        face = np.asarray(PIL.Image.open(tmp_path / "out" / "astronaut.png"))[90:150, 200:250]
        assert fewest <= len(np.unique(face.reshape(-1, 3), axis=0)) <= fewest**2


def test_a_reference_photo_is_searched_once_for_all_photos(tmp_path, monkeypatch):
    reference, others = data.astronaut()[:300, 60:360], data.astronaut()
    PIL.Image.fromarray(reference).save(tmp_path / "her.png")
    for name in ("a.png", "b.png"):
        PIL.Image.fromarray(others).save(tmp_path / name)
    searched = []
    search = face_search.search_faces

    def counted(analyser, pixels):
        searched.append(pixels.shape)
        return search(analyser, pixels)

    monkeypatch.setattr("nullface_pipeline.photo.search_faces", counted)
    arguments = ("anonymize", tmp_path / "[ab].png", "-o", tmp_path / "out", "--report", tmp_path / "r.jsonl")
    assert invoke(*arguments, "--skip-face", tmp_path / "her.png").exit_code == 0
    assert searched.count(reference.shape) == 1 and searched.count(others.shape) >= 2
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [face["method"] for line in lines for face in line["faces"]] == ["kept"] * 2


def test_a_reference_photo_of_nobody_is_said_before_the_first_photo(tmp_path):
    (tmp_path / "astronaut.png").write_bytes(astronaut_png())
    PIL.Image.new("RGB", (200, 200), "white").save(tmp_path / "wall.png")
    arguments = ("anonymize", tmp_path / "astronaut.png", "-o", tmp_path / "out", "--skip-face", tmp_path / "wall.png")
    result = invoke(*arguments)
    assert result.exit_code == 2 and "--skip-face needs reference photos" in result.stderr
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.fixture
def impossible(tmp_path: Path) -> tuple[str, Path]:
    """Options with which no face can be hidden: everything is kept."""
    PIL.Image.new("L", (512, 512), 255).save(tmp_path / "mask.png")
    return "--keep-mask", tmp_path / "mask.png"


def test_covered_faces_have_their_own_exit_code(tmp_path, impossible):
    (tmp_path / "astronaut.png").write_bytes(astronaut_png())
    arguments = ("anonymize", tmp_path / "astronaut.png", *impossible)
    result = invoke(*arguments, "-o", tmp_path / "out")
    assert result.exit_code == 3, result.output
    result = invoke(*arguments, "-o", tmp_path / "none", "--on-failure", "skip-file")
    assert result.exit_code == 4 and not (tmp_path / "none").exists()


def test_on_failure_error_stops_at_the_first_face_that_cannot_be_hidden(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(astronaut_png())
    report = tmp_path / "report.jsonl"
    arguments = ("anonymize", tmp_path / "[ab].png", "-o", tmp_path / "out", *QUICK, "--similarity-threshold", "-1")
    arguments += ("--num-inference-steps", "2")
    result = invoke(*arguments, "--on-failure", "error", "--report", report)
    assert result.exit_code == 4, result.output
    assert not (tmp_path / "out").exists() and len(report.read_text().splitlines()) == 1


def test_a_dry_run_only_writes_previews_in_which_faces_are_covered(tmp_path):
    photo, wall = tmp_path / "astronaut.png", tmp_path / "wall.png"
    photo.write_bytes(astronaut_png())
    PIL.Image.new("RGB", (200, 200), "white").save(wall)
    wall.with_name("broken.jpg").write_bytes(b"no photo")
    output = tmp_path / "out"
    result = invoke("anonymize", photo, wall, tmp_path / "broken.jpg", "-o", output, "--dry-run")
    assert result.exit_code == 4, result.output
    previews = {path.name: np.asarray(PIL.Image.open(path)) for path in output.iterdir()}
    assert set(previews) == {f"astronaut.png{PREVIEW_SUFFIX}", f"wall.png{PREVIEW_SUFFIX}"}
    face = previews[f"astronaut.png{PREVIEW_SUFFIX}"][90:150, 200:250]
    assert len(np.unique(face.reshape(-1, 3), axis=0)) == 1
    assert (previews[f"wall.png{PREVIEW_SUFFIX}"] == 255).all()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TooManyFacesError("Too many faces."), "Too many faces"),
        (FaceNotHiddenError("It is nowhere."), "It is nowhere"),
        (RuntimeError("of a library"), "of a library"),
        (MemoryError(), "memory"),
    ],
)
def test_a_dry_run_goes_on_after_a_photo_that_cannot_be_searched(tmp_path, monkeypatch, error, message):
    for name in ("a.png", "b.png"):
        PIL.Image.new("RGB", (200, 200), "white").save(tmp_path / name)
    search = preview.search_faces
    answers = iter([error])

    def fail_once(detector, pixels):
        for failure in answers:
            raise failure
        return search(detector, pixels)

    monkeypatch.setattr(preview, "search_faces", fail_once)
    result = invoke_as_main("anonymize", tmp_path / "[ab].png", "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 4 and "refused" in result.output and message in " ".join(result.output.split())
    assert [path.name for path in (tmp_path / "out").iterdir()] == [f"b.png{PREVIEW_SUFFIX}"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["anonymize", "nowhere.jpg", "-o", "out"], "does not exist"),
        (["anonymize", ".", "-o", "out"], "lies in"),
        (["anonymize", "*.jpg", "-o", "out"], "No photo matches"),
        (["anonymize", ".", "-o", "out", "--preset", "weak"], "'preview'. See `nullface anonymize --help`."),
        (["dataset", "report"], "Missing argument 'OUTPUT'. See `nullface dataset report --help`."),
        (["dance"], "No such command 'dance'. See `nullface --help`."),
        (["doctor", "now"], "(now). See `nullface doctor --help`."),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["nullface", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["-o", "photo.png"], "photo.png"),
        (["-o", "out", "--report", "photo.png"], "photo.png"),
        (["-o", "out", "--report", "notes.txt"], "notes.txt"),
        (["-o", "out", "--report", "out/photo.png"], "out/photo.png"),
        (["-o", "out", "--contact-sheet", "photo.png"], "photo.png"),
        (["-o", "out", "--contact-sheet", "notes.png"], "notes.png"),
        (["-o", "out", "--report", "."], "report"),
        (["-o", "old"], "old"),
        (["-o", "results", "--dry-run"], "results"),
        (["-o", ""], "--output"),
        (["-o", "out", "--report", ""], "--report"),
        (["-o", "out", "--seed", "9" * 30], "--seed"),
        (["-o", "out", "--seed", "-1"], "--seed"),
        (["-o", "out", "--min-face", "nan"], "--min-face"),
        (["-o", "out", "--min-face", "inf"], "--min-face"),
        (["-o", "out", "--similarity-threshold", "nan"], "--similarity-threshold"),
        (["-o", "out", "--detection-threshold", "0"], "--detection-threshold"),
        (["-o", "out", "--detection-threshold", "nan"], "--detection-threshold"),
        (["-o", "out", "--batch-faces", "1e9"], "--batch-faces"),
        (["-o", "out", "--contact-sheet", "sheet.xyz"], "--contact-sheet"),
        (["-o", "."], "photo.png"),
        (["-o", "out", "--similarity-threshold", "30"], "--similarity-threshold"),
        (["-o", "out", "--keep", "eye"], "--keep"),
        (["-o", "out", "--keep-mask", "nowhere.png"], "nowhere.png"),
        (["-o", "out", "--keep-mask", "small.png"], "small.png"),
        (["-o", "out", "--skip-face", "nowhere.png"], "nowhere.png"),
        (["-o", "out", "--skip-face", "5,5,1,1"], "--skip-face"),
        (["-o", "out", "--num-inference-steps", "0"], "--num-inference-steps"),
        (["-o", "out", "--skip", "1"], "--skip"),
        (["-o", "out", "--cover", "black"], "--cover"),
        (["-o", "out", "--json"], "--json"),
        (["-o", "out", "--model", "sd14"], "'sd14'"),
        (["-o", "out", "--verifier", "no/such"], "no/such"),
        (["clip.MP4", "-o", "out"], "nullface video"),
        (["-o", "out", "--max"], "--max"),
        (
            ["-o", "out", "--identity", "consistent", "--identity-angle", "30"],
            "--identity-angle",
        ),
        (["-o", "result.jpg"], "result.png"),
        (["small.png", "-o", "result.png"], "result.png"),
        (["small.png", "-o", "out", "--skip-face", "1,1,9,9"], "--skip-face"),
        (["-o", "-", "--report", "r.jsonl"], "--report"),
        (["-o", "out", "--skip-face", "results/photo.png", "-o", "results", "--overwrite"], "results/photo.png"),
        (["-o", "out", "--skip-face", "ref.png", "--contact-sheet", "ref.png", "--overwrite"], "ref.png"),
        (["-o", "out", "--keep-mask", "mask.png", "--contact-sheet", "mask.png", "--overwrite"], "mask.png"),
        (["small.png", "-o", "-"], "photo"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_done(tmp_path, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_sets, "load_model_set", None)
    Path("photo.png").write_bytes(astronaut_png())
    Path("notes.txt").write_text("Dear diary\n")
    PIL.Image.new("RGB", (32, 32)).save("small.png")
    for name in ("results/photo.png", "ref.png", "mask.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(astronaut_png())
    for name in ("notes.png", f"old/x.png{PREVIEW_SUFFIX}", "results/result.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(b"mine")
    before = contents(tmp_path)
    try:
        result = invoke_as_main("anonymize", "photo.png", *arguments)
    finally:
        assert contents(tmp_path) == before, "nothing is written, not even an empty folder"
    assert result.exit_code == 2, result.output
    assert named in result.output and "Traceback" not in result.output


def test_wrong_model(tmp_path):
    PIL.Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    (tmp_path / "model_index.json").write_text("{}")
    result = invoke("anonymize", tmp_path / "photo.png", "-o", tmp_path / "out", "--model", tmp_path)
    assert result.exit_code == 1 and "could not be loaded" in result.output


FACE = (slice(90, 150), slice(200, 250))


def face_changed(before: Path, after: Path) -> bool:
    old, new = (np.asarray(PIL.Image.open(path).convert("RGB")).astype(int) for path in (before, after))
    return bool(np.abs(new - old)[FACE].mean() > 3)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photos" / "astronaut.png"
    path.parent.mkdir()
    path.write_bytes(astronaut_png())
    return path


def test_a_copy_of_the_original_is_refused_and_made_again_when_asked(photo, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    shutil.copy(photo, output)
    for more in ((), ("--no-resume",), ("--report", tmp_path / "report.jsonl")):
        result = invoke_as_main("anonymize", photo, "-o", output, *more)
        assert result.exit_code == 4 and "is an original" in result.output.replace("\n", " "), result.output
    result = invoke_as_main("anonymize", photo, "-o", output, "--overwrite", "--min-face", 400)
    assert result.exit_code == 3 and face_changed(photo, output / "astronaut.png")


def test_another_person_and_other_options_are_done_again(photo, tmp_path):
    output = tmp_path / "out"
    arguments = ("anonymize", photo, "-o", output, "--min-face", 400)
    assert invoke_as_main(*arguments).exit_code == 3
    first = (output / "astronaut.png").read_bytes()
    assert "1 finished before" in invoke_as_main(*arguments).output
    assert "finished before" not in invoke_as_main(*arguments, "--cover", "mosaic").output
    assert (output / "astronaut.png").read_bytes() != first
    PIL.Image.fromarray(data.astronaut()[:, ::-1]).save(photo)
    assert "finished before" not in invoke_as_main(*arguments, "--cover", "mosaic").output
    assert not [path for path in output.iterdir() if path.name.startswith(".")], "results, and nothing else"


def test_an_album_is_done_again_when_it_changes(photo, tmp_path):
    """The faces of an album depend on all of its photos; one that cannot be read is skipped."""
    arguments = ("anonymize", photo.parent, "-o", tmp_path / "out", "--identity", "consistent", "--min-face", 400)
    assert invoke_as_main(*arguments).exit_code == 3
    assert "1 finished before" in invoke_as_main(*arguments).output
    (photo.parent / "broken.png").write_bytes(b"no photo")
    changed = invoke_as_main(*arguments)
    assert changed.exit_code == 4 and "finished before" not in changed.output


def test_dry_run_and_run_do_not_share_a_folder(photo, tmp_path):
    assert invoke_as_main("anonymize", photo, "-o", tmp_path / "a", "--dry-run").exit_code == 0
    assert invoke_as_main("anonymize", photo, "-o", tmp_path / "a", "--dry-run").exit_code == 0, "again"
    result = invoke_as_main("anonymize", photo, "-o", tmp_path / "a")
    assert result.exit_code == 2 and "delete them" in result.output
    assert [path.name for path in (tmp_path / "a").iterdir()] == [f"astronaut.png{PREVIEW_SUFFIX}"]


def test_linked_folders_are_named_in_the_end(photo, tmp_path):
    (photo.parent / "linked").symlink_to(tmp_path)
    result = invoke_as_main("anonymize", photo.parent, "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 0 and "1 linked or unreadable folder(s) were not searched" in result.output


def as_command(folder: Path, *arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", "from nullface_pipeline.cli import main; main()", "anonymize", *arguments],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )


def test_a_result_is_not_written_over_the_file_on_the_standard_input(photo, tmp_path):
    before = photo.read_bytes()
    os.link(photo, tmp_path / "link.png")
    code = "from nullface_pipeline.cli import main; main()"
    for output in (photo, tmp_path / "link.png"):
        with photo.open("rb") as file:
            run = subprocess.run(
                [sys.executable, "-c", code, "anonymize", "-", "-o", output, "--overwrite"],
                stdin=file,
                capture_output=True,
            )
        assert run.returncode == 2 and b"over the standard input" in run.stderr
        assert photo.read_bytes() == before


STRANGE_NAMES = [b"caf\xe9.jpg", "\u00fc\u4eba.jpg".encode(), b"\x1b[2J\n[red].jpg", "\u202egpj.jpg".encode()]


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"LANG": "C", "PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8"}])
def test_any_name_on_any_terminal(tmp_path, environment):
    (tmp_path / "photos").mkdir()
    for name in STRANGE_NAMES:
        (tmp_path / "photos" / os.fsdecode(name)).write_bytes(b"no photo")
    run = as_command(tmp_path, b"photos", "-o", b"out", "--dry-run", **environment)
    assert run.returncode == 4, run.stderr
    assert b"Traceback" not in run.stderr and run.stderr.count(b"refused") >= len(STRANGE_NAMES)
    assert b"\x1b" not in run.stdout + run.stderr and "\u202e".encode() not in run.stdout + run.stderr
    for name in STRANGE_NAMES:
        result = invoke_as_main("anonymize", os.fsdecode(name), "-o", "out")
        assert result.exit_code == 2 and ("does not exist" in result.output or "No photo" in result.output)
        assert "\x1b" not in result.output


def test_a_wrong_path_is_answered_before_anything_slow_is_imported(tmp_path):
    commands = [
        ["anonymize", "missing.jpg", "-o", "out"],
        ["video", "missing.mp4", "-o", "out"],
        ["dataset", "run", "missing", "-o", "out"],
        ["evaluate", "--originals", "missing", "--method", "blur", "-o", "out"],
    ]
    code = (
        "import sys\nfrom nullface_pipeline.cli import app\n"
        f"for arguments in {commands}:\n  try: app(arguments)\n  except SystemExit: pass\n"
        "slow = {'torch', 'diffusers', 'transformers', 'insightface', 'onnxruntime', 'cv2', 'skimage', 'scipy'}\n"
        "slow |= {'av', 'pyarrow', 'fsspec', 'ray', 'numpy'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0 and run.stderr.count("Error: missing") == len(commands), run.stderr
