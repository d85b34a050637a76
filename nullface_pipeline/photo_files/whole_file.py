"""Files that appear complete or not at all."""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path


# Half-written files. A killed run may leave one behind; none is ever seen under a photo's name.
TEMPORARY_PATTERN = ".nullface-*.part"


def write_whole(path: Path, data: bytes) -> None:
    """The file under its name, complete and on the disk, or nothing."""
    with whole_file(path) as temporary, temporary.open("xb") as file:
        file.write(data)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Another name to write a file under; it gets its own at the end, complete and on the disk, or there is nothing."""
    # Not the photo's own name with something added: that may be as long as names can be.
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
    """Make a renaming outlast a power cut, where the system lets folders be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
