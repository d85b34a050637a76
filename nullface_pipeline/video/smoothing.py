"""Temporal smoothing: motion-compensated average of the new faces of neighbouring frames.

The motion is the optical flow between the original crops (Kroeger et al. 2016, arXiv 1603.03590).
"""

from collections.abc import Mapping

import cv2
import numpy as np

from nullface_pipeline.face_target import FaceTarget


# Frames before and after a frame in its average, and the difference of the motion-compensated
# originals, in grey levels, at which the weight is 1/e.
AVERAGED, SIMILAR = 16, 24.0

# Largest side of the crops for optical flow, in pixels; larger crops only take longer.
FLOW_SIZE = 128


def smooth_result(made: Mapping[int, FaceTarget], number: int) -> np.ndarray:
    """Average the new face of one frame with those of the frames around it.

    Args:
        made (`Mapping[int, FaceTarget]`): faces of one track with results, by frame.
        number (`int`): number of the frame.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    around = range(number - AVERAGED, number + AVERAGED + 1)
    return averaged_result(made[number], [made[other] for other in around if other in made and other != number])


def averaged_result(target: FaceTarget, others: list[FaceTarget]) -> np.ndarray:
    """Weighted mean of a target's result and the warped results of others."""
    assert target.result is not None
    mean, total = target.result.astype(np.float32), np.ones((*target.aligned.shape[:2], 1), np.float32)
    for other in others:
        assert other.result is not None
        coordinates = flow_coordinates(target.aligned, other.aligned)
        difference = np.abs(warp(other.aligned, coordinates) - target.aligned).max(axis=-1)
        weight = np.exp(-((cv2.GaussianBlur(difference, (0, 0), 1.0) / SIMILAR) ** 2))[..., None]
        mean += weight * warp(other.result, coordinates)
        total += weight
    return np.asarray(np.clip(np.rint(mean / total), 0, 255), dtype=np.uint8)


def flow_coordinates(aligned: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Coordinates (x, y) in `other` of each pixel of `aligned`; (size, size, 2) float32."""
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


def warp(crop: np.ndarray, coordinates: np.ndarray) -> np.ndarray:
    """Sample a (size, size, 3) uint8 crop at (size, size, 2) x and y; (size, size, 3) float32."""
    x, y = coordinates[..., 0], coordinates[..., 1]
    return np.asarray(cv2.remap(crop.astype(np.float32), x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))
