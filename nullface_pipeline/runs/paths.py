"""File identity: whether two paths are the same file.

Links, mounts, and file systems that ignore case or accent encoding give one file several names.
Existing files are compared by device and inode, missing ones by their folder and normalized name.
"""

import os
import stat
import unicodedata
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


Identity = tuple[int, int]


@dataclass(frozen=True)
class WrittenFile:
    """File that a run is going to write.

    Attributes:
        what (`str`): description of the file in messages.
        remedy (`str`): advice if the file cannot be written there.
    """

    path: Path
    what: str
    remedy: str


def check_written(written: Iterable[WrittenFile], read: Iterable[Path | int]) -> None:
    """Check that the files to be written differ from each other and from all files that are read.

    Args:
        read (`Iterable[Path | int]`): files that are read, by path or by open file descriptor.

    Raises:
        ValueError: if two of the files are the same, or one cannot be created.
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
        _check_location(file)


def _check_location(file: WrittenFile) -> None:
    """Check that the path is not a folder, and that its parent exists or can be created."""
    if file.path.exists() and not file.path.is_file():
        raise ValueError(f"{file.path} is not a file, but {file.what} would be written there: {file.remedy}.")
    folder = next(folder for folder in file.path.absolute().parents if os.path.lexists(folder))
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, but {file.what} would be written to it: {file.remedy}.")


def _keys(path: Path | int) -> set[Hashable]:
    """Keys of a file: its inode, its path, and its path with links resolved."""
    found = identity(path)
    if isinstance(path, int):
        return {found}
    keys: set[Hashable] = {_location_key(path.parent / path.name), _location_key(Path(os.path.realpath(path)))}
    return keys if found is None else keys | {found}


def _location_key(path: Path) -> Hashable:
    """Inode of the last existing folder in a path, and the normalized names after it."""
    names = [fold(path.name)]
    folder = Path(os.path.realpath(path.parent))
    while (found := identity(folder)) is None and folder != folder.parent:
        names.append(fold(folder.name))
        folder = folder.parent
    return found, tuple(reversed(names))


def fold(name: str) -> str:
    """Normalize a name for file systems that ignore case, accent encoding, and trailing dots."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold()).rstrip(" .")


def identity(path: Path | int) -> Identity | None:
    """Device and inode of a path or file descriptor; `None` if it does not exist."""
    try:
        status = os.stat(path)
    # ValueError: a null character in the name.
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def identities_above(folder: Path) -> Iterator[Identity]:
    """Identity of a folder and of its existing parents."""
    real = Path(os.path.realpath(folder))
    for each in (real, *real.parents):
        if (found := identity(each)) is not None:
            yield found


def is_regular(path: Path) -> bool:
    """Whether it is a regular file, which can be read without blocking."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False
