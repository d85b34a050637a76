"""Baselines: blur, pixelation and black box, as by deface and Presidio.

Each takes an (H, W, 3) uint8 RGB photo and the original's face, and returns a new photo.
"""

from collections.abc import Callable

import cv2
import numpy as np

from nullface_pipeline.face_identity import FaceLocation


# deface widens the detector's box by this factor.
BOX_SCALE = 1.3
# Width of a pixelated face in blocks.
BLOCKS = 8

# Increase when a result changes: part of the cache key.
VERSION = "1"


def blur(photo: np.ndarray, face: FaceLocation) -> np.ndarray:
    """Box blur over half the face's width and height in an ellipse; deface's default."""
    x0, y0, x1, y1 = wide_box(face, photo.shape[:2])
    part = photo[y0:y1, x0:x1]
    blurred = cv2.blur(part, (max(1, (x1 - x0) // 2), max(1, (y1 - y0) // 2)))
    ellipse = face_mask(face, photo.shape[:2])[y0:y1, x0:x1, None] > 0
    return _with_part(photo, np.where(ellipse, blurred, part), x0, y0)


def pixelate(photo: np.ndarray, face: FaceLocation) -> np.ndarray:
    """Pixelate the face to a width of eight blocks; deface uses blocks of a fixed size."""
    x0, y0, x1, y1 = wide_box(face, photo.shape[:2])
    part = photo[y0:y1, x0:x1]
    rows = max(1, round(BLOCKS * part.shape[0] / part.shape[1]))
    small = cv2.resize(part, (BLOCKS, rows), interpolation=cv2.INTER_AREA)
    return _with_part(photo, cv2.resize(small, part.shape[1::-1], interpolation=cv2.INTER_NEAREST), x0, y0)


def box(photo: np.ndarray, face: FaceLocation) -> np.ndarray:
    """Black rectangle, as by Presidio's image redactor."""
    x0, y0, x1, y1 = wide_box(face, photo.shape[:2])
    return _with_part(photo, np.zeros_like(photo[y0:y1, x0:x1]), x0, y0)


BASELINES: dict[str, Callable[[np.ndarray, FaceLocation], np.ndarray]] = {
    "blur": blur,
    "pixelate": pixelate,
    "box": box,
}


def wide_box(face: FaceLocation, photo_size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Widened box (x0, y0, x1, y1) in whole pixels, end exclusive, clipped to an (H, W) photo."""
    centre, half = (face.box[:2] + face.box[2:]) / 2, BOX_SCALE * (face.box[2:] - face.box[:2]) / 2
    height, width = photo_size
    x0, y0 = np.clip(np.floor(centre - half), 0, [width - 1, height - 1]).astype(int)
    x1, y1 = np.clip(np.ceil(centre + half), [x0 + 1, y0 + 1], [width, height]).astype(int)
    return int(x0), int(y0), int(x1), int(y1)


def face_mask(face: FaceLocation, photo_size: tuple[int, int]) -> np.ndarray:
    """(H, W) float32 mask of the face: 1 in the ellipse within the wide box, 0 elsewhere."""
    mask = np.zeros(photo_size, dtype=np.float32)
    centre, size = (face.box[:2] + face.box[2:]) / 2, BOX_SCALE * (face.box[2:] - face.box[:2])
    cv2.ellipse(mask, (tuple(centre.tolist()), tuple(size.tolist()), 0.0), 1.0, -1)
    return mask


def _with_part(photo: np.ndarray, part: np.ndarray, x0: int, y0: int) -> np.ndarray:
    result = photo.copy()
    result[y0 : y0 + part.shape[0], x0 : x0 + part.shape[1]] = part
    return result
