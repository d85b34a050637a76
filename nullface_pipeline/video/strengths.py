"""Strength of each track, found on a few probe frames before the video is rendered."""

from pathlib import Path

import numpy as np

from nullface_pipeline.face_edit import hide_faces
from nullface_pipeline.video.checkpoint import VideoCheckpoint
from nullface_pipeline.video.linking import ProgressCallback
from nullface_pipeline.video.reader import read_frames
from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.states import State, TrackStates
from nullface_pipeline.video.targets import track_target


# Highest number of probe frames of a track, and detections per probe frame.
PROBES, PROBES_APART = 8, 8

# Margin of a probe below the similarity threshold.
PROBE_MARGIN = 0.05


def find_strengths(
    rendering: Rendering, path: Path, checkpoint: VideoCheckpoint, on_progress: ProgressCallback
) -> list[int | None]:
    """Strength of each track; `None` if it cannot be anonymized."""
    wanted: dict[int, list[int]] = {}
    for index, states in enumerate(rendering.tracks):
        for number in probe_frames(states):
            wanted.setdefault(number, []).append(index)
    probes: list[list[int | None]] = [[] for _ in rendering.tracks]
    done = dict(checkpoint.lines("probes.jsonl"))
    pending = set(wanted) - set(done)
    if pending:
        for number, frame in enumerate(read_frames(path)):
            if number in pending:
                needed = probe_frame(rendering, number, frame.pixels, wanted[number])
                done[number] = list(needed.items())
                checkpoint.add_line("probes.jsonl", [number, done[number]])
                on_progress("probing", len(done), len(wanted))
            if number >= max(pending):
                break
    for number in wanted:
        for index, attempt in done[number]:
            probes[index].append(attempt)
    return [needed_strength(found) for found in probes]


def probe_frames(states: TrackStates) -> list[int]:
    """Evenly spaced probe frames among those in which a track was detected."""
    detected = states.first + np.flatnonzero(states.states == State.detected)
    if len(detected) == 0:
        return []
    count = int(np.clip(len(detected) // PROBES_APART, min(2, len(detected)), PROBES))
    return sorted({int(detected[round(index)]) for index in np.linspace(0, len(detected) - 1, count + 2)[1:-1]})


def probe_frame(rendering: Rendering, number: int, pixels: np.ndarray, indices: list[int]) -> dict[int, int | None]:
    """Attempt number that anonymizes each track in one frame; `None` if none does."""
    made = {index: track_target(rendering, index, number, pixels) for index in indices}
    tried = {index: target for index, target in made.items() if target is not None}
    threshold = rendering.threshold - PROBE_MARGIN
    targets, _ = hide_faces(rendering.pipe, pixels, list(tried.values()), rendering.options, threshold)
    needed = {i: t.attempts - 1 if t.is_replaced(threshold) else None for i, t in zip(tried, targets)}
    return {index: needed.get(index) for index in indices}


def needed_strength(probes: list[int | None]) -> int | None:
    """Highest attempt number of the probes of a track; `None` if most probes failed."""
    passed = [attempt for attempt in probes if attempt is not None]
    return max(passed) if passed and 2 * len(passed) >= len(probes) else None
