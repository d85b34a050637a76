"""One video from its file to its result: look, link, render, join. Each step goes on where a stopped run left it."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from nullface_pipeline.albums import group_people, person_embeddings
from nullface_pipeline.face_identity import same_person_similarity
from nullface_pipeline.photo import check_pipeline, read_references
from nullface_pipeline.photo_options import PhotoOptions
from nullface_pipeline.photo_records import NoFaceFoundError
from nullface_pipeline.protocols import FaceAnalyser, NullFacePipeline
from nullface_pipeline.runs.atomic_files import whole_file
from nullface_pipeline.video.look import Look, embed_frames, look
from nullface_pipeline.video.reader import VideoInfo, read_frames, read_info
from nullface_pipeline.video.render import (
    Piece,
    Rendering,
    decide,
    needed_strength,
    probe_frame,
    probe_frames,
    render_piece,
    windows,
)
from nullface_pipeline.video.shots import find_shots
from nullface_pipeline.video.states import SHORTEST, State, TrackStates, track_states
from nullface_pipeline.video.tracks import Track, find_hiders, find_hosts, link_faces
from nullface_pipeline.video.work import Work
from nullface_pipeline.video.writer import check_audio, join_segments


# Bytes of pixels in one piece, and frames at least and at most.
PIECE_BYTES = 2**27
PIECE_FRAMES = (8, 64)

# Told the step, how far it has come, and how far it goes if that is known.
Tell = Callable[[str, int, int | None], None]


def tell_nobody(step: str, done: int, total: int | None) -> None:
    """For whoever does not want to know."""


@dataclass(frozen=True, eq=False)
class LinkedVideo:
    """What is known of a video before anything is changed.

    Attributes:
        times (`np.ndarray`): (N,) seconds, of each frame.
        shots (`list[tuple[int, int]]`): first frame, and the frame after the last.
    """

    path: Path
    info: VideoInfo
    seen: Look
    times: np.ndarray
    shots: list[tuple[int, int]]
    tracks: list[Track]


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
        anonymized (`int`): faces that were found, replaced and verified.
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
    anonymized: int
    gaps: int
    kept: int
    covered: int
    failed: int
    found: int
    patched_frames: int
    switches: int
    covered_tracks: tuple[CoveredTrack, ...] = ()


def link_video(analyser: FaceAnalyser, path: Path, work: Work, tell: Tell = tell_nobody) -> LinkedVideo:
    """Find the faces of a video and who they are.

    Raises:
        NoFaceFoundError: if it shows none.
        VideoError: if it is refused.
    """
    info = read_info(path)
    told = iter(range(1, 2**62))
    seen = look(path, analyser, work.folder, lambda: tell("looking", next(told), None))
    if not len(seen.faces):
        raise NoFaceFoundError(
            "No face was found in the video, so nothing was anonymized and nothing is written. Lower the detection threshold "
            "if it shows one."
        )
    times = seen.frames["pts"].astype(np.float64) * float(info.time_base)
    shots = find_shots(seen.frames["changes"])
    embeddings = embed_frames(path, analyser, seen)
    tracks = link_faces(seen, shots, times, embeddings, same_person_similarity(analyser))
    return LinkedVideo(path, info, seen, times, shots, tracks)


def anonymize_video(
    pipe: NullFacePipeline,
    video: LinkedVideo,
    output: Path,
    options: PhotoOptions,
    work: Work,
    audio: str = "none",
    identities: Sequence[np.ndarray] | None = None,
    before_writing: Callable[[Path], None] = lambda path: None,
    tell: Tell = tell_nobody,
) -> VideoReport:
    """Anonymize every face of a video, and write it once it is whole.

    Args:
        pipe (`StableDiffusionNullFacePipeline`): with adapter and face models.
        options (`PhotoOptions`): as for photos, but always straight away from the person; see `check_video_options`. Who agreed to be seen is left as he is in
            those frames that show him surely, see `kept_tracks`.
        audio (`str`): one of `AUDIO`, see `join_segments`.
        identities (`Sequence[np.ndarray]`, *optional*): (512,) for each track: whom its new face is to be unlike. By
            default all that the track shows of the person.
        before_writing (`Callable`): is told the finished file before it gets its name.

    Raises:
        FaceNotHiddenError, VideoError: if nothing can be written.
        RuntimeError, TypeError, ValueError: as `pipe.anonymize`.
    """
    check_video_options(options)
    check_pipeline(pipe, options)
    skip_faces = read_references(pipe.face_analyser, options.skip_faces)
    # A track has one identity, which no single frame decides on.
    options = replace(options, skip_faces=skip_faces, identity="opposite")
    suffix = output.suffix.lower()
    check_audio(video.path, audio, suffix)
    rendering = plan(pipe, video, options, work, identities, tell)
    spans = piece_spans(video.info, len(video.times))
    while unfinished := [span for span in spans if work.counts(span[0]) is None]:
        render_pieces(rendering, video.path, suffix, unfinished, spans, work, tell)
    with whole_file(output) as temporary:
        pieces = [work.piece(start) for start, _ in spans]
        join_segments(temporary, pieces, video.path, audio, suffix)
        before_writing(temporary)
    totals = sum((Counter(work.counts(start)) for start, _ in spans), start=Counter())
    totals["found"] = count_found(work)
    counted = {name: totals[name] for name in COUNTED}
    return VideoReport(
        len(video.times), len(video.tracks), **counted, covered_tracks=tuple(find_covered_tracks(rendering))
    )


def find_covered_tracks(rendering: Rendering) -> Iterator[CoveredTrack]:
    """The tracks that get no new face in any frame, but for parts of other faces."""
    for index, states in enumerate(rendering.tracks):
        is_part = index < len(rendering.hosts) and rendering.hosts[index] is not None
        if is_part or (states.states != State.covered).any():
            continue
        start, end = rendering.times[states.first], rendering.times[states.end - 1]
        score = float(states.track.scores.max())
        reason = cover_reason(states.track, rendering.options.min_face, index >= len(rendering.hosts))
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


COUNTED = ("anonymized", "gaps", "kept", "covered", "failed", "found", "patched_frames", "switches")


def check_video_options(options: PhotoOptions) -> None:
    """That nothing is asked that only makes sense for a photo; raises ValueError."""
    if options.keep_mask is not None or options.people is not None or options.on_failure != "cover":
        raise ValueError("`keep_mask`, `people` and `on_failure='error'` are for photos, not for videos.")
    if any(isinstance(person, tuple) for person in options.skip_faces):
        raise ValueError("A box of `skip_faces` is for one photo: for a video give reference photos.")


def plan(
    pipe: NullFacePipeline,
    video: LinkedVideo,
    options: PhotoOptions,
    work: Work,
    identities: Sequence[np.ndarray] | None,
    tell: Tell,
) -> Rendering:
    """What happens to each track in each frame, how strong, and what an earlier run found besides."""
    hosts = find_hosts(video.tracks)
    others = find_hiders(video.tracks, hosts)
    states = [
        track_states(track, video.times, near, render=host is None and track.size >= options.min_face)
        for track, near, host in zip(video.tracks, others, hosts)
    ]
    identities = [track.embedding for track in video.tracks] if identities is None else list(identities)
    none = [0] * len(states)
    trial = Rendering(pipe, options, work.seed, video.info, video.times, video.shots, states, identities, none, hosts)
    strengths = find_strengths(trial, video.path, work, tell)
    tracks = [
        one if strength is not None else track_states(one.track, video.times, near, render=False)
        for one, near, strength in zip(states, others, strengths)
    ]
    rendering = replace(trial, tracks=tracks, strengths=[strength or 0 for strength in strengths])
    for number, *box in work.lines("found.jsonl"):
        rendering.cover_found(int(number), np.array(box))
    return rendering


def find_strengths(rendering: Rendering, path: Path, work: Work, tell: Tell) -> list[int | None]:
    """How strong each track has to be; None where it cannot be anonymized."""
    wanted: dict[int, list[int]] = {}
    for index, states in enumerate(rendering.tracks):
        for number in probe_frames(states):
            wanted.setdefault(number, []).append(index)
    probes: list[list[int | None]] = [[] for _ in rendering.tracks]
    done = dict(work.lines("probes.jsonl"))
    pending = set(wanted) - set(done)
    if pending:
        for number, frame in enumerate(read_frames(path)):
            if number in pending:
                needed = probe_frame(rendering, number, frame.pixels, wanted[number])
                done[number] = list(needed.items())
                work.add_line("probes.jsonl", [number, done[number]])
                tell("probing", len(done), len(wanted))
            if number >= max(pending):
                break
    for number in wanted:
        for index, attempt in done[number]:
            probes[index].append(attempt)
    return [needed_strength(found) for found in probes]


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


def count_found(work: Work) -> int:
    """Number of faces that only the finished picture showed, also those of segments made again."""
    return sum(1 for _ in work.lines("found.jsonl"))


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


def one_face_a_person(videos: Sequence[LinkedVideo], same_person: float) -> list[list[np.ndarray]]:
    """For each video, whom each track's new face is to be unlike, if a person is to get one face in all of them.

    Args:
        same_person (`float`): similarity from which on two faces are taken for one person.
    """
    tracks = [(number, track) for number, video in enumerate(videos) for track in video.tracks]
    embeddings = [track.embedding for _, track in tracks]
    apart = np.array([[one == other and overlap_in_time(a, b) for other, b in tracks] for one, a in tracks])
    groups = group_people(embeddings, apart, same_person)
    people = dict(zip(np.unique(groups), person_embeddings(embeddings, groups)))
    identities: list[list[np.ndarray]] = [[] for _ in videos]
    for (number, _), group in zip(tracks, groups):
        identities[number].append(people[group])
    return identities


def overlap_in_time(first: Track, second: Track) -> bool:
    """Whether two tracks of one video show two people at once."""
    return bool(np.isin(first.frames, second.frames).any())
