"""What the command does with one photo: a result by name, streams, masks, people to spare, and the
paper's knobs.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import typer
from skimage import data

from nullface_pipeline.cli.options import NumberedFace, skipped_face
from nullface_pipeline.cli.photo_run import FolderRun
from nullface_pipeline.tiny_model import TINY_FOLDER

from .test_anonymize import FACE, PREVIEW_SUFFIX, astronaut_png, face_changed, invoke_as_main
from .test_anonymize import QUICK as FEW_STEPS


QUICK = (*FEW_STEPS, "--similarity-threshold", "1", "--accept-recognizable", "--seed", "0")
DEMONSTRATION = "do not publish"


@pytest.fixture
def started_runs(monkeypatch: pytest.MonkeyPatch) -> list[FolderRun]:
    """Arguments of the runs that the command would have started."""
    runs: list[FolderRun] = []
    command = sys.modules["nullface_pipeline.cli.anonymize"]

    def start(run: FolderRun) -> int:
        runs.append(run)
        return 0

    monkeypatch.setattr(command, "_in_folder", start)
    return runs


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(astronaut_png())
    return path


def test_a_result_by_name(photo, tmp_path):
    result = invoke_as_main("anonymize", photo, "-o", tmp_path / "new" / "result.png", *QUICK)
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result.png"]
    assert face_changed(photo, tmp_path / "new" / "result.png")
    assert result.stderr.count(DEMONSTRATION) == 1
    again = invoke_as_main("anonymize", photo, "-o", tmp_path / "new" / "result.png", *QUICK)
    assert again.exit_code == 0 and "1 finished before" in again.stdout


def test_quiet_leaves_what_matters(photo, tmp_path):
    result = invoke_as_main("anonymize", photo, "-o", tmp_path / "out", "--quiet", *QUICK)
    assert result.exit_code == 0 and result.stdout == "" and result.stderr == ""
    PIL.Image.new("RGB", (64, 64), "white").save(photo)
    result = invoke_as_main("anonymize", photo, "-o", tmp_path / "none", "--quiet", *QUICK)
    assert result.exit_code == 4 and result.stdout == "" and "refused" in result.stderr


def stream(monkeypatch: pytest.MonkeyPatch, given: bytes, *arguments: object) -> tuple[bytes, int]:
    """The command with bytes on its standard input; what it wrote, and the exit code."""
    written = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
    monkeypatch.setattr(sys, "stdout", written)
    from nullface_pipeline.cli import app

    code = app(["anonymize", *map(str, arguments)], standalone_mode=False)
    written.flush()
    return written.buffer.getvalue(), code


def test_from_input_to_output(photo, monkeypatch, capsys):
    after, code = stream(monkeypatch, photo.read_bytes(), "-", "-o", "-", *QUICK)
    assert code == 0
    before, after = data.astronaut(), np.asarray(PIL.Image.open(io.BytesIO(after)))
    assert before.shape == after.shape and np.abs(after.astype(int) - before)[FACE].mean() > 3


@pytest.mark.parametrize("given", [b"", b"no photo"])
def test_nothing_comes_out_of_what_is_no_photo(monkeypatch, capsys, given):
    assert stream(monkeypatch, given, "-", "-o", "-", *QUICK) == (b"", 4)
    assert "refused" in capsys.readouterr().err


def test_what_a_mask_keeps(photo, tmp_path):
    mask = np.zeros((512, 512), np.uint8)
    mask[88:112, 205:240] = 255
    PIL.Image.fromarray(mask).save(tmp_path / "mask.png")
    result = invoke_as_main("anonymize", photo, "-o", tmp_path / "out", "--keep-mask", tmp_path / "mask.png", *QUICK)
    assert result.exit_code == 0, result.output
    before, after = data.astronaut(), np.asarray(PIL.Image.open(tmp_path / "out" / "photo.png"))
    assert np.array_equal(after[96:104, 215:230], before[96:104, 215:230])
    assert face_changed(photo, tmp_path / "out" / "photo.png")


def test_who_agreed_is_spared(photo, tmp_path):
    dry = invoke_as_main("anonymize", photo, "-o", tmp_path / "dry", "--dry-run", "--json")
    (row,) = [json.loads(line) for line in dry.stdout.splitlines()]
    assert row["reason"] is None and row["faces"][0]["expected_method"] == "replaced"
    assert row["preview"].endswith(PREVIEW_SUFFIX)
    for number, who in enumerate([photo, ",".join(map(str, row["faces"][0]["box"]))]):
        out = tmp_path / str(number)
        result = invoke_as_main(
            "anonymize", photo, "-o", out, "--skip-face", who, "--report", tmp_path / "r.jsonl", *QUICK
        )
        assert result.exit_code == 0, result.output
        assert not face_changed(photo, out / "photo.png")
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [[face["method"] for face in line["faces"]] for line in lines] == [["kept"], ["kept"]]


@pytest.mark.parametrize(
    "knob",
    [
        {"identity-scale": "2", "identity": "opposite"},
        {"identity-angle": "90", "identity": "opposite"},
        {"guidance-scale": "1"},
        {"preset": "strong"},
        {"cover": "blur"},
        {"min-face": "30"},
    ],
    ids=lambda knob: next(iter(knob)),
)
def test_knobs_reach_the_pipeline(photo, tmp_path, started_runs, knob):
    words = [word for name, value in knob.items() for word in (f"--{name}", value)]
    assert invoke_as_main("anonymize", photo, "-o", tmp_path / "out", *words).exit_code == 0
    for name, value in knob.items():
        assert str(getattr(started_runs[0].options, name.replace("-", "_"))) in (value, f"{value}.0")


def test_a_second_verifier_is_loaded(photo, tmp_path):
    folder = TINY_FOLDER / "face_models"
    result = invoke_as_main("anonymize", photo, "-o", tmp_path / "out", "--verifier", folder, *QUICK)
    assert result.exit_code == 0, result.output
    result = invoke_as_main("anonymize", photo, "-o", tmp_path / "none", "--verifier", tmp_path, *QUICK)
    assert result.exit_code == 2 and "--verifier" in result.output


@pytest.mark.parametrize(
    "given",
    [("--keep", "eyes", "--keep", "mouth"), ("--keep", "eyes,mouth"), ("--keep", "eyes, mouth", "--keep", "eyes")],
)
def test_repeated_options_accumulate(photo, tmp_path, started_runs, given):
    assert invoke_as_main("anonymize", photo, "-o", tmp_path / "out", *given).exit_code == 0
    assert started_runs[0].options.keep == ("eyes", "mouth")


def test_boxes_and_photos_to_spare(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a,b,c,d.jpg").touch()
    assert skipped_face("1,2.5,30,40") == (1.0, 2.5, 30.0, 40.0)
    assert str(skipped_face("a,b,c,d.jpg")) == "a,b,c,d.jpg"
    assert skipped_face("3") == NumberedFace("", 3) and skipped_face("b/a.jpg:12") == NumberedFace("b/a.jpg", 12)
    with pytest.raises(typer.BadParameter, match="absent.jpg"):
        skipped_face("absent.jpg")


def test_a_file_named_like_a_number_is_a_reference_photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("3").touch()
    assert skipped_face("3") == Path("3")


def test_faces_to_spare_by_their_number_in_the_preview(tmp_path):
    """The same photo in two folders: only one face of one of them is left alone."""
    one = data.astronaut()[:260, 90:350]
    for name in ("x/a.png", "y/a.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True)
        PIL.Image.fromarray(np.hstack([one, one[::2, ::-2].repeat(2, 0).repeat(2, 1)])).save(tmp_path / "in" / name)
    arguments = ("anonymize", tmp_path / "in", "--min-face", "400", "-o")
    dry = invoke_as_main(*arguments, tmp_path / "dry", "--dry-run", "--json")
    rows = [json.loads(line) for line in dry.stdout.splitlines()]
    assert [[face["number"] for face in row["faces"]] for row in rows] == [[1, 2]] * 2
    plain = "".join(invoke_as_main(*arguments, tmp_path / "plain", "--dry-run").stdout.split())
    for face in rows[0]["faces"]:
        assert f"{face['number']}:{','.join(f'{value:.0f}' for value in face['box'])}," in plain
    result = invoke_as_main(*arguments, tmp_path / "out", "--skip-face", "y/a.png:2", "--report", tmp_path / "r.jsonl")
    assert result.exit_code != 0
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [sorted(face["method"] for face in line["faces"]) for line in lines] == [
        ["covered", "covered"],
        ["covered", "kept"],
    ]
    (kept,) = [face for face in lines[1]["faces"] if face["method"] == "kept"]
    assert kept["box"] == pytest.approx(rows[1]["faces"][1]["box"], abs=0.1)
    for wrong in ("a.png:1", "z.png:1", "1"):
        result = invoke_as_main(*arguments, tmp_path / "none", "--skip-face", wrong)
        assert result.exit_code == 2 and "--skip-face" in result.output and not (tmp_path / "none").exists()


def test_a_box_around_a_face_spares_it_and_one_beside_it_is_a_refusal(photo, tmp_path):
    report = tmp_path / "r.jsonl"
    arguments = ("anonymize", photo, "--min-face", "400", "--report", report, "-o")
    assert invoke_as_main(*arguments, tmp_path / "a", "--skip-face", "100,0,330,300").exit_code == 0
    refused = invoke_as_main(*arguments, tmp_path / "b", "--skip-face", "300,300,400,400")
    assert refused.exit_code == 4 and "[300.0, 300.0, 400.0, 400.0]" in refused.stderr and "1 at [" in refused.stderr
    assert "ValueError" not in refused.stderr
    kept, left_out = [json.loads(line) for line in report.read_text().splitlines()]
    assert [face["method"] for face in kept["faces"]] == ["kept"]
    assert left_out["status"] == "refused" and "`" not in left_out["reason"]


def test_a_photo_without_a_face_is_told_with_the_commands_option(tmp_path):
    PIL.Image.new("RGB", (64, 64), "white").save(tmp_path / "wall.png")
    result = invoke_as_main("anonymize", tmp_path / "wall.png", "-o", tmp_path / "out")
    assert result.exit_code == 4 and "--detection-threshold" in result.stderr


def test_a_dry_run_says_what_the_run_would_refuse(tmp_path):
    for name in ("a.png", "b.png"):
        PIL.Image.new("RGB", (200, 200), "white").save(tmp_path / name)
    result = invoke_as_main("anonymize", tmp_path / "[ab].png", "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 4 and "would refuse 2 of 2" in " ".join(result.stdout.split())
    assert result.stderr.count("No face was found") == 2
