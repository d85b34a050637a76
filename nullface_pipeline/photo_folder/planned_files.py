"""Files that a run over folders writes, by name."""

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
    """List every file that a run writes, or may write."""
    files = planned_previews(jobs) if dry_run else planned_results(jobs)
    other = "name another output folder"
    files += [WrittenFile(output / LOCK_NAME, "the lock of the output folder", other)]
    files += [WrittenFile(record, "the record of finished photos", other)]
    if report is not None:
        files.append(WrittenFile(report, "the report", "name another file with --report"))
    return files + ([] if contact_sheet is None else planned_pages(contact_sheet, len(jobs)))


def planned_previews(jobs: Iterable[PhotoJob]) -> list[WrittenFile]:
    """Previews of a dry run."""
    remedy = "run them apart, or name another output folder"
    return [WrittenFile(preview_path(job.output), f"the preview of {job.source}", remedy) for job in jobs]


def planned_pages(contact_sheet: Path, photos: int) -> list[WrittenFile]:
    """Pages of a contact sheet for up to this number of photos."""
    pages = -(-photos // SHEET_SIZE)
    paths = {contact_sheet, *(page_path(contact_sheet, number, pages) for number in range(1, pages + 1))}
    remedy = "name another file with --contact-sheet"
    return [WrittenFile(path, "a page of the contact sheet", remedy) for path in sorted(paths)]


def page_path(contact_sheet: Path, number: int, pages: int) -> Path:
    """Path of a page: the name given, with a number if there are several."""
    return (
        contact_sheet
        if pages == 1
        else contact_sheet.with_name(f"{contact_sheet.stem}-{number}{contact_sheet.suffix}")
    )


def preview_path(output: Path) -> Path:
    """Path of a preview, which differs from the photo's own name."""
    return output.with_name(output.name + PREVIEW_SUFFIX)


def check_no_previews(output: Path, jobs: Iterable[PhotoJob]) -> None:
    """Check that the output folder holds no previews: they show faces that would be missed.

    Raises:
        ValueError: with one of the previews.
    """
    results = {job.output for job in jobs}
    preview = next(
        (file for file in _files(output) if file.name.endswith(PREVIEW_SUFFIX) and file not in results), None
    )
    if preview is not None:
        raise ValueError(
            f"{output} holds previews of a dry run, which show missed faces, such as {preview}: delete them, or name "
            "another output folder."
        )


def check_only_previews(output: Path) -> None:
    """Check that the output folder holds nothing but previews.

    Raises:
        ValueError: with one of the pictures that are no previews.
    """
    other = next((file for file in _files(output) if not file.name.endswith(PREVIEW_SUFFIX)), None)
    if other is not None:
        raise ValueError(
            f"{output} holds more than previews, such as {other}, and previews show missed faces: name another folder "
            "for the dry run."
        )


def _files(folder: Path) -> Iterable[Path]:
    """Pictures in a folder and below."""
    for root, _, names in os.walk(folder):
        yield from (Path(root) / name for name in names if is_photo_name(name))
