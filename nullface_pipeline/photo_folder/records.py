"""What each result was made from, so that a later run can tell its own work from everything else.

The record of an output folder lies among the user's own files (`$XDG_STATE_HOME`, or `~/.local/state`), not in the
folder: results are published, and a hash of an original confirms it to whoever has that photo or guesses it. No key or
salt would help there, because it would have to lie beside the record. It holds no names either, three hashes a result
and nothing else. If it is lost, or the output folder moved, results count as nobody's, and are refused rather than
trusted or replaced.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nullface_pipeline import __version__
from nullface_pipeline.photo_folder.paths import is_regular


@dataclass(frozen=True)
class MadeFrom:
    """What a result is and what it was made from, as SHA-256 in hexadecimal.

    Attributes:
        original (`str`): of the photo's file.
        options (`str`): of the options, see `options_digest`.
        result (`str`): of the result's file.
    """

    original: str
    options: str
    result: str


def options_digest(options: Mapping[str, Any]) -> str:
    """Of all that decides on a result, the version of this program included.

    The seed must not be among them: it is a secret, often a short one, and a published hash would let others guess it.
    """
    text = json.dumps({"version": __version__, **options}, sort_keys=True, allow_nan=False)
    return digest(text.encode())


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file in hexadecimal; None if it is no file or cannot be read."""
    try:
        # Asked before opening, because opening a pipe waits for somebody to write to it.
        if not is_regular(path):
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


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
