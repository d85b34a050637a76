"""Segments of a video: composed, encoded and verified until verification passes."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nullface_pipeline.face_target import paste_all
from nullface_pipeline.photo import is_changed
from nullface_pipeline.photo_records import FaceNotHiddenError
from nullface_pipeline.video.checkpoint import SegmentSummary, VideoCheckpoint
from nullface_pipeline.video.compose import AROUND_FAILURE, compose, is_near_failure, plan_frame
from nullface_pipeline.video.linking import ProgressCallback
from nullface_pipeline.video.new_faces import FrameFaces, NewFaces
from nullface_pipeline.video.reader import Frame, VideoInfo, read_frames
from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.states import State
from nullface_pipeline.video.verify import check_segment
from nullface_pipeline.video.writer import write_segment


# Highest size of a segment's pixels in bytes, and its lowest and highest number of frames.
SEGMENT_BYTES = 2**27
SEGMENT_FRAMES = (8, 64)

# Highest number of passes over a segment.
MAX_PASSES = 6


def segment_spans(info: VideoInfo, frames: int) -> list[tuple[int, int]]:
    """First frame of each segment, and the frame after its last."""
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
    """Render the unfinished segments, and reopen finished ones that a new cover affects."""
    new_faces = NewFaces(rendering, read_frames(path))
    for start, frames in segment_frames(read_frames(path), unfinished):
        known_tracks, known_failures = len(rendering.tracks), set(rendering.failed)
        known_generated = set(rendering.generated)
        temporary = checkpoint.segment(start).with_suffix(".part")
        end = start + len(frames)
        # Faces are generated some frames ahead; a segment is done once it is verified.
        faces = new_faces.between(
            start, end, lambda generated: on_progress("anonymizing", min(generated, end - 1), spans[-1][1])
        )
        summary = render_segment(rendering, temporary, suffix, start, frames, faces, new_faces)
        # Reopened before the cause is recorded: after a kill in between, the next run finds it
        # again.
        others = [span for span in spans if span[0] != start]
        for states in rendering.tracks[known_tracks:]:
            reopen(checkpoint, others, states.first, states.end)
            checkpoint.add_line("found.jsonl", [int(states.track.frames[0]), *states.track.boxes[0].tolist()])
        for number, index in sorted(rendering.failed - known_failures):
            states = rendering.tracks[index]
            first, after = number - AROUND_FAILURE, number + AROUND_FAILURE + 1
            reopen(checkpoint, others, max(first, states.first), min(after, states.end))
            checkpoint.add_line("failed.jsonl", [number, index])
        for number, index in sorted(rendering.generated - known_generated):
            checkpoint.add_line("generated.jsonl", [number, index])
        temporary.replace(checkpoint.segment(start))
        checkpoint.finish(start, summary)
        on_progress("anonymizing", end, spans[-1][1])


def segment_frames(frames: Iterator[Frame], spans: list[tuple[int, int]]) -> Iterator[tuple[int, list[Frame]]]:
    """Yield the number of the first frame and the frames of each segment."""
    position = 0
    for start, end in spans:
        yield start, list(itertools.islice(frames, start - position, end - position))
        position = end


def reopen(checkpoint: VideoCheckpoint, spans: list[tuple[int, int]], first: int, end: int) -> None:
    """Reopen the segments that contain a frame from `first` to before `end`."""
    for start, after in spans:
        if start < end and after > first:
            checkpoint.reopen(start)


def render_segment(
    rendering: Rendering,
    path: Path,
    suffix: str,
    start: int,
    frames: list[Frame],
    faces: dict[int, FrameFaces],
    new_faces: NewFaces,
) -> SegmentSummary:
    """Write a segment in which every face is replaced or covered, and return its counts.

    Carried faces that fail are generated, in `faces` and in `rendering.generated`. Generated faces
    that fail are added to `rendering.failed`, and faces that are detected only in the encoded
    segment to the tracks. Both may affect other segments.

    Raises:
        FaceNotHiddenError: if verification still fails after `MAX_PASSES`.
    """
    numbered = dict(enumerate(frames, start))
    while generate_failed(rendering, new_faces, faces, find_unchanged(numbered, faces)):
        pass
    for _ in range(MAX_PASSES):
        made = (
            Frame(compose(rendering, frame.pixels, faces[number], number), frame.pts)
            for number, frame in numbered.items()
        )
        write_segment(path, made, rendering.info, suffix)
        failed, found = check_segment(rendering, path, numbered, faces)
        if not failed and not found:
            return summarize(rendering, faces)
        generate_failed(rendering, new_faces, faces, failed)
        for number, box in found:
            rendering.cover_found(number, box)
    raise FaceNotHiddenError(
        f"A face in frames {start} to {start + len(frames) - 1} could not be anonymized; nothing is written."
    )


def find_unchanged(frames: dict[int, Frame], faces: dict[int, FrameFaces]) -> set[tuple[int, int]]:
    """Frame and track of new faces that do not change the pixels."""
    unchanged: set[tuple[int, int]] = set()
    for number, frame in frames.items():
        targets = faces[number].targets
        after = paste_all(frame.pixels, list(targets.values()))
        unchanged |= {(number, i) for i, target in targets.items() if not is_changed(frame.pixels, after, target)}
    return unchanged


def generate_failed(
    rendering: Rendering, new_faces: NewFaces, faces: dict[int, FrameFaces], failed: set[tuple[int, int]]
) -> bool:
    """Generate carried faces that failed; add generated ones to `rendering.failed`.

    Returns:
        Whether a face was generated.
    """
    carried = {place for place in failed if new_faces.is_carried(*place)}
    rendering.failed.update(failed - carried)
    # Near another failure, a face is covered.
    needed = sorted(place for place in carried if not is_near_failure(rendering, *place))
    for number, index in needed:
        faces[number].targets[index] = new_faces.generated(number, index)
    rendering.generated.update(needed)
    return bool(needed)


def summarize(rendering: Rendering, faces: dict[int, FrameFaces]) -> SegmentSummary:
    """Counts of a segment, and the tracks of its first and last frame: 1 covered, 0 replaced."""
    counts = Counter(failed=sum(number in faces for number, _ in rendering.failed))
    covers: list[dict[str, int]] = []
    for number in faces:
        plan = plan_frame(rendering, faces[number], number)
        counts["covered"] += len(plan.covered)
        counts["kept"] += len(plan.kept)
        counts["patched_frames"] += bool(plan.covered)
        for index in plan.replaced:
            states = rendering.tracks[index]
            counts["gaps" if states.states[number - states.first] == State.gap else "replaced"] += 1
        covers.append({str(i): 0 for i in plan.replaced} | {str(i): 1 for i in plan.covered})
    counts["switches"] = sum(count_switches(*pair) for pair in itertools.pairwise(covers))
    return {"counts": dict(counts), "first": covers[0], "last": covers[-1]}


def count_switches(before: dict[str, int], after: dict[str, int]) -> int:
    """Number of tracks that change between a new face and a cover from one frame to the next."""
    return sum(before.get(index, covered) != covered for index, covered in after.items())


def total_counts(checkpoint: VideoCheckpoint, spans: list[tuple[int, int]]) -> Counter[str]:
    """Counts of a video whose segments are all finished, see `VideoReport`."""
    summaries = [summary for start, _ in spans if (summary := checkpoint.summary(start)) is not None]
    totals = sum((Counter(summary["counts"]) for summary in summaries), start=Counter())
    totals["switches"] += sum(
        count_switches(one["last"], following["first"]) for one, following in itertools.pairwise(summaries)
    )
    totals["found"] = sum(1 for _ in checkpoint.lines("found.jsonl"))
    return totals
