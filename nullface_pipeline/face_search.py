"""Looking for every face of a photo, also where a detector that sees the photo once, upright and as a whole, fails.

Detectors are trained on upright faces and scale a photo to 640 pixels: they miss people who lie down, and small faces in
large photos. So the photo is looked at in four quarter turns, and a large one in tiles as well.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from .face_identity import DetectedFace, detect_faces


# Two boxes that share more than this of their union are the same face.
SAME_BOX = 0.3

# Most of what a turned photo or a tile shows is no face, and some looks like one: there, a face needs a higher score.
UNUSUAL_SCORE = 0.5

# Side of a tile and how much neighbours share, in photo pixels. In a tile, InsightFace's 640 pixels find faces of 32
# pixels; faces too large for what neighbours share are found in the whole photo.
TILE, TILE_OVERLAP = 1280, 320


def search_faces(analyser: Any, photo: np.ndarray) -> list[DetectedFace]:
    """Find and embed the faces of an (H, W, 3) uint8 RGB photo, each once, largest first."""
    found = detect_faces(analyser, photo)
    for quarter_turns in (1, 2, 3):
        found += [
            turn_back(face, quarter_turns, photo.shape[:2])
            for face in detect_faces(analyser, np.rot90(photo, quarter_turns))
            if face.score >= UNUSUAL_SCORE
        ]
    for tile in tiles(photo.shape[:2]):
        x0, y0, x1, y1 = tile
        found += [
            moved
            for face in detect_faces(analyser, photo[y0:y1, x0:x1])
            if face.score >= UNUSUAL_SCORE and not is_cut(moved := move(face, x0, y0), tile, photo.shape[:2])
        ]
    return distinct_faces(found)


def turn_back(face: DetectedFace, quarter_turns: int, photo_size: tuple[int, int]) -> DetectedFace:
    """A face found in `np.rot90(photo, quarter_turns)`, in the frame of the (H, W) photo itself."""
    x0, y0, x1, y1 = face.box
    corners = _turn_points_back(np.array([[x0, y0], [x1, y1]]), quarter_turns, photo_size)
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    landmarks = _turn_points_back(face.landmarks, quarter_turns, photo_size)
    return replace(face, box=box.astype(np.float32), landmarks=landmarks.astype(np.float32))


def _turn_points_back(points: np.ndarray, quarter_turns: int, photo_size: tuple[int, int]) -> np.ndarray:
    """(N, 2) points of the turned photo in the frame of the (H, W) photo."""
    bottom, right = photo_size[0] - 1, photo_size[1] - 1
    x, y = points[:, 0], points[:, 1]
    turned = {1: (right - y, x), 2: (right - x, bottom - y), 3: (y, bottom - x)}
    return np.stack(turned[quarter_turns], axis=1)


def tiles(photo_size: tuple[int, int]) -> Iterator[tuple[int, int, int, int]]:
    """Boxes (x0, y0, x1, y1), end exclusive, that cover an (H, W) photo; none where the photo is hardly larger."""
    if max(photo_size) <= TILE:
        return
    for y0, y1 in _spans(photo_size[0]):
        for x0, x1 in _spans(photo_size[1]):
            yield x0, y0, x1, y1


def _spans(length: int) -> list[tuple[int, int]]:
    """Even spans of at most `TILE` over [0, length) that share at least `TILE_OVERLAP`."""
    count = max(1, -(-(length - TILE_OVERLAP) // (TILE - TILE_OVERLAP)))
    starts = np.linspace(0, max(0, length - TILE), count).round().astype(int)
    return [(int(start), int(min(start + TILE, length))) for start in starts]


def move(face: DetectedFace, x: int, y: int) -> DetectedFace:
    """A face in another frame: shifted by (x, y) pixels."""
    shift = np.array([x, y], dtype=np.float32)
    return replace(face, box=face.box + np.tile(shift, 2), landmarks=face.landmarks + shift)


def is_cut(face: DetectedFace, tile: tuple[int, int, int, int], photo_size: tuple[int, int]) -> bool:
    """Whether a tile's edge that is not the photo's cuts the face; another tile or the whole photo shows all of it."""
    x0, y0, x1, y1 = face.box
    left, top, right, bottom = tile
    height, width = photo_size
    return bool(
        (x0 <= left and left > 0)
        or (y0 <= top and top > 0)
        or (x1 >= right - 1 and right < width)
        or (y1 >= bottom - 1 and bottom < height)
    )


def distinct_faces(faces: list[DetectedFace]) -> list[DetectedFace]:
    """Leave out what was found twice: of two boxes that largely overlap, the one of the lower score; largest first."""
    distinct: list[DetectedFace] = []
    for face in sorted(faces, key=lambda face: face.score, reverse=True):
        if all(overlap(face.box, other.box) <= SAME_BOX for other in distinct):
            distinct.append(face)
    return sorted(distinct, key=lambda face: face.area, reverse=True)


def overlap(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return float(width * height / (sum(areas) - width * height))
