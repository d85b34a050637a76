import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from skimage import data
from typer.testing import CliRunner

from nullface_pipeline.cli import app, side_by_side
from nullface_pipeline.photo_folder.preview import PREVIEW_SUFFIX


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_demo_makes_its_pictures(tmp_path):
    result = invoke("demo", "--output", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    assert "demonstration model, 128 px" in result.output
    pictures = {path.name: PIL.Image.open(path) for path in (tmp_path / "demo").iterdir()}
    assert set(pictures) == {"input.png", "anonymized.png", "side_by_side.png"}
    before, after = (np.asarray(pictures[name]).astype(int) for name in ("input.png", "anonymized.png"))
    assert np.array_equal(before, data.astronaut())
    assert np.abs(after - before)[60:180, 170:280].mean() > 5, "the face is another"
    assert np.array_equal(after[300:], before[300:])
    assert pictures["side_by_side.png"].width > 2 * before.shape[1]


def test_anonymize_a_folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    PIL.Image.fromarray(data.astronaut()).save(folder / "astronaut.jpg")
    PIL.Image.new("RGB", (200, 200), "white").save(folder / "wall.png")
    report, sheet = tmp_path / "report.jsonl", tmp_path / "sheet.png"
    arguments = ("anonymize", folder, "-o", tmp_path / "out", "--threshold", "1", "--report", report)
    arguments += ("--contact-sheet", sheet, "--seed", 0)
    result = invoke(*arguments)
    assert result.exit_code == 3, result.output
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["astronaut.jpg"]
    assert "refused" in result.output and "wall.png" in result.output
    lines = [json.loads(line) for line in report.read_text().splitlines()]
    assert [line["status"] for line in lines] == ["anonymized", "refused"]
    with PIL.Image.open(sheet) as page:
        assert page.size == (430, 254), "two fields"
    first = (tmp_path / "out" / "astronaut.jpg").read_bytes()

    (folder / "wall.png").unlink()
    again = invoke(*arguments)
    assert again.exit_code == 0 and "1 done before" in again.output
    assert len(report.read_text().splitlines()) == 2, "nothing was done again"
    assert invoke(*arguments, "--no-resume").exit_code == 0
    assert (tmp_path / "out" / "astronaut.jpg").read_bytes() == first, "same seed, same picture"
    assert invoke(*arguments[:-2], "--no-resume").exit_code == 0
    assert (tmp_path / "out" / "astronaut.jpg").read_bytes() != first, "nobody can guess the seed"


def test_covered_faces_have_their_own_exit_code(tmp_path):
    PIL.Image.fromarray(data.astronaut()).save(tmp_path / "astronaut.png")
    arguments = ("anonymize", tmp_path / "astronaut.png", "--threshold", "-1", "--preset", "light")
    result = invoke(*arguments, "-o", tmp_path / "out")
    assert result.exit_code == 2, result.output
    result = invoke(*arguments, "-o", tmp_path / "none", "--on-failure", "skip-file")
    assert result.exit_code == 3 and not list((tmp_path / "none").iterdir())


def test_on_failure_error_stops_at_the_first_face_that_cannot_be_hidden(tmp_path):
    for name in ("a.png", "b.png"):
        PIL.Image.fromarray(data.astronaut()).save(tmp_path / name)
    report = tmp_path / "report.jsonl"
    result = invoke(
        *("anonymize", tmp_path / "[ab].png", "-o", tmp_path / "out", "--threshold", "-1", "--preset", "light"),
        *("--on-failure", "error", "--report", report),
    )
    assert result.exit_code == 3, result.output
    assert not list((tmp_path / "out").iterdir()) and len(report.read_text().splitlines()) == 1


def test_a_dry_run_only_writes_previews_in_which_faces_are_covered(tmp_path):
    photo, wall = tmp_path / "astronaut.png", tmp_path / "wall.png"
    PIL.Image.fromarray(data.astronaut()).save(photo)
    PIL.Image.new("RGB", (200, 200), "white").save(wall)
    wall.with_name("broken.jpg").write_bytes(b"no photo")
    output = tmp_path / "out"
    result = invoke("anonymize", photo, wall, tmp_path / "broken.jpg", "-o", output, "--dry-run")
    assert result.exit_code == 3, result.output
    previews = {path.name: np.asarray(PIL.Image.open(path)) for path in output.iterdir()}
    assert set(previews) == {f"astronaut.png{PREVIEW_SUFFIX}", f"wall.png{PREVIEW_SUFFIX}"}
    face = previews[f"astronaut.png{PREVIEW_SUFFIX}"][90:150, 200:250]
    assert len(np.unique(face.reshape(-1, 3), axis=0)) == 1
    assert (previews[f"wall.png{PREVIEW_SUFFIX}"] == 255).all()


def test_doctor():
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    for expected in ("Python", "diffusers", "cores", "nullface-tiny", "OpenRAIL-M", "BiSeNet"):
        assert expected in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["anonymize", "nowhere.jpg", "-o", "out"], "does not exist"),
        (["anonymize", ".", "-o", "out"], "lies in"),
        (["anonymize", "*.jpg", "-o", "out"], "No photo matches"),
        (["anonymize", ".", "-o", "out", "--preset", "weak"], "weak"),
        (["export", "--single-file", "no/such/folder/nullface.py"], "does not exist"),
        (["dance"], "No such command"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_1(tmp_path, arguments, message):
    run = subprocess.run(
        [sys.executable, "-c", "from nullface_pipeline.cli import main; main()", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 1
    assert message in run.stderr and "Traceback" not in run.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "photo.png"], "exists"),
        (["-o", "out", "--report", "photo.png"], "is one of the photos"),
        (["-o", "out", "--report", "notes.txt"], "none of a report"),
        (["-o", "out", "--contact-sheet", "sheet.xyz"], "--contact-sheet takes"),
        (["-o", "."], "would be written over"),
        (["-o", "out", "--threshold", "30"], "cosine"),
        (["-o", "out", "--keep", "eye"], "Unknown region"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_done(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    PIL.Image.fromarray(data.astronaut()).save("photo.png")
    Path("notes.txt").write_text("Dear diary\n")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    result = invoke("anonymize", "photo.png", *arguments)
    assert result.exit_code == 1 and result.exception.__class__ is SystemExit
    assert message in result.output
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_wrong_model(tmp_path):
    PIL.Image.new("RGB", (64, 64)).save(tmp_path / "photo.png")
    result = invoke("anonymize", tmp_path / "photo.png", "-o", tmp_path / "out", "--model", tmp_path)
    assert result.exit_code == 1 and "could not be loaded" in result.output


def test_side_by_side():
    first, second = PIL.Image.new("RGB", (100, 50), "red"), PIL.Image.new("RGB", (80, 50), "blue")
    sheet = side_by_side(first, second)
    assert sheet.size == (184, 50)
    assert sheet.getpixel((99, 20)) == (255, 0, 0) and sheet.getpixel((104, 20)) == (0, 0, 255)
    assert sheet.getpixel((101, 20)) == (255, 255, 255)
