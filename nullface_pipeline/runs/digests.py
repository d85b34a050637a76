"""SHA-256 hashes of files, options and results."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nullface_pipeline import __version__
from nullface_pipeline.runs.paths import is_regular


@dataclass(frozen=True)
class ResultHashes:
    """SHA-256 (hexadecimal) of an original file, of the options, and of the result file."""

    original: str
    options: str
    result: str


def options_digest(options: Mapping[str, object]) -> str:
    """Digest of everything that a result depends on except the seed, including the version.

    The seed is secret and often short: anyone could find it from a published hash by trial.
    """
    text = json.dumps({"version": __version__, **options}, sort_keys=True, allow_nan=False)
    return digest(text.encode())


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str | None:
    """SHA-256 of a file in hexadecimal; `None` if it is not a readable regular file."""
    try:
        # Checked before opening, because opening a pipe blocks.
        if not is_regular(path):
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
