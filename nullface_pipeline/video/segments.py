"""Segments of a video: each is composed, encoded and verified, again until nothing fails."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nullface_pipeline.face_target import paste_all
from nullface_pipeline.photo import is_changed
from nullface_pipeline.photo_records import FaceNotHiddenError
from nullface_pipeline.video.checkpoint import SegmentSummary, VideoCheckpoint
from nullface_pipeline.video.compose import AROUND_FAILURE, compose, plan_frame
from nullface_pipeline.video.new_faces import FrameFaces, NewFaces
from nullface_pipeline.video.progress import ProgressCallback
from nullface_pipeline.video.reader import Frame, VideoInfo, read_frames
from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.states import State, TrackStates
from nullface_pipeline.video.verify import check_segment
from nullface_pipeline.video.writer import write_segment


# Bytes of pixels in a segment, and its smallest and largest number of frames.
SEGMENT_BYTES = 2**27
SEGMENT_FRAMES = (8, 64)

# Highest number of passes over a segment. A failure after them would recur.
MOST_PASSES = 5


def segment_spans(info: VideoInfo, frames: int) -> list[tuple[int, int]]:
    """The segments of a video: (first frame, frame after the last), as long as their pixels fit into memory."""
    length = int(np.clip(SEGMENT_BYTES // (3 * info.width * info.height), *SEGMENT_FRAMES))
    return [(start, min(start + length, frames)) for start in range(0, frames, length)]


def render_segments(
    rendering: Rendering,
    path: Path,
    suffix: str,
    unfinished: list[tuple[int, int]],
    spans: list[tuple[int, int]],
    checkpoint: VideoCheckpoint,
    on_progress: ProgressCallback,
) -> None:
    """Render the unfinished segments, and reopen finished ones that a new cover reaches."""
    new_faces = NewFaces(rendering, read_frames(path))
    for start, frames in segment_frames(read_frames(path), unfinished):
        known_tracks, known_failures = len(rendering.tracks), set(rendering.failed)
        temporary = checkpoint.segment(start).with_suffix(".part")
        faces = new_faces.between(start, start + len(frames))
        summary = render_segment(rendering, temporary, suffix, start, frames, faces)
        # Reopened before the reason is recorded: a run that is killed in between finds it again.
        others = [span for span in spans if span[0] != start]
        for states in rendering.tracks[known_tracks:]:
            reopen(checkpoint, others, states.first, states.end)
            checkpoint.add_line("found.jsonl", [int(states.track.frames[0]), *states.track.boxes[0].tolist()])
        for number, index in sorted(rendering.failed - known_failures):
            states = rendering.tracks[index]
            first, end = number - AROUND_FAILURE, number + AROUND_FAILURE + 1
            reopen(checkpoint, others, max(first, states.first), min(end, states.end))
            checkpoint.add_line("failed.jsonl", [number, index])
        temporary.replace(checkpoint.segment(start))
        checkpoint.finish(start, summary)
        on_progress("anonymizing", start + len(frames), spans[-1][1])


def segment_frames(frames: Iterator[Frame], spans: list[tuple[int, int]]) -> Iterator[tuple[int, list[Frame]]]:
    """First frame number and frames of each segment; one segment is held at a time."""
    position = 0
    for start, end in spans:
        yield start, list(itertools.islice(frames, start - position, end - position))
        position = end


def reopen(checkpoint: VideoCheckpoint, spans: list[tuple[int, int]], first: int, end: int) -> None:
    """Have the segments rendered again that hold one of the frames from `first` to before `end`."""
    for start, after in spans:
        if start < end and after > first:
            checkpoint.reopen(start)


def render_segment(
    rendering: Rendering, path: Path, suffix: str, start: int, frames: list[Frame], faces: dict[int, FrameFaces]
) -> SegmentSummary:
    """Write a segment in which every face is replaced or covered, and return its figures.

    Faces that only the encoded segment shows are added to the tracks, and those that still resemble the person to
    `rendering.failed`. Both may reach into other segments.

    Raises:
        FaceNotHiddenError: if there is still something to cover after `MOST_PASSES`.
    """
    numbered = dict(enumerate(frames, start))
    add_unchanged(rendering, numbered, faces)
    for _ in range(MOST_PASSES):
        made = (
            Frame(compose(rendering, frame.pixels, faces[number], number), frame.pts)
            for number, frame in numbered.items()
        )
        write_segment(path, made, rendering.info, suffix)
        failed, found = check_segment(rendering, path, numbered, faces)
        if not failed and not found:
            return summarize(rendering, faces)
        rendering.failed.update(failed)
        for number, box in found:
            rendering.cover_found(number, box)
    raise FaceNotHiddenError(
        f"A face in the frames {start} to {start + len(frames) - 1} could not be hidden; nothing is written."
    )


def add_unchanged(rendering: Rendering, frames: dict[int, Frame], faces: dict[int, FrameFaces]) -> None:
    """Add new faces that leave the pixels of the original as they are to `rendering.failed`."""
    for number, frame in frames.items():
        targets = faces[number].targets
        after = paste_all(frame.pixels, list(targets.values()))
        unchanged = [index for index, target in targets.items() if not is_changed(frame.pixels, after, target)]
        rendering.failed.update((number, index) for index in unchanged)


def summarize(rendering: Rendering, faces: dict[int, FrameFaces]) -> SegmentSummary:
    """Figures of a segment. `first` and `last` say which tracks are covered in its first and last frame."""
    counts = Counter(failed=sum(number in faces for number, _ in rendering.failed))
    covers: list[dict[str, int]] = []
    for number in faces:
        plan = plan_frame(rendering, faces[number], number)
        counts["covered"] += len(plan.covered)
        counts["kept"] += len(plan.kept)
        counts["patched_frames"] += bool(plan.covered)
        for index in plan.replaced:
            counts[_word(rendering.tracks[index], number)] += 1
        covers.append({str(i): 0 for i in plan.replaced} | {str(i): 1 for i in plan.covered})
    counts["switches"] = sum(count_switches(*pair) for pair in itertools.pairwise(covers))
    return {"counts": dict(counts), "first": covers[0], "last": covers[-1]}


def count_switches(before: dict[str, int], after: dict[str, int]) -> int:
    """Number of tracks that change between a new face and a cover from one frame to the next."""
    return sum(before.get(index, covered) != covered for index, covered in after.items())


def _word(states: TrackStates, number: int) -> str:
    return "gaps" if states.states[number - states.first] == State.gap else "replaced"


def total_counts(checkpoint: VideoCheckpoint, spans: list[tuple[int, int]]) -> Counter[str]:
    """Figures of a video whose segments are all finished, see `VideoReport`."""
    summaries = [summary for start, _ in spans if (summary := checkpoint.summary(start)) is not None]
    totals = sum((Counter(summary["counts"]) for summary in summaries), start=Counter())
    totals["switches"] += sum(
        count_switches(one["last"], following["first"]) for one, following in itertools.pairwise(summaries)
    )
    totals["found"] = sum(1 for _ in checkpoint.lines("found.jsonl"))
    return totals
