"""Aligned views of portraits for recognizers: the clean one, and changed ones as careless detectors would cut them."""

import cv2
import numpy as np
from insightface.utils import face_align

from training import augmentation
from training.portraits import Portrait


INPUT_SIZE = 112
MARGIN = 24  # px around the aligned crop, so that turned and shifted crops need no filling
CROP_SIZE = INPUT_SIZE + 2 * MARGIN


def aligned_crop(portrait: Portrait) -> np.ndarray:
    """InsightFace's 112 px crop with `MARGIN` px more on every side, (160, 160, 3) uint8 RGB."""
    matrix = face_align.estimate_norm(portrait.keypoints(), INPUT_SIZE)
    matrix[:, 2] += MARGIN
    return cv2.warpAffine(portrait.image(), matrix, (CROP_SIZE, CROP_SIZE), borderMode=cv2.BORDER_REFLECT_101)


def clean_view(crop: np.ndarray) -> np.ndarray:
    """(112, 112, 3): the middle of a (160, 160, 3) aligned crop, as InsightFace cuts it."""
    return crop[MARGIN : MARGIN + INPUT_SIZE, MARGIN : MARGIN + INPUT_SIZE]


def shifted_view(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(112, 112, 3): a (160, 160, 3) uint8 aligned crop, perhaps mirrored, cut a little askew."""
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    matrix = augmentation.random_similarity(rng, (CROP_SIZE / 2, CROP_SIZE / 2), degrees=4, log_scale=0.05, shift=1.8)
    matrix[:, 2] -= MARGIN
    return cv2.warpAffine(
        np.ascontiguousarray(crop), matrix, (INPUT_SIZE, INPUT_SIZE), borderMode=cv2.BORDER_REFLECT_101
    )


def random_change(view: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A (112, 112, 3) uint8 view in another light, tone and print, perhaps partly covered."""
    view = augmentation.random_damage(augmentation.random_style(view, rng), rng)
    return augmentation.cut_out(view, rng) if rng.random() < 0.3 else view


def random_view(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(160, 160, 3) uint8 aligned crop to a randomly changed (112, 112, 3) one."""
    return random_change(shifted_view(crop, rng), rng)
