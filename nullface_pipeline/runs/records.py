"""Record of results: hashes that tell a later run which files it wrote and what they were made from.

The record lies in the user's state folder, not in the output folder: results are published, and the hash of an
original confirms it to anyone who has that photo. A key or salt would not help, because it would lie beside the
record. It holds three hashes a result and no names. If it is lost, or the output folder moved, the results are
unknown: they are refused rather than trusted or replaced.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

from platformdirs import user_state_path

from nullface_pipeline.runs.digests import MadeFrom, digest


def record_path(output: Path) -> Path:
    """Where the record of an output folder lies."""
    name = digest(os.fsencode(os.path.realpath(output)))[:32]
    return state_folder() / f"{name}.jsonl"


def state_folder() -> Path:
    """Folder of this program's state: `$XDG_STATE_HOME/nullface`, or where the operating system keeps state.

    Raises:
        OSError: if the user has no home folder.
    """
    try:
        return user_state_path("nullface", appauthor=False)
    except RuntimeError as error:
        raise OSError("There is no home folder to keep the record in: set XDG_STATE_HOME to a folder.") from error


class ResultRecord:
    """The results that were made in one output folder, of which each is written down before it appears."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._made: set[MadeFrom] = set()
        if path.exists():
            self._made = {made for line in path.read_bytes().splitlines() if (made := _parse(line)) is not None}
        self._results = {made.result for made in self._made}

    def prepare(self) -> None:
        """Whether it can be written, asked before it has to be.

        Raises:
            OSError: if it cannot.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
        except OSError as error:
            raise OSError(
                f"The record of finished photos cannot be written to {self.path.parent} ({error.strerror}): set "
                "XDG_STATE_HOME to a folder of yours."
            ) from error

    def add(self, made: MadeFrom) -> None:
        """Write down what is about to appear in the output folder, on the disk when this returns."""
        line = json.dumps(asdict(made)).encode() + b"\n"
        # A line of its own, even after one that a killed run left half.
        with open(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as file:
            file.write(b"\n" + line)
            file.flush()
            os.fsync(file.fileno())
        self._made.add(made)
        self._results.add(made.result)

    def add_picture(self, data: bytes) -> None:
        """As `add`, for a picture that is no result: a preview, a page of a contact sheet."""
        self.add(MadeFrom("", "", digest(data)))

    def knows(self, result: str) -> bool:
        """Whether a file with these bytes is a run's own work."""
        return result in self._results

    def __contains__(self, made: MadeFrom) -> bool:
        return made in self._made


def _parse(line: bytes) -> MadeFrom | None:
    """A line of the record; None for one that is damaged, which vouches for nothing."""
    try:
        made = MadeFrom(**json.loads(line))
    except (TypeError, ValueError, RecursionError):
        return None
    return made if all(isinstance(value, str) for value in asdict(made).values()) else None
