"""Cache of faces, embeddings and metrics on disk.

Embeddings are biometric data. Only the user can read the cache, which is in the state folder. No
report contains an embedding. `clear_cache` deletes them.
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
    """Path of the cache's file in the state folder."""
    return state_folder() / "evaluation.sqlite"


def clear_cache() -> bool:
    """Delete the cache; returns whether there was one."""
    files = [cache_path().with_name(cache_path().name + suffix) for suffix in ("", "-wal", "-shm")]
    existing = [file for file in files if file.exists()]
    for file in existing:
        file.unlink()
    return bool(existing)


class Cache:
    """Content-addressed cache of arrays in an SQLite file; a stopped run continues.

    Each array is stored before the next one is computed.

    Args:
        path (`Path`, *optional*): the file, created if missing; `cache_path()` by default.

    Raises:
        OSError: if the file cannot be created or is not a cache.
    """

    def __init__(self, path: Path | None = None) -> None:
        path = path or cache_path()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        try:
            self.database = sqlite3.connect(path, isolation_level=None, timeout=60.0)
            # Transactions survive a killed process, but the last ones may not survive a power cut.
            self.database.execute("PRAGMA journal_mode=WAL")
            self.database.execute("PRAGMA synchronous=NORMAL")
            self.database.execute("CREATE TABLE IF NOT EXISTS arrays (key BLOB PRIMARY KEY, value BLOB) WITHOUT ROWID")
        except sqlite3.DatabaseError as error:
            raise OSError(f"{path} cannot be read ({error}). Delete it with --clear-cache.") from error
        self.made = 0

    def remember(self, made_from: tuple[str | bytes, ...], make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the stored array of a key, or compute and store it.

        Args:
            made_from: the key, everything that determines the value: digest of the image, weights,
                preprocessing, landmarks.
            make (`Callable`): computes the array.
        """
        parts = [part.encode() if isinstance(part, str) else part for part in made_from]
        # Length prefixes keep parts apart.
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
        """Close the file."""
        self.database.close()
