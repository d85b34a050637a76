"""Record of results: hashes by which a later run identifies the files that were written.

The record lies in the user's state folder, not in the output folder: results are published, and the
hash of an original confirms it to anyone who has that photo. It holds three hashes per result and
no names. If it is lost or the output folder is moved, existing results are neither trusted nor
replaced.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

from platformdirs import user_state_path

from nullface_pipeline.runs.atomic_files import check_appendable
from nullface_pipeline.runs.digests import ResultHashes, digest


def record_path(output: Path) -> Path:
    """Path of the record of an output folder."""
    name = digest(os.fsencode(os.path.realpath(output)))[:32]
    return state_folder() / f"{name}.jsonl"


def state_folder() -> Path:
    """State folder: `$XDG_STATE_HOME/nullface`, or the default of the operating system.

    Raises:
        OSError: if there is no home folder.
    """
    try:
        return user_state_path("nullface", appauthor=False)
    except RuntimeError as error:
        raise OSError("There is no home folder for the record of results: set XDG_STATE_HOME to a folder.") from error


class ResultRecord:
    """Record of one output folder. Each result is recorded before it is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: set[ResultHashes] = set()
        if path.exists():
            self._entries = {hashes for line in path.read_bytes().splitlines() if (hashes := _parse(line)) is not None}
        self._results = {hashes.result for hashes in self._entries}

    def prepare(self) -> None:
        """Check that the record can be written, without creating it.

        Raises:
            OSError: if it cannot.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_appendable(self.path)
        except OSError as error:
            raise OSError(
                f"The record of finished photos cannot be written to {self.path.parent} ({error.strerror}): set "
                "XDG_STATE_HOME to a writable folder."
            ) from error

    def add(self, hashes: ResultHashes) -> None:
        """Record a result before it is written; synced to the disk."""
        line = json.dumps(asdict(hashes)).encode() + b"\n"
        # On a line of its own, even after an incomplete line of a killed run.
        with open(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
            file.write(b"\n" + line)
            file.flush()
            os.fsync(file.fileno())
        self._entries.add(hashes)
        self._results.add(hashes.result)

    def add_picture(self, data: bytes) -> None:
        """Record another picture: a preview, or a page of a contact sheet."""
        self.add(ResultHashes("", "", digest(data)))

    def knows(self, result: str) -> bool:
        """Whether a run wrote a file with this SHA-256."""
        return result in self._results

    def __contains__(self, hashes: ResultHashes) -> bool:
        return hashes in self._entries


def _parse(line: bytes) -> ResultHashes | None:
    """Parse a line of the record; `None` if it is damaged."""
    try:
        hashes = ResultHashes(**json.loads(line))
    except (TypeError, ValueError, RecursionError):
        return None
    return hashes if all(isinstance(value, str) for value in asdict(hashes).values()) else None
