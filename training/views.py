"""Aligned views of portraits for recognizers: a clean one and augmented ones."""

import cv2
import numpy as np
from insightface.utils import face_align

from training import augmentation
from training.portraits import Portrait


INPUT_SIZE = 112
MARGIN = 24  # px around the aligned crop, so that rotated and shifted crops stay inside
CROP_SIZE = INPUT_SIZE + 2 * MARGIN


def aligned_crop(portrait: Portrait) -> np.ndarray:
    """(160, 160, 3) uint8 RGB: InsightFace's 112 px crop with `MARGIN` px on every side."""
    matrix = face_align.estimate_norm(portrait.keypoints(), INPUT_SIZE)
    matrix[:, 2] += MARGIN
    return cv2.warpAffine(portrait.image(), matrix, (CROP_SIZE, CROP_SIZE), borderMode=cv2.BORDER_REFLECT_101)


def clean_view(crop: np.ndarray) -> np.ndarray:
    """(112, 112, 3) middle of a (160, 160, 3) aligned crop, equal to InsightFace's crop."""
    return crop[MARGIN : MARGIN + INPUT_SIZE, MARGIN : MARGIN + INPUT_SIZE]


def shifted_view(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(112, 112, 3) view of a (160, 160, 3) crop, mirrored and misaligned at random."""
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    matrix = augmentation.random_similarity(rng, (CROP_SIZE / 2, CROP_SIZE / 2), degrees=4, log_scale=0.05, shift=1.8)
    matrix[:, 2] -= MARGIN
    return cv2.warpAffine(
        np.ascontiguousarray(crop), matrix, (INPUT_SIZE, INPUT_SIZE), borderMode=cv2.BORDER_REFLECT_101
    )


def random_change(view: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Change the style and detail of a (112, 112, 3) uint8 view, and cover a part at times."""
    view = augmentation.random_damage(augmentation.random_style(view, rng), rng)
    return augmentation.cut_out(view, rng) if rng.random() < 0.3 else view


def random_view(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Randomly augmented (112, 112, 3) view of a (160, 160, 3) uint8 aligned crop."""
    return random_change(shifted_view(crop, rng), rng)
