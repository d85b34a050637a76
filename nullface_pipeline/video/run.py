"""One video from its file to its result: look, link, render, join. Each step goes on where a stopped run left it."""

from collections.abc import Callable, Sequence
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
from nullface_pipeline.video.checkpoint import VideoCheckpoint
from nullface_pipeline.video.detections import Detections, detect_faces, embed_frames
from nullface_pipeline.video.progress import ProgressCallback, no_progress
from nullface_pipeline.video.reader import VideoInfo, read_info
from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.report import COUNTED, VideoReport, find_covered_tracks
from nullface_pipeline.video.segments import render_segments, segment_spans, total_counts
from nullface_pipeline.video.shots import find_shots
from nullface_pipeline.video.states import track_states
from nullface_pipeline.video.strengths import find_strengths
from nullface_pipeline.video.tracks import Track, find_occluders, find_parent_tracks, link_faces
from nullface_pipeline.video.writer import check_audio, join_segments


@dataclass(frozen=True, eq=False)
class LinkedVideo:
    """What is known of a video before anything is changed.

    Attributes:
        times (`np.ndarray`): (N,) seconds, of each frame.
        shots (`list[tuple[int, int]]`): first frame, and the frame after the last.
    """

    path: Path
    info: VideoInfo
    seen: Detections
    times: np.ndarray
    shots: list[tuple[int, int]]
    tracks: list[Track]


def link_video(
    analyser: FaceAnalyser, path: Path, checkpoint: VideoCheckpoint, on_progress: ProgressCallback = no_progress
) -> LinkedVideo:
    """Find the faces of a video and who they are.

    Raises:
        NoFaceFoundError: if it shows none.
        VideoError: if it is refused.
    """
    info = read_info(path)
    told = iter(range(1, 2**62))
    seen = detect_faces(path, analyser, checkpoint.folder, lambda: on_progress("looking", next(told), None))
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
    checkpoint: VideoCheckpoint,
    audio: str = "none",
    identities: Sequence[np.ndarray] | None = None,
    before_writing: Callable[[Path], None] = lambda path: None,
    on_progress: ProgressCallback = no_progress,
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
    rendering = plan(pipe, video, options, checkpoint, identities, on_progress)
    spans = segment_spans(video.info, len(video.times))
    while unfinished := [span for span in spans if checkpoint.summary(span[0]) is None]:
        render_segments(rendering, video.path, suffix, unfinished, spans, checkpoint, on_progress)
    with whole_file(output) as temporary:
        segments = [checkpoint.segment(start) for start, _ in spans]
        join_segments(temporary, segments, video.path, audio, suffix)
        before_writing(temporary)
    totals = total_counts(checkpoint, spans)
    counted = {name: totals[name] for name in COUNTED}
    return VideoReport(
        len(video.times), len(video.tracks), **counted, covered_tracks=tuple(find_covered_tracks(rendering))
    )


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
    checkpoint: VideoCheckpoint,
    identities: Sequence[np.ndarray] | None,
    on_progress: ProgressCallback,
) -> Rendering:
    """What happens to each track in each frame, how strong, and what an earlier run found besides."""
    parents = find_parent_tracks(video.tracks)
    others = find_occluders(video.tracks, parents)
    states = [
        track_states(track, video.times, near, render=parent is None and track.size >= options.min_face)
        for track, near, parent in zip(video.tracks, others, parents)
    ]
    identities = [track.embedding for track in video.tracks] if identities is None else list(identities)
    none = [0] * len(states)
    trial = Rendering(
        pipe, options, checkpoint.seed, video.info, video.times, video.shots, states, identities, none, parents
    )
    strengths = find_strengths(trial, video.path, checkpoint, on_progress)
    tracks = [
        one if strength is not None else track_states(one.track, video.times, near, render=False)
        for one, near, strength in zip(states, others, strengths)
    ]
    rendering = replace(trial, tracks=tracks, strengths=[strength or 0 for strength in strengths])
    for number, *box in checkpoint.lines("found.jsonl"):
        rendering.cover_found(int(number), np.array(box))
    rendering.failed.update((number, index) for number, index in checkpoint.lines("failed.jsonl"))
    return rendering


def consistent_identities(videos: Sequence[LinkedVideo], same_person: float) -> list[list[np.ndarray]]:
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
