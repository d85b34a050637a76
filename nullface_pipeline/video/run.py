"""Anonymization of one video file in one call."""

import os
from pathlib import Path
from typing import Any

from nullface_pipeline.face_identity import same_person_similarity
from nullface_pipeline.photo_options import PhotoOptions, content
from nullface_pipeline.photo_records import OptionError
from nullface_pipeline.protocols import NullFacePipeline
from nullface_pipeline.runs.digests import options_digest
from nullface_pipeline.runs.lock import hold_folder
from nullface_pipeline.runs.paths import WrittenFile, check_written
from nullface_pipeline.video.checkpoint import VideoFile, open_checkpoint, removed_if_refused
from nullface_pipeline.video.linking import ProgressCallback, consistent_identities, link_video, no_progress
from nullface_pipeline.video.render import check_video_options, render_video
from nullface_pipeline.video.report import VideoReport
from nullface_pipeline.video.writer import AUDIO, FORMATS


def anonymize_video(
    pipe: NullFacePipeline,
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    seed: int | None = None,
    audio: str = "none",
    on_progress: ProgressCallback = no_progress,
    **options: Any,
) -> VideoReport:
    """Anonymize every face of a video.

    To resume a stopped call, repeat it with the same arguments. Until then its checkpoint, a hidden
    folder, stays beside the output.

    Args:
        pipe (`StableDiffusionNullFacePipeline`): pipeline with adapter and face models.
        path (`str` or `Path`): video to read.
        output (`str` or `Path`): file to write: MP4, M4V, MOV or WebM. An existing file is
            replaced.
        seed (`int`, *optional*): seed of the noise, random by default.
        audio (`str`): "none", or "keep" to copy the audio.
        on_progress (`Callable[[str, int, int | None], None]`, *optional*): called with the step,
            the number of frames done, and their total if it is known.
        **options: fields of [`PhotoOptions`]. `identity` is "opposite" (default) or "consistent",
            with which a person has one new face in all shots. `keep_mask`, `people`,
            `on_failure="error"` and boxes in `skip_faces` are for photos only.

    Returns:
        `VideoReport`: number of faces replaced, kept and covered.

    Raises:
        NoFaceFoundError: if no face is found.
        VideoError: if the video is damaged, of an unsupported kind, or changed during the run.
        FaceNotHiddenError: if a face can neither be replaced nor covered.
        BlockingIOError: if another run writes to the folder of the output.
        RuntimeError, TypeError, ValueError: as `pipe.anonymize`.
    """
    path, output = Path(path), Path(output)
    given = PhotoOptions.from_arguments({"identity": "opposite", **options})
    check_video_options(given)
    _check_arguments(path, output, audio, given)
    digest = options_digest(
        {
            **content(given),
            "batch_faces": given.batch_faces,
            "audio": audio,
            "pipeline": f"{type(pipe).__name__} {getattr(pipe, 'name_or_path', '')}",
            "detection_threshold": float(pipe.face_analyser.det_model.det_thresh),
            "verifier": given.verifier is not None,
        }
    )
    with hold_folder(output.parent), removed_if_refused(output):
        file = VideoFile.open(path)
        checkpoint = open_checkpoint(file, output, digest, seed)
        video = link_video(pipe.face_analyser, path, checkpoint, on_progress)
        identities = None
        if given.identity == "consistent":
            (identities,) = consistent_identities([video], same_person_similarity(pipe.face_analyser))
        report = render_video(
            pipe,
            video,
            output,
            given,
            checkpoint,
            audio,
            identities,
            before_writing=lambda _: file.check_unchanged(),
            on_progress=on_progress,
        )
        checkpoint.remove()
    return report


def _check_arguments(path: Path, output: Path, audio: str, options: PhotoOptions) -> None:
    if audio not in AUDIO:
        raise OptionError("audio", f"must be one of {', '.join(AUDIO)}, got {audio!r}.")
    if output.suffix.lower() not in FORMATS:
        raise OptionError("output", f"must end in {', '.join(FORMATS)}, got {output}.")
    references = [person for person in options.skip_faces if isinstance(person, Path)]
    check_written([WrittenFile(output, "the result", "choose another output")], [path, *references])
