"""Checkpoint of a video: a private folder from which a stopped run continues.

It holds boxes of faces, finished segments and the secret seed, but no embedding and no frame of the
original. It is deleted when the video is finished or refused.
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
    """A video file at the beginning of a run.

    Attributes:
        sha256 (`str`): hash of its content.
        state (`tuple[int, ...]`): device, inode, size and time of the last change.
    """

    path: Path
    sha256: str
    state: tuple[int, ...]

    @classmethod
    def open(cls, path: Path) -> "VideoFile":
        """Read the state of a file, and hash it.

        Raises:
            VideoError: if it does not exist.
        """
        state = _file_state(path)
        return cls(path, file_digest(path) or "", state)

    def check_unchanged(self) -> None:
        """Raise `VideoError` if the file was replaced or written to since."""
        if _file_state(self.path) != self.state:
            raise VideoError("Its file has changed during the run: run it again.")


def _file_state(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise VideoError("It does not exist.") from error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def open_checkpoint(file: VideoFile, output: Path, digest: str, seed: int | None) -> "VideoCheckpoint":
    """Checkpoint beside a result: that of a stopped run of the same video and options, or a new one.

    Args:
        digest (`str`): hash of the options, see `options_digest`.
        seed (`int`, *optional*): seed of the noise; by default that of the stopped run, or a random one.
    """
    made_from = f"{file.sha256} {digest}"
    new_seed = secrets.randbits(SEED_BITS) if seed is None else seed
    return VideoCheckpoint(checkpoint_folder(output), made_from, new_seed, fixed=seed is not None)


def checkpoint_folder(output: Path) -> Path:
    """Hidden folder beside a result."""
    return output.with_name(f".nullface-{sha256(output.name.encode()).hexdigest()[:16]}.work")


@contextlib.contextmanager
def removed_if_refused(output: Path) -> Iterator[None]:
    """Delete the checkpoint of a video that cannot be anonymized. After a failure of the disk it stays."""
    try:
        yield
    except OSError:
        raise
    except Exception:
        shutil.rmtree(checkpoint_folder(output), ignore_errors=True)
        raise


# Figures of a finished segment, see `summarize`.
SegmentSummary = dict[str, dict[str, int]]


class VideoCheckpoint:
    """State of one video's run. An earlier state is used if it fits, and deleted otherwise.

    Args:
        folder (`Path`): folder of the checkpoint, created if it is missing.
        made_from (`str`): hash of the video and the options. An earlier state with another one does not fit.
        seed (`int`): seed of a new state. With `fixed`, an earlier state with another seed does not fit.
    """

    def __init__(self, folder: Path, made_from: str, seed: int, fixed: bool = False) -> None:
        self.folder = folder
        earlier = _read_json(folder / "checkpoint.json") or {}
        if earlier.get("made_from") != made_from or (fixed and earlier.get("seed") != seed):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700, parents=True)
            earlier = {"made_from": made_from, "seed": seed}
            (folder / "checkpoint.json").touch(mode=0o600)
            (folder / "checkpoint.json").write_text(json.dumps(earlier))
        self.seed: int = earlier["seed"]

    def segment(self, start: int) -> Path:
        """File of the segment that begins with frame `start`."""
        return self.folder / f"{start:09}.nut"

    def finish(self, start: int, summary: SegmentSummary) -> None:
        """Record that a segment is finished."""
        write_whole(self.segment(start).with_suffix(".json"), json.dumps(summary).encode())

    def summary(self, start: int) -> SegmentSummary | None:
        """Figures of a segment; None if it is not finished."""
        return _read_json(self.segment(start).with_suffix(".json"))

    def reopen(self, start: int) -> None:
        """Mark a finished segment to be rendered again."""
        self.segment(start).with_suffix(".json").unlink(missing_ok=True)

    def add_line(self, name: str, line: object) -> None:
        """Append to a list of JSON values."""
        with (self.folder / name).open("a") as file:
            # A killed run may have left an incomplete line.
            file.write("\n" + json.dumps(line) + "\n")

    def lines(self, name: str) -> Iterator[Any]:  # JSON
        """Values of a list; incomplete lines are skipped."""
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
