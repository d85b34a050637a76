"""`anonymize_video`: one call from a file to its result."""

from pathlib import Path

import numpy as np
import pytest
from skimage import data

import nullface_pipeline
from nullface_pipeline.photo_options import PhotoOptions
from nullface_pipeline.photo_records import NoFaceFoundError, OptionError
from nullface_pipeline.video import VideoError, anonymize_video, check_video_options, checkpoint, detections

from .clips import background, read_back, write_clip


pytest.importorskip("av")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two frames, too few for a new face: they are covered, which takes no UNet."""
    small = np.ascontiguousarray(data.astronaut()[:240, 100:340])
    return write_clip(tmp_path / "in.mp4", [small, small], [0, 40])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("identity", ["opposite", "consistent"])
def test_a_video_is_anonymized_in_one_call(pipe, source, tmp_path, identity):
    report = nullface_pipeline.anonymize_video(
        pipe, str(source), str(tmp_path / "out" / "new.webm"), seed=1, identity=identity
    )
    assert isinstance(report, nullface_pipeline.VideoReport)
    assert (report.frames, report.patched_frames, report.identity) == (2, 2, identity)
    (before, _), (after, _) = read_back(source), read_back(tmp_path / "out" / "new.webm")
    assert (np.abs(after.astype(int) - before).max(axis=-1) > 20).mean(axis=(1, 2)).min() > 0.1
    assert names(tmp_path / "out") == ["new.webm"]


def test_a_stopped_call_continues(pipe, source, tmp_path, monkeypatch):
    def stop(step, done, total):
        raise KeyboardInterrupt

    searched = []
    search = detections.search_locations
    monkeypatch.setattr(detections, "search_locations", lambda *arguments: searched.append(1) or search(*arguments))
    seeds = iter([5, 6, 7])
    monkeypatch.setattr(checkpoint.secrets, "randbits", lambda _: next(seeds))
    with pytest.raises(KeyboardInterrupt):
        anonymize_video(pipe, source, tmp_path / "out.mp4", on_progress=stop)
    (folder,) = tmp_path.glob(".nullface-*.work")
    assert checkpoint.VideoCheckpoint(folder, "", 0).seed == 0, "opened for something else it begins anew"
    with pytest.raises(KeyboardInterrupt):
        anonymize_video(pipe, source, tmp_path / "out.mp4", on_progress=stop)
    assert len(searched) == 2
    anonymize_video(pipe, source, tmp_path / "out.mp4")
    assert len(searched) == 3 and names(tmp_path) == ["in.mp4", "out.mp4"]


@pytest.mark.parametrize(
    ("output", "options", "named"),
    [
        ("in.mp4", {}, "original"),
        ("out.avi", {}, "`output`"),
        ("out.mp4", {"audio": "pitch"}, "`audio`"),
        ("out.mp4", {"identity": "random"}, "`identity`"),
        ("out.mp4", {"on_failure": "error"}, "`on_failure"),
    ],
)
def test_arguments_are_checked_before_anything_is_done(source, tmp_path, output, options, named):
    before = source.read_bytes()
    with pytest.raises(ValueError, match=named):
        anonymize_video(None, source, tmp_path / output, **options)
    assert names(tmp_path) == ["in.mp4"] and source.read_bytes() == before


@pytest.mark.parametrize(
    ("identity", "accepted"), [("opposite", True), ("consistent", True), ("random", False), ("new", False)]
)
def test_a_video_takes_only_the_identities_that_are_listed_for_videos(identity, accepted):
    options = PhotoOptions()
    object.__setattr__(options, "identity", identity)
    if accepted:
        check_video_options(options)
        return
    with pytest.raises(OptionError) as caught:
        check_video_options(options)
    assert caught.value.option == "identity"


def test_a_refused_video_leaves_nothing(pipe, tmp_path):
    path = write_clip(tmp_path / "in.mp4", [background(120, 160)] * 2, [0, 40])
    with pytest.raises(NoFaceFoundError):
        anonymize_video(pipe, path, tmp_path / "out.mp4")
    with pytest.raises(VideoError, match="does not exist"):
        anonymize_video(pipe, tmp_path / "missing.mp4", tmp_path / "out.mp4")
    assert names(tmp_path) == ["in.mp4"]


def test_a_video_that_changes_meanwhile_is_not_written(pipe, source, tmp_path):
    def change(step, done, total):
        source.touch()

    with pytest.raises(VideoError, match="changed"):
        anonymize_video(pipe, source, tmp_path / "out.mp4", on_progress=change)
    assert names(tmp_path) == ["in.mp4"]
