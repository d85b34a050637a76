"""Blur, pixelate and box hide what they should and leave the rest."""

import numpy as np
import pytest
from skimage import data

from nullface_pipeline.evaluation.baselines import BASELINES, BLOCKS, face_mask, wide_box
from nullface_pipeline.face_identity import FaceLocation


PHOTO = data.astronaut()
LANDMARKS = np.array([[200, 105], [240, 105], [222, 125], [206, 145], [238, 145]], dtype=np.float32)
FACE = FaceLocation(np.array([180, 60, 260, 180], dtype=np.float32), LANDMARKS, 1.0)


@pytest.mark.parametrize("name", BASELINES)
def test_only_the_widened_box_changes(name):
    result = BASELINES[name](PHOTO, FACE)
    x0, y0, x1, y1 = wide_box(FACE, PHOTO.shape[:2])
    assert (x0, y0, x1, y1) == (168, 42, 272, 198)
    assert result.shape == PHOTO.shape and result.dtype == np.uint8
    outside = np.ones(PHOTO.shape[:2], dtype=bool)
    outside[y0:y1, x0:x1] = False
    assert np.array_equal(result[outside], PHOTO[outside])
    assert np.abs(result[80:160, 190:250].astype(int) - PHOTO[80:160, 190:250]).mean() > 10


def test_what_is_left_of_the_face():
    part = np.s_[42:198, 168:272]
    assert not BASELINES["box"](PHOTO, FACE)[part].any()
    colours = np.unique(BASELINES["pixelate"](PHOTO, FACE)[part].reshape(-1, 3), axis=0)
    assert len(colours) <= BLOCKS * round(BLOCKS * 156 / 104)
    mask = face_mask(FACE, PHOTO.shape[:2]) > 0
    blurred = BASELINES["blur"](PHOTO, FACE)
    assert np.array_equal(blurred[~mask], PHOTO[~mask]) and 0.7 < mask[part].mean() < 0.85
    assert blurred[mask].std() < 0.7 * PHOTO[mask].std()


@pytest.mark.parametrize("name", BASELINES)
def test_faces_at_the_edge(name):
    for box in ([-50, -50, 20, 20], [500, 500, 600, 600], [600, 600, 700, 700]):
        face = FaceLocation(np.array(box, dtype=np.float32), LANDMARKS, 1.0)
        assert BASELINES[name](PHOTO, face).shape == PHOTO.shape
