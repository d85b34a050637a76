"""Pseudo-labels of hair over the forehead, by colour.

The polygons of `training.face_labels` cover the forehead up to about the hairline, also where hair
hangs over it. On colour photographs, pixels of the upper face are hair if their Lab colour is far
from that of the cheeks, the nose and the lower forehead, and if they are connected with hair above
the polygon. Where colour does not separate hair and skin, or in prints, the forehead is ignored.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from training.face_labels import HAIR, IGNORED, LABELS, label_map


COLOURFUL = 7.0  # least standard deviation of a and b, so that sepia and grey photographs are skipped
BALD, SEPARATE = 1.8, 4.5  # median distance of the crown from the skin: below is skin, above is hair


@dataclass(frozen=True, eq=False)
class FaceFrame:
    """Coordinates of pixels relative to the face, in distances from the nose base to the brows.

    Attributes:
        height (`np.ndarray`): (size, size) height above the mean of the brows.
        side (`np.ndarray`): (size, size) distance to the image's right from the face's middle.
        above_brows (`np.ndarray`): (size, size) bool.
        unit (`float`): distance from the nose base to the brows in pixels.
    """

    height: np.ndarray
    side: np.ndarray
    above_brows: np.ndarray
    unit: float

    @classmethod
    def of(cls, points: np.ndarray, size: int) -> "FaceFrame":
        """Frame of (68, 2) landmarks in a square crop."""
        up = points[17:27].mean(axis=0) - points[33]
        y, x = np.mgrid[:size, :size]
        offset = np.stack([x, y], axis=-1) - points[17:27].mean(axis=0)
        height, side = offset @ up / (up @ up), offset @ np.array([-up[1], up[0]]) / (up @ up)
        brows = points[17:27][np.argsort(points[17:27, 0])]
        line = np.interp(np.arange(size), brows[:, 0], brows[:, 1])
        return cls(height, side, y < line, float(np.hypot(*up)))

    @property
    def crown(self) -> np.ndarray:
        """(size, size) bool: the band above the forehead's polygon that gets hair labels."""
        return (self.height > 0.5) & (self.height < 1.5) & (np.abs(self.side) < 1.0)


def distance_to_skin(image: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(H, W) Mahalanobis distance to the Lab colour of skin, with lightness linear across the face.

    Args:
        image (`np.ndarray`): (H, W, 3) uint8 RGB.
        reference (`np.ndarray`): (H, W) bool, pixels that are skin, except for some.
    """
    lab = cv2.cvtColor(cv2.bilateralFilter(image, 5, 25, 2), cv2.COLOR_RGB2LAB).astype(np.float32)
    columns = np.broadcast_to(np.arange(image.shape[1]), reference.shape)
    skin, x = lab[reference], columns[reference]
    error = np.abs(skin - np.median(skin, axis=0)).sum(axis=1)
    inliers = error <= 2.5 * np.median(error)
    skin, x = skin[inliers], x[inliers]
    slope, start = np.polyfit(x, skin[:, 0], 1)
    lightness = start + slope * np.clip(columns, *np.percentile(x, [5, 95]))
    expected = np.stack([lightness, *(np.full(reference.shape, skin[:, i].mean()) for i in (1, 2))], axis=-1)
    difference = lab - expected
    covariance = np.cov(difference[reference][inliers].T) + np.diag([9.0, 3.0, 3.0])
    return np.sqrt(((difference @ np.linalg.inv(covariance)) * difference).sum(axis=-1))


def is_colourful(image: np.ndarray) -> bool:
    """Whether an (H, W, 3) uint8 RGB image has several hues, unlike a grey or sepia photograph."""
    return bool(cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[..., 1:].std(axis=(0, 1)).mean() > COLOURFUL)


def hair_labels(image: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(size, size) uint8: `HAIR` or `IGNORED` in and above the forehead, 0 elsewhere.

    Args:
        image (`np.ndarray`): (size, size, 3) uint8 RGB aligned crop.
        points (`np.ndarray`): (68, 2) landmarks in the crop.
    """
    size = len(image)
    polygons, frame = label_map(points, size), FaceFrame.of(points, size)
    skin, face = polygons == LABELS.index("skin"), polygons > 0
    forehead = skin & frame.above_brows & (frame.height > 0.12)
    crown = frame.crown & frame.above_brows & ~face
    found = np.where(crown, IGNORED, 0).astype(np.uint8)
    if not is_colourful(image):
        found[forehead & (frame.height > 0.3)] = IGNORED
        return found
    features = cv2.dilate((face & ~skin & (polygons != LABELS.index("nose"))).astype(np.uint8), np.ones((5, 5))) > 0
    inside = cv2.erode(face.astype(np.uint8), np.ones((9, 9))) > 0
    distance = distance_to_skin(image, inside & ~features & (frame.height > -0.9) & (frame.height < 0.35))
    middle = float(np.median(distance[crown & (frame.height < 1.25) & (np.abs(frame.side) < 0.55)]))
    if middle < BALD:
        found[crown & (distance < 2.0)] = 0
    elif middle < SEPARATE:
        found[forehead & (frame.height > 0.3)] = IGNORED
    else:
        far = cv2.medianBlur((frame.above_brows & (distance > np.clip(0.5 * middle, 3.2, 5.0))).astype(np.uint8), 5)
        far *= (crown | forehead).astype(np.uint8)
        _, parts = cv2.connectedComponents(far, connectivity=4)
        above = np.unique(parts[crown & (far > 0)])
        found[np.isin(parts, above) & (far > 0)] = HAIR
        found[crown & (far == 0) & (frame.height < 1.2)] = 0
    return found
