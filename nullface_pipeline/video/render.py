"""Last pass over a video: replace or cover every face, and write the result."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from nullface_pipeline.photo import check_pipeline, read_references
from nullface_pipeline.photo_options import VIDEO_IDENTITIES, PhotoOptions
from nullface_pipeline.photo_records import OptionError
from nullface_pipeline.protocols import NullFacePipeline
from nullface_pipeline.runs.atomic_files import restrict_mode, whole_file
from nullface_pipeline.video.checkpoint import VideoCheckpoint
from nullface_pipeline.video.linking import LinkedVideo, ProgressCallback, no_progress
from nullface_pipeline.video.rendering import Rendering
from nullface_pipeline.video.report import COUNTED, VideoReport, find_covered_tracks
from nullface_pipeline.video.segments import render_segments, segment_spans, total_counts
from nullface_pipeline.video.states import track_states
from nullface_pipeline.video.strengths import find_strengths
from nullface_pipeline.video.tracks import find_occluders, find_parent_tracks
from nullface_pipeline.video.writer import check_audio, join_segments


def render_video(
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
    """Replace or cover every face of a linked video, and write the result.

    Args:
        pipe (`StableDiffusionNullFacePipeline`): pipeline with adapter and face models.
        options (`PhotoOptions`): options of each face, see `check_video_options`.
        audio (`str`): one of `AUDIO`, see `join_segments`.
        identities (`Sequence[np.ndarray]`, *optional*): (512,) float32 identity to move away from,
            for each track; by default the embedding of the track. The consistent identity needs
            those of `consistent_identities`.
        before_writing (`Callable`): called with the path of the complete temporary file before it
            is renamed to `output`.

    Raises:
        FaceNotHiddenError, VideoError: if the video is refused.
        RuntimeError, TypeError, ValueError: as `pipe.anonymize`.
    """
    check_video_options(options)
    if options.identity == "consistent" and identities is None:
        raise OptionError("identity", '"consistent" needs `identities`.')
    # The consistent identity of a video is the opposite of an identity that several tracks share.
    options = replace(options, identity="opposite")
    check_pipeline(pipe, options)
    options = replace(options, skip_faces=read_references(pipe.face_analyser, options.skip_faces))
    suffix = output.suffix.lower()
    check_audio(video.path, audio, suffix)
    rendering = plan(pipe, video, options, checkpoint, identities, on_progress)
    spans = segment_spans(video.info, len(video.times))
    while unfinished := [span for span in spans if checkpoint.summary(span[0]) is None]:
        render_segments(rendering, video.path, suffix, unfinished, spans, checkpoint, on_progress)
    with whole_file(output) as temporary:
        segments = [checkpoint.segment(start) for start, _ in spans]
        join_segments(temporary, segments, video.path, audio, suffix)
        restrict_mode(temporary, video.path)
        before_writing(temporary)
    totals = total_counts(checkpoint, spans)
    counted = {name: totals[name] for name in COUNTED}
    return VideoReport(
        len(video.times),
        len(video.tracks),
        **counted,
        identity="opposite" if identities is None else "consistent",
        covered_tracks=tuple(find_covered_tracks(rendering)),
    )


def check_video_options(options: PhotoOptions) -> None:
    """Raise `ValueError` if an option does not apply to videos."""
    if options.identity not in VIDEO_IDENTITIES:
        raise OptionError(
            "identity", f"must be one of {', '.join(VIDEO_IDENTITIES)} for a video, got {options.identity}."
        )
    if options.keep_mask is not None or options.people is not None or options.on_failure != "cover":
        raise ValueError(
            "`keep_mask`, `people` and `on_failure='error'` are for photos, not for videos. Leave them out."
        )
    if any(isinstance(person, tuple) for person in options.skip_faces):
        raise ValueError("Boxes in `skip_faces` are for photos. For a video, pass reference photos.")


def plan(
    pipe: NullFacePipeline,
    video: LinkedVideo,
    options: PhotoOptions,
    checkpoint: VideoCheckpoint,
    identities: Sequence[np.ndarray] | None,
    on_progress: ProgressCallback,
) -> Rendering:
    """Plan the video: state and strength of each track, and the covers that a stopped run added."""
    parents = find_parent_tracks(video.tracks)
    others = find_occluders(video.tracks, parents)
    states = [
        track_states(track, video.times, near, render=parent is None and track.size >= options.min_face)
        for track, near, parent in zip(video.tracks, others, parents)
    ]
    identities = [track.embedding for track in video.tracks] if identities is None else list(identities)
    trial = Rendering(
        pipe,
        options,
        checkpoint.seed,
        video.info,
        video.times,
        video.shots,
        states,
        identities,
        [0] * len(states),
        parents,
    )
    strengths = find_strengths(trial, video.path, checkpoint, on_progress)
    tracks = [
        one if strength is not None else track_states(one.track, video.times, near, render=False)
        for one, near, strength in zip(states, others, strengths)
    ]
    rendering = replace(trial, tracks=tracks, strengths=[strength or 0 for strength in strengths])
    for number, *box in checkpoint.lines("found.jsonl"):
        rendering.cover_found(int(number), np.array(box))
    for name, places in (("failed", rendering.failed), ("generated", rendering.generated)):
        places.update((number, index) for number, index in checkpoint.lines(f"{name}.jsonl"))
    return rendering
