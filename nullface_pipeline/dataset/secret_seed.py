"""Secret seed of a data set, stored in a private file for resumed runs."""

import contextlib
import os
import secrets
from pathlib import Path

from nullface_pipeline.dataset.storage import StorageLocation
from nullface_pipeline.runs.digests import digest
from nullface_pipeline.runs.records import state_folder
from nullface_pipeline.runs.seeds import SEED_BITS


def seed_path(target: StorageLocation) -> Path:
    """Default path of a target's seed."""
    name = target.root if target.folder is None else os.path.realpath(target.folder)
    return state_folder() / f"{digest(os.fsencode(name))[:32]}.seed"


def read_or_draw_seed(path: Path) -> int:
    """Read the seed from a file, or draw and store one if the file is missing.

    Raises:
        OSError: if it cannot be read or written.
        ValueError: if it does not contain a seed, or other users can read it.
    """
    with contextlib.suppress(FileExistsError):
        _draw(path)
    if os.name != "nt" and path.stat().st_mode & 0o077:
        raise ValueError(f"Other users can read the secret seed in {path}: run `chmod 600` on it.")
    text = path.read_text(encoding="ascii", errors="replace").strip()
    if not text.isdecimal() or int(text) >= 2**SEED_BITS:
        raise ValueError(f"{path} does not contain a seed: it must be one integer from 0 to 2**{SEED_BITS} - 1.")
    return int(text)


def _draw(path: Path) -> None:
    """Write a new seed atomically unless there is one, as several processes may do at once."""
    if path.exists():
        raise FileExistsError
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(f"{secrets.randbits(SEED_BITS)}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
