"""Shard of a WebDataset tar: photos are anonymized, short texts with kept suffixes are copied.

Everything else is dropped. A refused photo is replaced by a text `NAME.refused` with the reason.
"""

import contextlib
import io
import posixpath
import tarfile
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import BinaryIO

from nullface_pipeline.dataset.job import DatasetJob
from nullface_pipeline.dataset.rows import Row, ShardHashes
from nullface_pipeline.dataset.storage import ShardError, check_name, file_sha256
from nullface_pipeline.dataset.value_limits import MAX_KEPT_BYTES, data_problem
from nullface_pipeline.photo_files import PhotoFileError, is_photo_name


REFUSED = ".refused"

# Twice the size of an uncompressed photo with `MAX_PIXELS`.
MAX_PHOTO_BYTES = 2**30

_DAMAGED = "The tar file is truncated or damaged: copy it again from its source."


class TarRows:
    """`ShardRows` of one tar file."""

    hashes: ShardHashes

    def __init__(self, source: tarfile.TarFile, target: tarfile.TarFile, columns: tuple[str, ...]) -> None:
        if any(f".{column}".endswith(REFUSED) for column in columns):
            raise ShardError(
                f"--columns cannot contain {REFUSED!r}, which marks refused photos in the result: leave it out."
            )
        self._source, self._target, self._columns = source, target, columns
        # Unwritten members, without data for photos.
        self._members: deque[tuple[str, bytes | None]] = deque()
        self._unwritten = 0

    def __iter__(self) -> Iterator[Row]:
        seen = set()
        for member in self._source:
            name, is_photo = member.name, is_photo_name(member.name)
            if member.isdir():
                continue
            check_name(name.removeprefix("./"), "The tar")
            if not is_photo and suffix(name) not in self._columns:
                continue
            if (path := posixpath.normpath(name)) in seen:
                raise ShardError(f"The tar has two members named {path!a}: rename one of them.")
            seen.add(path)
            if is_photo:
                data, problem = self._read(member, MAX_PHOTO_BYTES)
                self._members.append((name, None))
                self._unwritten += 1
                yield Row(name, partial(_loaded, data, problem))
            else:
                self._members.append((name, self._kept(member)))

    def _read(self, member: tarfile.TarInfo, limit: int) -> tuple[bytes, str | None]:
        """Bytes of a member, and the reason if it is not read."""
        if not member.isfile():
            return b"", "it is a link or a device in the tar, not a file"
        if member.issparse():
            return b"", "it is a sparse file in the tar"
        if member.size > limit:
            return b"", f"it has {member.size:,} bytes, more than {limit:,}"
        return self._source.extractfile(member).read(), None  # type: ignore[union-attr]

    def _kept(self, member: tarfile.TarInfo) -> bytes:
        data, problem = self._read(member, MAX_KEPT_BYTES)
        problem = problem or data_problem(data)
        if problem:
            raise ShardError(
                f"The member {member.name!a} cannot be kept, because {problem}. Only short texts are kept: leave "
                f"{suffix(member.name)!a} out of --columns."
            )
        return data

    def add(self, row: Row, data: bytes | None, reason: str) -> None:
        self._copy_members()
        self._members.popleft()
        self._put(*((row.id + REFUSED, reason.encode()) if data is None else (row.id, data)))
        self._unwritten -= 1

    def finish(self) -> None:
        """Copy the members after the last photo, and close the tar."""
        self._copy_members()
        if self._unwritten or self._members:
            raise ShardError(f"{self._unwritten} photos were read but not written.")
        self._target.close()

    def _copy_members(self) -> None:
        """Copy the members up to the next photo."""
        while self._members and self._members[0][1] is not None:
            name, data = self._members.popleft()
            self._put(name, data or b"")

    def _put(self, name: str, data: bytes) -> None:
        """Write a member without owner and time."""
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._target.addfile(member, io.BytesIO(data))


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except tarfile.TarError as error:
        raise ShardError(_DAMAGED) from error


@contextlib.contextmanager
def open_tar(job: DatasetJob, name: str) -> Iterator[TarRows]:
    with _reading(), job.source.open(name) as source, job.target.written(name, job.source.local_file(name)) as target:
        before = file_sha256(source)
        with tarfile.open(fileobj=source, mode="r:") as read, tarfile.open(fileobj=target, mode="w:") as written:
            rows = TarRows(read, written, job.columns)
            yield rows
            rows.finish()
            _check_whole(read, source)
        rows.hashes = ShardHashes(before, file_sha256(target))


def _loaded(data: bytes, problem: str | None) -> bytes:
    if problem:
        raise PhotoFileError(f"It was not read, because {problem}: pack the photo itself into the tar.")
    return data


def _check_whole(read: tarfile.TarFile, source: BinaryIO) -> None:
    """Check for the end-of-archive blocks, which `tarfile` does not require."""
    if source.seek(0, io.SEEK_END) - read.offset < tarfile.BLOCKSIZE:
        raise ShardError(_DAMAGED)


def suffix(name: str) -> str:
    """Suffix as WebDataset defines it: everything after the first dot of the file name."""
    return PurePosixPath(name).name.partition(".")[2]
