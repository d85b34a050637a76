"""The last pass: a piece of a video with every face in it anonymized or covered, encoded, and looked at once more.

What decides is the piece as it will be seen: it is decoded again, searched and compared with the original. Whatever fails
there is covered, and the piece is made again, until nothing is left to cover.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nullface_pipeline.face_covers import cover_faces, widened
from nullface_pipeline.face_crops import edge_feather
from nullface_pipeline.face_edit import closest_similarity, hide_faces, stronger
from nullface_pipeline.face_identity import DetectedFace, embed_face, similarity
from nullface_pipeline.face_masks import face_ellipse
from nullface_pipeline.face_search import search_faces
from nullface_pipeline.face_target import FaceTarget, is_filled, is_part_of_new_face, make_target, paste_all
from nullface_pipeline.identity_choices import IDENTITY_CHOICES
from nullface_pipeline.photo import (
    FinishedFaces,
    FoundFaces,
    check_finished,
    consent_threshold,
    find_kept_faces,
    is_changed,
    read_references,
    similarity_threshold,
    unmatched_faces,
)
from nullface_pipeline.photo_options import MAX_SEED, PhotoOptions
from nullface_pipeline.photo_records import FaceNotHiddenError
from nullface_pipeline.protocols import NullFacePipeline
from nullface_pipeline.video.reader import Frame, VideoInfo, read_frames
from nullface_pipeline.video.states import LARGEST, State, TrackStates, track_states
from nullface_pipeline.video.steadiness import steady_results
from nullface_pipeline.video.tracks import Track
from nullface_pipeline.video.writer import write_segment


# A mask reaches as far as those of so many frames before and after it, so that it does not shrink between neighbours.
STEADY = 2

# Where a face fails, so many frames before and after it are covered too: a face and a patch by turns draw the eye.
AROUND_FAILURE = 3

# Frames of a track that are tried before the others, at least so far apart, to find out how strong it has to be; there,
# the result must be less similar by so much.
PROBES, PROBES_APART = 8, 8
PROBE_MARGIN = 0.05

# How much of a pixel is a new face's where no patch is needed.
REPLACED = 0.95

# How often a piece is made again. What is found then would be found for ever.
MOST_PASSES = 5

NOBODY = np.zeros(512, dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Rendering:
    """How the tracks of one video are anonymized.

    Attributes:
        pipe (`StableDiffusionNullFacePipeline`): with adapter and face models.
        options (`PhotoOptions`): as for every face of a photo.
        seed (`int`): a track's noise follows from it and the track's number.
        info (`VideoInfo`): of the video.
        times (`np.ndarray`): (N,) seconds, of each frame.
        shots (`list[tuple[int, int]]`): first frame, and the frame after the last.
        tracks (`list[TrackStates]`): all of them, by number. Faces that only a finished piece shows are added.
        identities (`list[np.ndarray]`): (512,) for each track that is anonymized: whom its new face is to be unlike.
        strengths (`list[int]`): for each of them, which of `stronger`'s attempts it gets.
        hosts (`list[int | None]`): for each of the tracks that were there at first, whose faces it is a part of.
    """

    pipe: NullFacePipeline
    options: PhotoOptions
    seed: int
    info: VideoInfo
    times: np.ndarray
    shots: list[tuple[int, int]]
    tracks: list[TrackStates]
    identities: list[np.ndarray]
    strengths: list[int]
    hosts: list[int | None]

    @property
    def threshold(self) -> float:
        return similarity_threshold(self.pipe, self.options)

    def cover_found(self, number: int, box: np.ndarray) -> None:
        """Have a face covered that only a finished piece showed: a track of one frame."""
        shot = next(shot for shot in self.shots if shot[0] <= number < shot[1])
        landmarks = np.zeros((1, 5, 2), dtype=np.float32)
        track = Track(np.array([number]), np.asarray(box, np.float32)[None], landmarks, np.ones(1), shot, NOBODY)
        self.tracks.append(track_states(track, self.times))


@dataclass(eq=False)
class Piece:
    """One piece of a video on its way.

    Attributes:
        start, end (`int`): its first frame, and the frame after its last.
        window (`dict[int, Frame]`): its frames by number, and `STEADY` more to either side.
        targets (`dict[int, dict[int, FaceTarget]]`): by frame and track, with their results.
        failed (`set[tuple[int, int]]`): frame and track of what is covered because it did not pass.
        kept (`set[tuple[int, int]]`): frame and track of people who agreed to be seen.
    """

    start: int
    end: int
    window: Mapping[int, Frame]
    targets: dict[int, dict[int, FaceTarget]] = field(default_factory=dict)
    failed: set[tuple[int, int]] = field(default_factory=set)
    kept: set[tuple[int, int]] = field(default_factory=set)


def windows(frames: Iterator[Frame], spans: list[tuple[int, int]]) -> Iterator[tuple[int, int, dict[int, Frame]]]:
    """(start, end, frames by number) of each span, with `STEADY` frames more to either side; no more is held."""
    source = enumerate(frames)
    held: dict[int, Frame] = {}
    for start, end in spans:
        while max(held, default=-1) < end + STEADY - 1:
            number, frame = next(source, (None, None))
            if number is None or frame is None:
                break
            if number >= start - STEADY:
                held[number] = frame
        held = {number: frame for number, frame in held.items() if number >= start - STEADY}
        yield start, end, dict(held)


def render_piece(rendering: Rendering, path: Path, suffix: str, piece: Piece) -> None:
    """Anonymize the faces of a piece and write it to a file that shows nobody; `piece` tells what was done.

    Faces that only the finished piece shows are added to the tracks; they may reach into pieces that are finished.

    Raises:
        FaceNotHiddenError: if there is still something to cover after `MOST_PASSES`.
    """
    numbers = range(piece.start, piece.end)
    for number in numbers:
        kept = kept_tracks(rendering, number, piece.window[number].pixels)
        piece.kept |= {(number, index) for index in kept}
    make_targets(rendering, piece)
    anonymize_targets(rendering, piece)
    for _ in range(MOST_PASSES):
        made = (Frame(compose(rendering, piece, number), piece.window[number].pts) for number in numbers)
        write_segment(path, made, rendering.info, suffix)
        failed, found = look_again(rendering, path, piece)
        if not failed and not found:
            return
        piece.failed |= failed
        for number, box in found:
            rendering.cover_found(number, box)
    raise FaceNotHiddenError(
        f"A face in the frames {piece.start} to {piece.end - 1} could not be hidden; nothing is written."
    )


def kept_tracks(rendering: Rendering, number: int, pixels: np.ndarray) -> set[int]:
    """Tracks of people who agreed to be seen, if all of the track and its face in this very frame both show one."""
    if not rendering.options.skip_faces:
        return set()
    analyser, threshold = rendering.pipe.face_analyser, consent_threshold(rendering.pipe, rendering.options)
    people = read_references(analyser, rendering.options.skip_faces)
    # What was found later, in a finished piece, is nobody's.
    faces = seen_faces(rendering, range(len(rendering.hosts)), number)
    now = {
        index: replace(face, embedding=embed_face(analyser, pixels, face.landmarks))
        for index, face in faces.items()
        if max(similarity(face.embedding, person) for person in people) >= threshold
    }
    kept = find_kept_faces(analyser, list(now.values()), people, threshold)
    return {index for index, face in now.items() if face in kept}


def make_targets(rendering: Rendering, piece: Piece) -> None:
    """Cut out the faces of a piece and of its neighbours, with masks as far as those around them in time reach."""
    around: dict[tuple[int, int], FaceTarget] = {}
    for number, frame in piece.window.items():
        for index, states in enumerate(rendering.tracks):
            if states.has_face(number):
                target = track_target(rendering, index, number, frame.pixels)
                if target is not None:
                    around[number, index] = target
                else:
                    piece.failed.add((number, index))
    for (number, index), target in around.items():
        if piece.start <= number < piece.end and (number, index) not in piece.kept:
            near = [around.get((other, index), target) for other in range(number - STEADY, number + STEADY + 1)]
            mask = np.max([each.mask for each in near], axis=0)
            piece.targets.setdefault(number, {})[index] = replace(target, mask=mask)


def track_target(rendering: Rendering, index: int, number: int, pixels: np.ndarray) -> FaceTarget | None:
    """A track's face in one frame, cut out by its smoothed landmarks; None where these describe no face."""
    states = rendering.tracks[index]
    place = number - states.first
    smooth = _face(states, place, states.landmarks[place])
    others = [
        _face(other, number - other.first, other.landmarks[number - other.first])
        for other in rendering.tracks
        if other.has_face(number) and other is not states
    ]
    seed = (rendering.seed + index) % MAX_SEED
    keep, identity = rendering.options.keep, rendering.identities[index]
    try:
        target = make_target(rendering.pipe, pixels, smooth, [smooth, *others], keep, None, seed, identity)
    except ValueError:
        return None
    # What is compared later is the face at its own landmarks.
    face = seen_face(states, number) or smooth
    strength = rendering.strengths[index]
    mask = target.wider_mask if strength else target.mask
    return replace(target, face=face, mask=mask, attempts=strength)


def seen_face(states: TrackStates, number: int) -> DetectedFace | None:
    """A track's face as a frame was found to show it."""
    own = np.flatnonzero(states.track.frames == number)
    return _face(states, number - states.first, states.track.landmarks[own[0]]) if len(own) else None


def seen_faces(rendering: Rendering, indices: Iterable[int], number: int) -> dict[int, DetectedFace]:
    """`seen_face` of those tracks that a frame was found to show."""
    faces = {index: seen_face(rendering.tracks[index], number) for index in indices}
    return {index: face for index, face in faces.items() if face is not None}


def _face(states: TrackStates, place: int, landmarks: np.ndarray) -> DetectedFace:
    return DetectedFace(states.boxes[place], landmarks, 1.0, states.track.embedding)


def anonymize_targets(rendering: Rendering, piece: Piece) -> None:
    """Give every target its new face, consecutive frames of one track in batches."""
    size = rendering.options.batch_faces
    for index in sorted({index for targets in piece.targets.values() for index in targets}):
        numbers = [number for number, targets in sorted(piece.targets.items()) if index in targets]
        pending = [number for number in numbers if piece.targets[number][index].can_change]
        piece.failed |= {(number, index) for number in numbers if number not in pending}
        settings = stronger(rendering.options.settings(rendering.pipe.presets), rendering.strengths[index])
        for start in range(0, len(pending), size):
            batch = pending[start : start + size]
            results = IDENTITY_CHOICES[rendering.options.identity].new_faces(
                rendering.pipe, [piece.targets[number][index] for number in batch], settings
            )
            for number, result in zip(batch, results):
                piece.targets[number][index] = replace(piece.targets[number][index], result=result)
        made = {number: piece.targets[number][index] for number in pending}
        for number, result in steady_results(made).items():
            piece.targets[number][index] = replace(made[number], result=result)
    for number, targets in piece.targets.items():
        before = piece.window[number].pixels
        after = paste_all(before, list(targets.values()))
        unchanged = [index for index, target in targets.items() if not is_changed(before, after, target)]
        piece.failed |= {(number, index) for index in unchanged}


def compose(rendering: Rendering, piece: Piece, number: int) -> np.ndarray:
    """(H, W, 3) uint8: a frame with its new faces and, over them, its patches.

    Raises:
        FaceNotHiddenError: if not every face of the frame is accounted for.
    """
    before = piece.window[number].pixels
    done = decide(rendering, piece, number)
    hidden = tuple(done.hidden.values())
    boxes = [widened(box, margin) for box, margin in done.covered.values()]
    replaced = paste_all(before, list(hidden))
    pixels = cover_faces(replaced, boxes, rendering.options.cover)
    there = [index for index, states in enumerate(rendering.tracks) if states.at(number) is not None]
    if there != sorted([*done.hidden, *done.covered, *done.parts, *done.kept]):
        raise FaceNotHiddenError(f"Not every face of frame {number} is accounted for; nothing is written.")
    covered = tuple(DetectedFace(box, np.zeros((5, 2)), 1.0, NOBODY) for box in boxes)
    found = FoundFaces(before, tuple(target.face for target in hidden), covered, ())
    check_finished(found, FinishedFaces(pixels, hidden, (), covered, rendering.options.cover))
    return np.where(shown_in_front(rendering, done, number, before.shape[:2])[..., None], replaced, pixels)


@dataclass(frozen=True, eq=False)
class Done:
    """What is done with each track in one frame; each is in one of the four.

    Attributes:
        hidden (`dict[int, FaceTarget]`): replaced by a new face.
        covered (`dict[int, tuple[np.ndarray, float]]`): box and margin of a cover.
        parts (`list[int]`): parts of faces that are replaced, such as a mouth that was taken for a face.
        kept (`list[int]`): left as they are, see `kept_tracks`.
    """

    hidden: dict[int, FaceTarget]
    covered: dict[int, tuple[np.ndarray, float]]
    parts: list[int]
    kept: list[int] = field(default_factory=list)


def decide(rendering: Rendering, piece: Piece, number: int) -> Done:
    """What is done with each track in a frame."""
    targets = piece.targets.get(number, {})
    hidden = {index: target for index, target in targets.items() if not is_near_failure(piece, number, index)}
    done = Done(hidden, {}, [], [index for frame, index in piece.kept if frame == number])
    for index, states in enumerate(rendering.tracks):
        place = states.at(number)
        if place is None or index in hidden or index in done.kept:
            continue
        host = rendering.hosts[index] if index < len(rendering.hosts) else None
        # Where the part was not found itself, it is somewhere in its host's face.
        seen = number in states.track.frames
        filled = host in hidden and (not seen or is_filled(hidden[host], states.boxes[place]))
        if filled and not is_near_failure(piece, number, index):
            done.parts.append(index)
        else:
            done.covered[index] = (states.patches[place], float(states.margins[place]))
    return done


def shown_in_front(rendering: Rendering, done: Done, number: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the new faces that no patch need lie over.

    A face that was found is in front of one that was not. A doubtful track is covered at its own place only, never over
    a new face: only synthetic pixels are shown there, and the finished piece is searched once more.
    """
    found = [
        box
        for index, (box, _) in done.covered.items()
        if index >= len(rendering.hosts)
        or not rendering.tracks[index].track.is_doubtful
        and (rendering.tracks[index].has_face(number) or is_found(rendering, index, number))
    ]
    shown = np.zeros(size, dtype=bool)
    for index, target in done.hidden.items():
        if is_found(rendering, index, number) and not any(is_near(target.face.box, box) for box in found):
            ellipse = face_ellipse(target.crop.points_to_crop(target.face.landmarks), target.crop.size)
            # Only what is replaced: nothing of anybody is left there.
            weight = np.minimum(ellipse, target.mask * edge_feather(target.crop.size))
            white = np.full_like(target.aligned, 255)
            shown |= target.crop.paste(np.zeros((*size, 3), np.uint8), white, weight)[..., 0] >= 255 * REPLACED
    return shown


def is_found(rendering: Rendering, index: int, number: int) -> bool:
    """Whether the detector found a track's face in a frame."""
    return number in rendering.tracks[index].track.frames


def is_near(box: np.ndarray, patch: np.ndarray) -> bool:
    """Whether a face's box (x0, y0, x1, y1) touches what the largest patch around another box covers."""
    reach = (2**0.5 + LARGEST) / 2.0 * (patch[2:] - patch[:2])
    centre = (patch[:2] + patch[2:]) / 2.0
    return bool(np.all(box[:2] < centre + reach) and np.all(box[2:] > centre - reach))


def is_near_failure(piece: Piece, number: int, index: int) -> bool:
    """Whether a track's face failed in a frame or in one of those around it."""
    around = range(number - AROUND_FAILURE, number + AROUND_FAILURE + 1)
    return any((frame, index) in piece.failed for frame in around)


def look_again(
    rendering: Rendering, path: Path, piece: Piece
) -> tuple[set[tuple[int, int]], list[tuple[int, np.ndarray]]]:
    """Search the finished piece.

    Returns:
        Frame and track of new faces that resemble the person, and frame and box of faces that are none of those known.
    """
    failed: set[tuple[int, int]] = set()
    found: list[tuple[int, np.ndarray]] = []
    for number, frame in zip(range(piece.start, piece.end), read_frames(path), strict=True):
        before = piece.window[number].pixels
        # Without the row that makes a side even.
        shown = np.ascontiguousarray(frame.pixels[: before.shape[0], : before.shape[1]])
        seen = search_faces(rendering.pipe.face_analyser, shown)
        done = decide(rendering, piece, number)
        faces = {index: target.face for index, target in done.hidden.items()}
        parts = seen_faces(rendering, done.parts, number)
        for index, face in (faces | parts).items():
            # No number is not below the threshold.
            if not likeness(rendering, face, before, shown, seen) < rendering.threshold:
                failed.add((number, index))
        known = faces | seen_faces(rendering, done.kept, number)
        for face in unmatched_faces(seen, list(known.values())):
            if not is_only_new(rendering, face, list(done.hidden.values()), before, shown, seen):
                found.append((number, face.box))
    return failed, found


def is_only_new(
    rendering: Rendering,
    face: DetectedFace,
    hidden: list[FaceTarget],
    before: np.ndarray,
    after: np.ndarray,
    seen: list[DetectedFace],
) -> bool:
    """Whether a face that was not known before is only a part of a new one, or a head around it that does not match the person."""
    if is_part_of_new_face(face, hidden):
        return True
    features = np.concatenate([face.landmarks.min(axis=0), face.landmarks.max(axis=0)])
    unknown = replace(face, embedding=NOBODY)
    return (
        any(is_filled(target, features) for target in hidden)
        and likeness(rendering, unknown, before, after, seen) < rendering.threshold
    )


def likeness(
    rendering: Rendering, face: DetectedFace, before: np.ndarray, after: np.ndarray, seen: list[DetectedFace]
) -> float:
    """How much a finished face resembles what the frame showed, and whom all of its track showed.

    Args:
        face (`DetectedFace`): with its landmarks in this frame, and the embedding of its track.
    """
    verifier = rendering.options.verifier
    analyser = rendering.pipe.face_analyser
    own = closest_similarity([analyser, *([] if verifier is None else [verifier])], before, after, face, seen)
    new = embed_face(analyser, after, face.landmarks)
    return float(np.max([own, similarity(new, face.embedding)]))


def probe_frames(states: TrackStates) -> list[int]:
    """A few frames of a track, spread over it, of those in which it is seen."""
    seen = states.first + np.flatnonzero(states.states == State.seen)
    if len(seen) == 0:
        return []
    count = int(np.clip(len(seen) // PROBES_APART, min(2, len(seen)), PROBES))
    return sorted({int(seen[round(place)]) for place in np.linspace(0, len(seen) - 1, count + 2)[1:-1]})


def probe_frame(rendering: Rendering, number: int, pixels: np.ndarray, indices: list[int]) -> dict[int, int | None]:
    """How strong each of some tracks has to be in one frame, by `stronger`'s attempts; None where none will do."""
    made = {index: track_target(rendering, index, number, pixels) for index in indices}
    tried = {index: target for index, target in made.items() if target is not None}
    threshold = rendering.threshold - PROBE_MARGIN
    targets, _ = hide_faces(rendering.pipe, pixels, list(tried.values()), rendering.options, threshold)
    needed = {i: t.attempts - 1 if t.is_hidden(threshold) else None for i, t in zip(tried, targets)}
    return {index: needed.get(index) for index in indices}


def needed_strength(probes: list[int | None]) -> int | None:
    """The strength for a whole track: the highest that a probe needed; None if most of them failed."""
    passed = [attempt for attempt in probes if attempt is not None]
    return max(passed) if passed and 2 * len(passed) >= len(probes) else None
