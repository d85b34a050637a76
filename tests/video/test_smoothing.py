"""New faces that flicker less, and move with their originals."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from skimage import data

from nullface_pipeline.face_crops import FaceCrop
from nullface_pipeline.face_identity import DetectedFace
from nullface_pipeline.face_target import FaceTarget
from nullface_pipeline.video.smoothing import (
    AVERAGED,
    FLOW_SIZE,
    KEY_DISTANCE,
    averaged_result,
    flow_coordinates,
    key_frames,
    smooth_result,
    warp,
)


SIZE = 64
FLICKER = 6

# Mask of the right half of a crop.
HALF = np.repeat(np.array([[0.0, 1.0]], np.float32), SIZE // 2, axis=1).repeat(SIZE, axis=0)


def portrait(shift: Any = (0.0, 0.0), size: int = SIZE) -> np.ndarray:
    """(size, size, 3) uint8, a face moved by so many shares of the crop."""
    matrix = np.array([[size / 150, 0, size * (shift[0] - 1.1)], [0, size / 150, size * (shift[1] - 0.15)]])
    return cv2.warpAffine(data.astronaut(), matrix, (size, size), flags=cv2.INTER_AREA)


def target(aligned: np.ndarray, result: np.ndarray) -> FaceTarget:
    landmarks = np.array([[20, 25], [44, 25], [32, 36], [24, 46], [40, 46]], dtype=np.float32)
    face = DetectedFace(np.array([10, 5, 54, 60], np.float32), landmarks, 1.0, np.zeros(512, np.float32))
    whole = np.ones(aligned.shape[:2], np.float32)
    crop = FaceCrop.from_landmarks(landmarks, aligned.shape[0])
    return FaceTarget(face, crop, aligned, whole, whole, (), None, face.embedding, result=result)


def steadied(originals: Any) -> list[np.ndarray]:
    """Results that are 40 lighter than their originals, and `FLICKER` more or less by turns,
    steadied.
    """
    made = {}
    for number, aligned in enumerate(originals):
        lighter = aligned.astype(int) + 40 + FLICKER * (-1) ** number
        made[number] = target(aligned, np.clip(lighter, 0, 255).astype(np.uint8))
    return [smooth_result(made, number).astype(int) for number in sorted(made)]


def test_new_faces_flicker_less():
    originals = [np.full((SIZE, SIZE, 3), 100 + number, np.uint8) for number in range(8)]
    flicker = np.abs(np.diff([result.mean() for result in steadied(originals)]))
    assert flicker.max() < 0.2 * 2 * FLICKER


def test_nothing_is_averaged_over_frames_that_differ():
    """Otherwise a bar before the face would be smeared."""
    dark, light = np.full((SIZE, SIZE, 3), 20, np.uint8), np.full((SIZE, SIZE, 3), 180, np.uint8)
    results = steadied([dark, light, dark])
    assert np.all(results[1] == 180 + 40 - FLICKER) and np.all(results[0] == 20 + 40 + FLICKER)


@pytest.mark.parametrize("size", [SIZE, 2 * FLOW_SIZE])
def test_what_was_made_of_a_frame_follows_the_face(size):
    """In crops of any size the flow brings a face back to where another frame has it."""
    still, gone = portrait(size=size), portrait((0.05, -0.03), size)
    back = warp(gone, flow_coordinates(still, gone))
    middle = np.s_[size // 4 : -size // 4, size // 4 : -size // 4]
    before, after = (np.abs(each[middle].astype(float) - still[middle]).mean() for each in (gone, back))
    assert after < 0.4 * before


def test_a_moving_face_stays_sharp():
    """Averaged where it stood it would be a blur; averaged where it is, it is as sharp as the
    originals.
    """
    originals = [portrait((0.012 * number, 0.0)) for number in range(6)]
    results = steadied(originals)

    def sharpness(picture):
        grey = cv2.cvtColor(np.clip(picture, 0, 255).astype(np.uint8), cv2.COLOR_RGB2GRAY)
        return cv2.Laplacian(grey[16:48, 16:48], cv2.CV_32F).std()

    blurred = np.mean([original.astype(float) + 40 for original in originals], axis=0)
    assert sharpness(results[3]) > 0.85 * sharpness(originals[3])
    assert sharpness(blurred) < 0.75 * sharpness(originals[3])


def test_a_lone_frame_stays_as_it_is():
    alone = target(portrait(), portrait((0.1, 0.0)))
    assert np.array_equal(averaged_result(alone, []), alone.result)


def test_frames_that_are_too_far_away_do_not_count():
    near, far = (target(portrait(), np.full((SIZE, SIZE, 3), grey, np.uint8)) for grey in (100, 200))
    made = {0: near, AVERAGED + 1: far}
    assert np.all(smooth_result(made, 0) == 100) and np.all(smooth_result(made, AVERAGED + 1) == 200)


def keys(originals: dict[int, np.ndarray], *bounds: int) -> set[int]:
    """Key frames of a track, chosen from each of several bounds to the next."""
    targets = {number: target(aligned, None) for number, aligned in originals.items()}
    return set().union(*(key_frames(targets, *span) for span in zip(bounds, bounds[1:])))


def test_a_face_that_moves_is_generated_in_every_eighth_frame():
    moving = {number: portrait((0.006 * number, 0.0)) for number in range(2 * KEY_DISTANCE + 1)}
    assert keys(moving, 0, 2 * KEY_DISTANCE) == {0, KEY_DISTANCE}


def test_key_frames_are_added_where_a_mouth_opens():
    """It is as small as a tenth of the crop."""
    mouth = portrait()
    cv2.ellipse(mouth, (32, 46), (5, 3), 0, 0, 360, (40, 10, 10), -1)
    frames = {number: mouth if number in (9, 10, 11) else portrait() for number in range(25)}
    found = keys(frames, 0, 24)
    assert {0, 8, 16} < found and found & {9, 10, 11} and all(8 <= number <= 16 for number in found - {0})
    assert found == keys(frames, 0, 8, 16, 24) == keys({n: frames[n] for n in range(17)}, 0, 24)


def test_a_face_between_gaps_is_generated_once():
    """No regular key frame has it, or only the one before."""
    assert keys({number: portrait() for number in (2, 3, 4, 5)}, 0, 8) == {4}
    assert keys({number: portrait() for number in range(12)}, 0, 16) == {0, 8}


def test_a_key_frame_does_not_explain_what_it_may_not_change():
    """Half of the face is kept in it, for example behind another head."""
    targets = {number: target(portrait(), None) for number in range(9)}
    targets |= {number: replace(targets[number], mask=HALF) for number in (0, 8)}
    assert key_frames(targets, 0, 8) == {0, 4}
    targets = {number: replace(each, mask=HALF) for number, each in targets.items()}
    assert key_frames(targets, 0, 8) == {0}


def test_a_carried_face_shows_no_original_of_another_frame():
    """Outside its mask, a result is the original."""
    original = np.full((SIZE, SIZE, 3), 50, np.uint8)
    new = np.full((SIZE, SIZE, 3), 200, np.uint8)
    partly = replace(target(original, np.where(HALF[..., None] > 0, new, original)), mask=HALF)
    assert averaged_result(target(original, None), [partly, target(original, new)]).min() >= 199


def test_a_carried_face_follows_the_motion_of_its_key_frame():
    key, moved = portrait(), portrait((0.05, -0.03))
    carried = averaged_result(target(moved, None), [target(key, 255 - key)]).astype(int)
    middle = np.s_[SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4]
    error, still = (np.abs(result - (255 - moved.astype(int)))[middle].mean() for result in (carried, 255 - key))
    assert error < 0.5 * still
