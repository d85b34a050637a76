"""The segments of a video, one after the other: rendered, encoded, verified, and rendered again until nothing fails."""

from collections import Counter
from pathlib import Path

import numpy as np

from nullface_pipeline.photo_records import FaceNotHiddenError
from nullface_pipeline.video.checkpoint import VideoCheckpoint
from nullface_pipeline.video.compose import compose, plan_frame
from nullface_pipeline.video.new_faces import Segment, anonymize_targets, make_targets, windows
from nullface_pipeline.video.progress import ProgressCallback
from nullface_pipeline.video.reader import Frame, VideoInfo, read_frames
from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.states import State, TrackStates
from nullface_pipeline.video.targets import kept_tracks
from nullface_pipeline.video.verify import check_segment
from nullface_pipeline.video.writer import write_segment


# Bytes of pixels in one segment, and frames at least and at most.
SEGMENT_BYTES = 2**27
SEGMENT_FRAMES = (8, 64)

# How often a segment is made again. What is found then would be found for ever.
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
    """Render the unfinished segments, and reopen finished ones that the cover of a newly found face reaches."""
    for start, end, window in windows(read_frames(path), unfinished):
        known = len(rendering.tracks)
        segment = Segment(start, end, window)
        temporary = checkpoint.segment(start).with_suffix(".part")
        render_segment(rendering, temporary, suffix, segment)
        for states in rendering.tracks[known:]:
            # Reopened before the reason is written down: a run that is killed in between finds the face again.
            for other, after in spans:
                if other != start and other < states.end and after > states.first:
                    checkpoint.reopen(other)
            checkpoint.add_line("found.jsonl", [int(states.track.frames[0]), *states.track.boxes[0].tolist()])
        temporary.replace(checkpoint.segment(start))
        checkpoint.note(start, count(rendering, segment))
        on_progress("anonymizing", end, spans[-1][1])


def render_segment(rendering: Rendering, path: Path, suffix: str, segment: Segment) -> None:
    """Anonymize the faces of a segment and write it to a file that shows nobody; `segment` tells what was done.

    Faces that only the finished segment shows are added to the tracks; they may reach into segments that are finished.

    Raises:
        FaceNotHiddenError: if there is still something to cover after `MOST_PASSES`.
    """
    numbers = range(segment.start, segment.end)
    for number in numbers:
        kept = kept_tracks(rendering, number, segment.window[number].pixels)
        segment.kept |= {(number, index) for index in kept}
    make_targets(rendering, segment)
    anonymize_targets(rendering, segment)
    for _ in range(MOST_PASSES):
        made = (Frame(compose(rendering, segment, number), segment.window[number].pts) for number in numbers)
        write_segment(path, made, rendering.info, suffix)
        failed, found = check_segment(rendering, path, segment)
        if not failed and not found:
            return
        segment.failed |= failed
        for number, box in found:
            rendering.cover_found(number, box)
    raise FaceNotHiddenError(
        f"A face in the frames {segment.start} to {segment.end - 1} could not be hidden; nothing is written."
    )


def count(rendering: Rendering, segment: Segment) -> dict[str, int]:
    """What was done in a segment, see `VideoReport`."""
    counts = Counter(failed=len({place for place in segment.failed if segment.start <= place[0] < segment.end}))
    before: dict[int, bool] = {}
    for number in range(segment.start, segment.end):
        done = plan_frame(rendering, segment, number)
        counts["covered"] += len(done.covered)
        counts["kept"] += len(done.kept)
        counts["patched_frames"] += bool(done.covered)
        for index in done.replaced:
            counts[_word(rendering.tracks[index], number)] += 1
        now = dict.fromkeys(done.replaced, False) | dict.fromkeys(done.covered, True)
        counts["switches"] += sum(before.get(index, covered) != covered for index, covered in now.items())
        before = now
    return dict(counts)


def _word(states: TrackStates, number: int) -> str:
    return "gaps" if states.states[number - states.first] == State.gap else "replaced"


def count_found(checkpoint: VideoCheckpoint) -> int:
    """Number of faces that only the finished picture showed, also those of segments made again."""
    return sum(1 for _ in checkpoint.lines("found.jsonl"))
