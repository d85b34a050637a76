"""What recognizers and detectors said of pictures, kept so that one more method costs only its own pictures.

An embedding is biometric: whoever has it can look for the person. So it is kept among the user's own files, where the
folder pipeline keeps its records, never in a report, and `forget` deletes all of it.
"""

import hashlib
import io
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nullface_pipeline.runs.records import state_folder


def cache_path() -> Path:
    """The one file, in the state folder."""
    return state_folder() / "evaluation.sqlite"


def forget() -> bool:
    """Delete what is remembered; returns whether there was anything."""
    files = [cache_path().with_name(cache_path().name + suffix) for suffix in ("", "-wal", "-shm")]
    there = [file for file in files if file.exists()]
    for file in there:
        file.unlink()
    return bool(there)


class Cache:
    """Arrays by what they were made from, each on the disk before the next is made: a killed run goes on where it was.

    Args:
        path (`Path`, *optional*): the file, made where it is missing; `cache_path()` by default.

    Raises:
        OSError: if the file cannot be made or is no such file.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = path or cache_path()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            self.database = sqlite3.connect(path, isolation_level=None, timeout=60.0)
            # A transaction is whole or absent after a kill; only a power cut may lose the last few.
            self.database.execute("PRAGMA journal_mode=WAL")
            self.database.execute("PRAGMA synchronous=NORMAL")
            self.database.execute("CREATE TABLE IF NOT EXISTS arrays (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        except sqlite3.DatabaseError as error:
            raise OSError(f"{path} cannot be used ({error}): give --forget to begin anew.") from error
        self.made = 0

    def remember(self, made_from: tuple[str | bytes, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
        """What was made before from the same things, or what is made now.

        Args:
            made_from: all that decides on the value: the picture's digest, the weights, the preprocessing, the
                landmarks.
            make (`Callable`): makes the array.
        """
        parts = [part.encode() if isinstance(part, str) else part for part in made_from]
        # With its length before it, no part can pass into the next.
        key = hashlib.sha256(b"".join(len(part).to_bytes(8) + part for part in parts)).digest()
        row = self.database.execute("SELECT value FROM arrays WHERE key = ?", (key,)).fetchone()
        if row is not None:
            return np.load(io.BytesIO(row[0]), allow_pickle=False)
        value = make()
        file = io.BytesIO()
        np.save(file, value, allow_pickle=False)
        self.database.execute("INSERT OR REPLACE INTO arrays VALUES (?, ?)", (key, file.getvalue()))
        self.made += 1
        return value

    def close(self) -> None:
        """Done."""
        self.database.close()
