"""Covers: one colour of the face is left, and a face that only looks covered is detected."""

import cv2
import numpy as np
import pytest

from nullface_pipeline.face_covers import MARGIN, SOFT_EDGE, Ellipse, are_covered, cover_faces, widened
from nullface_pipeline.photo_options import COVERS


BOX = np.array([40.0, 30.0, 90.0, 95.0])
NEIGHBOUR = BOX + np.array([35.0, 20.0, 35.0, 20.0])


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (150, 180, 3), dtype=np.uint8)


def inside(pixels: np.ndarray, box: np.ndarray = BOX) -> np.ndarray:
    ellipse = Ellipse.around(box, pixels.shape)
    mask = np.zeros(pixels.shape[:2], dtype=bool)
    mask[ellipse.window] = ellipse.inside
    return mask


@pytest.mark.parametrize("kind", COVERS)
def test_an_ellipse_goes_around_the_corners_and_nothing_else_is_covered(pixels, kind):
    after = cover_faces(pixels, [BOX], kind)
    mask = inside(pixels)
    assert mask[30:96, 40:91].all()
    changed = (after != pixels).any(axis=-1)
    assert changed[mask].mean() > 0.9
    reach = inside(pixels, widened(BOX, SOFT_EDGE * (2**0.5 + MARGIN) - 2**0.5)) if kind == "blur" else mask
    assert not changed[~reach].any()
    assert np.array_equal(cover_faces(pixels, [BOX - 500.0], kind), pixels)


@pytest.mark.parametrize("kind", COVERS)
def test_a_cover_holds_nothing_of_the_face_but_its_mean_colour(pixels, kind):
    """The same pixels in another order, and other pixels of the same mean: the same picture."""
    mask = inside(pixels)
    shuffled = pixels.copy()
    shuffled[mask] = np.random.default_rng(1).permutation(pixels[mask])
    flat = pixels.copy()
    flat[mask] = pixels[mask].mean(axis=0).round()
    after = cover_faces(pixels, [BOX], kind)
    assert np.array_equal(cover_faces(shuffled, [BOX], kind), after)
    assert np.array_equal(cover_faces(flat, [BOX], kind), after)


def test_patch_and_blur_are_one_colour_and_a_mosaic_a_few_shades_of_it(pixels):
    mask = inside(pixels)
    colours = {kind: np.unique(cover_faces(pixels, [BOX], kind)[mask], axis=0) for kind in COVERS}
    assert len(colours["solid"]) == 1 and np.array_equal(colours["solid"], colours["blur"])
    differences = colours["mosaic"] - colours["solid"].astype(int)
    assert 8 < len(differences) <= 64 and (differences == differences[:, :1]).all(), "brighter or darker, not bluer"


@pytest.mark.parametrize("grey", [0, 255])
def test_the_pattern_of_a_mosaic_shows_whatever_the_colour(pixels, grey):
    after = cover_faces(np.full_like(pixels, grey), [BOX], "mosaic")
    assert are_covered(after, [BOX], "mosaic") == [True]
    assert len(np.unique(after[inside(pixels)], axis=0)) > 8


@pytest.mark.parametrize("kind", COVERS)
def test_covers_may_overlap(pixels, kind):
    boxes = [BOX, NEIGHBOUR, BOX + 3.0]
    after = cover_faces(pixels, boxes, kind)
    assert are_covered(after, boxes, kind) == [True, True, True]
    mine = inside(pixels, NEIGHBOUR) & ~inside(pixels, boxes[2])
    assert kind == "mosaic" or len(np.unique(after[mine], axis=0)) == 1


def softly_blurred(pixels: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(pixels, (0, 0), 6)


def finely_cut(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(np.repeat(pixels[::10, ::10], 10, axis=0), 10, axis=1)


def half_covered(pixels: np.ndarray) -> np.ndarray:
    return np.concatenate([cover_faces(pixels, [BOX])[:60], pixels[60:]])


def one_pixel_short(pixels: np.ndarray) -> np.ndarray:
    after = cover_faces(pixels, [BOX])
    after[62, 65] ^= 1
    return after


@pytest.mark.parametrize("kind", COVERS)
@pytest.mark.parametrize("looks_covered", [np.copy, softly_blurred, finely_cut, half_covered, one_pixel_short])
def test_a_face_that_only_looks_covered_is_told(pixels, kind, looks_covered):
    assert are_covered(looks_covered(pixels), [BOX], kind) == [False]


@pytest.mark.parametrize("kind", COVERS)
def test_the_one_of_several_that_is_left_out_is_told(pixels, kind):
    after = cover_faces(pixels, [BOX, NEIGHBOUR], kind)
    assert are_covered(after, [BOX, BOX + 50.0, NEIGHBOUR], kind) == [True, False, True]


def test_a_wider_cover_has_the_same_centre(pixels):
    wide = widened(BOX, 1.0)
    assert wide[:2] + wide[2:] == pytest.approx(BOX[:2] + BOX[2:])
    assert widened(BOX, MARGIN) == pytest.approx(BOX)
    assert (inside(pixels, wide) | ~inside(pixels)).all() and inside(pixels, wide).sum() > inside(pixels).sum()
