"""`nullface anonymize`: photos with resume, report, contact sheet and dry run."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table

from nullface_pipeline.cli import options
from nullface_pipeline.cli.console import console, error_console, fail, notice, print_tiny_notice, show
from nullface_pipeline.cli.dry_run import preview_faces
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.loading import load_anonymizer, load_model
from nullface_pipeline.cli.photo_run import FolderRun, photo_arguments, read_picture
from nullface_pipeline.cli.progress import PhotoProgress
from nullface_pipeline.cli.stream import anonymize_stream
from nullface_pipeline.model_options import ModelOptions
from nullface_pipeline.photo_options import PhotoOptions
from nullface_pipeline.runs.messages import format_error, with_option_names


if TYPE_CHECKING:
    from nullface_pipeline.photo_folder import FoundPhotos
    from nullface_pipeline.runs.jobs import PhotoJob
    from nullface_pipeline.runs.records import ResultRecord
    from nullface_pipeline.runs.report import PhotoOutcome
    from nullface_pipeline.runs.resume import PreviousRun


@options.with_options(PhotoOptions, ModelOptions)
def anonymize(
    paths: options.Paths,
    output: options.Output,
    keep_mask: options.KeepMask = None,
    skip_face: options.SkipFace = None,
    on_failure: options.Failure = options.OnFailure.cover,
    seed: options.Seed = None,
    keep_metadata: options.KeepMetadata = False,
    report: options.Report = None,
    contact_sheet: options.ContactSheet = None,
    no_resume: options.NoResume = False,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    json: options.AsJson = False,
    quiet: options.Quiet = False,
    **values: Any,
) -> None:
    """Replace the faces in photos.

    A photo that cannot be anonymized is not written. To resume a stopped run,
    run the same command again.

    Exit code: 0 if every face is replaced and verified, 3 if some are covered
    instead, 4 if some photos were not written, 2 for wrong usage, 1 for other
    errors.
    """
    # Messages go to standard error if the result goes to standard output.
    console.quiet, console.stderr = quiet, str(output) == options.STREAM
    try:
        run = FolderRun(
            **photo_arguments(values, skip_face, on_failure, keep_mask),
            paths=paths,
            output=output,
            seed=seed,
            keep_metadata=keep_metadata,
            report=report,
            contact_sheet=contact_sheet,
            no_resume=no_resume,
            overwrite=overwrite,
            dry_run=dry_run,
            json=json,
        )
        if json and not dry_run:
            raise ValueError("--json needs --dry-run. Use --report FILE for a run.")
        code = anonymize_stream(run) if run.streams else _in_folder(run)
    except (OSError, TypeError, ValueError) as error:
        fail(error)
    raise typer.Exit(code)


def _in_folder(run: FolderRun) -> int:
    """Anonymize or preview photos on disk; returns the exit code."""
    from nullface_pipeline.runs.lock import hold_folder

    found, previous = _plan(run)
    with hold_folder(run.folder):
        previous.record.prepare()
        _check_other_files(run)
        code = (preview_faces if run.dry_run else _anonymize)(run, found.jobs, previous)
    _print_unsearched(found)
    return max(code, _print_skipped(found))


def _plan(run: FolderRun) -> "tuple[FoundPhotos, PreviousRun]":
    """Find the photos, check all paths that will be written, and read records of previous runs."""
    from nullface_pipeline.photo_files import VIDEO_TYPES
    from nullface_pipeline.photo_folder import search_photos
    from nullface_pipeline.photo_folder.planned_files import plan_written
    from nullface_pipeline.runs.paths import check_written
    from nullface_pipeline.runs.records import ResultRecord, record_path
    from nullface_pipeline.runs.report import read_report
    from nullface_pipeline.runs.resume import PreviousRun

    for path in run.paths:
        if Path(path).suffix.lower() in VIDEO_TYPES:
            raise ValueError(f"{path} is a video. Use `nullface video` for it.")
    found = search_photos(run.paths, run.folder, run.output if run.names_a_file else None)
    if not found.jobs:
        _print_unsearched(found)
        _print_skipped(found)
        raise ValueError(f"{', '.join(run.paths)}: no photos were found (.jpg, .png, .webp, .tif, .bmp or .heic).")
    _check_one_photo(run, found.jobs)
    record = record_path(run.folder)
    written = plan_written(found.jobs, run.folder, record, run.report, run.contact_sheet, run.dry_run)
    check_written(written, [*(job.source for job in found.jobs), *run.other_inputs])
    reported = None if run.report is None else read_report(run.report)
    return found, PreviousRun(ResultRecord(record), reported)


def _check_other_files(run: FolderRun) -> None:
    """Check that the report and the contact sheet can be written."""
    from nullface_pipeline.runs.atomic_files import check_appendable

    for option, path in (("--report", run.report), ("--contact-sheet", run.contact_sheet)):
        try:
            if path is not None:
                check_appendable(path)
        except OSError as error:
            raise OSError(f"{option} {path} cannot be written ({error.strerror}): choose another file.") from error


def _check_one_photo(run: FolderRun, jobs: "list[PhotoJob]") -> None:
    """Check the options about single photos: number of photos, numbered faces, size of the mask."""
    if run.single_photo_option is not None and len(jobs) > 1:
        raise ValueError(f"{run.single_photo_option} needs exactly one photo, but {len(jobs)} were found.")
    run.skip_numbers(jobs)
    mask = run.options.keep_mask
    if mask is not None:
        size = read_picture(jobs[0].source, "The photo").size
        if mask.size != size:
            raise ValueError(
                f"--keep-mask {run.keep_mask} has {mask.width} x {mask.height} pixels, but the upright photo has "
                f"{size[0]} x {size[1]}. Resize the mask."
            )


def _print_unsearched(found: "FoundPhotos") -> None:
    if found.unsearched:
        named = ", ".join(map(str, found.unsearched[:5])) + (", …" if len(found.unsearched) > 5 else "")
        notice(
            f"{len(found.unsearched)} linked or unreadable folder(s) were not searched: {named}. To include a folder, "
            "name it on the command line."
        )


def _print_skipped(found: "FoundPhotos") -> ExitCode:
    """Print the number of skipped files; exit code `refused` if some are unsupported pictures."""
    from nullface_pipeline.photo_files import UNREAD_PICTURES

    if not found.skipped:
        return ExitCode.ok
    counted = ", ".join(f"{count} {suffix or 'without a suffix'}" for suffix, count in sorted(found.skipped.items()))
    summary = f"{sum(found.skipped.values())} file(s) were skipped: {counted}."
    if not UNREAD_PICTURES & set(found.skipped):
        console.print(summary)
        return ExitCode.ok
    notice(f"{summary} Some are pictures in an unsupported format. Convert them to PNG or JPEG.")
    return ExitCode.refused


def _anonymize(run: FolderRun, jobs: "list[PhotoJob]", previous: "PreviousRun") -> int:
    """Anonymize the photos that are not finished yet; returns the exit code."""
    from nullface_pipeline.photo_folder import album_digest
    from nullface_pipeline.photo_folder.planned_files import check_no_previews, planned_pages
    from nullface_pipeline.runs.lock import remove_leftovers
    from nullface_pipeline.runs.resume import check_replaceable, split_jobs

    if not run.names_a_file:
        check_no_previews(run.folder, jobs)
    if run.contact_sheet is not None and not run.overwrite:
        check_replaceable(planned_pages(run.contact_sheet, len(jobs)), previous.record)
    made_by = album_digest(run.digest, jobs) if run.is_album else run.digest
    split = split_jobs(jobs, made_by, previous, not run.no_resume, run.overwrite)
    remove_leftovers({run.folder, *(job.output.parent for job in jobs)}, run.folder)
    outcomes = list(split.finished)
    for outcome in split.refused:
        _record_outcome(outcome, run)
        outcomes.append(outcome)
    if split.pending:
        outcomes += _anonymize_photos(run, jobs, split.pending, made_by, previous.record)
    console.print(outcomes_table(outcomes, run.model.model, run.options.identity))
    if split.finished:
        console.print(f"{len(split.finished)} finished before. Pass --no-resume to process them again.")
    if run.report is not None and run.report.resolve().is_relative_to(run.folder.resolve()):
        notice("The report is in the output folder and describes the originals: do not publish it.")
    if run.model.model == "tiny" and any(outcome.status != "refused" for outcome in outcomes):
        print_tiny_notice()
    if run.contact_sheet is not None:
        _write_contact_sheet(outcomes, run.contact_sheet, previous.record)
    return exit_code(outcomes)


def _anonymize_photos(
    run: FolderRun, jobs: "list[PhotoJob]", pending: "list[PhotoJob]", made_by: str, record: "ResultRecord"
) -> "list[PhotoOutcome]":
    """Anonymize photos; each outcome is reported once its result is on disk."""
    from nullface_pipeline.albums import find_people
    from nullface_pipeline.photo_folder import anonymize_photos, read_album

    pipe = load_model(run.model)
    # Consistent identities need the faces of all photos, also of finished ones.
    people = find_people(pipe.face_analyser, read_album(jobs)) if run.is_album else None
    progress = PhotoProgress(pipe, run.options, len(pending))
    anonymize_photo = load_anonymizer(pipe, run, people, run.skip_numbers(jobs), progress.on_faces)
    outcomes = anonymize_photos(anonymize_photo, pending, run.keep_metadata, made_by, record.add)
    results: "list[PhotoOutcome]" = []
    with progress.bar:
        for made in outcomes:
            outcome = replace(made, reason=with_option_names(made.reason))
            results.append(outcome)
            progress.on_photo(len(outcome.faces))
            _record_outcome(outcome, run)
            if run.on_failure is options.OnFailure.error and outcome.not_hidden:
                break
    return results


def _record_outcome(outcome: "PhotoOutcome", run: FolderRun) -> None:
    """Print a refused photo, and append the outcome to the report."""
    from nullface_pipeline.runs.report import append_to_report

    if outcome.status == "refused":
        error_console.print(f"[red]refused[/red] {show(f'{outcome.job.source}: {outcome.reason}')}", soft_wrap=True)
    if run.report is not None:
        append_to_report(run.report, outcome, run.options.identity)


def outcomes_table(outcomes: "list[PhotoOutcome]", model: str, identity: str) -> Table:
    """Numbers of photos and faces by outcome."""
    title = "nullface-tiny" if model == "tiny" else "photos"
    table = Table(f"{title}, {identity} identity", "photos", "faces")
    photos = Counter(outcome.status for outcome in outcomes)
    for status in ("anonymized", "covered", "refused", "done before"):
        faces = Counter(face.method for outcome in outcomes if outcome.status == status for face in outcome.faces)
        counted = ", ".join(f"{count} {method}" for method, count in sorted(faces.items()))
        table.add_row(status, str(photos[status]), show(counted))
    return table


def exit_code(outcomes: "list[PhotoOutcome]") -> int:
    statuses = {outcome.status for outcome in outcomes}
    if "refused" in statuses:
        return ExitCode.refused
    return ExitCode.covered if "covered" in statuses else ExitCode.ok


def _write_contact_sheet(outcomes: "list[PhotoOutcome]", path: Path, record: "ResultRecord") -> None:
    from nullface_pipeline.photo_files import PhotoFileError
    from nullface_pipeline.photo_folder.contact_sheet import write_contact_sheets

    try:
        for page in write_contact_sheets(outcomes, path):
            record.add_picture(page.read_bytes())
            console.print(f"Wrote {show(page)}.", soft_wrap=True)
    except (OSError, PhotoFileError) as error:
        fail(f"The contact sheet could not be written: {format_error(error)}.")
