"""`nullface anonymize`: files, patterns and folders, with resume, report, contact sheet and dry run."""

import os
import secrets
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from nullface_pipeline.cli.console import TINY_NOTICE, as_options, console, fail, notice, quiet_libraries, show, words
from nullface_pipeline.cli.options import (
    MAX_SEED,
    Dtype,
    OnFailure,
    Preset,
    finite,
    region_names,
    sheet_path,
    written_path,
)


if TYPE_CHECKING:
    from nullface_pipeline.photo_files import PhotoFile
    from nullface_pipeline.photo_folder import Earlier, FoundPhotos, PhotoJob, PhotoOutcome, ResultRecord
    from nullface_pipeline.photo_records import AnonymizedPhoto, PhotoOptions


@dataclass(frozen=True)
class Asked:
    """The command's arguments, as they are named there."""

    paths: list[str]
    output: Path
    model: str
    keep: str
    preset: Preset
    fast: bool
    device: str | None
    dtype: Dtype | None
    seed: int | None
    on_failure: OnFailure
    threshold: float | None
    accept_recognizable: bool
    opposite: bool
    detection_threshold: float
    min_face: float
    batch_faces: int
    keep_metadata: bool
    report: Path | None
    contact_sheet: Path | None
    resume: bool
    overwrite: bool
    dry_run: bool

    @cached_property
    def photo_options(self) -> "PhotoOptions":
        """What is asked of each photo, besides the seed and the preset's numbers, which depend on the model."""
        from nullface_pipeline.photo_records import PhotoOptions

        return PhotoOptions(
            keep=region_names(self.keep),
            similarity_threshold=self.threshold,
            accept_recognizable=self.accept_recognizable,
            opposite=self.opposite,
            min_face=self.min_face,
            on_failure="cover" if self.on_failure is OnFailure.cover else "error",
            batch_faces=self.batch_faces,
        )

    @property
    def digest(self) -> str:
        """Of all that decides on a result, but for the seed, see `options_digest`."""
        from nullface_pipeline.photo_folder import options_digest

        photo = self.photo_options
        return options_digest(
            {
                "model": self.model,
                "preset": self.preset,
                "fast": self.fast,
                "keep": sorted(photo.keep),
                "threshold": photo.similarity_threshold,
                "opposite": photo.opposite,
                "min_face": photo.min_face,
                "on_failure": photo.on_failure,
                "detection_threshold": self.detection_threshold,
                "keep_metadata": self.keep_metadata,
            }
        )


def anonymize(
    paths: Annotated[list[str], typer.Argument(help="Photos, folders of photos, and patterns in quotes.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", parser=written_path, help="Folder for the results; trees are mirrored in it."),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="tiny (in the package), sd15, sdxl, or a folder or Hub name of a Stable Diffusion 1.5 or XL model."
        ),
    ] = "tiny",
    keep: Annotated[str, typer.Option(help="Regions to leave as they are, with commas: eyes,mouth.")] = "",
    preset: Annotated[
        Preset, typer.Option(help="How far the new face is from the old one; fast and preview: standard in few steps.")
    ] = Preset.standard,
    fast: Annotated[
        bool, typer.Option("--fast", help="Nearly the same in 7 steps, about four times as fast, with any preset.")
    ] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; what there is by default.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="What suits the processor by default.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=MAX_SEED, help="Same seed, same faces; a secret one by default.")
    ] = None,
    on_failure: Annotated[
        OnFailure,
        typer.Option(help="A face that cannot be hidden: cover it, leave its photo out, or stop there."),
    ] = OnFailure.cover,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=-1.0, max=1.0, callback=finite, help="Similarity from which on a result still is the person."
        ),
    ] = None,
    accept_recognizable: Annotated[
        bool, typer.Option("--accept-recognizable", help="Allow a --threshold with which recognizable results pass.")
    ] = False,
    opposite: Annotated[
        bool, typer.Option("--opposite", help="The paper's way: straight away from the person, with less work.")
    ] = False,
    detection_threshold: Annotated[
        float, typer.Option(min=0.05, max=0.95, callback=finite, help="Lowest score that counts as a face.")
    ] = 0.3,
    min_face: Annotated[
        float, typer.Option(min=0.0, max=1e6, callback=finite, help="Cover faces smaller than this many pixels.")
    ] = 0.0,
    batch_faces: Annotated[int, typer.Option(min=1, max=1024, help="Faces in one batch.")] = 8,
    keep_metadata: Annotated[bool, typer.Option(help="Keep the EXIF, GPS included; never its thumbnail.")] = False,
    report: Annotated[
        Path | None, typer.Option(parser=written_path, help="Append one JSON line a photo to this file.")
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(parser=sheet_path, help="Write small pictures of the results to this PNG or JPEG file."),
    ] = None,
    resume: Annotated[
        bool, typer.Option(help="Leave out photos that were done before, with the same options.")
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that no run is known to have made.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only look for faces, and write previews with these covered.")
    ] = False,
) -> None:
    """Anonymize photos.

    Exit code: 0 if every face is verified, 2 if some are covered instead, 3 if some photos were refused, 1 for wrong
    usage. A photo that cannot be anonymized is not written. What was done before counts by its line in the report.
    """
    asked = Asked(**locals())
    from nullface_pipeline.photo_folder import hold_folder

    try:
        # Options first: they need no disk.
        asked.photo_options
        found, earlier = _plan(asked)
        # Known wrong before the folder is made or a model loaded.
        _check_keep(asked)
        with hold_folder(asked.output):
            earlier.record.prepare()
            code = (_preview if asked.dry_run else _anonymize)(asked, found.jobs, earlier)
    except (OSError, TypeError, ValueError) as error:
        fail(as_options(words(error)))
    _tell_unsearched(found)
    raise typer.Exit(code)


def _plan(asked: Asked) -> "tuple[FoundPhotos, Earlier]":
    """The photos, and what earlier runs said; nothing is written before all paths are known and compared."""
    from nullface_pipeline.photo_folder import (
        Earlier,
        ResultRecord,
        check_written,
        plan_written,
        read_report,
        record_path,
        search_photos,
    )

    found = search_photos(asked.paths, asked.output)
    if not found.jobs:
        _tell_unsearched(found)
        raise ValueError("There are no photos in what was named.")
    record = record_path(asked.output)
    written = plan_written(found.jobs, asked.output, record, asked.report, asked.contact_sheet, asked.dry_run)
    check_written(written, [job.source for job in found.jobs])
    reported = None if asked.report is None else read_report(asked.report)
    return found, Earlier(ResultRecord(record), reported)


def _check_keep(asked: Asked) -> None:
    if asked.photo_options.keep:
        from nullface_pipeline.face_parsing import check_kept_regions

        check_kept_regions(asked.photo_options.keep)


def _tell_unsearched(found: "FoundPhotos") -> None:
    if found.unsearched:
        named = ", ".join(map(str, found.unsearched[:5])) + (", …" if len(found.unsearched) > 5 else "")
        notice(
            f"{len(found.unsearched)} linked or unreadable folder(s) were not searched: {named}. Name those that are "
            "wanted."
        )


def _anonymize(asked: Asked, jobs: "list[PhotoJob]", earlier: "Earlier") -> int:
    """Whatever is not done yet; returns the exit code."""
    from nullface_pipeline.photo_folder import remove_leftovers, split_jobs
    from nullface_pipeline.photo_folder.paths import planned_pages
    from nullface_pipeline.photo_folder.resume import check_no_previews, check_replaceable

    check_no_previews(asked.output, jobs)
    if asked.contact_sheet is not None and not asked.overwrite:
        check_replaceable(planned_pages(asked.contact_sheet, len(jobs)), earlier.record)
    split = split_jobs(jobs, asked.digest, earlier, asked.resume, asked.overwrite)
    remove_leftovers({asked.output, *(job.output.parent for job in jobs)}, asked.output)
    outcomes = list(split.finished)
    for outcome in split.refused:
        _tell(outcome, asked.report)
        outcomes.append(outcome)
    if split.pending:
        outcomes += _run(asked, split.pending, earlier.record)
    console.print(outcomes_table(outcomes))
    if split.finished:
        console.print(f"{len(split.finished)} done before; --no-resume does them again.")
    if asked.report is not None and asked.report.resolve().is_relative_to(asked.output.resolve()):
        notice("The report lies among the results and tells of the originals: do not publish it with them.")
    if asked.contact_sheet is not None:
        _write_contact_sheet(outcomes, asked.contact_sheet, earlier.record)
    return exit_code(outcomes)


def _run(asked: Asked, jobs: "list[PhotoJob]", record: "ResultRecord") -> "list[PhotoOutcome]":
    """Go through the photos; each is reported once it is on the disk."""
    from nullface_pipeline.photo_folder import anonymize_photos

    pipe = _load(asked)
    outcomes = anonymize_photos(_face_hider(pipe, asked), jobs, asked.keep_metadata, asked.digest, record.add)
    results: "list[PhotoOutcome]" = []
    faces = 0
    with _progress() as progress:
        task = progress.add_task("photos", total=len(jobs), faces=0)
        for outcome in outcomes:
            results.append(outcome)
            faces += len(outcome.faces)
            progress.update(task, advance=1, faces=faces)
            _tell(outcome, asked.report)
            if asked.on_failure is OnFailure.error and outcome.not_hidden:
                break
    return results


def _tell(outcome: "PhotoOutcome", report: Path | None) -> None:
    """A line on the console for a refused photo, and one in the report for any."""
    from nullface_pipeline.photo_folder import append_to_report

    if outcome.status == "refused":
        line = f"{outcome.job.source}: {outcome.reason}"
        console.print(f"[red]refused[/red] {show(line)}", soft_wrap=True)
    if report is not None:
        append_to_report(report, outcome)


def _load(asked: Asked) -> Any:
    import torch

    from nullface_pipeline.model_sets import load_model_set

    quiet_libraries()
    if asked.model == "tiny":
        console.print(TINY_NOTICE, soft_wrap=True)
    dtype = None if asked.dtype is None else getattr(torch, asked.dtype)
    try:
        return load_model_set(asked.model, asked.device, dtype, asked.detection_threshold)
    # Libraries raise what they like for a device or a model that is not there.
    except Exception as error:
        fail(f"The model {asked.model!r} could not be loaded: {words(error).splitlines()[0]}")


def _face_hider(pipe: Any, asked: Asked) -> "Callable[[PhotoFile, str], AnonymizedPhoto]":
    from nullface_pipeline.model_sets import preset_settings
    from nullface_pipeline.photo import check_pipeline
    from nullface_pipeline.photo_folder import anonymize_file

    options = replace(asked.photo_options, **preset_settings(asked.model, asked.preset, asked.fast))
    try:
        check_pipeline(pipe, options)
    except (RuntimeError, TypeError, ValueError) as error:
        fail(as_options(words(error)))
    # Whoever knows the seed can make the same result of a photo, and so recognize it.
    seed = secrets.randbits(62) if asked.seed is None else asked.seed

    def hide_faces(file: "PhotoFile", name: str) -> "AnonymizedPhoto":
        # A photo's noise depends on its name, not on which others are run with it, so that a resumed run is the same.
        return anonymize_file(pipe, file, replace(options, seed=seed + zlib.crc32(os.fsencode(name))))

    return hide_faces


def _progress() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[faces]} faces"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console)


def outcomes_table(outcomes: "list[PhotoOutcome]") -> Table:
    """How many photos and faces came to which end."""
    table = Table("", "photos", "faces")
    photos = Counter(outcome.status for outcome in outcomes)
    for status in ("anonymized", "covered", "refused", "done before"):
        faces = Counter(face.method for outcome in outcomes if outcome.status == status for face in outcome.faces)
        counted = ", ".join(f"{count} {method}" for method, count in sorted(faces.items()))
        table.add_row(status, str(photos[status]), show(counted))
    return table


def exit_code(outcomes: "list[PhotoOutcome]") -> int:
    """3 if a photo was refused, else 2 if a face is covered, else 0."""
    statuses = {outcome.status for outcome in outcomes}
    return 3 if "refused" in statuses else 2 if "covered" in statuses else 0


def _write_contact_sheet(outcomes: "list[PhotoOutcome]", path: Path, record: "ResultRecord") -> None:
    from nullface_pipeline.photo_files import PhotoFileError
    from nullface_pipeline.photo_folder.contact_sheet import write_contact_sheets

    try:
        for page in write_contact_sheets(outcomes, path):
            record.add_picture(page.read_bytes())
            console.print(f"Wrote {show(page)}.", soft_wrap=True)
    except (OSError, PhotoFileError) as error:
        fail(f"The contact sheet could not be written: {words(error)}")


def _preview(asked: Asked, jobs: "list[PhotoJob]", earlier: "Earlier") -> int:
    """Look for faces only; returns the exit code."""
    from nullface_pipeline.model_sets import load_detector
    from nullface_pipeline.photo_folder.paths import planned_previews
    from nullface_pipeline.photo_folder.resume import check_only_previews, check_replaceable

    check_only_previews(asked.output)
    if not asked.overwrite:
        check_replaceable(planned_previews(jobs), earlier.record)
    quiet_libraries()
    try:
        detector = load_detector(asked.model, asked.detection_threshold)
    except (ImportError, RuntimeError) as error:
        fail(words(error))
    table = Table("photo", "faces", "sizes in px", "preview")
    refused = sum(not _add_preview(table, detector, job, earlier.record) for job in jobs)
    console.print(table)
    console.print("A dry run: nothing was anonymized. A face that a preview shows uncovered would be missed.")
    return 3 if refused else 0


def _add_preview(table: Table, detector: Any, job: "PhotoJob", record: "ResultRecord") -> bool:
    """One row of the table; returns whether there is a preview."""
    from nullface_pipeline.photo_files import PhotoFileError
    from nullface_pipeline.photo_folder.preview import write_preview
    from nullface_pipeline.photo_folder.run import in_words
    from nullface_pipeline.photo_records import PhotoRefusedError

    try:
        faces, preview = write_preview(detector, job)
    # Previews that cannot be written are no matter of one photo.
    except OSError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, (PhotoFileError, PhotoRefusedError)) else in_words(error)
        table.add_row(show(job.source), "", "", f"[red]refused:[/red] {show(reason)}")
        return False
    record.add_picture(preview.read_bytes())
    sizes = ", ".join(f"{face.longer_side:.0f}" for face in faces)
    table.add_row(show(job.source), str(len(faces)), sizes, show(preview))
    return True
