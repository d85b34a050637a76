"""Offline multi-object tracking of faces.

Detections of neighbouring frames are linked to tracklets. Tracklets of one shot are joined if the
gap between them is short and their embeddings match. Both steps are optimal assignments
(Hungarian algorithm). Every detection is in exactly one track.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from nullface_pipeline.video.detections import Detections


# Longest gap within a tracklet, in frames. The face is anonymized in these frames too.
SHORT_GAP = 3

# Intersection over union above which boxes may be linked without matching embeddings.
MIN_OVERLAP = 0.3

# Largest movement between two frames, in box sizes, if the embeddings match.
MAX_MOVEMENT = 1.5

# Longest gap between joined tracklets in seconds, and the highest speed in box sizes per second.
LONGEST_GAP = 2.0
SPEED = 2.0

# Lowest maximum of the detection scores of a track that is not doubtful.
CLEAR_SCORE = 0.6

# A detector may report a mouth as a face. Such a track lies within another: the lowest share of a
# box and of its frames, and the highest ratio of the sizes.
PART_INSIDE, PART_FRAMES, PART_SIZE = 0.9, 0.8, 0.6


@dataclass(frozen=True, eq=False)
class Track:
    """One person in one shot.

    Attributes:
        frames (`np.ndarray`): (n,) int, ascending numbers of the frames with a detection.
        boxes (`np.ndarray`): (n, 4) float32, x0, y0, x1, y1 in pixels.
        landmarks (`np.ndarray`): (n, 5, 2) float32, x and y in pixels.
        scores (`np.ndarray`): (n,) float32 detection scores in [0, 1].
        shot (`tuple[int, int]`): first frame of the shot, and the frame after its last.
        embedding (`np.ndarray`): (512,) float32 mean embedding of unit norm, weighted by the
            quality of the detections; zero if unknown.
    """

    frames: np.ndarray
    boxes: np.ndarray
    landmarks: np.ndarray
    scores: np.ndarray
    shot: tuple[int, int]
    embedding: np.ndarray

    @property
    def is_doubtful(self) -> bool:
        """Whether no frame shows the face clearly, so that it may be a false detection."""
        return bool(self.scores.max() < CLEAR_SCORE)

    @property
    def size(self) -> float:
        """Median of the boxes' longer sides, in pixels."""
        return float(np.median((self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=1)))


@dataclass(eq=False)
class _Tracklet:
    """Detections of neighbouring frames, while they are linked."""

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
    detections: Detections,
    shots: Sequence[tuple[int, int]],
    times: np.ndarray,
    embeddings: Iterable[np.ndarray],
    same_person: float,
) -> list[Track]:
    """Link all detections to tracks, sorted by their first frame.

    Args:
        times (`np.ndarray`): (N,) float64 time of each frame in seconds.
        embeddings (`Iterable[np.ndarray]`): (faces, 512) float32 of each frame in turn, unit norm.
        same_person (`float`): lowest cosine similarity of two faces of one person.
    """
    tracks: list[Track] = []
    source = iter(embeddings)
    for shot in shots:
        tracklets = _link_neighbours(detections, shot, source, same_person)
        tracks += [
            _as_track(detections, chain) for chain in _join_tracklets(detections, tracklets, times, same_person)
        ]
    assert sum(len(track.frames) for track in tracks) == len(detections.faces)
    return sorted(tracks, key=lambda track: (int(track.frames[0]), float(track.boxes[0, 0])))


def _link_neighbours(
    detections: Detections, shot: tuple[int, int], embeddings: Iterable[np.ndarray], same_person: float
) -> list[_Tracklet]:
    """Tracklets of a shot, without gaps of more than `SHORT_GAP` frames."""
    tracklets: list[_Tracklet] = []
    active: list[_Tracklet] = []
    for frame, embeds in zip(range(*shot), embeddings):
        rows = detections.rows(frame)
        active = [tracklet for tracklet in active if frame - tracklet.frames[-1] <= SHORT_GAP + 1]
        former = [tracklet.rows[-1] for tracklet in active]
        known = np.array([tracklet.embedding for tracklet in active]).reshape(-1, 512)
        similarities = known @ embeds.T
        overlaps = _overlaps(detections.faces["box"][former], detections.faces["box"][list(rows)])
        near = _distances(detections.faces["box"][former], detections.faces["box"][list(rows)]) < MAX_MOVEMENT
        pairs = _best_pairs(overlaps + similarities, (overlaps > MIN_OVERLAP) | (near & (similarities >= same_person)))
        taken = {column: active[row] for row, column in pairs}
        new = {column: _Tracklet(shot) for column in range(len(rows)) if column not in taken}
        for column, tracklet in (taken | new).items():
            tracklet.add(frame, rows[column], _weight(detections.faces, rows[column]) * embeds[column])
        tracklets += new.values()
        active += new.values()
    return tracklets


def _weight(faces: np.ndarray, row: int) -> float:
    """Weight of a detection in the mean embedding: score, size in pixels and frontality."""
    box, landmarks = faces["box"][row], faces["landmarks"][row]
    size = float(max(box[2] - box[0], box[3] - box[1]))
    return float(faces["score"][row]) * size * frontality(landmarks)


def frontality(landmarks: np.ndarray) -> float:
    """Frontality in [0.1, 1] of (5, 2) landmarks: 1 if the nose is midway between the eyes."""
    along = landmarks[1] - landmarks[0]
    share = float((landmarks[2] - landmarks[0]) @ along) / max(float(along @ along), 1e-6)
    return max(0.1, 1.0 - abs(2.0 * share - 1.0))


def _join_tracklets(
    detections: Detections, tracklets: list[_Tracklet], times: np.ndarray, same_person: float
) -> list[list[_Tracklet]]:
    """Chains of the tracklets of one shot that show one person."""
    if not tracklets:
        return []
    ends = np.array([tracklet.frames[-1] for tracklet in tracklets])
    begins = np.array([tracklet.frames[0] for tracklet in tracklets])
    embeds = np.stack([tracklet.embedding for tracklet in tracklets])
    similarities = embeds @ embeds.T
    gaps = times[begins][None] - times[ends][:, None]
    last, first = ([tracklet.rows[which] for tracklet in tracklets] for which in (-1, 0))
    distances = _distances(detections.faces["box"][last], detections.faces["box"][first])
    allowed = (begins[None] > ends[:, None]) & (gaps <= LONGEST_GAP)
    allowed &= (similarities >= same_person) & (distances < 1.0 + SPEED * gaps)
    following = dict(_best_pairs(similarities - gaps / LONGEST_GAP, allowed))
    chains = []
    for number in sorted(set(range(len(tracklets))) - set(following.values())):
        chain = [tracklets[number]]
        while number in following:
            number = following[number]
            chain.append(tracklets[number])
        chains.append(chain)
    return chains


def _as_track(detections: Detections, chain: list[_Tracklet]) -> Track:
    rows = [row for tracklet in chain for row in tracklet.rows]
    frames = np.array([frame for tracklet in chain for frame in tracklet.frames])
    total = sum((tracklet.total for tracklet in chain), start=np.zeros(512))
    embedding = (total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32)
    faces = detections.faces[rows]
    return Track(frames, faces["box"], faces["landmarks"], faces["score"], chain[0].shot, embedding)


def find_parent_tracks(tracks: Sequence[Track]) -> list[int | None]:
    """Index of the track that each track is a part of; `None` for whole faces."""
    return [
        next((number for number, parent in enumerate(tracks) if parent is not part and is_part(part, parent)), None)
        for part in tracks
    ]


def is_part(part: Track, parent: Track) -> bool:
    """Whether a track is a part of another: within its boxes, much smaller, and of lower scores."""
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
    """Tracks that may occlude each track; none for parts of faces and for duplicates of a track."""
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
    """Whether a track's boxes contain the centres of the other's boxes in most common frames."""
    _, own, others = np.intersect1d(track.frames, other.frames, return_indices=True)
    centres = (other.boxes[others, :2] + other.boxes[others, 2:]) / 2.0
    inside = np.all((centres > track.boxes[own, :2]) & (centres < track.boxes[own, 2:]), axis=1)
    return len(own) > 0 and bool(inside.mean() >= PART_FRAMES)


def _best_pairs(scores: np.ndarray, allowed: np.ndarray) -> list[tuple[int, int]]:
    """Assignment of rows to columns with the highest sum of scores, among the allowed pairs."""
    # The offset makes any allowed pair better than none.
    rows, columns = linear_sum_assignment(np.where(allowed, scores + 10.0, 0.0), maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns) if allowed[row, column]]


def _overlaps(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of (m, 4) and (n, 4) boxes; (m, n)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=-1) for boxes in (first, second)]
    return np.asarray(shared / np.maximum(areas[0][:, None] + areas[1][None] - shared, 1e-6))


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Distance of the centres of (m, 4) and (n, 4) boxes, relative to the larger box; (m, n)."""
    centres = [(boxes[:, :2] + boxes[:, 2:]) / 2.0 for boxes in (first, second)]
    sizes = [(boxes[:, 2:] - boxes[:, :2]).max(axis=-1, initial=0.0) for boxes in (first, second)]
    between = np.linalg.norm(centres[0][:, None] - centres[1][None], axis=-1)
    return np.asarray(between / np.maximum(np.maximum(sizes[0][:, None], sizes[1][None]), 1e-6))
