"""State of a track in every frame: detected, short gap, or covered.

* *detected*: the face is replaced and verified.
* *gap*: at most `SHORT_GAP` frames between two detections. The face is replaced at the interpolated
  position, and verified.
* *covered*: longer gaps, and `BEYOND` seconds before and after the track within its shot. The cover
  grows with the time from the nearest detection. While another head may occlude the face, the
  `BEYOND` seconds do not begin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from nullface_pipeline.video.tracks import LONGEST_GAP, SHORT_GAP, Track


# Seconds before and after a track in which its face may still be visible.
BEYOND = 0.5

# Margin from the box of a face to its head with hair, to each side, relative to the box.
HEAD = 0.5

# Margin of a cover relative to the box: beside a detection, its growth per second, and its maximum.
MARGIN, GROWTH, LARGEST = 0.15, 1.5, 1.0

# Lowest number of detections from which the motion of a face can be estimated.
SHORTEST = 3

# Window of the Savitzky-Golay filter in seconds, its lowest number of frames, and the number of
# frames below which landmarks are not smoothed.
WINDOW_SECONDS = 0.36
WINDOW_FRAMES = 9
MIN_SMOOTHED = 5


class State(IntEnum):
    detected = 0
    gap = 1
    covered = 2


@dataclass(frozen=True, eq=False)
class TrackStates:
    """States of a track in m consecutive frames.

    Attributes:
        first (`int`): number of the first of these frames.
        states (`np.ndarray`): (m,) of `State`.
        boxes (`np.ndarray`): (m, 4) float32 boxes of the face in pixels, interpolated.
        landmarks (`np.ndarray`): (m, 5, 2) float32 in pixels, smoothed; undefined in covered
            frames.
        patches (`np.ndarray`): (m, 4) float32 boxes to cover, in pixels.
        margins (`np.ndarray`): (m,) float margins of the covers relative to `patches`, for
            `widened`.
    """

    track: Track
    first: int
    states: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray
    patches: np.ndarray
    margins: np.ndarray

    @property
    def end(self) -> int:
        """Number of the frame after the last."""
        return self.first + len(self.states)

    def at(self, frame: int) -> int | None:
        """Index of a frame in the arrays; `None` if it is outside."""
        return frame - self.first if self.first <= frame < self.end else None

    def has_face(self, frame: int) -> bool:
        """Whether the face is replaced in a frame."""
        index = self.at(frame)
        return index is not None and self.states[index] != State.covered


def track_states(track: Track, times: np.ndarray, others: Sequence[Track] = (), render: bool = True) -> TrackStates:
    """Decide the state of a track in every frame.

    Args:
        times (`np.ndarray`): (N,) float64 time of each frame of the video in seconds.
        others (`Sequence[Track]`): tracks that may occlude this one.
        render (`bool`): whether the face can be replaced; otherwise it is covered in every frame.
    """
    frames = _frames_of(track, times, others)
    lower, upper = _nearest_detections(track, frames)
    before, after = track.frames[lower], track.frames[upper]
    inside = (before <= frames) & (frames <= after)
    gap = np.where(inside, after - before - 1, SHORT_GAP + 1)
    states = np.where(gap < 0, State.detected, np.where(gap <= SHORT_GAP, State.gap, State.covered))
    if not render or len(track.frames) < SHORTEST:
        states[:] = State.covered
    boxes, patches = _boxes_and_patches(track, frames, times)
    landmarks = _interpolated(track.landmarks.reshape(-1, 10), track.frames, frames, times).reshape(-1, 5, 2)
    away = np.minimum(
        np.where(before <= frames, times[frames] - times[before], np.inf),
        np.where(frames <= after, times[after] - times[frames], np.inf),
    )
    margins = np.minimum(MARGIN + GROWTH * away, LARGEST)
    smooth = _smoothed(landmarks, states, times[frames])
    return TrackStates(track, int(frames[0]), states, boxes, smooth, patches, margins)


def _frames_of(track: Track, times: np.ndarray, others: Sequence[Track]) -> np.ndarray:
    """Numbers of the frames in which a face may be visible, ascending."""
    shot = np.arange(*track.shot)
    _, patches = _boxes_and_patches(track, shot, times)
    occluded = np.zeros(len(shot), dtype=bool)
    for other in others:
        occluded |= _overlaps_head(patches, other, shot, times)
    if len(track.frames) < SHORTEST:
        occluded &= (times[shot] > times[track.frames[0]] - LONGEST_GAP) & (
            times[shot] < times[track.frames[-1]] + LONGEST_GAP
        )
    first, last = (int(frame) - track.shot[0] for frame in track.frames[[0, -1]])
    return shot[_last_visible(times[shot], occluded, first, -1) : _last_visible(times[shot], occluded, last, 1) + 1]


def _last_visible(times: np.ndarray, occluded: np.ndarray, end: int, step: int) -> int:
    """Index of the last frame, from `end` in direction `step`, in which a face may be visible.

    That is `BEYOND` seconds after its detection or possible occlusion, and at least one frame.
    """
    last = reference = end
    for frame in range(end + step, len(times) if step > 0 else -1, step):
        if frame != end + step and abs(times[frame] - times[reference]) > BEYOND:
            break
        last, reference = frame, frame if occluded[frame] else reference
    return last


def _overlaps_head(patches: np.ndarray, other: Track, frames: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Whether the head of track `other` overlaps (m, 4) boxes, frame by frame; (m,) bool."""
    margin = HEAD * (other.boxes[:, 2:] - other.boxes[:, :2])
    heads = np.concatenate([other.boxes[:, :2] - margin, other.boxes[:, 2:] + margin], axis=1)
    if not _overlap(_bounding_box(patches), _bounding_box(heads)):
        return np.zeros(len(frames), dtype=bool)
    there = (frames >= other.frames[0]) & (frames <= other.frames[-1])
    return there & _overlap(patches, _interpolated(heads, other.frames, frames, times))


def _overlap(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether (..., 4) boxes overlap; (...) bool."""
    return np.all((first[..., :2] < second[..., 2:]) & (second[..., :2] < first[..., 2:]), axis=-1)


def _bounding_box(boxes: np.ndarray) -> np.ndarray:
    """Bounding box over the first axis of (n, ..., 4) boxes."""
    return np.concatenate([boxes[..., :2].min(axis=0), boxes[..., 2:].max(axis=0)], axis=-1)


def _boxes_and_patches(track: Track, frames: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes of the face, and boxes around them and the nearest detections; (m, 4) float32 each."""
    boxes = _interpolated(track.boxes, track.frames, frames, times)
    lower, upper = _nearest_detections(track, frames)
    return boxes, _bounding_box(np.stack([boxes, track.boxes[lower], track.boxes[upper]]))


def _nearest_detections(track: Track, frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the nearest detections before and after each of (m,) frames, inclusive."""
    before = np.searchsorted(track.frames, frames, side="right") - 1
    after = np.searchsorted(track.frames, frames)
    return np.clip(before, 0, None), np.clip(after, None, len(track.frames) - 1)


def _interpolated(values: np.ndarray, known: np.ndarray, frames: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Interpolate (n, k) values of the frames `known` at `frames`, by time; (m, k) float32.

    Beyond both ends they are extrapolated at their last speed for `BEYOND` seconds.
    """
    at, wanted = times[known], times[frames]
    found = np.stack([np.interp(wanted, at, column) for column in values.T], axis=1)
    for mask, edge in ((wanted < at[0], slice(0, 3)), (wanted > at[-1], slice(-3, None))):
        near_values, near = values[edge], at[edge]
        if len(near) > 1:
            speed = (near_values[-1] - near_values[0]) / max(float(near[-1] - near[0]), 1e-6)
            start = (near_values[0], near[0]) if mask[0] else (near_values[-1], near[-1])
            found[mask] = start[0] + speed * np.clip(wanted[mask] - start[1], -BEYOND, BEYOND)[:, None]
    return found.astype(np.float32)


def _smoothed(landmarks: np.ndarray, states: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Smooth (m, 5, 2) landmarks, each run of uncovered frames separately."""
    result = landmarks.copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], states != State.covered, [False]])))
    for start, end in zip(edges[::2], edges[1::2]):
        result[start:end] = smooth(landmarks[start:end], times[start:end])
    return result


def smooth(points: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Savitzky-Golay filter of second order over (n, 5, 2) points at any times.

    SciPy's filter requires evenly spaced times.
    """
    if len(points) < MIN_SMOOTHED:
        return points
    flat = points.reshape(len(points), -1).astype(np.float64)
    result = np.empty_like(flat)
    for number, time in enumerate(times):
        chosen = np.flatnonzero(np.abs(times - time) <= WINDOW_SECONDS / 2 + 1e-9)
        fewest = min(WINDOW_FRAMES, len(points))
        if len(chosen) < fewest:
            start = min(max(0, number - fewest // 2), len(times) - fewest)
            chosen = np.arange(start, start + fewest)
        result[number] = np.polynomial.polynomial.polyfit(times[chosen] - time, flat[chosen], 2)[0]
    return result.reshape(points.shape).astype(np.float32)
