"""Search for every face of a photo: upright and rotated, as a whole and in tiles.

Detectors are trained on upright faces and scale a photo to 640 pixels. They miss people who lie
down, and small faces in large photos. So the detector also runs on the photo in four quarter turns
and, if it is large, on tiles. Duplicates are removed before faces are embedded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from .face_identity import DetectedFace, FaceLocation, embed_faces, locate_faces
from .photo_records import TooManyFacesError
from .protocols import FaceAnalyser


# Intersection over union above which two boxes are of the same face.
SAME_BOX = 0.3

# Distance of the centres of two boxes of one face, in box widths. The centres of two people cheek
# to cheek are farther apart.
SAME_CENTRE = 0.4

# Added to the detector's threshold in turned photos and tiles, which cause more false detections.
UNUSUAL_MARGIN = 0.2

# Side of a tile and overlap of neighbours, in photo pixels. In a tile, InsightFace's 640 pixels
# find faces of 32 pixels. Faces larger than the overlap are found in the whole photo.
TILE, TILE_OVERLAP = 1280, 320

# More boxes than this come from false detections. Later steps take time quadratic in their number.
MAX_FACES = 1000


def search_faces(analyser: FaceAnalyser, photo: np.ndarray) -> list[DetectedFace]:
    """Find and embed the faces of an (H, W, 3) uint8 RGB photo, each once, largest first.

    Raises:
        TooManyFacesError: (a `ValueError`) if there are more than `MAX_FACES`.
    """
    return embed_faces(analyser, photo, search_locations(analyser, photo))


def search_locations(analyser: FaceAnalyser, photo: np.ndarray) -> list[FaceLocation]:
    """Find the faces of an (H, W, 3) uint8 RGB photo, largest first; raises as `search_faces`."""
    size = photo.shape[:2]
    faces = locate_faces(analyser, photo)
    unusual_score = analyser.det_model.det_thresh + UNUSUAL_MARGIN
    for quarter_turns in (1, 2, 3):
        found = locate_faces(analyser, np.rot90(photo, quarter_turns))
        faces += [turn_back(face, quarter_turns, size) for face in found if face.score >= unusual_score]
    cut: list[FaceLocation] = []
    for tile in tiles(size):
        x0, y0, x1, y1 = tile
        found = locate_faces(analyser, photo[y0:y1, x0:x1])
        moved = [move(face, x0, y0) for face in found if face.score >= unusual_score]
        faces += [face for face in moved if not is_cut(face, tile, size)]
        cut += [face for face in moved if is_cut(face, tile, size)]
    _check_number(len(faces) + len(cut))
    faces = distinct_faces(faces)
    # A face that every tile cuts and that is too small for the whole photo is replaced part by
    # part.
    faces += [face for face in cut if not any(lies_in(face.box, other.box) for other in faces)]
    return sorted(faces, key=lambda face: face.area, reverse=True)


def _check_number(found: int) -> None:
    if found > MAX_FACES:
        raise TooManyFacesError(
            f"{found} faces were found, more than {MAX_FACES}, so nothing was anonymized and nothing is "
            "returned. Raise `detection_threshold`, or cut the photo into parts."
        )


def distinct_faces(faces: list[FaceLocation]) -> list[FaceLocation]:
    """Remove duplicates: of two boxes in the same place, the one with the lower score."""
    distinct: list[FaceLocation] = []
    for face in sorted(faces, key=lambda face: face.score, reverse=True):
        if not any(is_same_place(face.box, other.box) for other in distinct):
            distinct.append(face)
    return distinct


def is_same_place(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two boxes (x0, y0, x1, y1) largely overlap and have almost one centre."""
    centres = np.hypot(*((first[:2] + first[2:]) / 2.0 - (second[:2] + second[2:]) / 2.0))
    width = max(first[2] - first[0], second[2] - second[0])
    return bool(overlap(first, second) > SAME_BOX and centres < SAME_CENTRE * width)


def turn_back(face: FaceLocation, quarter_turns: int, photo_size: tuple[int, int]) -> FaceLocation:
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
    """Tiles (x0, y0, x1, y1), end exclusive, that cover an (H, W) photo; none for a small photo."""
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


def move(face: FaceLocation, x: int, y: int) -> FaceLocation:
    """A face in another frame: shifted by (x, y) pixels."""
    shift = np.array([x, y], dtype=np.float32)
    return replace(face, box=face.box + np.tile(shift, 2), landmarks=face.landmarks + shift)


def is_cut(face: FaceLocation, tile: tuple[int, int, int, int], photo_size: tuple[int, int]) -> bool:
    """Whether an edge of a tile that is not the photo's edge cuts the face."""
    x0, y0, x1, y1 = face.box
    left, top, right, bottom = tile
    height, width = photo_size
    return bool(
        (x0 <= left and left > 0)
        or (y0 <= top and top > 0)
        or (x1 >= right - 1 and right < width)
        or (y1 >= bottom - 1 and bottom < height)
    )


def lies_in(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether the centre of one box (x0, y0, x1, y1) lies in another one."""
    x, y = (first[:2] + first[2:]) / 2.0
    return bool(second[0] <= x <= second[2] and second[1] <= y <= second[3])


def overlap(first: Sequence[float] | np.ndarray, second: Sequence[float] | np.ndarray) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1)."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return float(width * height / (sum(areas) - width * height))
