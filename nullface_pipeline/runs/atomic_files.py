"""Atomic file writes: a file appears complete or not at all."""

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path


# Names of incomplete files, which a killed run may leave behind.
TEMPORARY_PATTERN = ".nullface-*.part"


def write_whole(path: Path, data: bytes, source: Path | None = None) -> None:
    """Write a file atomically, synced to the disk.

    Args:
        source (`Path`, *optional*): file that the data were made from. The new file is readable
            only by users who can read this one.
    """
    with whole_file(path) as temporary, temporary.open("xb") as file:
        if source is not None:
            restrict_mode(temporary, source)
        file.write(data)


def check_appendable(path: Path) -> None:
    """Check that a file can be appended to, or created with its folder, without creating them.

    Raises:
        OSError: if it cannot.
    """
    if path.exists():
        path.open("ab").close()
    else:
        tempfile.TemporaryFile(dir=next(folder for folder in path.absolute().parents if folder.exists())).close()


def restrict_mode(path: Path, source: Path) -> None:
    """Remove the permissions that another file, if it exists, does not have."""
    with contextlib.suppress(FileNotFoundError):
        mode = path.stat().st_mode
        if mode & source.stat().st_mode & 0o777 != mode & 0o777:
            # The owner keeps write permission, because reports are appended to.
            path.chmod(mode & source.stat().st_mode & 0o777 | 0o200)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path. Its file is renamed at the end, or deleted after an error."""
    # A short name of its own, because the name of the photo may have the maximum length.
    temporary = path.with_name(TEMPORARY_PATTERN.replace("*", secrets.token_hex(8)))
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Sync a folder, so that a rename survives a power failure."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
