"""Whole clips with nullface-tiny: nothing leaks, and a killed run ends as an uninterrupted one."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import pytest
from skimage import data

from nullface_pipeline import StableDiffusionNullFacePipeline
from nullface_pipeline.face_search import search_faces
from nullface_pipeline.face_target import make_target
from nullface_pipeline.identity_choices import OppositeIdentity
from nullface_pipeline.photo_options import PhotoOptions
from nullface_pipeline.photo_records import NoFaceFoundError
from nullface_pipeline.video import (
    VideoCheckpoint,
    anonymize_video,
    consistent_identities,
    link_video,
    render,
    segments,
    writer,
)
from nullface_pipeline.video.detections import detect_faces, read_detections
from nullface_pipeline.video.linking import LinkedVideo, no_progress
from nullface_pipeline.video.new_faces import NewFaces
from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.segments import render_segments, segment_spans, total_counts
from nullface_pipeline.video.states import BEYOND, track_states
from nullface_pipeline.video.targets import kept_tracks

from .clips import Clip, astronaut, background, make_clip, read_back, sway, write_clip
from .whole_run import QUICK


pytest.importorskip("av")

SIZE = (140, 180)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clip() -> Clip:
    return make_clip({"a": (astronaut(), sway(90, 72, 62, 6))}, 12, SIZE)


@pytest.fixture
def source(clip: Clip, tmp_path: Path) -> Path:
    return write_clip(tmp_path / "in.mp4", clip.frames, clip.pts)


@pytest.fixture
def short_source(clip: Clip, tmp_path: Path) -> Path:
    """The first half of `source`."""
    return write_clip(tmp_path / "in.mp4", clip.frames[:6], clip.pts[:6])


def anonymize(pipe: StableDiffusionNullFacePipeline, source: Path, output: Path, **options: Any) -> Any:
    return anonymize_video(pipe, source, output, seed=7, **{**QUICK, **options})


def changed(before: np.ndarray, after: np.ndarray, box: np.ndarray) -> float:
    """Share of the pixels of a face that are others, beyond what compression does to them."""
    x0, y0, x1, y1 = np.clip(box.round().astype(int), 0, [*before.shape[1::-1]] * 2)
    return float((np.abs(before[y0:y1, x0:x1].astype(int) - after[y0:y1, x0:x1]).max(axis=-1) > 6).mean())


def test_a_look_goes_on_where_it_was(pipe, short_source, tmp_path):
    whole = detect_faces(short_source, pipe.face_analyser, tmp_path)
    assert len(whole.frames) == 6 and len(whole.faces) >= 6
    for name in ("frames.bin", "faces.bin"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) * 2 // 3 + 5])
    assert 3 <= len(read_detections(tmp_path).frames) <= 4
    again = detect_faces(short_source, pipe.face_analyser, tmp_path)
    assert np.array_equal(again.frames, whole.frames) and np.array_equal(again.faces, whole.faces)


def test_a_video_without_a_face_is_refused(pipe, tmp_path):
    path = write_clip(tmp_path / "in.mp4", [background(*SIZE)] * 4, [0, 40, 80, 120])
    with pytest.raises(NoFaceFoundError, match="No face was found in the video"):
        anonymize(pipe, path, tmp_path / "out.mp4")
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"skip_faces": ((0, 0, 9, 9),)}, "`skip_faces`"),
        ({"on_failure": "error"}, "for photos, not for videos"),
    ],
)
def test_options_of_photos_are_refused(pipe, source, tmp_path, option, message):
    with pytest.raises(ValueError, match=message):
        anonymize(pipe, source, tmp_path / "out.mp4", **option)


def test_who_agreed_is_left_only_where_track_and_frame_say_so(pipe, clip, short_source, tmp_path):
    linked = link_video(pipe.face_analyser, short_source, VideoCheckpoint(tmp_path / "w", "", 0))
    (hers,) = [number for number, track in enumerate(linked.tracks) if len(track.frames) == 6]
    who = linked.tracks[hers].embedding

    def kept(people, *tracks, pixels=clip.frames[3]):
        states = [track_states(track, linked.times) for track in tracks]
        none = [None] * len(tracks)
        options = PhotoOptions(skip_faces=tuple(people))
        rendering = Rendering(
            pipe, options, 0, linked.info, linked.times, linked.shots, states, none, [0] * len(tracks), none
        )
        return kept_tracks(rendering, 3, pixels)

    track = linked.tracks[hers]
    assert kept([who], track) == kept([-who, who], track) == {0}
    assert kept([], track) == kept([-who], track) == set()
    assert kept([who], replace(track, embedding=-who)) == set(), "the track shows another person"
    assert kept([who], track, pixels=clip.frames[3][:, ::-1]) == set(), "the frame does not show her there"
    beside = replace(track, landmarks=track.landmarks + 4)
    assert kept([who], beside, track) == {1}, "one face a person"


def test_the_frames_of_a_track_are_turned_alike(pipe):
    """By an angle that is drawn for each track, not for each frame."""
    pixels = astronaut().pixels
    face, *_ = search_faces(pipe.face_analyser, pixels)
    tracks = [make_target(pipe, pixels, face, [face], (), None, seed) for seed in (7, 7, 8)]
    settings = PhotoOptions(**QUICK, identity="opposite", identity_angle=90.0).settings()
    first, second, other = (result.astype(int) for result in OppositeIdentity().new_faces(pipe, tracks, settings))
    assert np.abs(first - second).max() <= 1 < np.abs(first - other).max()


@pytest.mark.parametrize(("size", "length"), [((360, 640), 64), ((1080, 1920), 21), ((4320, 7680), 8)])
def test_pieces_are_as_long_as_fits(size, length):
    class Info:
        height, width = size

    spans = segment_spans(Info, 100)
    assert spans[0] == (0, length) and spans[-1][1] == 100
    assert all(end == start for (_, end), (start, _) in zip(spans, spans[1:]))


@pytest.mark.video
@pytest.mark.timeout(900)
def test_a_result_does_not_depend_on_the_length_of_its_segments(pipe, tmp_path, monkeypatch):
    """A bar hides the face where the second segment of eight frames begins. Encoded without loss,
    to compare pixels.
    """

    def bar(number, frame):
        frame[50:100, 40:140] = (40, 60, 50) if 8 <= number < 13 else frame[50:100, 40:140]
        return frame

    made = make_clip({"a": (astronaut(), sway(90, 72, 62, 6))}, 22, SIZE, change=bar)
    path = write_clip(tmp_path / "in.mp4", made.frames, made.pts)
    lossless = writer.OutputFormat("mp4", "libx264", {"crf": "0", "preset": "ultrafast"})
    monkeypatch.setitem(writer.FORMATS, ".mp4", lossless)
    frames, reports = [], []
    for length in (8, 64):
        monkeypatch.setattr(segments, "SEGMENT_FRAMES", (length, length))
        reports.append(anonymize(pipe, path, tmp_path / f"{length}.mp4"))
        frames.append(read_back(tmp_path / f"{length}.mp4")[0])
    assert reports[0] == reports[1] and reports[0].switches > 0
    assert np.array_equal(*frames)


@pytest.mark.video
def test_every_face_is_replaced_and_nothing_else(pipe, clip, source, tmp_path):
    report = anonymize(pipe, source, tmp_path / "out.mp4")
    before, times = read_back(source)
    after, new_times = read_back(tmp_path / "out.mp4")
    assert new_times == times and len(times) == 12
    assert report.frames == 12 and report.replaced + report.covered >= 12 and report.failed == 0
    for number, boxes in enumerate(clip.boxes):
        assert changed(before[number], after[number], boxes["a"]) > 0.5
    assert changed(before[0], after[0], np.array([0, 0, 30, 140])) < 0.01


@pytest.mark.video
def test_what_still_is_the_person_is_covered(pipe, clip, source, tmp_path):
    """With a threshold that nothing passes."""
    report = anonymize(pipe, source, tmp_path / "out.mp4", similarity_threshold=-1.0)
    assert report.replaced == 0 and report.patched_frames == 12
    after, _ = read_back(tmp_path / "out.mp4")
    for number, boxes in enumerate(clip.boxes):
        x0, y0, x1, y1 = boxes["a"].round().astype(int) + [6, 8, -6, -8]
        assert after[number, y0:y1, x0:x1].std(axis=(0, 1)).max() < 5


@pytest.mark.video
def test_who_agreed_is_left_but_not_in_a_shot_that_does_not_show_her_surely(pipe, tmp_path):
    hers = {"a": (astronaut(), sway(160, 120, 110, 6))}
    sharp, blurred = (make_clip(hers, 6, (240, 320), seed=seed) for seed in (9, 5))
    frames = [*sharp.frames, *(cv2.GaussianBlur(frame, (0, 0), 4) for frame in blurred.frames)]
    path = write_clip(tmp_path / "in.mp4", frames, [125 * number for number in range(12)])
    her = PIL.Image.fromarray(data.astronaut())
    report = anonymize(pipe, path, tmp_path / "out.mp4", skip_faces=(her,), similarity_threshold=None)
    before, after = (read_back(each)[0] for each in (path, tmp_path / "out.mp4"))
    boxes = [boxes["a"] for boxes in (*sharp.boxes, *blurred.boxes)]
    shares = [changed(*frames, box) for *frames, box in zip(before, after, boxes)]
    # Not in each of the first: a second track may be found in her hair, and has a patch.
    assert min(shares[:6]) < 0.1 and min(shares[6:]) > 0.4, shares
    assert report.kept == 6 and report.replaced + report.gaps + report.covered >= 6


@pytest.mark.video
def test_half_a_second_beyond_an_exit_is_covered_but_no_more(pipe, tmp_path):
    """Nobody is there from frame 6 on, and a cut is at frame 14."""

    def leave(number, frame):
        return background(*SIZE, seed=9) if number >= 6 else frame

    first = make_clip({"a": (astronaut(), sway(90, 72, 62, 3))}, 14, SIZE, change=leave, seed=9)
    scenery = [background(*SIZE, seed=5)] * 3
    path = write_clip(tmp_path / "in.mp4", [*first.frames, *scenery], [125 * number for number in range(17)])
    report = anonymize(pipe, path, tmp_path / "out.mp4")
    # A patch that is taken for a face is covered as well, and longer.
    assert report.found == 0
    before, _ = read_back(path)
    after, _ = read_back(tmp_path / "out.mp4")
    other = [changed(before[n], after[n], first.boxes[5]["a"]) > 0.5 for n in range(17)]
    beyond = 6 + int(BEYOND * 8)
    assert other == [True] * beyond + [False] * (17 - beyond)
    assert report.patched_frames >= beyond - 6


def whole_run(source: Path, output: Path, *moment: object) -> int:
    """Exit code of a process that anonymizes a video, killed at a moment if one is given."""
    command = [sys.executable, "-m", "tests.video.whole_run", str(source), str(output), *map(str, moment)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL).returncode


@pytest.fixture(scope="module")
def uninterrupted(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A clip, and the result of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("whole")
    source = write_clip(folder / "in.mp4", clip.frames, clip.pts)
    assert whole_run(source, folder / "out.mp4") == 0
    return source, folder / "out.mp4"


@pytest.mark.video
@pytest.mark.parametrize(
    ("step", "number"), [("detecting", 5), ("probing", 1), ("unet", 12), ("anonymizing", 8), ("joined", 0)]
)
def test_killed_and_resumed_is_as_never_killed(uninterrupted, tmp_path, step, number):
    source, whole = uninterrupted
    assert whole_run(source, tmp_path / "out.mp4", step, number) == -9
    assert not (tmp_path / "out.mp4").exists()
    assert whole_run(source, tmp_path / "out.mp4") == 0
    for expected, resumed in zip(read_back(whole), read_back(tmp_path / "out.mp4")):
        assert np.array_equal(expected, resumed)
    left = [path.name for path in tmp_path.iterdir() if not path.name.endswith(".part")]
    assert left == ["out.mp4"]


def test_one_face_for_a_person_in_two_videos(pipe, tmp_path):
    """The same woman before two backgrounds: one identity for the tracks that are hers."""
    linked = []
    for name, seed in (("one", 0), ("two", 3)):
        made = make_clip({"a": (astronaut(), sway(90, 72, 62, 6))}, 4, SIZE, seed=seed)
        path = write_clip(tmp_path / f"{name}.mp4", made.frames, made.pts)
        linked.append(link_video(pipe.face_analyser, path, VideoCheckpoint(tmp_path / name, "", 0)))
    hers = [next(number for number, track in enumerate(video.tracks) if len(track.frames) == 4) for video in linked]
    identities = consistent_identities(linked, 0.54)
    first, second = (identities[number][track] for number, track in enumerate(hers))
    assert np.array_equal(first, second)
    own = [video.tracks[track].embedding for video, track in zip(linked, hers)]
    assert not np.array_equal(*own) and min(first @ each for each in own) > 0.9


def test_work_on_something_else_is_thrown_away(tmp_path):
    checkpoint = VideoCheckpoint(tmp_path / "w", "one", seed=1)
    checkpoint.finish(0, {"counts": {"covered": 2}})
    assert VideoCheckpoint(tmp_path / "w", "one", seed=2).seed == 1
    assert VideoCheckpoint(tmp_path / "w", "one", seed=2).summary(0) == {"counts": {"covered": 2}}
    assert VideoCheckpoint(tmp_path / "w", "one", seed=2, fixed=True).summary(0) is None
    other = VideoCheckpoint(tmp_path / "w", "two", seed=3)
    assert other.seed == 3 and other.summary(0) is None
    assert oct((tmp_path / "w").stat().st_mode)[-3:] == "700"
    assert oct((tmp_path / "w/checkpoint.json").stat().st_mode)[-3:] == "600"


def test_what_is_found_late_reopens_what_it_reaches(tmp_path):
    checkpoint = VideoCheckpoint(tmp_path / "w", "one", seed=1)
    checkpoint.finish(0, {})
    checkpoint.add_line("found.jsonl", [5, 0.0, 0.0, 9.0, 9.0])
    (checkpoint.folder / "found.jsonl").open("a").write("\n[7, 1.0")
    checkpoint.add_line("found.jsonl", [8, 1.0, 1.0, 9.0, 9.0])
    assert [line[0] for line in checkpoint.lines("found.jsonl")] == [5, 8]
    checkpoint.reopen(0)
    assert checkpoint.summary(0) is None


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A checkpoint in which all of four segments are finished but for the second, and its
    rendering.
    """
    checkpoint, spans = VideoCheckpoint(tmp_path / "work", "test", seed=7), [(0, 8), (8, 16), (16, 24), (24, 32)]
    for start in (0, 16, 24):
        checkpoint.finish(start, {})
    monkeypatch.setattr(segments, "read_frames", lambda path: iter([None] * 32))
    monkeypatch.setattr(NewFaces, "between", lambda *_: {})
    rendering = Rendering(None, PhotoOptions(), 7, None, np.arange(32) * 0.08, [(0, 32)], [], [], [], [])

    def render(finds: Any) -> list[int]:
        def render_segment(rendering: Any, path: Path, *_: Any) -> dict[Any, Any]:
            path.touch()
            finds(rendering)
            return {}

        monkeypatch.setattr(segments, "render_segment", render_segment)
        render_segments(rendering, tmp_path, ".mp4", [(8, 16)], spans, checkpoint, lambda *_: None)
        return [start for start, _ in spans if checkpoint.summary(start) is None]

    return checkpoint, rendering, render


def test_a_face_found_late_reopens_the_segments_before_and_after(finished):
    checkpoint, rendering, render = finished
    reopened = render(lambda rendering: rendering.cover_found(14, np.array([0.0, 0.0, 9.0, 9.0])))
    reach = rendering.times[14] + np.array([-BEYOND, BEYOND])
    reached = [n for n in (0, 16, 24) if rendering.times[n] <= reach[1] and rendering.times[n + 7] >= reach[0]]
    assert reopened == reached
    assert len(list(checkpoint.lines("found.jsonl"))) == 1


@pytest.mark.parametrize(("number", "reopened"), [(8, [0]), (12, []), (14, [16])])
def test_a_failure_reopens_the_segments_that_its_cover_reaches(finished, number, reopened):
    checkpoint, rendering, render = finished
    rendering.cover_found(12, np.array([0.0, 0.0, 9.0, 9.0]))
    assert render(lambda rendering: rendering.failed.add((number, 0))) == reopened
    assert list(checkpoint.lines("failed.jsonl")) == [[number, 0]]


def test_a_face_generated_outside_key_frames_is_recorded_and_reopens_nothing(finished):
    checkpoint, rendering, render = finished
    assert render(lambda rendering: rendering.generated.add((8, 0))) == []
    assert list(checkpoint.lines("generated.jsonl")) == [[8, 0]]


def test_a_resumed_run_knows_which_faces_failed_and_were_generated(tmp_path, monkeypatch):
    checkpoint = VideoCheckpoint(tmp_path / "w", "one", seed=1)
    checkpoint.add_line("failed.jsonl", [3, 0])
    checkpoint.add_line("generated.jsonl", [8, 0])
    monkeypatch.setattr(render, "find_strengths", lambda *_: [])
    video = LinkedVideo(tmp_path, None, None, np.arange(9) / 8, [(0, 9)], [])
    rendering = render.plan(None, video, PhotoOptions(), checkpoint, None, no_progress)
    assert rendering.failed == {(3, 0)} and rendering.generated == {(8, 0)}


def test_switches_count_across_segments(tmp_path):
    checkpoint = VideoCheckpoint(tmp_path / "w", "one", seed=1)
    checkpoint.finish(0, {"counts": {"switches": 1, "covered": 2}, "first": {"0": 0}, "last": {"0": 1, "1": 0}})
    checkpoint.finish(8, {"counts": {"covered": 3}, "first": {"0": 0, "2": 1}, "last": {"0": 0}})
    totals = total_counts(checkpoint, [(0, 8), (8, 16)])
    assert totals["switches"] == 2 and totals["covered"] == 5
