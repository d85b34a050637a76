"""What happens to a track in every frame: seen, short gap, or covered. There is no frame in between.

* *seen*: the face was found; it is anonymized and verified.
* *gap*: it was not found in at most `SHORT_GAP` frames between two that show it; it is anonymized where it must be, and
  verified.
* *covered*: in a longer gap, and half a second beyond both ends of the track, as far as the shot goes, a patch lies over
  the places where it can be; the farther from a frame that shows it, the larger. While somebody else's head is there, the
  half second does not begin: they may hide it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from nullface_pipeline.video.tracks import LONGEST_GAP, SHORT_GAP, Track


# Seconds before and after a track in which its face may still be there.
BEYOND = 0.5

# How far a head with its hair reaches beyond the box of its face, to each side, as a share of the box.
HEAD = 0.5

# How much farther than around the box's corners a patch reaches, as a share of the box: next to a frame that shows the
# face, for every second away from it, and at most.
MARGIN, GROWTH, LARGEST = 0.15, 1.5, 1.0

# A track of fewer frames tells too little of where its face goes.
SHORTEST = 3

# Landmarks are smoothed over so many seconds and at least so many frames, where there are as many: Savitzky and Golay's
# filter of second order. Fewer frames than the last number are left as they are.
SMOOTHED = 0.36
SMOOTHED_FRAMES = 9
FEWEST = 5


class State(IntEnum):
    seen = 0
    gap = 1
    covered = 2


@dataclass(frozen=True, eq=False)
class TrackStates:
    """A track, frame by frame.

    Attributes:
        track (`Track`): it.
        first (`int`): the frame that the arrays begin with; they have m entries.
        states (`np.ndarray`): (m,) of `State`.
        boxes (`np.ndarray`): (m, 4) float32: where the face is.
        landmarks (`np.ndarray`): (m, 5, 2) float32, smoothed; what they say of covered frames means nothing.
        patches (`np.ndarray`): (m, 4) float32: boxes to cover.
        margins (`np.ndarray`): (m,): how far around them covers reach, for `widened`.
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
        """The frame after the last."""
        return self.first + len(self.states)

    def at(self, frame: int) -> int | None:
        """The place of a frame in the arrays; None if the track is not there."""
        return frame - self.first if self.first <= frame < self.end else None

    def has_face(self, frame: int) -> bool:
        """Whether the face is to be anonymized in a frame."""
        place = self.at(frame)
        return place is not None and self.states[place] != State.covered


def track_states(track: Track, times: np.ndarray, others: Sequence[Track] = (), render: bool = True) -> TrackStates:
    """Decide on every frame of a track.

    Args:
        times (`np.ndarray`): (N,) seconds, of each frame of the video.
        others (`Sequence[Track]`): who may hide it.
        render (`bool`): whether its face can be anonymized; if not, all of it is covered.
    """
    frames = _frames_of(track, times, others)
    after = np.searchsorted(track.frames, frames)
    before = np.searchsorted(track.frames, frames, side="right") - 1
    inside = (before >= 0) & (after < len(track.frames))
    lower, upper = np.clip(before, 0, None), np.clip(after, None, len(track.frames) - 1)
    gap = np.where(inside, track.frames[upper] - track.frames[lower] - 1, SHORT_GAP + 1)
    states = np.where(gap < 0, State.seen, np.where(gap <= SHORT_GAP, State.gap, State.covered))
    if not render or len(track.frames) < SHORTEST:
        states[:] = State.covered
    boxes, patches = _places(track, frames, times)
    landmarks = _follow(track.landmarks.reshape(-1, 10), track.frames, frames, times).reshape(-1, 5, 2)
    away = np.minimum(
        np.where(before >= 0, times[frames] - times[track.frames[lower]], np.inf),
        np.where(after < len(track.frames), times[track.frames[upper]] - times[frames], np.inf),
    )
    margins = np.minimum(MARGIN + GROWTH * away, LARGEST)
    smooth = _smoothed(landmarks, states, times[frames])
    return TrackStates(track, int(frames[0]), states, boxes, smooth, patches, margins)


def _frames_of(track: Track, times: np.ndarray, others: Sequence[Track]) -> np.ndarray:
    """The frames in which a face may be, ascending: those of its track, and beyond both ends as far as it may be there."""
    shot = np.arange(*track.shot)
    _, places = _places(track, shot, times)
    hidden = np.zeros(len(shot), dtype=bool)
    for other in others:
        hidden |= _touches(places, other, shot, times)
    if len(track.frames) < SHORTEST:
        hidden &= (times[shot] > times[track.frames[0]] - LONGEST_GAP) & (
            times[shot] < times[track.frames[-1]] + LONGEST_GAP
        )
    first, last = (int(frame) - track.shot[0] for frame in track.frames[[0, -1]])
    return shot[_stays(times[shot], hidden, first, -1) : _stays(times[shot], hidden, last, 1) + 1]


def _stays(times: np.ndarray, hidden: np.ndarray, end: int, step: int) -> int:
    """The last of (m,) frames, from an end of a track on, that may show its face: half a second after it was seen or
    could be hidden, and one frame at least, however slow the video."""
    last = seen = end
    for frame in range(end + step, len(times) if step > 0 else -1, step):
        if frame != end + step and abs(times[frame] - times[seen]) > BEYOND:
            break
        last, seen = frame, frame if hidden[frame] else seen
    return last


def _touches(places: np.ndarray, other: Track, frames: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(m,) bool: whether somebody's head, as far as their track goes, touches boxes of (m, 4)."""
    margin = HEAD * (other.boxes[:, 2:] - other.boxes[:, :2])
    heads = np.concatenate([other.boxes[:, :2] - margin, other.boxes[:, 2:] + margin], axis=1)
    if not _share(_hull(places), _hull(heads)):
        return np.zeros(len(frames), dtype=bool)
    there = (frames >= other.frames[0]) & (frames <= other.frames[-1])
    return there & _share(places, _follow(heads, other.frames, frames, times))


def _share(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Whether boxes of (..., 4) overlap."""
    return np.all((first[..., :2] < second[..., 2:]) & (second[..., :2] < first[..., 2:]), axis=-1)


def _hull(boxes: np.ndarray) -> np.ndarray:
    """The box around the first axis of boxes (n, ..., 4)."""
    return np.concatenate([boxes[..., :2].min(axis=0), boxes[..., 2:].max(axis=0)], axis=-1)


def _places(track: Track, frames: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two of (m, 4) float32: boxes where the face is if it moves on, and around them and where it was seen last and next."""
    boxes = _follow(track.boxes, track.frames, frames, times)
    before = np.searchsorted(track.frames, frames, side="right") - 1
    after = np.searchsorted(track.frames, frames)
    lower, upper = np.clip(before, 0, None), np.clip(after, None, len(track.frames) - 1)
    return boxes, _hull(np.stack([boxes, track.boxes[lower], track.boxes[upper]]))


def _follow(values: np.ndarray, known: np.ndarray, frames: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(m, k) values at `frames`: between known ones in proportion to time, beyond them as they last moved, for
    half a second."""
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
    """Landmarks of (m, 5, 2), each stretch that shows the face smoothed for itself."""
    result = landmarks.copy()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], states != State.covered, [False]])))
    for start, end in zip(edges[::2], edges[1::2]):
        result[start:end] = smooth(landmarks[start:end], times[start:end])
    return result


def smooth(points: np.ndarray, times: np.ndarray) -> np.ndarray:
    """(n, 5, 2) points, each replaced by the parabola that fits those around it in time best.

    This is Savitzky and Golay's filter, which keeps turning points; SciPy's takes evenly spaced times only.
    """
    if len(points) < FEWEST:
        return points
    flat = points.reshape(len(points), -1).astype(np.float64)
    result = np.empty_like(flat)
    for number, time in enumerate(times):
        chosen = np.flatnonzero(np.abs(times - time) <= SMOOTHED / 2 + 1e-9)
        fewest = min(SMOOTHED_FRAMES, len(points))
        if len(chosen) < fewest:
            start = min(max(0, number - fewest // 2), len(times) - fewest)
            chosen = np.arange(start, start + fewest)
        result[number] = np.polynomial.polynomial.polyfit(times[chosen] - time, flat[chosen], 2)[0]
    return result.reshape(points.shape).astype(np.float32)
