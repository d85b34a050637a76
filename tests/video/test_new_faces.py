"""The stream of new faces: the same, however a video is cut into segments."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nullface_pipeline.face_target import FaceTarget
from nullface_pipeline.identity_choices import IDENTITY_CHOICES
from nullface_pipeline.photo_options import PRESETS, PhotoOptions
from nullface_pipeline.video import new_faces, segments, smoothing
from nullface_pipeline.video.checkpoint import VideoCheckpoint
from nullface_pipeline.video.new_faces import NewFaces
from nullface_pipeline.video.reader import Frame
from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.states import track_states

from .test_render import standing
from .test_smoothing import target
from .test_tracks import ANN, BOB


SIZE, COUNT = 24, 60


class Noisy:
    """New faces that flicker, and differ with their place in the batch as those of a UNet may."""

    def __init__(self) -> None:
        self.batches = []

    def new_faces(self, pipe: Any, targets: Any, settings: Any) -> Any:
        self.batches.append(len(targets))
        made = []
        for place, each in enumerate(targets):
            noise = np.random.default_rng(int(each.aligned.sum())).integers(0, 40, each.aligned.shape)
            made.append((each.aligned + noise + place).clip(0, 255).astype(np.uint8))
        return made


@pytest.fixture
def noisy(monkeypatch: pytest.MonkeyPatch) -> Noisy:
    def cut(rendering: Rendering, index: int, number: int, pixels: np.ndarray) -> FaceTarget | None:
        grey = 60 + 20 * index + number // 2
        return target(np.full((SIZE, SIZE, 3), grey, np.uint8), None) if number != 30 else None

    monkeypatch.setattr(new_faces, "track_target", cut)
    # Fewer than in a real run, to be quick.
    monkeypatch.setattr(new_faces, "AVERAGED", 5)
    monkeypatch.setattr(smoothing, "AVERAGED", 5)
    choice = Noisy()
    monkeypatch.setitem(IDENTITY_CHOICES, "opposite", choice)
    return choice


@pytest.fixture
def rendering() -> Rendering:
    times = np.arange(COUNT) / 25
    tracks = [
        track_states(each, times) for each in (standing(100, range(COUNT), ANN), standing(40, range(11, 50), BOB))
    ]
    options = PhotoOptions(identity="opposite")
    pipe = SimpleNamespace(presets=PRESETS)
    return Rendering(pipe, options, 0, None, times, [(0, COUNT)], tracks, [ANN, BOB], [0, 0], [None, None])


def frames() -> Iterator[Frame]:
    return (Frame(np.zeros((4, 4, 3), np.uint8), number) for number in range(COUNT))


def made(rendering: Rendering, spans: list[tuple[int, int]]) -> dict[tuple[int, int], np.ndarray]:
    stream = NewFaces(rendering, frames())
    faces = {}
    for span in spans:
        faces |= stream.between(*span)
    return {(number, index): target.result for number, each in faces.items() for index, target in each.targets.items()}


def spans(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + length, COUNT)) for start in range(0, COUNT, length)]


def test_faces_do_not_depend_on_the_length_of_segments(noisy, rendering):
    short, long = made(rendering, spans(7)), made(rendering, spans(COUNT))
    assert short.keys() == long.keys() and len(long) == COUNT + 39 - 2
    assert all(np.array_equal(short[place], long[place]) for place in long)


def test_a_resumed_run_makes_the_same_faces(noisy, rendering):
    """Only the last segment is missing, or the first and one in the middle."""
    whole = made(rendering, spans(7))
    for missing in ([(49, 56)], [(0, 7), (35, 42)]):
        again = made(rendering, missing)
        assert again and all(np.array_equal(whole[place], result) for place, result in again.items())


def test_each_face_is_made_once(noisy, rendering):
    made(rendering, spans(7))
    assert sum(noisy.batches) == COUNT + 39 - 2 and max(noisy.batches) == rendering.options.batch_faces


def test_a_stream_holds_few_faces(noisy, rendering):
    stream = NewFaces(rendering, frames())
    for span in spans(7):
        stream.between(*span)
        assert len(stream._made) <= 7 + 2 * new_faces.AVERAGED + rendering.options.batch_faces


def test_what_cannot_be_cut_out_fails(noisy, rendering):
    assert (30, 0) not in made(rendering, spans(COUNT)) and rendering.failed == {(30, 0), (30, 1)}


def test_progress_moves_within_a_segment_and_never_back(noisy, rendering, tmp_path, monkeypatch):
    """Two segments of 30 frames; each frame counts once it is generated, the last once verified."""
    monkeypatch.setattr(segments, "read_frames", lambda path: frames())
    monkeypatch.setattr(segments, "render_segment", lambda rendering, path, *_: path.touch() or {})
    calls = []
    two = [(0, 30), (30, COUNT)]
    checkpoint = VideoCheckpoint(tmp_path / "work", "test", seed=7)
    segments.render_segments(rendering, tmp_path, ".mp4", two, two, checkpoint, lambda *call: calls.append(call))
    done = [number for _, number, _ in calls]
    assert {(step, total) for step, _, total in calls} == {("anonymizing", COUNT)}
    assert done == sorted(done) and done[-1] == COUNT
    assert len([number for number in done if number < 30]) >= 3 and 30 in done
