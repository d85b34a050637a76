"""Patches and new faces in one frame."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nullface_pipeline.face_crops import FaceCrop
from nullface_pipeline.face_identity import DetectedFace
from nullface_pipeline.face_target import FaceTarget, is_upside_down
from nullface_pipeline.photo_options import PhotoOptions
from nullface_pipeline.video.compose import FramePlan, shown_in_front
from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.report import find_covered_tracks
from nullface_pipeline.video.states import track_states
from nullface_pipeline.video.tracks import Track
from nullface_pipeline.video.verify import is_only_new

from .test_tracks import ANN, BOB, FPS, box, landmarks


TIMES = np.arange(60) / FPS
SIZE = (120, 200)


def standing(x: float, frames: Sequence[int], who: np.ndarray, size: float = 40.0) -> Track:
    boxes = np.stack([box(x, 60, size)] * len(frames))
    points = np.stack([landmarks(each) for each in boxes])
    return Track(np.array(frames), boxes, points, np.ones(len(frames)), (0, 60), who)


def rendered(*tracks: Track, parents: Any = None) -> Rendering:
    states = [track_states(each, TIMES, [other for other in tracks if other is not each]) for each in tracks]
    parents = [None] * len(tracks) if parents is None else parents
    return Rendering(None, None, 0, None, TIMES, [(0, 60)], states, [ANN, BOB], [0, 0], parents)


def new_face(track: Track, mask: np.ndarray | float = 1.0) -> FaceTarget:
    face = DetectedFace(track.boxes[0], track.landmarks[0], 1.0, ANN)
    crop = FaceCrop.from_landmarks(face.landmarks, 64)
    picture = np.zeros((64, 64, 3), np.uint8)
    whole = np.full((64, 64), mask, np.float32)
    return FaceTarget(face, crop, picture, whole, whole, (), None, ANN, result=picture)


FRONT, GONE = standing(100, range(60), ANN), standing(90, range(10), BOB)


def shown(rendering: Rendering, done: Any, number: int) -> Any:
    return shown_in_front(rendering, done, number, SIZE)


def test_a_patch_leaves_out_the_new_face_in_front_of_it():
    rendering = rendered(FRONT, GONE)
    done = FramePlan({0: new_face(FRONT)}, {1: (GONE.boxes[0], 1.0)}, [])
    front = shown(rendering, done, 30)
    assert front[60, 100] and not front[60, 150] and not front[10, 100]
    # Not more than the face: what is beside it may belong to another person.
    assert front.sum() < 40 * 56


def test_a_patch_lies_over_what_is_not_replaced():
    done = FramePlan({0: new_face(FRONT, mask=0.5)}, {1: (GONE.boxes[0], 1.0)}, [])
    assert not shown(rendered(FRONT, GONE), done, 30).any()


@pytest.mark.parametrize(("number", "parents"), [(5, [None, None]), (30, [None])])
def test_the_patch_of_a_face_that_was_found_lies_over_all(number, parents):
    """In the frame that shows it, or in the finished picture."""
    done = FramePlan({0: new_face(FRONT)}, {1: (GONE.boxes[0], 1.0)}, [])
    assert not shown(rendered(FRONT, GONE, parents=parents), done, number).any()


@pytest.mark.parametrize("number", [5, 30])
def test_the_patch_of_a_false_detection_never_lies_over_a_new_face(number):
    """No frame shows it clearly. A face that only the finished picture shows is another matter."""
    doubtful = replace(GONE, scores=np.full(len(GONE.frames), 0.45))
    done = FramePlan({0: new_face(FRONT)}, {1: (GONE.boxes[0], 1.0)}, [])
    assert shown(rendered(FRONT, doubtful), done, number)[60, 100]
    assert not shown(rendered(FRONT, doubtful, parents=[None]), done, number).any()


def test_covered_tracks_are_reported_with_their_seconds_and_reason():
    doubtful = replace(standing(160, range(20, 22), BOB), scores=np.array([0.41, 0.38]))
    part = standing(100, range(30, 32), BOB, size=10.0)
    rendering = rendered(FRONT, doubtful, part, parents=[None, None, 0])
    (covered,) = find_covered_tracks(replace(rendering, options=PhotoOptions()))
    assert covered.start <= TIMES[20] < TIMES[21] <= covered.end
    assert covered.score == pytest.approx(0.41) and covered.box == tuple(doubtful.boxes[0])
    assert "detection_threshold" in covered.reason


def test_a_face_that_was_not_found_itself_is_not_in_front():
    guessed = standing(100, [n for n in range(60) if n != 30], ANN)
    done = FramePlan({0: new_face(guessed)}, {1: (GONE.boxes[0], 1.0)}, [])
    rendering = rendered(guessed, GONE)
    assert not shown(rendering, done, 30).any() and shown(rendering, done, 31).any()


def test_a_person_far_from_a_found_face_is_not_covered():
    done = FramePlan({0: new_face(FRONT)}, {1: (box(400, 60), 1.0)}, [])
    assert shown(rendered(FRONT, GONE, parents=[None]), done, 30).any()


def upside_down(x: float, y: float, size: float) -> DetectedFace:
    turned = np.array([x, y]) - landmarks(box(0, 0)) * size / 40.0
    return DetectedFace(box(x, y, size), turned, 0.8, BOB)


@pytest.mark.parametrize(("degrees", "expected"), [(0, False), (80, False), (100, True), (180, True)])
def test_upside_down_is_more_than_a_quarter_turn(degrees, expected):
    points = landmarks(box(100, 60, 40))
    turn = np.exp(1j * np.radians(degrees)) * (points - points.mean(axis=0)) @ (1, 1j)
    assert is_upside_down(np.stack([turn.real, turn.imag], axis=1), points) == expected


def only_new(face: DetectedFace, target: FaceTarget) -> bool:
    picture = np.zeros((*SIZE, 3), np.uint8)
    return is_only_new(rendered(FRONT), face, [target], picture, picture, [])


def test_a_mouth_taken_for_a_face_upside_down_is_only_new():
    assert only_new(upside_down(100, 64, 14), new_face(FRONT))


@pytest.mark.parametrize(
    ("face", "mask"),
    [(upside_down(100, 64, 14), 0.4), (upside_down(160, 64, 14), 1.0), (upside_down(100, 60, 400), 1.0)],
    ids=["not replaced", "beside it", "larger"],
)
def test_a_face_upside_down_that_is_not_within_a_new_one_is_found(face, mask):
    assert not only_new(face, new_face(FRONT, mask))
