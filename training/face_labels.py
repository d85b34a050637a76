"""Labels of nullface-tiny's face parser: their names, and their polygons through 68 landmarks.

`l_` means the image's left side, `r_` its right side. The polygons know skin, nose, brows, eyes and
mouth. Hair, hats and glasses come from a second label map, drawn over them by `label_map`.
"""

import cv2
import numpy as np


# CelebAMask-HQ's labels in the order of public face parsers.
LABELS = (
    "background skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip "
    "hair hat ear_r neck_l neck cloth"
).split()
HAIR, HAT, GLASSES = (LABELS.index(name) for name in ("hair", "hat", "eye_g"))

# Values of the second map only. A lens is labelled as glasses, except for what is seen through it:
# eyes and brows. Ignored pixels take no part in the loss.
LENS, IGNORED = 254, 255

# Height of the forehead above each of the ten brow points, in distances from nose base to brows.
FOREHEAD = np.array([0.65, 0.85, 0.93, 0.95, 0.95, 0.95, 0.95, 0.93, 0.85, 0.65])


def face_polygons(points: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Label names and outlines of (68, 2) iBUG landmarks, in drawing order.

    Three outlines that the landmarks lack are estimated. The forehead ends about where hair begins:
    at the brows raised by up to 0.95 of their distance from the base of the nose, less at the
    temples. The brows reach down a quarter of the way to the eyes. The sides of the nose are
    fractions of the distance between the outer ends of the nostrils.
    """
    brows, nose_base = points[17:27], points[33]
    forehead = brows + FOREHEAD[:, None] * (brows.mean(axis=0) - nose_base)
    skin = cv2.convexHull(np.concatenate([points[:17], forehead]).astype(np.float32))[:, 0]
    polygons = [("skin", skin), ("nose", _nose(points))]
    for label, brow, eye in (("l_brow", points[17:22], points[36:42]), ("r_brow", points[22:27], points[42:48])):
        down = eye.mean(axis=0) - brow.mean(axis=0)
        polygons.append((label, np.concatenate([brow - 0.08 * down, (brow + 0.25 * down)[::-1]])))
    polygons += [("l_eye", points[36:42]), ("r_eye", points[42:48])]
    polygons.append(("mouth", points[60:68]))
    polygons.append(("u_lip", points[[48, 49, 50, 51, 52, 53, 54, 64, 63, 62, 61, 60]]))
    polygons.append(("l_lip", points[[54, 55, 56, 57, 58, 59, 48, 60, 67, 66, 65, 64]]))
    return polygons


def _nose(points: np.ndarray) -> np.ndarray:
    """Outline of the nose from the bridge over the wings to the base."""
    side = points[35] - points[31]
    bridge, middle, tip, left, right = points[27], points[29], points[30], points[31], points[35]
    return np.stack(
        [
            bridge - 0.25 * side,
            middle - 0.35 * side,
            tip - 0.62 * side,
            left - 0.15 * side,
            points[33] + 0.1 * (points[33] - tip),
            right + 0.15 * side,
            tip + 0.62 * side,
            middle + 0.35 * side,
            bridge + 0.25 * side,
        ]
    )


def label_map(points: np.ndarray, size: int, others: np.ndarray | None = None) -> np.ndarray:
    """(size, size) uint8 label numbers of (68, 2) landmarks in crop pixels.

    Args:
        others (`np.ndarray`, *optional*): (size, size) uint8 second map: hair, hats, glasses and
            ignored pixels; 0 elsewhere. `LENS` and `IGNORED` leave eyes, brows and mouth visible.
    """
    labels = np.zeros((size, size), np.uint8)
    for name, outline in face_polygons(points):
        # OpenCV takes fixed-point coordinates with four fractional bits.
        cv2.fillPoly(labels, [np.rint(16.0 * outline).astype(np.int32)], LABELS.index(name), shift=4)
    if others is None:
        return labels
    behind = np.isin(labels, [LABELS.index(name) for name in ("background", "skin", "nose")])
    labels = np.where(np.isin(others, (LENS, IGNORED)) & ~behind | (others == 0), labels, others)
    labels[labels == LENS] = GLASSES
    return labels
