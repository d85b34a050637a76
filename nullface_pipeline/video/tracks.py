"""Which faces of which frames are one person: offline, so that what comes later decides as well.

Faces of neighbouring frames are linked first, then tracklets of tracks whose gap is short and whose faces agree. Both are
assignments that are best as a whole (Hungarian), the same whether time runs forwards or backwards. Every face that was
found is in exactly one track, if only in one of its own.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from nullface_pipeline.video.detections import Detections


# So many frames without a detection do not end a tracklet of a track, and are anonymized like the others.
SHORT_GAP = 3

# Boxes of neighbouring frames that share more of their union than this may be of one face whoever it seems to be.
SAME_PLACE = 0.3

# So far a face can get between two frames, in widths of its box, if it is recognized again.
REACH = 1.5

# Pieces of tracks are joined over gaps of at most so many seconds, in which a face goes so many widths a second.
LONGEST_GAP = 2.0
SPEED = 2.0

# Detection score that a real face reaches in at least one frame of its track.
CLEAR_SCORE = 0.6

# A detector may take a mouth for a face. Such a track lies within another one, by so much of each of its boxes in so many
# of its frames, and is at most so large.
PART_INSIDE, PART_FRAMES, PART_SIZE = 0.9, 0.8, 0.6


@dataclass(frozen=True, eq=False)
class Track:
    """One person in one shot.

    Attributes:
        frames (`np.ndarray`): (n,) int, ascending: where the face was found.
        boxes (`np.ndarray`): (n, 4) float32, x0, y0, x1, y1 in pixels.
        landmarks (`np.ndarray`): (n, 5, 2) float32.
        scores (`np.ndarray`): (n,) float32, detection scores in [0, 1].
        shot (`tuple[int, int]`): first frame, and the frame after the last.
        embedding (`np.ndarray`): (512,) float32, unit norm: who it is, the faces seen best counting most; zero where
            nobody was asked.
    """

    frames: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray
    shot: tuple[int, int]
    embedding: np.ndarray

    @property
    def is_doubtful(self) -> bool:
        """Whether no frame shows the face clearly: it may be something else that the detector took for one."""
        return bool(self.scores.max() < CLEAR_SCORE)

    @property
    def size(self) -> float:
        """Median of the boxes' longer sides, in pixels."""
        return float(np.median((self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=1)))


@dataclass(eq=False)
class _Tracklet:
    """A track while it grows."""

    shot: tuple[int, int]
    frames: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    total: np.ndarray = field(default_factory=lambda: np.zeros(512))

    def add(self, frame: int, row: int, weighted: np.ndarray) -> None:
        self.frames.append(frame)
        self.rows.append(row)
        self.total = self.total + weighted

    @property
    def embedding(self) -> np.ndarray:
        return np.asarray(self.total / max(float(np.linalg.norm(self.total)), 1e-12), dtype=np.float32)


def link_faces(
    seen: Detections,
    shots: Sequence[tuple[int, int]],
    times: np.ndarray,
    embeddings: Iterable[np.ndarray],
    same_person: float,
) -> list[Track]:
    """Tracks of all faces that were seen, in the order in which they begin.

    Args:
        times (`np.ndarray`): (N,) seconds, of each frame.
        embeddings (`Iterable[np.ndarray]`): (faces, 512) for each frame in turn; one at a time is held.
        same_person (`float`): similarity from which on two faces are taken for one person.
    """
    tracks: list[Track] = []
    source = iter(embeddings)
    for shot in shots:
        tracklets = _link_neighbours(seen, shot, source, same_person)
        tracks += [_as_track(seen, chain) for chain in _join(seen, tracklets, times, same_person)]
    assert sum(len(track.frames) for track in tracks) == len(seen.faces)
    return sorted(tracks, key=lambda track: (int(track.frames[0]), float(track.boxes[0, 0])))


def _link_neighbours(
    seen: Detections, shot: tuple[int, int], embeddings: Iterable[np.ndarray], same_person: float
) -> list[_Tracklet]:
    """Pieces of tracks without a gap of more than `SHORT_GAP` frames."""
    tracklets: list[_Tracklet] = []
    going_on: list[_Tracklet] = []
    for frame, embeds in zip(range(*shot), embeddings):
        rows = seen.rows(frame)
        going_on = [tracklet for tracklet in going_on if frame - tracklet.frames[-1] <= SHORT_GAP + 1]
        former = [tracklet.rows[-1] for tracklet in going_on]
        alike = (
            np.stack([tracklet.embedding for tracklet in going_on]) @ embeds.T
            if going_on
            else np.zeros((0, len(rows)))
        )
        overlaps = _overlaps(seen.faces["box"][former], seen.faces["box"][list(rows)])
        near = _distances(seen.faces["box"][former], seen.faces["box"][list(rows)]) < REACH
        pairs = _best_pairs(overlaps + alike, (overlaps > SAME_PLACE) | (near & (alike >= same_person)))
        taken = {column: going_on[row] for row, column in pairs}
        new = {column: _Tracklet(shot) for column in range(len(rows)) if column not in taken}
        for column, tracklet in (taken | new).items():
            tracklet.add(frame, rows[column], _weight(seen.faces, rows[column]) * embeds[column])
        tracklets += new.values()
        going_on += new.values()
    return tracklets


def _weight(faces: np.ndarray, row: int) -> float:
    """How well a face shows who it is: by its score, its size, and how far it looks at the camera."""
    box, landmarks = faces["box"][row], faces["landmarks"][row]
    size = float(max(box[2] - box[0], box[3] - box[1]))
    return float(faces["score"][row]) * size * frontality(landmarks)


def frontality(landmarks: np.ndarray) -> float:
    """From 0.1 to 1: how near the nose of (5, 2) landmarks is to the middle between the eyes, along their line."""
    along = landmarks[1] - landmarks[0]
    share = float((landmarks[2] - landmarks[0]) @ along) / max(float(along @ along), 1e-6)
    return max(0.1, 1.0 - abs(2.0 * share - 1.0))


def _join(
    seen: Detections, tracklets: list[_Tracklet], times: np.ndarray, same_person: float
) -> list[list[_Tracklet]]:
    """Chains of tracklets of one shot that are one person's."""
    if not tracklets:
        return []
    ends = np.array([tracklet.frames[-1] for tracklet in tracklets])
    begins = np.array([tracklet.frames[0] for tracklet in tracklets])
    embeds = np.stack([tracklet.embedding for tracklet in tracklets])
    alike = embeds @ embeds.T
    gaps = times[begins][None] - times[ends][:, None]
    last, first = ([tracklet.rows[which] for tracklet in tracklets] for which in (-1, 0))
    distances = _distances(seen.faces["box"][last], seen.faces["box"][first])
    allowed = (begins[None] > ends[:, None]) & (gaps <= LONGEST_GAP)
    allowed &= (alike >= same_person) & (distances < 1.0 + SPEED * gaps)
    following = dict(_best_pairs(alike - gaps / LONGEST_GAP, allowed))
    chains = []
    for number in sorted(set(range(len(tracklets))) - set(following.values())):
        chain = [tracklets[number]]
        while number in following:
            number = following[number]
            chain.append(tracklets[number])
        chains.append(chain)
    return chains


def _as_track(seen: Detections, chain: list[_Tracklet]) -> Track:
    rows = [row for tracklet in chain for row in tracklet.rows]
    frames = np.array([frame for tracklet in chain for frame in tracklet.frames])
    total = sum((tracklet.total for tracklet in chain), start=np.zeros(512))
    embedding = (total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32)
    faces = seen.faces[rows]
    return Track(frames, faces["box"], faces["landmarks"], faces["score"], chain[0].shot, embedding)


def find_parent_tracks(tracks: Sequence[Track]) -> list[int | None]:
    """For each track the number of the one whose faces it is a part of, or None."""
    return [
        next((number for number, parent in enumerate(tracks) if parent is not part and is_part(part, parent)), None)
        for part in tracks
    ]


def is_part(part: Track, parent: Track) -> bool:
    """Whether a track lies within the faces of another one almost all the time, is much smaller and less of a face."""
    if part.scores.mean() >= parent.scores.mean():
        return False
    _, own, others = np.intersect1d(part.frames, parent.frames, return_indices=True)
    if part.size > PART_SIZE * parent.size or len(own) < PART_FRAMES * len(part.frames):
        return False
    inner, outer = part.boxes[own], parent.boxes[others]
    shared = np.minimum(inner[:, 2:], outer[:, 2:]) - np.maximum(inner[:, :2], outer[:, :2])
    inside = np.clip(shared, 0, None).prod(axis=1) >= PART_INSIDE * (inner[:, 2:] - inner[:, :2]).prod(axis=1)
    return bool(inside.sum() >= PART_FRAMES * len(part.frames))


def find_occluders(tracks: Sequence[Track], parents: Sequence[int | None]) -> list[list[Track]]:
    """For each track those whose heads may hide its face; nobody hides what is a part of a face, or found twice."""
    whole = [track for track, parent in zip(tracks, parents) if parent is None]
    return [
        [
            other
            for other in whole
            if other is not track and other.shot == track.shot and not is_same_head(track, other)
        ]
        if parent is None
        else []
        for track, parent in zip(tracks, parents)
    ]


def is_same_head(track: Track, other: Track) -> bool:
    """Whether a track's boxes have the middle of another one's in them almost whenever both were found: of two people,
    one would have hidden the other."""
    _, own, others = np.intersect1d(track.frames, other.frames, return_indices=True)
    centres = (other.boxes[others, :2] + other.boxes[others, 2:]) / 2.0
    inside = np.all((centres > track.boxes[own, :2]) & (centres < track.boxes[own, 2:]), axis=1)
    return len(own) > 0 and bool(inside.mean() >= PART_FRAMES)


def _best_pairs(scores: np.ndarray, allowed: np.ndarray) -> list[tuple[int, int]]:
    """The pairs (row, column) of the highest sum of scores, each row and column in one at most, only allowed ones."""
    # Any allowed pair is worth more than none.
    rows, columns = linear_sum_assignment(np.where(allowed, scores + 10.0, 0.0), maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns) if allowed[row, column]]


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(m, n) intersections over unions of (m, 4) and (n, 4) boxes."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (first, second)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-6))


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(m, n) distances of the centres of boxes, in longer sides of the larger one."""
    centres = [(boxes[:, :2] + boxes[:, 2:]) / 2.0 for boxes in (first, second)]
    sizes = [(boxes[:, 2:] - boxes[:, :2]).max(axis=-1, initial=0.0) for boxes in (first, second)]
    between = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=-1)
    return np.asarray(between / np.maximum(np.maximum(sizes[0][:, None], sizes[1][None]), 1e-6))
