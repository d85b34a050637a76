"""Temporal smoothing: each new face is averaged with those of neighbouring frames, after motion compensation.

The motion is the optical flow between the crops of the originals (Kroeger et al. 2016, arXiv 1603.03590).
"""

from collections.abc import Mapping

import cv2
import numpy as np

from nullface_pipeline.face_target import FaceTarget


# Frames before and after that a frame is averaged with. Their weight falls with the difference of the originals after
# motion compensation: to 1/e at this many grey levels.
AVERAGED, SIMILAR = 16, 24.0

# Motion is looked for in crops of at most so many pixels; it is smooth, and larger crops only take longer.
FLOW_SIZE = 128


def smooth_result(made: Mapping[int, FaceTarget], number: int) -> np.ndarray:
    """Average the new face of one frame with those of the frames around it; it keeps its own expression.

    Args:
        made (`Mapping[int, FaceTarget]`): new faces of one track by frame, with results.
        number (`int`): frame of the face.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    around = range(number - AVERAGED, number + AVERAGED + 1)
    return averaged_result(made[number], [made[other] for other in around if other in made and other != number])


def averaged_result(target: FaceTarget, others: list[FaceTarget]) -> np.ndarray:
    """(size, size, 3) uint8: the mean of a target's result and of others', moved, as far as their originals agree."""
    assert target.result is not None
    mean, total = target.result.astype(np.float32), np.ones((*target.aligned.shape[:2], 1), np.float32)
    for other in others:
        assert other.result is not None
        places = moved_places(target.aligned, other.aligned)
        apart = np.abs(moved(other.aligned, places) - target.aligned).max(axis=-1)
        weight = np.exp(-((cv2.GaussianBlur(apart, (0, 0), 1.0) / SIMILAR) ** 2))[..., None]
        mean += weight * moved(other.result, places)
        total += weight
    return np.asarray(np.clip(np.rint(mean / total), 0, 255), dtype=np.uint8)


def moved_places(aligned: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(size, size, 2) float32: where each pixel of one (size, size, 3) uint8 crop is in another, x and y."""
    size = aligned.shape[0]
    small = min(size, FLOW_SIZE)
    greys = [
        cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (small, small), interpolation=cv2.INTER_AREA)
        for crop in (aligned, other)
    ]
    motion = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    flow = np.asarray(motion.calc(greys[0], greys[1], np.zeros((small, small, 2), np.float32)))
    here = np.stack(np.meshgrid(*2 * [np.arange(size, dtype=np.float32)]), axis=-1)
    return here + cv2.resize(flow, (size, size), interpolation=cv2.INTER_LINEAR) * (size / small)


def moved(crop: np.ndarray, places: np.ndarray) -> np.ndarray:
    """(size, size, 3) float32: what a (size, size, 3) uint8 crop has at (size, size, 2) places."""
    x, y = places[..., 0], places[..., 1]
    return np.asarray(cv2.remap(crop.astype(np.float32), x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))
