"""Checkpoint of a video: a private folder from which a stopped run continues.

It holds face boxes, finished segments and the secret seed, but no embedding and no original frame.
It is deleted when the video is finished or refused.
"""

import contextlib
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from nullface_pipeline.runs.atomic_files import write_whole
from nullface_pipeline.runs.digests import file_digest
from nullface_pipeline.runs.seeds import SEED_BITS
from nullface_pipeline.video.reader import VideoError


@dataclass(frozen=True)
class VideoFile:
    """Video file as it was when the run began.

    Attributes:
        sha256 (`str`): SHA-256 of the content, hexadecimal.
        state (`tuple[int, ...]`): device, inode, size in bytes, and modification time in ns.
    """

    path: Path
    sha256: str
    state: tuple[int, ...]

    @classmethod
    def open(cls, path: Path) -> "VideoFile":
        """Read the state of a file and hash it.

        Raises:
            VideoError: if it does not exist.
        """
        state = _file_state(path)
        return cls(path, file_digest(path) or "", state)

    def check_unchanged(self) -> None:
        """Raise `VideoError` if the file was replaced or modified since."""
        if _file_state(self.path) != self.state:
            raise VideoError("Its file has changed during the run: run the command again.")


def _file_state(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise VideoError("It does not exist.") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def open_checkpoint(file: VideoFile, output: Path, digest: str, seed: int | None) -> "VideoCheckpoint":
    """Resume the checkpoint of a stopped run with the same video and options, or create one.

    Args:
        digest (`str`): hash of the options, see `options_digest`.
        seed (`int`, *optional*): seed of the noise, by default the stopped run's or a random one.
    """
    made_from = f"{file.sha256} {digest}"
    new_seed = secrets.randbits(SEED_BITS) if seed is None else seed
    return VideoCheckpoint(checkpoint_folder(output), made_from, new_seed, fixed=seed is not None)


def checkpoint_folder(output: Path) -> Path:
    """Path of the checkpoint: a hidden folder beside the result."""
    return output.with_name(f".nullface-{sha256(output.name.encode()).hexdigest()[:16]}.work")


@contextlib.contextmanager
def removed_if_refused(output: Path) -> Iterator[None]:
    """Delete the checkpoint after any error but `OSError`, after which a run can be resumed."""
    try:
        yield
    except OSError:
        raise
    except Exception:
        shutil.rmtree(checkpoint_folder(output), ignore_errors=True)
        raise


# Counts of a finished segment, see `summarize`.
SegmentSummary = dict[str, dict[str, int]]


class VideoCheckpoint:
    """State of one video's run. A state of another video, of other options or seed is deleted.

    Args:
        folder (`Path`): folder of the checkpoint, created if it is missing.
        made_from (`str`): hashes of the video and the options.
        seed (`int`): seed of a new checkpoint.
        fixed (`bool`): whether an existing checkpoint must have this seed.
    """

    def __init__(self, folder: Path, made_from: str, seed: int, fixed: bool = False) -> None:
        self.folder = folder
        stored = _read_json(folder / "checkpoint.json") or {}
        if stored.get("made_from") != made_from or (fixed and stored.get("seed") != seed):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700, parents=True)
            stored = {"made_from": made_from, "seed": seed}
            (folder / "checkpoint.json").touch(mode=0o600)
            (folder / "checkpoint.json").write_text(json.dumps(stored))
        self.seed: int = stored["seed"]

    def segment(self, start: int) -> Path:
        """Path of the segment that begins with frame `start`."""
        return self.folder / f"{start:09}.nut"

    def finish(self, start: int, summary: SegmentSummary) -> None:
        """Record that a segment is finished."""
        write_whole(self.segment(start).with_suffix(".json"), json.dumps(summary).encode())

    def summary(self, start: int) -> SegmentSummary | None:
        """Counts of a segment; `None` if it is not finished."""
        return _read_json(self.segment(start).with_suffix(".json"))

    def reopen(self, start: int) -> None:
        """Mark a finished segment to be rendered again."""
        self.segment(start).with_suffix(".json").unlink(missing_ok=True)

    def add_line(self, name: str, line: object) -> None:
        """Append a JSON value to a list on disk."""
        with (self.folder / name).open("a") as file:
            # On a line of its own, even after an incomplete line of a killed run.
            file.write("\n" + json.dumps(line) + "\n")

    def lines(self, name: str) -> Iterator[Any]:  # JSON
        """Read a list on disk; incomplete lines are skipped."""
        path = self.folder / name
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                yield json.loads(line)
            except ValueError:
                continue

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _read_json(path: Path) -> dict[str, Any] | None:  # JSON
    try:
        read = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return read if isinstance(read, dict) else None
