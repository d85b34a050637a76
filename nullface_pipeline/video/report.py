"""Report of an anonymized video."""

from collections.abc import Iterator
from dataclasses import dataclass

from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.states import SHORTEST, State
from nullface_pipeline.video.tracks import Track


COUNTED = ("replaced", "gaps", "kept", "covered", "failed", "found", "patched_frames", "switches")


@dataclass(frozen=True)
class CoveredTrack:
    """Track that is covered in every frame.

    Attributes:
        start, end (`float`): time of the first and the last covered frame, in seconds.
        box (`tuple[float, ...]`): x0, y0, x1, y1 of the first detection, in pixels.
        score (`float`): highest detection score.
        reason (`str`): reason for the cover, and a remedy.
    """

    start: float
    end: float
    box: tuple[float, ...]
    score: float
    reason: str


@dataclass(frozen=True)
class VideoReport:
    """Summary of an anonymized video. A face counts once in each frame.

    Attributes:
        frames (`int`): number of frames of the video.
        tracks (`int`): number of tracks. A person has at least one track in each shot.
        replaced (`int`): faces that were detected, replaced and verified.
        gaps (`int`): faces that were replaced and verified in short gaps between detections.
        kept (`int`): unchanged faces of people who agreed to be seen.
        covered (`int`): covers over faces and over areas where a face may be.
        failed (`int`): new faces that still matched the person. They and their neighbouring frames
            are covered.
        found (`int`): faces that were detected only in the result and are covered.
        patched_frames (`int`): frames with at least one cover.
        switches (`int`): changes of a track between a new face and a cover.
        identity (`str`): "opposite", or "consistent" if a person has one new face in all shots.
        covered_tracks (`tuple[CoveredTrack, ...]`): tracks that are covered in every frame.
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
    identity: str = "opposite"
    covered_tracks: tuple[CoveredTrack, ...] = ()


def find_covered_tracks(rendering: Rendering) -> Iterator[CoveredTrack]:
    """Tracks without a new face in any frame, except parts of other faces."""
    for index, states in enumerate(rendering.tracks):
        is_part = index < len(rendering.parents) and rendering.parents[index] is not None
        if is_part or (states.states != State.covered).any():
            continue
        start, end = rendering.times[states.first], rendering.times[states.end - 1]
        score = float(states.track.scores.max())
        reason = cover_reason(states.track, rendering.options.min_face, index >= len(rendering.parents))
        yield CoveredTrack(float(start), float(end), tuple(map(float, states.track.boxes[0])), score, reason)


def cover_reason(track: Track, min_face: float, found_late: bool) -> str:
    """Reason why a track is covered in every frame, and a remedy."""
    if found_late:
        return "detected only in the result"
    if track.size < min_face:
        return "smaller than `min_face`"
    if track.is_doubtful:
        return "no clear detection, so it may not be a face: try a `detection_threshold` above its score"
    if len(track.frames) < SHORTEST:
        return f"detected in fewer than {SHORTEST} frames: try a lower `detection_threshold`"
    return "every attempt still matches the person: try a stronger `preset`"
