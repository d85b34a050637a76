"""Lock of an output folder, so that one run at a time writes to it.

The operating system releases the lock when the process ends, even if it is killed. The lock file is
deleted at the end of the run.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock, Timeout, lock_descriptor

from nullface_pipeline.runs.atomic_files import TEMPORARY_PATTERN


LOCK_NAME = ".nullface.lock"

# Seconds to wait for a lock, because another run may be about to delete its lock file.
LOCK_TIMEOUT = 0.1


@contextlib.contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Create and lock a folder; delete created folders that stayed empty.

    Raises:
        BlockingIOError: if another run writes to the folder or to one of its parents.
        OSError: if the folder cannot be created or locked.
    """
    created = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        held = next((each for each in folder.resolve().parents if is_held(each)), None)
        if held is not None:
            raise _busy(held)
        lock = _acquire(folder)
        try:
            yield
        finally:
            # Deleted while locked, so that it is not the lock of another run. Windows deletes it on
            # release.
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()
            lock.release()
    finally:
        with contextlib.suppress(OSError):
            for each in created:
                each.rmdir()


def _acquire(folder: Path) -> FileLock:
    # A soft lock would outlive a killed process.
    lock = FileLock(folder / LOCK_NAME, mode=0o600, thread_local=False, fallback_to_soft=False)
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"{folder} cannot be created ({error.strerror}): choose another output folder.") from error
        try:
            lock.acquire(timeout=LOCK_TIMEOUT)
            return lock
        # Another run deleted the empty folder.
        except FileNotFoundError:
            continue
        except Timeout as error:
            raise _busy(folder) from error
        except OSError as error:
            # An error with a file name comes from opening the file, one without from locking it.
            if error.filename is not None:
                raise
            raise OSError(
                f"{folder} cannot be locked ({error.strerror}), as on some network drives: choose an output folder on "
                "another disk."
            ) from error


def is_held(folder: Path) -> bool:
    """Whether a run writes to a folder. A lock file that cannot be opened counts as held."""
    path = folder / LOCK_NAME
    if not path.is_file():
        return False
    try:
        with path.open("r+b") as file:
            return not lock_descriptor(file.fileno(), blocking=False)
    except FileNotFoundError:
        return False
    except OSError:
        return True


def lock_file(file: BinaryIO) -> None:
    """Lock an open file until it is closed, if the file system has locks."""
    with contextlib.suppress(OSError):
        lock_descriptor(file.fileno())


def remove_leftovers(folders: set[Path], output: Path) -> None:
    """Delete the temporary files of killed runs.

    Args:
        folders (`set[Path]`): folders to clean. Those that another run has locked are skipped.
        output (`Path`): folder that this run has locked.
    """
    for folder in folders:
        if folder != output and is_held(folder):
            continue
        for leftover in folder.glob(TEMPORARY_PATTERN):
            leftover.unlink(missing_ok=True)


def _busy(folder: Path) -> BlockingIOError:
    return BlockingIOError(f"Another run is writing to {folder}: wait until it ends, or choose another output folder.")
