"""`nullface video`: videos, one after the other, each resumed where it was stopped."""

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
from nullface_pipeline.cli.console import console, error_console, fail, show, tell_demonstration
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.loading import load_model
from nullface_pipeline.cli.photo_run import photo_arguments
from nullface_pipeline.cli.progress import make_progress
from nullface_pipeline.model_options import ModelOptions
from nullface_pipeline.photo_options import VIDEO_IDENTITIES, PhotoOptions, content
from nullface_pipeline.photo_records import PhotoRefusedError
from nullface_pipeline.protocols import NullFacePipeline


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
    typer.Option(metavar="NAME", help="none, or keep: copy the sound.", rich_help_panel=options.FILES),
]


@dataclass(frozen=True, eq=False)
class LookedAt:
    """A video whose faces are linked."""

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
        """Whether a person gets one new face in all videos."""
        return self.options.identity == "consistent"

    @cached_property
    def digest(self) -> str:
        """Hash of all arguments that results depend on, but for the seed; of an album also of the other videos."""
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
    output: Annotated[
        Path,
        typer.Option("--output", "-o", parser=options.path, metavar="FOLDER", help="Folder for the results."),
    ],
    skip_face: options.SkipPerson = None,
    seed: options.Seed = None,
    audio: AudioName = Audio.none,
    no_resume: options.NoResume = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    **values: Any,
) -> None:
    """Replace the faces in videos.

    Every face is replaced and verified in every frame, or covered. A stopped
    run goes on where it was if it is given again.

    Exit code: 0 if nothing is covered, 3 if something is, 4 if some videos were
    refused, 2 for wrong usage, 1 for other errors.
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
    """Where the result of each video goes.

    Raises:
        ValueError: if one does not exist, or two would be written to one place.
        VideoError: if PyAV is not installed.
    """
    from nullface_pipeline.photo_files import is_photo_name

    for path in videos:
        if not path.is_file():
            raise ValueError(f"{path} is no file: name the videos themselves, as in clips/*.mp4.")
        if is_photo_name(path.name):
            raise ValueError(f"{path} is a photo: give it to `nullface anonymize`.")
    # Only now, because it takes seconds.
    from nullface_pipeline.runs.jobs import PhotoJob, planned_results
    from nullface_pipeline.runs.paths import check_written
    from nullface_pipeline.video import output_suffix
    from nullface_pipeline.video.reader import import_av

    import_av()
    jobs = [PhotoJob(path, output / f"{path.stem}{output_suffix(path)}") for path in dict.fromkeys(videos)]
    check_written(planned_results(jobs), [*(job.source for job in jobs), *references])
    return jobs


def _anonymize(run: VideoRun, jobs: "list[PhotoJob]") -> int:
    """Whatever is not done yet; returns the exit code."""
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
        console.print(f"{len(split.finished)} done before; --no-resume does them again.")
    if run.model.model == "tiny" and reports:
        tell_demonstration()
    refused = len(split.refused) + len(split.pending) - len(reports)
    if refused:
        return ExitCode.refused
    return ExitCode.covered if any(report.covered for report in reports.values()) else ExitCode.ok


def _refuse(job: "PhotoJob", reason: str) -> None:
    error_console.print(f"[red]refused[/red] {show(f'{job.source}: {reason}')}", soft_wrap=True)


def _anonymize_videos(
    run: VideoRun,
    pending: "list[PhotoJob]",
    jobs: "list[PhotoJob]",
    record: "ResultRecord",
) -> "dict[PhotoJob, VideoReport]":
    """Look at the videos and anonymize them; those that are refused are told and left out."""
    pipe = load_model(run.model)
    face_options = _with_model(pipe, run)
    reports: "dict[PhotoJob, VideoReport]" = {}
    with _progress() as progress:
        if not run.is_album:
            for job in pending:
                if (linked := _look(run, pipe, job, progress)) is not None:
                    _finish(run, pipe, face_options, job, linked, None, record, reports, progress)
            return reports
        # Who is who is only known once all have been looked at, also those that are done.
        looked = {job: linked for job in jobs if (linked := _look(run, pipe, job, progress)) is not None}
        for job, identities in zip(looked, _identities(pipe, [each.linked for each in looked.values()])):
            if job in pending:
                _finish(run, pipe, face_options, job, looked[job], identities, record, reports, progress)
            else:
                looked[job].checkpoint.remove()
    return reports


def _with_model(pipe: NullFacePipeline, run: VideoRun) -> PhotoOptions:
    """The options with all that depends on the model, or one line and exit code 1."""
    from nullface_pipeline.photo_files.anonymize import with_loaded_models

    try:
        # The identity of each track is passed to `render_video`; `people` are those of an album of photos.
        return with_loaded_models(pipe, replace(run.options, identity="opposite"), run.model.verifier)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        fail(error)


def _look(run: VideoRun, pipe: NullFacePipeline, job: "PhotoJob", progress: Progress) -> LookedAt | None:
    """Link the faces of one video; None if it is refused."""
    from nullface_pipeline.video import VideoFile, link_video, open_checkpoint

    with _refusals(job):
        file = VideoFile.open(job.source)
        checkpoint = open_checkpoint(file, job.output, run.digest, run.seed)
        linked = link_video(pipe.face_analyser, job.source, checkpoint, _teller(progress, job))
        return LookedAt(file, linked, checkpoint)
    return None


@contextlib.contextmanager
def _refusals(job: "PhotoJob") -> Iterator[None]:
    """Refuse the video if it or a library raises an error, and continue with the others. A failing disk ends the run."""
    from nullface_pipeline.runs.messages import format_error
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


def _finish(
    run: VideoRun,
    pipe: NullFacePipeline,
    face_options: PhotoOptions,
    job: "PhotoJob",
    looked: LookedAt,
    identities: "list[np.ndarray] | None",
    record: "ResultRecord",
    reports: "dict[PhotoJob, VideoReport]",
    progress: Progress,
) -> None:
    """Render one video, and write down what the result is before it appears."""
    from nullface_pipeline.runs.digests import ResultHashes, file_digest
    from nullface_pipeline.video import render_video

    def note(finished: Path) -> None:
        looked.file.check_unchanged()
        record.add(ResultHashes(looked.file.sha256, run.digest, file_digest(finished) or ""))

    on_progress = _teller(progress, job)
    with _refusals(job):
        reports[job] = render_video(
            pipe,
            looked.linked,
            job.output,
            face_options,
            looked.checkpoint,
            run.audio.value,
            identities,
            note,
            on_progress,
        )
        looked.checkpoint.remove()


def _teller(progress: Progress, job: "PhotoJob") -> Callable[[str, int, int | None], None]:
    task = progress.add_task(show(job.source.name), total=None, step="")
    present = ""

    def on_progress(step: str, done: int, total: int | None) -> None:
        nonlocal present
        if step != present:
            # Each step has a rate and a remaining time of its own.
            progress.reset(task, total=total, step=step)
            present = step
        progress.update(task, completed=done, total=total, step=step)

    return on_progress


def _progress() -> Progress:
    return make_progress("{task.fields[step]}", MofNCompleteColumn(), rate="frames", transient=True)


def _print_reports(reports: "dict[PhotoJob, VideoReport]", model: str) -> None:
    """One table a video, one row a figure."""
    made_with = " (nullface-tiny, a demonstration)" if model == "tiny" else ""
    for job, report in reports.items():
        share = f"{report.patched_frames} ({100 * report.patched_frames / max(report.frames, 1):.0f} %)"
        rows = {
            "frames": report.frames,
            "tracks": report.tracks,
            "faces replaced": report.replaced,
            "faces replaced in short gaps": report.gaps,
            "faces kept": report.kept,
            "places covered": report.covered,
            "frames with a cover": share,
        }
        table = Table(box=None, show_header=False, padding=(0, 2))
        for name, value in rows.items():
            table.add_row(name, str(value))
        # A path is not broken over lines, however long it is.
        console.print(f"{show(job.output)}{made_with}, {report.identity} identity", soft_wrap=True)
        console.print(table)
        for track in report.covered_tracks:
            box = ",".join(f"{corner:.0f}" for corner in track.box)
            console.print(
                f"  covered from {track.start:.1f} to {track.end:.1f} s, first at {box} (score {track.score:.2f}): "
                f"{show(options.with_option_names(track.reason))}",
                soft_wrap=True,
            )
