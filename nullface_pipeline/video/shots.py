"""Shot boundary detection.

Faces are not covered beyond a cut, so a false cut can leave a face visible. A cut counts only if
all frames after it differ from all frames before it. A flash, an occlusion or a fast pan does not
count.
"""

from collections.abc import Iterable

import cv2
import numpy as np


# PySceneDetect 0.7.2 fails on the clips of tests/video/test_shots.py: its ContentDetector and
# AdaptiveDetector report cuts at a flash of one or two frames and where a large person leaves a
# still scene (scores 44 and 96; a real cut scores 57).

# Number of earlier frames that each frame is compared with.
LOOK_BACK = 3

# Two frames may belong to two shots if all but a share of `UNCHANGED` of their thumbnails differs
# by `CUT` grey levels. A large person who leaves a still scene changes less of it.
CUT, UNCHANGED = 12.0, 0.2

# Ratio of the change at a cut to the median change of its neighbours; in a pan all changes are
# similar.
CUT_RATIO = 3.0
NEIGHBOURS = 4


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """Scale an (H, W, 3) uint8 frame down to (18, 32, 3) float32 in [0, 255]."""
    return cv2.resize(pixels, (32, 18), interpolation=cv2.INTER_AREA).astype(np.float32)


def frame_changes(small: np.ndarray, before: Iterable[np.ndarray]) -> np.ndarray:
    """Change of a thumbnail from earlier ones, the latest first.

    Returns:
        (LOOK_BACK,) float32 grey levels that all but `UNCHANGED` of the pixels exceed; 0 for
        missing frames.
    """
    changes = np.zeros(LOOK_BACK, dtype=np.float32)
    for number, other in enumerate(before):
        changes[number] = np.quantile(np.abs(small - other).max(axis=-1), UNCHANGED)
    return changes


def find_shots(changes: np.ndarray) -> list[tuple[int, int]]:
    """First frame of each shot of a video, and the frame after its last.

    Args:
        changes (`np.ndarray`): (N, LOOK_BACK) float32, `frame_changes` of every frame.
    """
    cuts = [frame for frame in range(1, len(changes)) if is_cut(changes, frame)]
    return list(zip([0, *cuts], [*cuts, len(changes)]))


def is_cut(changes: np.ndarray, frame: int) -> bool:
    """Whether a shot begins with this frame."""
    apart = [changes[frame, back] for back in range(min(LOOK_BACK, frame))]
    apart += [changes[frame + later, later] for later in range(1, LOOK_BACK) if frame + later < len(changes)]
    around = [*changes[max(1, frame - NEIGHBOURS) : frame, 0], *changes[frame + 1 : frame + 1 + NEIGHBOURS, 0]]
    usual = float(np.median(around)) if around else 0.0
    return bool(min(apart) > CUT and changes[frame, 0] > CUT_RATIO * usual)
