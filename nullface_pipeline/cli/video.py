"""`nullface video`: anonymize videos one after the other, with resume."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

from nullface_pipeline.cli import options
from nullface_pipeline.cli.console import console, error_console, fail, print_tiny_notice, show
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.loading import load_model
from nullface_pipeline.cli.photo_run import photo_arguments
from nullface_pipeline.cli.progress import make_progress
from nullface_pipeline.model_options import ModelOptions
from nullface_pipeline.photo_options import VIDEO_IDENTITIES, PhotoOptions, content
from nullface_pipeline.photo_records import PhotoRefusedError
from nullface_pipeline.protocols import NullFacePipeline
from nullface_pipeline.runs.messages import format_error, with_option_names


if TYPE_CHECKING:
    import numpy as np

    from nullface_pipeline.runs.jobs import PhotoJob
    from nullface_pipeline.runs.records import ResultRecord
    from nullface_pipeline.video import LinkedVideo, VideoCheckpoint, VideoFile, VideoReport


class Audio(StrEnum):
    none = "none"
    keep = "keep"


AudioName = Annotated[
    Audio,
    typer.Option(
        metavar="none|keep", help="Remove or copy the sound, voices included.", rich_help_panel=options.FILES
    ),
]


@dataclass(frozen=True, eq=False)
class DetectedVideo:
    """A video with its face tracks and its checkpoint."""

    file: "VideoFile"
    linked: "LinkedVideo"
    checkpoint: "VideoCheckpoint"


@dataclass(frozen=True, kw_only=True)
class VideoRun:
    """Arguments of `nullface video`."""

    videos: list[Path]
    output: Path
    options: PhotoOptions
    model: ModelOptions
    audio: Audio
    seed: int | None
    no_resume: bool
    overwrite: bool

    @property
    def is_album(self) -> bool:
        """Whether each person gets the same new face in all videos."""
        return self.options.identity == "consistent"

    @cached_property
    def digest(self) -> str:
        """Hash of all arguments that results depend on except the seed, and of an album."""
        from nullface_pipeline.runs.digests import file_digest, options_digest

        return options_digest(
            {
                **content(self.options),
                **content(self.model),
                "audio": self.audio,
                "album": sorted(file_digest(video) or "" for video in self.videos) if self.is_album else None,
                "batch_faces": self.options.batch_faces,
            }
        )


@options.with_options(PhotoOptions, ModelOptions, identity=VIDEO_IDENTITIES)
def video(
    videos: Annotated[
        list[Path], typer.Argument(metavar="VIDEOS", help="Videos: MP4, MOV, WebM, MKV, AVI, MPEG, FLV, WMV, Ogg.")
    ],
    output: Annotated[Path, options.output_option("Folder for the results.")],
    skip_face: options.SkipPerson = None,
    seed: options.Seed = None,
    audio: AudioName = Audio.none,
    no_resume: options.NoResume = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    **values: Any,
) -> None:
    """Replace the faces in videos.

    Every face is replaced and verified in every frame, or covered. To resume a
    stopped run, run the same command again.

    Exit code: 0 if every face is replaced and verified, 3 if some are covered
    instead, 4 if some videos were refused, 2 for wrong usage, 1 for other
    errors.
    """
    console.quiet = quiet
    from nullface_pipeline.runs.lock import hold_folder

    try:
        arguments = photo_arguments(values, list(skip_face or ()))
        run = VideoRun(
            videos=videos,
            output=output,
            options=arguments["options"],
            model=arguments["model"],
            audio=audio,
            seed=seed,
            no_resume=no_resume,
            overwrite=overwrite,
        )
        jobs = find_jobs(run.videos, run.output, skip_face or [])
        with hold_folder(run.output):
            code = _anonymize(run, jobs)
    except (OSError, PhotoRefusedError, TypeError, ValueError) as error:
        fail(error)
    raise typer.Exit(code)


def find_jobs(videos: list[Path], output: Path, references: list[Path]) -> "list[PhotoJob]":
    """Find the output path of each video.

    Raises:
        ValueError: if a video does not exist, or two results have the same path.
        VideoError: if PyAV is not installed.
    """
    from nullface_pipeline.photo_files import is_photo_name

    for path in videos:
        if not path.exists():
            raise ValueError(f"{path} does not exist.")
        if not path.is_file():
            raise ValueError(f"{path} is not a file. Pass video files, as in clips/*.mp4.")
        if is_photo_name(path.name):
            raise ValueError(f"{path} is a photo. Use `nullface anonymize` for it.")
    # Imported late, because it takes seconds.
    from nullface_pipeline.runs.jobs import PhotoJob, planned_results
    from nullface_pipeline.runs.paths import check_written
    from nullface_pipeline.video import output_suffix
    from nullface_pipeline.video.reader import import_av

    import_av()
    jobs = [PhotoJob(path, output / f"{path.stem}{output_suffix(path)}") for path in dict.fromkeys(videos)]
    check_written(planned_results(jobs), [*(job.source for job in jobs), *references])
    return jobs


def _anonymize(run: VideoRun, jobs: "list[PhotoJob]") -> int:
    """Anonymize the videos that are not finished yet; returns the exit code."""
    from nullface_pipeline.runs.lock import remove_leftovers
    from nullface_pipeline.runs.records import ResultRecord, record_path
    from nullface_pipeline.runs.resume import PreviousRun, split_jobs

    record = ResultRecord(record_path(run.output))
    record.prepare()
    split = split_jobs(jobs, run.digest, PreviousRun(record, None), not run.no_resume, run.overwrite)
    remove_leftovers({run.output}, run.output)
    for outcome in split.refused:
        _refuse(outcome.job, outcome.reason)
    reports = _anonymize_videos(run, split.pending, jobs, record) if split.pending else {}
    _print_reports(reports, run.model.model)
    if split.finished:
        console.print(f"{len(split.finished)} finished before. Pass --no-resume to process them again.")
    if run.model.model == "tiny" and reports:
        print_tiny_notice()
    refused = len(split.refused) + len(split.pending) - len(reports)
    if refused:
        return ExitCode.refused
    return ExitCode.covered if any(report.covered for report in reports.values()) else ExitCode.ok


def _refuse(job: "PhotoJob", reason: str) -> None:
    line = f"{job.source}: {with_option_names(reason)}"
    error_console.print(f"[red]refused[/red] {show(line)}", soft_wrap=True)


def _anonymize_videos(
    run: VideoRun, pending: "list[PhotoJob]", jobs: "list[PhotoJob]", record: "ResultRecord"
) -> "dict[PhotoJob, VideoReport]":
    """Anonymize the pending videos; refused ones are printed and excluded."""
    pipe = load_model(run.model)
    face_options = _with_model(pipe, run)
    reports: "dict[PhotoJob, VideoReport]" = {}
    with _progress() as progress:
        if not run.is_album:
            for job in pending:
                if (detected := _detect(run, pipe, job, progress)) is not None:
                    _render(run, pipe, face_options, job, detected, None, record, reports, progress)
            return reports
        # Consistent identities need the faces of all videos, also of finished ones.
        videos = {job: detected for job in jobs if (detected := _detect(run, pipe, job, progress)) is not None}
        for job, identities in zip(videos, _identities(pipe, [each.linked for each in videos.values()])):
            if job in pending:
                _render(run, pipe, face_options, job, videos[job], identities, record, reports, progress)
            else:
                videos[job].checkpoint.remove()
    return reports


def _with_model(pipe: NullFacePipeline, run: VideoRun) -> PhotoOptions:
    """Options with the loaded verifier and threshold. On failure, print an error and exit."""
    from nullface_pipeline.photo_files.anonymize import with_loaded_models

    try:
        # `render_video` gets the identity of each track; "consistent" would need `people`.
        return with_loaded_models(pipe, replace(run.options, identity="opposite"), run.model.verifier)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        fail(error)


def _detect(run: VideoRun, pipe: NullFacePipeline, job: "PhotoJob", progress: Progress) -> DetectedVideo | None:
    """Detect the faces of one video and link them to tracks; None if it is refused."""
    from nullface_pipeline.video import VideoFile, link_video, open_checkpoint

    with _refusals(job):
        file = VideoFile.open(job.source)
        checkpoint = open_checkpoint(file, job.output, run.digest, run.seed)
        linked = link_video(pipe.face_analyser, job.source, checkpoint, _progress_callback(progress, job))
        return DetectedVideo(file, linked, checkpoint)
    return None


@contextlib.contextmanager
def _refusals(job: "PhotoJob") -> Iterator[None]:
    """Context that refuses the video if an error other than an `OSError` is raised."""
    from nullface_pipeline.video import removed_if_refused

    try:
        with removed_if_refused(job.output):
            yield
    except OSError:
        raise
    except Exception as error:
        known = isinstance(error, PhotoRefusedError)
        _refuse(job, str(error) if known else f"It could not be processed. {format_error(error)}.")


def _identities(pipe: NullFacePipeline, linked: "list[LinkedVideo]") -> "list[list[np.ndarray]]":
    from nullface_pipeline.face_identity import same_person_similarity
    from nullface_pipeline.video import consistent_identities

    return consistent_identities(linked, same_person_similarity(pipe.face_analyser))


def _render(
    run: VideoRun,
    pipe: NullFacePipeline,
    face_options: PhotoOptions,
    job: "PhotoJob",
    detected: DetectedVideo,
    identities: "list[np.ndarray] | None",
    record: "ResultRecord",
    reports: "dict[PhotoJob, VideoReport]",
    progress: Progress,
) -> None:
    """Render one video, and record the hash of the result before the file appears."""
    from nullface_pipeline.runs.digests import ResultHashes, file_digest
    from nullface_pipeline.video import render_video

    def record_result(path: Path) -> None:
        detected.file.check_unchanged()
        record.add(ResultHashes(detected.file.sha256, run.digest, file_digest(path) or ""))

    on_progress = _progress_callback(progress, job)
    with _refusals(job):
        reports[job] = render_video(
            pipe,
            detected.linked,
            job.output,
            face_options,
            detected.checkpoint,
            run.audio.value,
            identities,
            record_result,
            on_progress,
        )
        detected.checkpoint.remove()


def _progress_callback(progress: Progress, job: "PhotoJob") -> Callable[[str, int, int | None], None]:
    task = progress.add_task(show(job.source.name), total=None, step="")
    current = ""

    def on_progress(step: str, done: int, total: int | None) -> None:
        nonlocal current
        if step != current:
            # Each step has its own rate and remaining time.
            progress.reset(task, total=total, step=step)
            current = step
        progress.update(task, completed=done, total=total, step=step)

    return on_progress


def _progress() -> Progress:
    return make_progress("{task.fields[step]}", MofNCompleteColumn(), rate="frames", transient=True)


def _print_reports(reports: "dict[PhotoJob, VideoReport]", model: str) -> None:
    """Print one table per video."""
    made_with = " (nullface-tiny, a demonstration)" if model == "tiny" else ""
    for job, report in reports.items():
        share = f"{report.patched_frames} ({100 * report.patched_frames / max(report.frames, 1):.0f} %)"
        rows = {
            "frames": report.frames,
            "tracks": report.tracks,
            "faces replaced": report.replaced,
            "faces replaced in short gaps": report.gaps,
            "faces kept": report.kept,
            "regions covered": report.covered,
            "frames with a cover": share,
        }
        table = Table(box=None, show_header=False, padding=(0, 2))
        for name, value in rows.items():
            table.add_row(name, str(value))
        # `soft_wrap` keeps a long path in one line.
        console.print(f"{show(job.output)}{made_with}, {report.identity} identity", soft_wrap=True)
        console.print(table)
        for track in report.covered_tracks:
            box = ",".join(f"{corner:.0f}" for corner in track.box)
            console.print(
                f"  covered from {track.start:.1f} to {track.end:.1f} s, first at {box} (score {track.score:.2f}): "
                f"{show(with_option_names(track.reason))}",
                soft_wrap=True,
            )
