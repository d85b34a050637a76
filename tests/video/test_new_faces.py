"""The stream of new faces: the same, however a video is cut into segments."""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
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

    here = np.stack(np.meshgrid(*2 * [np.arange(SIZE, dtype=np.float32)]), axis=-1)
    monkeypatch.setattr(new_faces, "track_target", cut)
    # Flat crops have no flow.
    monkeypatch.setattr(smoothing, "flow_coordinates", lambda *_: here)
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


def made(rendering: Rendering, spans: list[tuple[int, int]], generated: Any = ()) -> dict[tuple[int, int], np.ndarray]:
    rendering.generated.clear()
    rendering.generated.update(generated)
    stream = NewFaces(rendering, frames())
    faces = {}
    for span in spans:
        faces |= stream.between(*span)
    return {(number, index): target.result for number, each in faces.items() for index, target in each.targets.items()}


def spans(length: int) -> list[tuple[int, int]]:
    return [(start, min(start + length, COUNT)) for start in range(0, COUNT, length)]


# Between key frames, as recorded by a run in which they failed.
GENERATED = {(5, 0), (41, 0), (41, 1), (51, 0)}


@pytest.mark.parametrize("generated", [(), GENERATED])
def test_faces_do_not_depend_on_the_length_of_segments(noisy, rendering, generated):
    short, long = (made(rendering, spans(length), generated) for length in (7, COUNT))
    assert short.keys() == long.keys() and len(long) == COUNT + 39 - 2
    assert all(np.array_equal(short[place], long[place]) for place in long)


@pytest.mark.parametrize("generated", [(), GENERATED])
def test_a_resumed_run_makes_the_same_faces(noisy, rendering, generated):
    """Only the last segment is missing, or the first and one in the middle."""
    whole = made(rendering, spans(7), generated)
    for missing in ([(49, 56)], [(0, 7), (35, 42)]):
        again = made(rendering, missing, generated)
        assert again and all(np.array_equal(whole[place], result) for place, result in again.items())


def test_a_face_that_is_generated_for_itself_changes_no_other_frame(noisy, rendering):
    """Otherwise finished segments would be rendered again."""
    before, after = made(rendering, spans(7)), made(rendering, spans(7), GENERATED)
    assert {place for place in before if not np.array_equal(before[place], after[place])} == GENERATED


def test_a_still_face_is_generated_in_every_eighth_frame(noisy, rendering):
    """Frames 0, 8, ..., 56 of one track and 16, 24, ..., 48 of the other."""
    made(rendering, spans(7))
    assert sum(noisy.batches) == 8 + 5
    assert max(noisy.batches) <= rendering.options.batch_faces


def test_a_batch_has_at_most_the_given_number_of_faces(noisy, rendering, monkeypatch):
    monkeypatch.setattr(smoothing, "UNEXPLAINED", -1.0)
    made(rendering, spans(COUNT))
    assert sum(noisy.batches) == COUNT + 39 - 2 and max(noisy.batches) == rendering.options.batch_faces


@pytest.fixture
def segment(
    noisy: Noisy, rendering: Rendering, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., set[int]]:
    """Renders the frames 0 to 19 with given results of the verification, pass after pass."""
    monkeypatch.setattr(segments, "is_changed", lambda *_: True)
    monkeypatch.setattr(segments, "compose", lambda *_: None)
    monkeypatch.setattr(segments, "write_segment", lambda *_: None)
    monkeypatch.setattr(segments, "paste_all", lambda *_: None)
    stream = NewFaces(rendering, frames())
    faces = stream.between(0, 20)
    rendering.failed.clear()

    def render(*passes: set[tuple[int, int]]) -> set[int]:
        results = iter([*passes, set()])
        monkeypatch.setattr(segments, "check_segment", lambda *_: (next(results), []))
        before = {number: each.targets[0].result for number, each in faces.items()}
        noisy.batches.clear()
        segments.render_segment(
            rendering, tmp_path / "out", ".mp4", 0, list(itertools.islice(frames(), 20)), faces, stream
        )
        return {number for number in before if not np.array_equal(before[number], faces[number].targets[0].result)}

    return render


def test_a_carried_face_that_fails_is_generated_and_one_that_fails_again_is_covered(segment, rendering, noisy):
    assert segment({(3, 0), (13, 0)}, {(13, 0)}) == {3, 13} and noisy.batches == [1, 1]
    assert rendering.generated == {(3, 0), (13, 0)} and rendering.failed == {(13, 0)}


def test_a_generated_face_that_fails_is_covered_with_its_neighbours(segment, rendering, noisy):
    """Carried neighbours that fail too are not generated: they are covered."""
    assert segment({(8, 0), (9, 0), (13, 0)}) == {13} and noisy.batches == [1]
    assert rendering.generated == {(13, 0)} and rendering.failed == {(8, 0)}


def test_a_carried_face_that_changes_too_little_is_generated(segment, rendering, noisy, monkeypatch):
    """And covered, if it then still changes too little."""
    monkeypatch.setattr(segments, "is_changed", lambda before, after, target: target.result.max() < 1)
    segment()
    regular = {(0, 0), (8, 0), (16, 0), (16, 1)}
    assert regular <= rendering.failed and rendering.generated == {(4, 0), (12, 0), (12, 1), (11, 1)}
    assert rendering.failed == regular | rendering.generated


def test_a_stream_holds_few_faces(noisy, rendering):
    stream = NewFaces(rendering, frames())
    for span in spans(7):
        stream.between(*span)
        ahead = 4 * smoothing.KEY_DISTANCE
        assert len(stream._made) <= 7 + 2 * (smoothing.AVERAGED + new_faces.AVERAGED_AGAIN) + ahead


def test_what_cannot_be_cut_out_fails(noisy, rendering):
    assert (30, 0) not in made(rendering, spans(COUNT)) and rendering.failed == {(30, 0), (30, 1)}


def test_progress_moves_within_a_segment_and_never_back(noisy, rendering, tmp_path, monkeypatch):
    """Two segments of 30 frames; each frame counts once it is generated, the last once verified."""
    monkeypatch.setattr(segments, "read_frames", lambda path: frames())
    monkeypatch.setattr(segments, "render_segment", lambda rendering, path, *_: path.touch() or {})
    rendering = replace(rendering, options=replace(rendering.options, batch_faces=2))
    calls = []
    two = [(0, 30), (30, COUNT)]
    checkpoint = VideoCheckpoint(tmp_path / "work", "test", seed=7)
    segments.render_segments(rendering, tmp_path, ".mp4", two, two, checkpoint, lambda *call: calls.append(call))
    done = [number for _, number, _ in calls]
    assert {(step, total) for step, _, total in calls} == {("anonymizing", COUNT)}
    assert done == sorted(done) and done[-1] == COUNT
    assert len([number for number in done if number < 30]) >= 3 and 30 in done
