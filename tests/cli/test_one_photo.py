"""What the command does with one photo: a result by name, streams, masks, people to spare, and the paper's knobs."""

import io
import json
import sys

import numpy as np
import PIL.Image
import pytest
from skimage import data

from nullface_pipeline.cli.options import skipped_face
from nullface_pipeline.tiny_model import TINY_FOLDER

from .test_anonymize import FACE, PREVIEW_SUFFIX, face_changed, invoke_as_main


# In ten steps nullface-tiny does not get far enough from a face to pass its own check.
QUICK = ("--steps", "10", "--skip", "0.5", "--threshold", "1", "--accept-recognizable", "--seed", "0")
DEMONSTRATION = "do not publish"


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    PIL.Image.fromarray(data.astronaut()).save(path)
    return path


def test_a_result_by_name(photo, tmp_path):
    result = invoke_as_main("anonymize", photo, "-o", tmp_path / "new" / "result.png", *QUICK)
    assert result.exit_code == 0, result.output
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result.png"]
    assert face_changed(photo, tmp_path / "new" / "result.png")
    assert DEMONSTRATION in result.stderr
    again = invoke_as_main("anonymize", photo, "-o", tmp_path / "new" / "result.png", *QUICK)
    assert again.exit_code == 0 and "1 done before" in again.stdout


def test_quiet_leaves_what_matters(photo, tmp_path):
    result = invoke_as_main("anonymize", photo, "-o", tmp_path / "out", "--quiet", *QUICK)
    assert result.exit_code == 0 and result.stdout == "" and DEMONSTRATION in result.stderr
    PIL.Image.new("RGB", (64, 64), "white").save(photo)
    result = invoke_as_main("anonymize", photo, "-o", tmp_path / "none", "--quiet", *QUICK)
    assert result.exit_code == 3 and result.stdout == "" and "refused" in result.stderr


def stream(monkeypatch, given, *arguments):
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
    assert stream(monkeypatch, given, "-", "-o", "-", *QUICK) == (b"", 3)
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
    assert row["refused"] is None and row["faces"][0]["would be"] == "hidden"
    assert row["preview"].endswith(PREVIEW_SUFFIX)
    for number, who in enumerate([photo, ",".join(map(str, row["faces"][0]["box"]))]):
        out = tmp_path / str(number)
        result = invoke_as_main(
            "anonymize", photo, "-o", out, "--skip-face", who, "--report", tmp_path / "r.jsonl", *QUICK
        )
        assert result.exit_code == 0, result.output
        assert not face_changed(photo, out / "photo.png")
    lines = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [[face["method"] for face in line["faces"]] for line in lines] == [["spared"], ["spared"]]


def test_knobs_reach_the_pipeline(photo, tmp_path):
    results = []
    for number, knob in enumerate(
        [(), ("--identity-scale", "2"), ("--identity-angle", "90"), ("--guidance-scale", "1")]
    ):
        result = invoke_as_main("anonymize", photo, "-o", tmp_path / str(number), *QUICK, *knob)
        assert result.exit_code == 0, result.output
        results.append((tmp_path / str(number) / "photo.png").read_bytes())
    assert len(set(results)) == 4


def test_a_second_judge_is_loaded_and_heard(photo, tmp_path):
    folder = TINY_FOLDER / "face_models"
    result = invoke_as_main(
        "anonymize", photo, "-o", tmp_path / "out", "--judge", folder, "--steps", "10", "--threshold", "-1"
    )
    assert result.exit_code == 2, result.output
    result = invoke_as_main("anonymize", photo, "-o", tmp_path / "none", "--judge", tmp_path, *QUICK)
    assert result.exit_code == 1 and "could not be loaded" in result.output


def test_boxes_and_photos_to_spare():
    assert skipped_face("1,2.5,30,40") == (1.0, 2.5, 30.0, 40.0)
    assert str(skipped_face("a,b,c,d.jpg")) == "a,b,c,d.jpg"


def test_a_dry_run_says_what_the_run_would_refuse(tmp_path):
    for name in ("a.png", "b.png"):
        PIL.Image.new("RGB", (200, 200), "white").save(tmp_path / name)
    result = invoke_as_main("anonymize", tmp_path / "[ab].png", "-o", tmp_path / "out", "--dry-run")
    assert result.exit_code == 3 and "would refuse 2 of 2" in " ".join(result.stdout.split())
    assert result.stderr.count("No face was found") == 2
