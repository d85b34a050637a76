"""Temporal smoothing: motion-compensated average of the new faces of neighbouring frames.

Only key frames have a generated face. Frames between them get the average of the key frames around
them. The motion is the optical flow between the original crops (Kroeger et al. 2016, arXiv
1603.03590).
"""

from collections.abc import Mapping

import cv2
import numpy as np

from nullface_pipeline.face_target import FaceTarget


# Largest distance of two key frames, in frames.
KEY_DISTANCE = 8

# Difference between an original and the motion-compensated originals of its key frames, in grey
# levels, above which a key frame is added. It is averaged around each pixel, with this standard
# deviation relative to the crop.
UNEXPLAINED, LOCAL = 24.0, 1 / 24

# Frames before and after a frame in its average, and the difference of the motion-compensated
# originals, in grey levels, at which the weight is 1/e.
AVERAGED, SIMILAR = 16, 24.0

# Lowest weight, for pixels that no other frame shows.
LOWEST_WEIGHT = 1e-4

# Largest side of the crops for optical flow, in pixels; larger crops only take longer.
FLOW_SIZE = 128


def key_frames(targets: Mapping[int, FaceTarget], first: int, last: int) -> set[int]:
    """Frames of a track whose faces are generated, from `first` to before `last`.

    Every `KEY_DISTANCE`-th frame is a key frame. Where two key frames do not explain the frames
    between them, the middle one is added. So the choice depends on at most `KEY_DISTANCE` frames
    before and after a frame.

    Args:
        targets (`Mapping[int, FaceTarget]`): faces of the track by frame, with `last` if it has
            one.
        first, last (`int`): multiples of `KEY_DISTANCE`.
    """
    regular = range(first, last, KEY_DISTANCE)
    added = [_added_between(targets, start, start + KEY_DISTANCE) for start in regular]
    return set().union(targets.keys() & set(regular), *added)


def _added_between(targets: Mapping[int, FaceTarget], before: int, after: int) -> set[int]:
    """Key frames to add between two key frames."""
    numbers = [number for number in range(before + 1, after) if number in targets]
    keys = [targets[number] for number in (before, after) if number in targets]
    if all(unexplained(targets[number], keys) <= UNEXPLAINED for number in numbers):
        return set()
    middle = numbers[len(numbers) // 2]
    return {middle} | _added_between(targets, before, middle) | _added_between(targets, middle, after)


def unexplained(target: FaceTarget, keys: list[FaceTarget]) -> float:
    """Largest local difference, in grey levels, between an original and the most similar of others.

    Pixels outside the mask of a key frame are not generated there. A few at the edge are accepted.
    """
    differences = [np.full(target.mask.shape, 255.0, np.float32)]
    for key in keys:
        coordinates = flow_coordinates(target.aligned, key.aligned)
        unchanged = np.clip(target.mask - warp(key.mask, coordinates), 0.0, 1.0)
        differences.append(np.maximum(original_difference(target, key, coordinates), 3.0 * UNEXPLAINED * unchanged))
    local = cv2.GaussianBlur(np.min(differences, axis=0), (0, 0), LOCAL * target.mask.shape[0])
    return float((local * (target.mask > 0.5)).max())


def smooth_result(made: Mapping[int, FaceTarget], number: int, frames: int = AVERAGED) -> np.ndarray:
    """Average the new face of one frame with those of the frames around it.

    Args:
        made (`Mapping[int, FaceTarget]`): faces of one track by frame, some of them with results.
        number (`int`): number of the frame.
        frames (`int`): number of frames before and after it.

    Returns:
        (size, size, 3) uint8 RGB.
    """
    around = [made[other] for other in range(number - frames, number + frames + 1) if other in made]
    return averaged_result(
        made[number], [other for other in around if other is not made[number] and other.result is not None]
    )


def averaged_result(target: FaceTarget, others: list[FaceTarget]) -> np.ndarray:
    """Weighted mean of a target's result, if it has one, and the warped results of others."""
    total = np.full((*target.aligned.shape[:2], 1), 0.0 if target.result is None else 1.0, np.float32)
    mean = np.zeros(target.aligned.shape, np.float32) if target.result is None else target.result * total
    for other in others:
        assert other.result is not None
        coordinates = flow_coordinates(target.aligned, other.aligned)
        difference = cv2.GaussianBlur(original_difference(target, other, coordinates), (0, 0), 1.0)
        # Outside its mask, a result shows the original.
        weight = np.maximum(np.exp(-((difference / SIMILAR) ** 2)), LOWEST_WEIGHT)
        weight = (weight * np.maximum(warp(other.mask, coordinates), LOWEST_WEIGHT))[..., None]
        mean += weight * warp(other.result, coordinates)
        total += weight
    return np.asarray(np.clip(np.rint(mean / total), 0, 255), dtype=np.uint8)


def original_difference(target: FaceTarget, other: FaceTarget, coordinates: np.ndarray) -> np.ndarray:
    """Difference of two motion-compensated originals in grey levels; (size, size) float32."""
    return np.abs(warp(other.aligned, coordinates) - target.aligned).max(axis=-1)


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
    """Sample a crop or its mask at (size, size, 2) x and y; float32 of the crop's shape."""
    x, y = coordinates[..., 0], coordinates[..., 1]
    return np.asarray(cv2.remap(crop.astype(np.float32), x, y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))
