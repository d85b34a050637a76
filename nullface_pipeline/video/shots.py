"""Where one shot ends and the next begins.

A face is not looked for beyond a cut, so a cut that is none would leave its place open. Only a clear one counts: the
frames after it all differ from all before it, which a flash, a wipe of the hand or a fast pan do not bring about.
"""

from collections.abc import Iterable

import cv2
import numpy as np


# Each frame is compared with so many before it.
LOOK_BACK = 3

# Two frames may be of two shots if nearly all of their small pictures differ, by so many grey levels: all but this share.
# Somebody large who leaves a still picture changes much of it, but not all.
CUT, UNCHANGED = 12.0, 0.2

# How much more than its neighbours a frame has to differ from the one before; in a pan all differ alike.
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
