"""Paths of the files that a run over folders writes."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from nullface_pipeline.photo_files import is_photo_name
from nullface_pipeline.runs.jobs import PhotoJob, planned_results
from nullface_pipeline.runs.lock import LOCK_NAME
from nullface_pipeline.runs.paths import WrittenFile


PREVIEW_SUFFIX = ".preview.png"
SHEET_SIZE = 36


def plan_written(
    jobs: Sequence[PhotoJob],
    output: Path,
    record: Path,
    report: Path | None = None,
    contact_sheet: Path | None = None,
    dry_run: bool = False,
) -> list[WrittenFile]:
    """Files that a run writes, or may write."""
    files = planned_previews(jobs) if dry_run else planned_results(jobs)
    other = "choose another output folder"
    files += [WrittenFile(output / LOCK_NAME, "the lock of the output folder", other)]
    files += [WrittenFile(record, "the record of finished photos", other)]
    if report is not None:
        files.append(WrittenFile(report, "the report", "choose another file with --report"))
    return files + ([] if contact_sheet is None else planned_pages(contact_sheet, len(jobs)))


def planned_previews(jobs: Iterable[PhotoJob]) -> list[WrittenFile]:
    """Previews of a dry run."""
    remedy = "choose another output folder"
    return [WrittenFile(preview_path(job.output), f"the preview of {job.source}", remedy) for job in jobs]


def planned_pages(contact_sheet: Path, photos: int) -> list[WrittenFile]:
    """Pages of a contact sheet for at most this number of photos."""
    pages = -(-photos // SHEET_SIZE)
    paths = {contact_sheet, *(page_path(contact_sheet, number, pages) for number in range(1, pages + 1))}
    remedy = "choose another file with --contact-sheet"
    return [WrittenFile(path, "a page of the contact sheet", remedy) for path in sorted(paths)]


def page_path(contact_sheet: Path, number: int, pages: int) -> Path:
    """Path of a page, with a number in its name if there are several."""
    numbered = contact_sheet.with_name(f"{contact_sheet.stem}-{number}{contact_sheet.suffix}")
    return contact_sheet if pages == 1 else numbered


def preview_path(output: Path) -> Path:
    """Path of the preview of a result."""
    return output.with_name(output.name + PREVIEW_SUFFIX)


def check_no_previews(output: Path, jobs: Iterable[PhotoJob]) -> None:
    """Check that the output folder contains no previews, which show missed faces.

    Raises:
        ValueError: if it contains a preview.
    """
    results = {job.output for job in jobs}
    preview = next(
        (file for file in _files(output) if file.name.endswith(PREVIEW_SUFFIX) and file not in results), None
    )
    if preview is not None:
        raise ValueError(
            f"{output} contains previews of a dry run, which show missed faces, such as {preview}: delete them, or "
            "choose another output folder."
        )


def check_only_previews(output: Path) -> None:
    """Check that the output folder contains no pictures except previews.

    Raises:
        ValueError: if it contains another picture.
    """
    other = next((file for file in _files(output) if not file.name.endswith(PREVIEW_SUFFIX)), None)
    if other is not None:
        raise ValueError(
            f"{output} contains other pictures than previews, such as {other}, and previews show missed faces: choose "
            "another folder for the dry run."
        )


def _files(folder: Path) -> Iterable[Path]:
    """Pictures in a folder and its subfolders."""
    for root, _, names in os.walk(folder):
        yield from (Path(root, name) for name in names if is_photo_name(name))
