"""What was done with a video."""

from collections.abc import Iterator
from dataclasses import dataclass

from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.states import SHORTEST, State
from nullface_pipeline.video.tracks import Track


COUNTED = ("replaced", "gaps", "kept", "covered", "failed", "found", "patched_frames", "switches")


@dataclass(frozen=True)
class CoveredTrack:
    """A track that is covered wherever it is.

    Attributes:
        start, end (`float`): seconds of the first and the last frame with its cover.
        box (`tuple[float, ...]`): x0, y0, x1, y1 in pixels, where it was found first.
        score (`float`): its highest detection score.
        reason (`str`): why it is covered, and what to try.
    """

    start: float
    end: float
    box: tuple[float, ...]
    score: float
    reason: str


@dataclass(frozen=True)
class VideoReport:
    """What was done. Faces count once in every frame that has them.

    Attributes:
        frames (`int`): of the video.
        tracks (`int`): people in shots, roughly.
        replaced (`int`): faces that were found, replaced and verified.
        gaps (`int`): faces that were not found, replaced between two frames that show them, and verified.
        kept (`int`): faces of people who agreed to be seen, left as they are.
        covered (`int`): faces and places of faces under a patch.
        failed (`int`): faces that did not pass; they are covered, with their neighbours.
        found (`int`): faces that only the finished picture showed; they are covered.
        patched_frames (`int`): frames with a patch.
        switches (`int`): how often a track changes between a new face and a patch.
        covered_tracks (`tuple[CoveredTrack, ...]`): tracks without a new face in any frame, parts of others left out.
    """

    frames: int
    tracks: int
    replaced: int
    gaps: int
    kept: int
    covered: int
    failed: int
    found: int
    patched_frames: int
    switches: int
    covered_tracks: tuple[CoveredTrack, ...] = ()


def find_covered_tracks(rendering: Rendering) -> Iterator[CoveredTrack]:
    """The tracks that get no new face in any frame, but for parts of other faces."""
    for index, states in enumerate(rendering.tracks):
        is_part = index < len(rendering.parents) and rendering.parents[index] is not None
        if is_part or (states.states != State.covered).any():
            continue
        start, end = rendering.times[states.first], rendering.times[states.end - 1]
        score = float(states.track.scores.max())
        reason = cover_reason(states.track, rendering.options.min_face, index >= len(rendering.parents))
        yield CoveredTrack(float(start), float(end), tuple(map(float, states.track.boxes[0])), score, reason)


def cover_reason(track: Track, min_face: float, found_late: bool) -> str:
    """Why a track is covered in every frame, and what to try."""
    if found_late:
        return "found only in the finished video"
    if track.size < min_face:
        return "smaller than `min_face`"
    if track.is_doubtful:
        return "no frame shows it clearly, so it may not be a face: try a `detection_threshold` above its score"
    if len(track.frames) < SHORTEST:
        return f"found in fewer than {SHORTEST} frames: try a lower `detection_threshold`"
    return "every attempt still matches the person: try a stronger `preset`"
