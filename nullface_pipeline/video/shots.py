"""Shot boundaries.

A face is not covered beyond a cut, so a false cut can leave it visible. Only a clear cut counts: all frames after it
differ from all frames before it. A flash, a hand before the camera or a fast pan does not pass.
"""

from collections.abc import Iterable

import cv2
import numpy as np


# PySceneDetect 0.7.2 was tried on the clips of tests/video/test_shots.py. Its ContentDetector and AdaptiveDetector report
# cuts at a flash of one or two frames and where a large person leaves a still picture (score 44 and 96; a real cut: 57).

# Number of earlier frames that each frame is compared with.
LOOK_BACK = 3

# Two frames may belong to two shots if all but this share of their thumbnails differs by this many grey levels. A large
# person who leaves a still picture changes much of it, but not all.
CUT, UNCHANGED = 12.0, 0.2

# Factor by which a cut differs more than its neighbours do; in a pan all frames differ alike.
STANDS_OUT = 3.0
NEIGHBOURS = 4


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """(18, 32, 3) float32 in [0, 255] of an (H, W, 3) uint8 frame."""
    return cv2.resize(pixels, (32, 18), interpolation=cv2.INTER_AREA).astype(np.float32)


def frame_changes(small: np.ndarray, before: Iterable[np.ndarray]) -> np.ndarray:
    """(LOOK_BACK,) float32: by how many grey levels all but `UNCHANGED` of a thumbnail differs from those before, the
    latest first; 0 where there is none."""
    changes = np.zeros(LOOK_BACK, dtype=np.float32)
    for number, other in enumerate(before):
        changes[number] = np.quantile(np.abs(small - other).max(axis=-1), UNCHANGED)
    return changes


def find_shots(changes: np.ndarray) -> list[tuple[int, int]]:
    """The shots of a video as (first frame, frame after the last).

    Args:
        changes (`np.ndarray`): (N, LOOK_BACK), `frame_changes` of every frame.
    """
    cuts = [frame for frame in range(1, len(changes)) if is_cut(changes, frame)]
    return list(zip([0, *cuts], [*cuts, len(changes)]))


def is_cut(changes: np.ndarray, frame: int) -> bool:
    """Whether a shot begins with this frame."""
    apart = [changes[frame, back] for back in range(min(LOOK_BACK, frame))]
    apart += [changes[frame + later, later] for later in range(1, LOOK_BACK) if frame + later < len(changes)]
    around = [*changes[max(1, frame - NEIGHBOURS) : frame, 0], *changes[frame + 1 : frame + 1 + NEIGHBOURS, 0]]
    usual = float(np.median(around)) if around else 0.0
    return bool(min(apart) > CUT and changes[frame, 0] > STANDS_OUT * usual)
