"""One run per output folder: a second one is told so, and never touches what the first is writing.

The lock is the system's, on a small file in the folder. It ends with the process, however that ends, so that a killed
run blocks nobody; the file itself goes with the run, or with the next one.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from nullface_pipeline.runs.atomic_files import TEMPORARY_PATTERN


LOCK_NAME = ".nullface.lock"


if os.name == "nt":
    import msvcrt

    def _lock(file: BinaryIO, wait: bool = False) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]

else:
    import fcntl

    def _lock(file: BinaryIO, wait: bool = False) -> None:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Make a folder where it is missing, and keep it for this run. What was made and stayed empty goes again.

    Raises:
        BlockingIOError: if another run is writing there, or in a folder that this one lies in.
        OSError: if the folder cannot be made or locked.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        held = next((each for each in folder.resolve().parents if is_held(each)), None)
        if held is not None:
            raise _busy(held)
        file = _take(folder)
        try:
            yield
        finally:
            _release(file, folder / LOCK_NAME)
    finally:
        with contextlib.suppress(OSError):
            for each in made:
                each.rmdir()


def _take(folder: Path) -> BinaryIO:
    """The locked file. One that its last owner removed in the meantime locks nobody out, so it is made again."""
    path = folder / LOCK_NAME
    while True:
        # The last owner may also have removed the folder, as one that stayed empty.
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = _open(path)
        except FileNotFoundError:
            continue
        try:
            _lock(file)
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except (BlockingIOError, PermissionError) as error:
            file.close()
            raise _busy(folder) from error
        except FileNotFoundError:
            pass
        except OSError as error:
            file.close()
            raise OSError(
                f"{folder} cannot be locked against a second run ({error.strerror}), as on some network drives: "
                "name an output folder on another disk."
            ) from error
        file.close()


def _open(path: Path) -> BinaryIO:
    # Not through a link, which could lead to any file.
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    return os.fdopen(os.open(path, flags, 0o600), "r+b", buffering=0)


def _release(file: BinaryIO, path: Path) -> None:
    # Removed while it is still locked; where open files cannot be removed, just after.
    with contextlib.suppress(OSError):
        path.unlink()
    file.close()
    if os.name == "nt":
        with contextlib.suppress(OSError):
            path.unlink()


def is_held(folder: Path) -> bool:
    """Whether a run is writing to a folder."""
    path = folder / LOCK_NAME
    if not path.is_file():
        return False
    try:
        with path.open("r+b") as file:
            _lock(file)
    except FileNotFoundError:
        return False
    # Where it cannot be told, the folder is let alone.
    except OSError:
        return True
    return False


@contextlib.contextmanager
def locked(file: BinaryIO) -> Iterator[None]:
    """Keep others out of an open file, where the system can; until it is closed."""
    with contextlib.suppress(OSError):
        _lock(file, wait=True)
    yield


def remove_leftovers(folders: set[Path], output: Path) -> None:
    """Delete the half-written files that a killed run left. The folder `output` is held by this run.

    A folder below it that another run holds is let alone.
    """
    for folder in folders:
        if folder != output and is_held(folder):
            continue
        for leftover in folder.glob(TEMPORARY_PATTERN):
            leftover.unlink(missing_ok=True)


def _busy(folder: Path) -> BlockingIOError:
    return BlockingIOError(f"Another run is writing to {folder}: wait for its end, or name another output folder.")
