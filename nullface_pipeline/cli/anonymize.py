"""`nullface anonymize`: files, patterns and folders, with resume, report, contact sheet and dry run."""

import os
import secrets
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import PIL.Image
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from nullface_pipeline.cli.console import TINY_NOTICE, console, fail, quiet_libraries, show


if TYPE_CHECKING:
    from nullface_pipeline.photo_folder import PhotoJob, PhotoOutcome
    from nullface_pipeline.photo_records import AnonymizedPhoto


SHEET_SUFFIXES = (".png", ".jpg", ".jpeg")


class Dtype(StrEnum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Preset(StrEnum):
    light = "light"
    standard = "standard"
    strong = "strong"


class OnFailure(StrEnum):
    cover = "cover"
    skip_file = "skip-file"
    error = "error"


def anonymize(
    paths: Annotated[list[str], typer.Argument(help="Photos, folders of photos, and patterns in quotes.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; trees are mirrored in it.")],
    model: Annotated[
        str, typer.Option(help="tiny (in the package), sd15, or a folder or Hub name of a Stable Diffusion 1.5 model.")
    ] = "tiny",
    keep: Annotated[str, typer.Option(help="Regions to leave as they are, with commas: eyes,mouth.")] = "",
    preset: Annotated[Preset, typer.Option(help="How far the new face is from the old one.")] = Preset.standard,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; what there is by default.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="float16 on a GPU and float32 on a CPU by default.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same faces; a secret one by default.")] = None,
    on_failure: Annotated[
        OnFailure,
        typer.Option(help="A face that cannot be hidden: cover it, leave its photo out, or stop there."),
    ] = OnFailure.cover,
    threshold: Annotated[
        float | None, typer.Option(help="Similarity from which on a result still is the person; by recognizer.")
    ] = None,
    detection_threshold: Annotated[float, typer.Option(help="Lowest score that counts as a face.")] = 0.3,
    min_face: Annotated[float, typer.Option(help="Cover faces smaller than this many pixels.")] = 0.0,
    batch_faces: Annotated[int, typer.Option(help="Faces in one batch.")] = 8,
    keep_metadata: Annotated[bool, typer.Option(help="Keep the EXIF, GPS included; never its thumbnail.")] = False,
    report: Annotated[Path | None, typer.Option(help="Append one JSON line a photo to this file.")] = None,
    contact_sheet: Annotated[
        Path | None, typer.Option(help="Write small pictures of the results to this PNG or JPEG file.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Leave out photos that the output folder has already.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only look for faces, and write previews with these covered.")
    ] = False,
) -> None:
    """Anonymize photos.

    Exit code: 0 if every face is verified, 2 if some are covered instead, 3 if some photos were refused, 1 for wrong
    usage. A photo that cannot be anonymized is not written. What was done before counts by its line in the report.
    """
    from nullface_pipeline.photo_folder import anonymize_photos, find_photos, split_finished

    try:
        jobs = find_photos(paths, output)
        if not jobs:
            fail("There are no photos in what was named.")
        if dry_run:
            raise typer.Exit(_preview(jobs, model, detection_threshold))
        _check_written_files(jobs, report, contact_sheet)
        finished, jobs = split_finished(jobs, report) if resume else ([], jobs)
        output.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        fail(str(error))
    outcomes = list(finished)
    if jobs:
        from nullface_pipeline.model_sets import preset_settings

        pipe = _load(model, device, dtype, detection_threshold)
        settings: dict[str, Any] = {
            **preset_settings(model, preset),
            "keep": tuple(name.strip() for name in keep.split(",") if name.strip()),
            "similarity_threshold": threshold,
            "min_face": min_face,
            "on_failure": "cover" if on_failure is OnFailure.cover else "error",
            "batch_faces": batch_faces,
        }
        hide_faces = _face_hider(pipe, seed, settings)
        outcomes += _run(anonymize_photos(hide_faces, jobs, keep_metadata), len(jobs), report, on_failure)
    console.print(outcomes_table(outcomes))
    if finished:
        console.print(f"{len(finished)} done before; --no-resume does them again.")
    if contact_sheet is not None:
        _write_contact_sheet(outcomes, contact_sheet)
    raise typer.Exit(exit_code(outcomes))


def _load(model: str, device: str | None, dtype: Dtype | None, detection_threshold: float) -> Any:
    import torch

    from nullface_pipeline.model_sets import load_model_set

    quiet_libraries()
    if model == "tiny":
        console.print(TINY_NOTICE, soft_wrap=True)
    try:
        return load_model_set(model, device, None if dtype is None else getattr(torch, dtype), detection_threshold)
    except (OSError, RuntimeError, ValueError) as error:
        fail(f"The model {model!r} could not be loaded: {str(error).splitlines()[0]}")


def _check_written_files(jobs: "list[PhotoJob]", report: Path | None, contact_sheet: Path | None) -> None:
    """Before anything is computed: whether the report and the contact sheet can be what they are to be."""
    from nullface_pipeline.photo_folder import read_report

    photos = {job.source.resolve() for job in jobs}
    for path in (report, contact_sheet):
        if path is not None:
            if path.resolve() in photos:
                raise ValueError(f"{path} is one of the photos; name another file.")
            path.parent.mkdir(parents=True, exist_ok=True)
    if report is not None:
        read_report(report)
    if contact_sheet is not None and contact_sheet.suffix.lower() not in SHEET_SUFFIXES:
        raise ValueError(f"--contact-sheet takes a {' or '.join(SHEET_SUFFIXES)} file, not {contact_sheet}.")


def _face_hider(
    pipe: Any, seed: int | None, settings: dict[str, Any]
) -> "Callable[[PIL.Image.Image, str], AnonymizedPhoto]":
    from nullface_pipeline.photo import check_pipeline
    from nullface_pipeline.photo_records import PhotoOptions

    try:
        options = PhotoOptions(**settings)
        check_pipeline(pipe, options)
    except (RuntimeError, TypeError, ValueError) as error:
        fail(str(error))
    # Whoever knows the seed can make the same result of a photo, and so recognize it.
    seed = secrets.randbits(62) if seed is None else seed

    def hide_faces(photo: PIL.Image.Image, name: str) -> "AnonymizedPhoto":
        # A photo's noise depends on its name, not on which others are run with it, so that a resumed run is the same.
        return pipe.anonymize(photo, options, seed=seed + zlib.crc32(os.fsencode(name)))

    return hide_faces


def _run(
    outcomes: "Iterator[PhotoOutcome]", total: int, report: Path | None, on_failure: OnFailure
) -> "list[PhotoOutcome]":
    """Go through the photos; each is recorded once it is on the disk."""
    from nullface_pipeline.photo_folder import append_to_report

    results: "list[PhotoOutcome]" = []
    faces = 0
    with _progress() as progress:
        task = progress.add_task("photos", total=total, faces=0)
        try:
            for outcome in outcomes:
                results.append(outcome)
                faces += len(outcome.faces)
                progress.update(task, advance=1, faces=faces)
                if outcome.status == "refused":
                    line = f"{outcome.job.source}: {outcome.reason}"
                    progress.console.print(f"[red]refused[/red] {show(line)}", soft_wrap=True)
                if report is not None:
                    append_to_report(report, outcome)
                if on_failure is OnFailure.error and outcome.not_hidden:
                    break
        except (OSError, ValueError, RuntimeError) as error:
            fail(str(error))
    return results


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
        table.add_row(status, str(photos[status]), counted)
    return table


def exit_code(outcomes: "list[PhotoOutcome]") -> int:
    """3 if a photo was refused, else 2 if a face is covered, else 0."""
    statuses = {outcome.status for outcome in outcomes}
    return 3 if "refused" in statuses else 2 if "covered" in statuses else 0


def _write_contact_sheet(outcomes: "list[PhotoOutcome]", path: Path) -> None:
    from nullface_pipeline.photo_files import PhotoFileError
    from nullface_pipeline.photo_folder.contact_sheet import write_contact_sheets

    try:
        for page in write_contact_sheets(outcomes, path):
            console.print(f"Wrote {show(page)}.", soft_wrap=True)
    except (OSError, PhotoFileError) as error:
        fail(f"The contact sheet could not be written: {error}")


def _preview(jobs: "list[PhotoJob]", model: str, detection_threshold: float) -> int:
    """Look for faces only; returns the exit code."""
    from nullface_pipeline.model_sets import load_detector
    from nullface_pipeline.photo_files import PhotoFileError
    from nullface_pipeline.photo_folder.preview import write_preview

    quiet_libraries()
    try:
        detector = load_detector(model, detection_threshold)
    except (ImportError, RuntimeError) as error:
        fail(str(error))
    table, refused = Table("photo", "faces", "sizes in px", "preview"), 0
    for job in jobs:
        try:
            faces, preview = write_preview(detector, job)
            sizes = ", ".join(f"{face.longer_side:.0f}" for face in faces)
            table.add_row(show(str(job.source)), str(len(faces)), sizes, show(str(preview)))
        except PhotoFileError as error:
            table.add_row(show(str(job.source)), "", "", f"[red]refused:[/red] {show(str(error))}")
            refused += 1
    console.print(table)
    console.print("A dry run: nothing was anonymized. A face that a preview shows uncovered would be missed.")
    return 3 if refused else 0
