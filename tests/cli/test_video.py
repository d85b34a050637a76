"""`nullface video`: wrong usage, refusals, and what is done before."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from skimage import data
from typer.testing import CliRunner, Result

from nullface_pipeline.cli import app
from nullface_pipeline.cli.console import console
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.video import _print_reports
from nullface_pipeline.runs.jobs import PhotoJob
from nullface_pipeline.tiny_model import TINY_FOLDER
from nullface_pipeline.video import VideoReport, render_video
from nullface_pipeline.video.report import CoveredTrack

from ..video.clips import background, read_back, write_clip


pytest.importorskip("av")


def command(*words: object) -> Result:
    return CliRunner().invoke(app, ["video", *map(str, words)])


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two frames, which are covered without a model of pictures at checkpoint."""
    small = np.ascontiguousarray(data.astronaut()[:240, 100:340])
    return write_clip(tmp_path / "clip.mp4", [small, small], [0, 40])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.mp4"], "nothing.mp4 does not exist"),
        (["."], ". is not a file"),
        (["clip.mp4", "--keep", "brain"], "brain"),
        (["clip.mp4", "--similarity-threshold", "0.9"], "--similarity-threshold is 0.9"),
        (["photo.jpg"], "nullface anonymize"),
        (["clip.mp4", "--verifier", "pack"], "--verifier"),
        (["clip.mp4", "--skip-face", "1,2,3,4"], "--skip-face 1,2,3,4"),
        (["clip.mp4", "--skip-face", "nobody.png"], "--skip-face needs reference photos"),
        (["clip.mp4", "--cover", "black"], "'black' is not one of"),
        (
            ["clip.mp4", "--identity", "consistent", "--identity-angle", "30"],
            "--identity-angle",
        ),
    ],
)
def test_wrong_usage(clip, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "pack").mkdir()
    PIL.Image.new("RGB", (64, 64)).save(tmp_path / "nobody.png")
    result = command(*words, "--output", "out")
    assert result.exit_code == ExitCode.usage and message in " ".join(result.stderr.split())
    assert not list(tmp_path.glob("out/*.mp4"))


def test_a_missing_package_is_said_before_a_model_is_loaded(clip, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    result = command(clip, "--output", tmp_path / "out")
    assert result.exit_code == 1 and "pip install 'nullface-pipeline[video]'" in result.stderr
    assert "nullface-tiny" not in result.output
    assert not (tmp_path / "out").exists()


def test_originals_are_not_written_over(clip):
    result = command(clip, "--output", clip.parent)
    assert result.exit_code == 2 and "would be written over" in result.stderr


def test_a_result_is_not_written_over_a_reference_photo(clip, tmp_path):
    reference = tmp_path / "out" / "clip.mp4"
    reference.parent.mkdir()
    PIL.Image.fromarray(data.astronaut()).save(reference, "PNG")
    before = reference.read_bytes()
    result = command(clip, "--output", tmp_path / "out", "--skip-face", reference, "--overwrite")
    assert result.exit_code == ExitCode.usage and "over the original" in result.stderr
    assert reference.read_bytes() == before


def test_covered_and_then_done_before(clip, tmp_path):
    clip.chmod(0o600)
    result = command(clip, "--output", tmp_path / "out")
    assert result.exit_code == 3, result.output
    assert result.stderr.count("do not publish") == 1 and "a demonstration" in " ".join(result.stdout.split())
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.mp4"]
    assert (tmp_path / "out/clip.mp4").stat().st_mode & 0o777 == 0o600  # as private as the clip
    frames, _ = read_back(tmp_path / "out/clip.mp4")
    originals, _ = read_back(clip)
    assert (np.abs(frames.astype(int) - originals).max(axis=-1) > 20).mean(axis=(1, 2)).min() > 0.1
    again = command(clip, "--output", tmp_path / "out")
    assert again.exit_code == 0 and "1 finished before" in again.output and "do not publish" not in again.output
    other = command(clip, "--output", tmp_path / "out", "--min-face", "20", "--identity", "consistent")
    assert other.exit_code == 3 and "finished before" not in other.output
    assert "opposite identity" in result.stdout and "consistent identity" in other.stdout


def test_what_is_asked_reaches_the_video(clip, tmp_path, monkeypatch):
    calls = []

    def anonymize(pipe, linked, output, options, *more):
        calls.append(options)
        return render_video(pipe, linked, output, options, *more)

    monkeypatch.setattr("nullface_pipeline.video.render_video", anonymize)
    knobs = (
        "--num-inference-steps",
        "6",
        "--skip",
        "0.5",
        "--guidance-scale",
        "7",
        "--identity-scale",
        "2",
        "--identity-angle",
        "9",
    )
    verifier = TINY_FOLDER / "face_models"
    result = command(
        clip, "--output", tmp_path / "out", *knobs, "--verifier", verifier, "--cover", "mosaic", "--quiet"
    )
    assert result.exit_code == 3 and not result.stdout
    (options,) = calls
    assert options.cover == "mosaic" and "recognition" in options.verifier.models
    assert options.settings() == {
        **{"num_inference_steps": 6, "skip": 0.5, "guidance_scale": 7.0},
        **{"identity_scale": 2.0, "identity_angle": 9.0},
    }
    frames, _ = read_back(tmp_path / "out/clip.mp4")
    assert len(np.unique(frames[0, 80:160, 100:160].reshape(-1, 3), axis=0)) > 9, "the cells of a mosaic"


def test_who_agreed_is_left_and_everybody_else_is_not(tmp_path):
    """Her mirror image is as like her as anybody can be, but only one face is hers."""
    left = np.ascontiguousarray(data.astronaut()[:240, 100:340])
    clip = write_clip(tmp_path / "clip.mp4", [np.hstack([left, left[:, ::-1]])] * 2, [0, 40])
    PIL.Image.fromarray(data.astronaut()).save(tmp_path / "her.png")
    result = command(clip, "--output", tmp_path / "out", "--skip-face", tmp_path / "her.png")
    assert result.exit_code == 3, result.output
    (before, _), (after, _) = read_back(clip), read_back(tmp_path / "out/clip.mp4")
    face = np.s_[:, 80:160, 80:150]
    changed = (np.abs(after.astype(int) - before).max(axis=-1) > 20).astype(float)
    assert changed[face].mean() < 0.02 and changed[:, :, ::-1][face].mean() > 0.5
    again = command(clip, "--output", tmp_path / "out", "--skip-face", tmp_path / "her.png")
    assert again.exit_code == 0 and "1 finished before" in again.output
    without = command(clip, "--output", tmp_path / "out")
    assert "finished before" not in without.output
    after, _ = read_back(tmp_path / "out/clip.mp4")
    assert (np.abs(after.astype(int) - before).max(axis=-1) > 20)[face].mean() > 0.5


def test_what_no_run_has_made_stays(clip, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/clip.mp4").write_bytes(b"precious")
    result = command(clip, "--output", tmp_path / "out")
    assert result.exit_code == 4 and "--overwrite" in result.stderr
    assert (tmp_path / "out/clip.mp4").read_bytes() == b"precious"


def test_a_video_that_changes_during_the_run_is_refused(clip, tmp_path, monkeypatch):
    def before_writing(path):
        clip.unlink()
        shutil.copy(other, clip)
        note(path)

    other = write_clip(tmp_path / "other.mp4", [background(120, 160)] * 2, [0, 40])
    note = None

    def spy(pipe, linked, output, options, checkpoint, audio, identities, noted, on_progress):
        nonlocal note
        note = noted
        return render_video(pipe, linked, output, options, checkpoint, audio, identities, before_writing, on_progress)

    monkeypatch.setattr("nullface_pipeline.video.render_video", spy)
    result = command(clip, "--output", tmp_path / "out")
    assert result.exit_code == 4 and "has changed" in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_table_fits_into_80_columns(clip, tmp_path, capsys, monkeypatch):
    report = VideoReport(9000, 12, 100_000, 2000, 3000, 4000, 5, 6, 7000, 8)
    track = CoveredTrack(0.5, 1.0, (1.0, 2.0, 3.0, 4.0), 0.4, "try a lower `detection_threshold`")
    monkeypatch.setattr(console, "width", 80)
    long = tmp_path / f"{'a long name ' * 10}.mp4"
    with console.capture() as captured:
        _print_reports({PhotoJob(clip, long): report}, "tiny")
    lines = captured.get().splitlines()
    assert any(str(long) in line for line in lines)
    assert any("faces replaced " in line and "100000" in line for line in lines)
    assert max(len(line) for line in lines if str(long) not in line) <= 80
    with console.capture() as captured:
        _print_reports({PhotoJob(clip, long): replace(report, covered_tracks=(track,))}, "tiny")
    assert "score 0.40): try a lower --detection-threshold" in captured.get()


def test_a_video_without_a_face_is_refused_and_the_others_are_done(clip, tmp_path):
    empty = write_clip(tmp_path / "empty.mp4", [background(120, 160)] * 2, [0, 40])
    (tmp_path / "text.mp4").write_bytes(b"This is a text.")
    (tmp_path / "codec.mp4").write_bytes(clip.read_bytes().replace(b"avc1", b"zzzz"))
    whole = write_clip(tmp_path / "damaged.mkv", [background(120, 160)] * 2, [0, 40])
    # For a header that ends early FFmpeg has an error of the system.
    whole.write_bytes(whole.read_bytes()[:300])
    named = [empty, tmp_path / "text.mp4", tmp_path / "codec.mp4", whole, clip]
    result = command(*named, "--output", tmp_path / "out")
    assert result.exit_code == 4
    assert "No face was found in the video" in result.stderr and "not a readable MP4" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.mp4"]
