"""What each result was made from, so that a later run can tell its own work from everything else.

The record of an output folder lies among the user's own files (`$XDG_STATE_HOME`, or `~/.local/state`), not in the
folder: results are published, and a hash of an original confirms it to whoever has that photo or guesses it. No key or
salt would help there, because it would have to lie beside the record. It holds no names either, three hashes a result
and nothing else. If it is lost, or the output folder moved, results count as nobody's, and are refused rather than
trusted or replaced.
"""

import json
import os
from dataclasses import asdict
from pathlib import Path

from nullface_pipeline.runs.digests import MadeFrom, digest


def record_path(output: Path) -> Path:
    """Where the record of an output folder lies."""
    name = digest(os.fsencode(os.path.realpath(output)))[:32]
    return state_folder() / f"{name}.jsonl"


def state_folder() -> Path:
    """Where this program keeps what it remembers of its runs."""
    named = os.environ.get("XDG_STATE_HOME", "")
    if not os.path.isabs(named):
        named = os.environ.get("LOCALAPPDATA", "") if os.name == "nt" else ""
    try:
        home = Path(named) if named else Path.home() / ".local" / "state"
    except RuntimeError as error:
        raise OSError("There is no home folder to keep the record in: set XDG_STATE_HOME to a folder.") from error
    return home / "nullface"


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
