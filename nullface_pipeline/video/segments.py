"""The segments of a video, one after the other: rendered, encoded, verified, and rendered again until nothing fails."""

from collections import Counter
from pathlib import Path

import numpy as np

from nullface_pipeline.photo_records import FaceNotHiddenError
from nullface_pipeline.video.compose import compose, decide
from nullface_pipeline.video.new_faces import Piece, anonymize_targets, make_targets, windows
from nullface_pipeline.video.progress import Tell
from nullface_pipeline.video.reader import Frame, VideoInfo, read_frames
from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.states import State, TrackStates
from nullface_pipeline.video.targets import kept_tracks
from nullface_pipeline.video.verify import look_again
from nullface_pipeline.video.work import Work
from nullface_pipeline.video.writer import write_segment


# Bytes of pixels in one piece, and frames at least and at most.
PIECE_BYTES = 2**27
PIECE_FRAMES = (8, 64)

# How often a piece is made again. What is found then would be found for ever.
MOST_PASSES = 5


def piece_spans(info: VideoInfo, frames: int) -> list[tuple[int, int]]:
    """The pieces of a video: (first frame, frame after the last), as long as their pixels fit into memory."""
    length = int(np.clip(PIECE_BYTES // (3 * info.width * info.height), *PIECE_FRAMES))
    return [(start, min(start + length, frames)) for start in range(0, frames, length)]


def render_pieces(
    rendering: Rendering,
    path: Path,
    suffix: str,
    unfinished: list[tuple[int, int]],
    spans: list[tuple[int, int]],
    work: Work,
    tell: Tell,
) -> None:
    """Render the unfinished segments, and reopen finished ones that the cover of a newly found face reaches."""
    for start, end, window in windows(read_frames(path), unfinished):
        known = len(rendering.tracks)
        piece = Piece(start, end, window)
        temporary = work.piece(start).with_suffix(".part")
        render_piece(rendering, temporary, suffix, piece)
        for states in rendering.tracks[known:]:
            # Reopened before the reason is written down: a run that is killed in between finds the face again.
            for other, after in spans:
                if other != start and other < states.end and after > states.first:
                    work.reopen(other)
            work.add_line("found.jsonl", [int(states.track.frames[0]), *states.track.boxes[0].tolist()])
        temporary.replace(work.piece(start))
        work.note(start, count(rendering, piece))
        tell("anonymizing", end, spans[-1][1])


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


def count(rendering: Rendering, piece: Piece) -> dict[str, int]:
    """What was done in a piece, see `VideoReport`."""
    counts = Counter(failed=len({place for place in piece.failed if piece.start <= place[0] < piece.end}))
    before: dict[int, bool] = {}
    for number in range(piece.start, piece.end):
        done = decide(rendering, piece, number)
        counts["covered"] += len(done.covered)
        counts["kept"] += len(done.kept)
        counts["patched_frames"] += bool(done.covered)
        for index in done.hidden:
            counts[_word(rendering.tracks[index], number)] += 1
        now = dict.fromkeys(done.hidden, False) | dict.fromkeys(done.covered, True)
        counts["switches"] += sum(before.get(index, covered) != covered for index, covered in now.items())
        before = now
    return dict(counts)


def _word(states: TrackStates, number: int) -> str:
    return "gaps" if states.states[number - states.first] == State.gap else "anonymized"


def count_found(work: Work) -> int:
    """Number of faces that only the finished picture showed, also those of segments made again."""
    return sum(1 for _ in work.lines("found.jsonl"))
