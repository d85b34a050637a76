"""Whether two paths are one file: all that a run will write is known and compared before the first byte is written.

Names do not tell. A folder may be reached by a link, a second mount or another spelling, and a file system may take
two spellings for one. What exists is compared by what the system says it is; what does not exist yet, by the folder
that it will lie in and by its name, without regard to case and to the way in which accents are stored.
"""

import os
import stat
import unicodedata
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from nullface_pipeline.photo_folder.jobs import PhotoJob


Identity = tuple[int, int]

PREVIEW_SUFFIX = ".preview.png"
LOCK_NAME = ".nullface.lock"
SHEET_SIZE = 36


@dataclass(frozen=True)
class WrittenFile:
    """A file that a run is going to write.

    Attributes:
        what (`str`): what it is, for the user.
        remedy (`str`): what to do if it cannot be written there.
    """

    path: Path
    what: str
    remedy: str


def plan_written(
    jobs: Sequence["PhotoJob"],
    output: Path,
    record: Path,
    report: Path | None = None,
    contact_sheet: Path | None = None,
    dry_run: bool = False,
) -> list[WrittenFile]:
    """Every file that a run will write, or may."""
    files = planned_previews(jobs) if dry_run else planned_results(jobs)
    other = "name another output folder"
    files += [WrittenFile(output / LOCK_NAME, "the lock of the output folder", other)]
    files += [WrittenFile(record, "the record of finished photos", other)]
    if report is not None:
        files.append(WrittenFile(report, "the report", "name another file with --report"))
    return files + ([] if contact_sheet is None else planned_pages(contact_sheet, len(jobs)))


def planned_results(jobs: Iterable["PhotoJob"]) -> list[WrittenFile]:
    """The photos' results."""
    remedy = "run them apart, or name another output folder"
    return [WrittenFile(job.output, f"the result of {job.source}", remedy) for job in jobs]


def planned_previews(jobs: Iterable["PhotoJob"]) -> list[WrittenFile]:
    """What a dry run writes."""
    remedy = "run them apart, or name another output folder"
    return [WrittenFile(preview_path(job.output), f"the preview of {job.source}", remedy) for job in jobs]


def planned_pages(contact_sheet: Path, photos: int) -> list[WrittenFile]:
    """The pages of a contact sheet, should as many photos come to an end, and the only one, should fewer."""
    pages = -(-photos // SHEET_SIZE)
    paths = {contact_sheet, *(page_path(contact_sheet, number, pages) for number in range(1, pages + 1))}
    remedy = "name another file with --contact-sheet"
    return [WrittenFile(path, "a page of the contact sheet", remedy) for path in sorted(paths)]


def page_path(contact_sheet: Path, number: int, pages: int) -> Path:
    """Where a page goes: under the name given, with a number if there are several."""
    return (
        contact_sheet
        if pages == 1
        else contact_sheet.with_name(f"{contact_sheet.stem}-{number}{contact_sheet.suffix}")
    )


def preview_path(output: Path) -> Path:
    """Never the photo's own name, so that nobody takes a preview for the finished photo."""
    return output.with_name(output.name + PREVIEW_SUFFIX)


def check_written(written: Iterable[WrittenFile], read: Iterable[Path | int]) -> None:
    """Check that each file to be written is a file of its own, and none of those that are read.

    Args:
        read (`Iterable[Path | int]`): every file that is opened for reading; an integer is an open
            file's descriptor, as of the standard input.

    Raises:
        ValueError: with both names and the remedy.
    """
    taken: dict[Hashable, str] = {}
    for path in read:
        for key in _keys(path):
            taken[key] = "the standard input" if isinstance(path, int) else f"the original {path}"
    for file in written:
        for key in (keys := _keys(file.path)):
            if key in taken:
                raise ValueError(
                    f"{file.what.capitalize() if not file.what[0].isupper() else file.what} would be written over "
                    f"{taken[key]}, at {file.path}: {file.remedy}."
                )
        taken |= dict.fromkeys(keys, file.what)
        _check_place(file)


def _check_place(file: WrittenFile) -> None:
    """That nothing but a file is there, and that its folder is there or can be made."""
    if file.path.exists() and not file.path.is_file():
        raise ValueError(f"{file.path} is no file, but {file.what} would be written there: {file.remedy}.")
    folder = next(folder for folder in file.path.absolute().parents if os.path.lexists(folder))
    if not folder.is_dir():
        raise ValueError(f"{folder} exists and is no folder, but {file.what} would be in it: {file.remedy}.")


def _keys(path: Path | int) -> set[Hashable]:
    """All by which a file may be known: itself, where its name stands, and where that leads."""
    found = identity(path)
    if isinstance(path, int):
        return {found}
    keys: set[Hashable] = {_place(path.parent / path.name), _place(Path(os.path.realpath(path)))}
    return keys if found is None else keys | {found}


def _place(path: Path) -> Hashable:
    """The last folder on the way that exists, by what it is, and the names that follow."""
    names = [fold(path.name)]
    folder = Path(os.path.realpath(path.parent))
    while (found := identity(folder)) is None and folder != folder.parent:
        names.append(fold(folder.name))
        folder = folder.parent
    return found, tuple(reversed(names))


def fold(name: str) -> str:
    """A name as the least particular file systems see it."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).rstrip(" .")


def identity(path: Path | int) -> Identity | None:
    """Device and inode of a file or folder, or of an open file's descriptor; None if it is not there."""
    try:
        status = os.stat(path)
    # ValueError: a null character in the name.
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def identities_above(folder: Path) -> Iterator[Identity]:
    """A folder and those that it lies in, as far as they exist."""
    real = Path(os.path.realpath(folder))
    for each in (real, *real.parents):
        if (found := identity(each)) is not None:
            yield found


def is_regular(path: Path) -> bool:
    """Whether it is a file whose bytes can be read without waiting for anybody."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
