"""New faces that do not flicker: each is averaged with those before and after it, moved to where its own frame has them.

How the face moves is known from the original: the optical flow between two of its crops (Kroeger et al. 2016,
arXiv 1603.03590) says where each of its points has gone, and what was made of one frame follows it to the other.
"""

from collections.abc import Mapping

import cv2
import numpy as np

from nullface_pipeline.face_target import FaceTarget


# So many frames before and after a frame count as much as itself, and less the more the originals still differ where they
# were moved to: e^-1 times as much for so many grey levels.
NEAR, ALIKE = 16, 24.0

# Motion is looked for in crops of at most so many pixels; it is smooth, and larger crops only take longer.
FLOW_SIZE = 128


def smooth_results(made: Mapping[int, FaceTarget]) -> dict[int, np.ndarray]:
    """The results of one track that flicker less, each with its frame's own expression.

    Args:
        made (`Mapping[int, FaceTarget]`): by the number of the frame, all with results.

    Returns:
        (size, size, 3) uint8 RGB by the number of the frame.
    """
    return {
        number: averaged_result(target, [made[other] for other in around(number) if other in made])
        for number, target in made.items()
    }


def around(number: int) -> list[int]:
    """The frames that count in a frame, without itself."""
    return [*range(number - NEAR, number), *range(number + 1, number + NEAR + 1)]


def averaged_result(target: FaceTarget, others: list[FaceTarget]) -> np.ndarray:
    """(size, size, 3) uint8: the mean of a target's result and of others', moved, as far as their originals agree."""
    assert target.result is not None
    mean, total = target.result.astype(np.float32), np.ones((*target.aligned.shape[:2], 1), np.float32)
    for other in others:
        assert other.result is not None
        places = moved_places(target.aligned, other.aligned)
        apart = np.abs(moved(other.aligned, places) - target.aligned).max(axis=-1)
        weight = np.exp(-((cv2.GaussianBlur(apart, (0, 0), 1.0) / ALIKE) ** 2))[..., None]
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
