"""Masks of an aligned face: the parsed face or an ellipse, less kept regions and other faces."""

from collections.abc import Sequence

import cv2
import numpy as np
import PIL.Image
from diffusers.utils import logging

from .face_crops import FaceCrop
from .face_identity import DetectedFace
from .face_parsing import anonymization_mask, region_mask
from .face_regions import FACE_REGIONS
from .photo_records import OptionError
from .protocols import FaceSegmenter


# Margin of the mask beyond the parsed face, as a share of the crop; the wider one is for retries.
MASK_MARGIN, WIDER_MARGIN = 0.02, 0.06

# Eyes, nose and mouth lie within this share of the face's ellipse, in width and in height.
INNER_FACE = 0.6


def face_masks(
    parser: FaceSegmenter | None, aligned: np.ndarray, landmarks: np.ndarray, keep: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Mask of the parsed face, or an ellipse, without kept regions; and a wider mask for retries.

    Args:
        aligned (`np.ndarray`): (size, size, 3) uint8 RGB.
        landmarks (`np.ndarray`): (5, 2) in the crop.

    Returns:
        Two `np.ndarray`: (size, size) float32 in [0, 1].
    """
    ellipse = face_ellipse(landmarks, aligned.shape[0])
    wider_ellipse = face_ellipse(landmarks, aligned.shape[0], margin=WIDER_MARGIN)
    if parser is None:
        return ellipse, wider_ellipse
    labels = parser(aligned)
    if region_mask(labels, parser.labels, FACE_REGIONS)[ellipse > 0.5].mean() < 0.5:
        if keep:
            logging.get_logger(__name__).warning("A face's regions were not found; nothing of it is kept.")
        return ellipse, wider_ellipse
    return (
        anonymization_mask(labels, parser.labels, keep, margin=MASK_MARGIN),
        anonymization_mask(labels, parser.labels, keep, margin=WIDER_MARGIN),
    )


def face_ellipse(landmarks: np.ndarray, size: int, margin: float = 0.0, scale: float = 1.0) -> np.ndarray:
    """Soft ellipse from brow to chin around (5, 2) landmarks in the crop; (size, size) float32.

    Args:
        margin (`float`): how much farther it reaches, as a share of the crop.
        scale (`float`): how large it is before.
    """
    eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    centre = eyes + 0.45 * (mouth - eyes)
    eye_distance, face_height = np.hypot(*(landmarks[1] - landmarks[0])), np.hypot(*(mouth - eyes))
    axes = max(1.15 * eye_distance, 0.9 * face_height), max(1.75 * face_height, 1.3 * eye_distance)
    angle = -np.degrees(np.arctan2(*(mouth - eyes)))
    mask = np.zeros((size, size), dtype=np.float32)
    diameters = 2.0 * (scale * np.array(axes) + margin * size)
    cv2.ellipse(mask, (tuple(centre.tolist()), tuple(diameters.tolist()), float(angle)), 1.0, -1)
    return cv2.GaussianBlur(mask, (0, 0), 0.02 * size)


def parts_to_change(crop: FaceCrop, landmarks: np.ndarray, photo_size: tuple[int, int]) -> tuple[np.ndarray, ...]:
    """Two (size, size) bool masks: a face's ellipse and its inner part, where a photo shows them.

    Args:
        landmarks (`np.ndarray`): (5, 2) in the crop.
    """
    shown = crop.is_in_photo(photo_size)
    return tuple(shown & (face_ellipse(landmarks, crop.size, scale=scale) > 0.5) for scale in (1.0, INNER_FACE))


def nearest_face(crop: FaceCrop, face: DetectedFace, faces: list[DetectedFace]) -> np.ndarray:
    """(size, size) bool: the part of the crop that is nearest to this face, in units of face size.

    Neighbours' skin in a crop must neither take this face's identity nor be pasted back as it was.
    """
    y, x = np.mgrid[: crop.size, : crop.size]
    points = np.stack([x, y], axis=-1).astype(np.float64)  # (size, size, 2)

    def distance(other: DetectedFace) -> np.ndarray:
        landmarks = crop.points_to_crop(other.landmarks)
        centre = landmarks.mean(axis=0)
        return np.linalg.norm(points - centre, axis=-1) / np.linalg.norm(landmarks - centre, axis=-1).mean()

    own = distance(face)
    return np.all([own <= distance(other) for other in faces], axis=0)


def read_keep_mask(mask: PIL.Image.Image, pixels: np.ndarray) -> np.ndarray:
    """(H, W) float32 in [0, 1]; raises OptionError on another size than the photo's."""
    if mask.size != (pixels.shape[1], pixels.shape[0]):
        raise OptionError(
            "keep_mask",
            f"must have the size of the upright photo, {pixels.shape[1]} x {pixels.shape[0]}, got "
            f"{mask.size[0]} x {mask.size[1]}.",
        )
    return np.asarray(mask.convert("L"), dtype=np.float32) / 255.0


def mask_picture(mask: np.ndarray) -> PIL.Image.Image:
    """An (H, W) mask in [0, 1] as an 8-bit grey picture."""
    return PIL.Image.fromarray((255 * mask).round().astype(np.uint8))
