"""A tar as WebDataset reads it: members with a photo's suffix are changed, members of named suffixes are copied, and all
else is dropped. In the place of a refused photo stands `NAME.refused`, a text that says why."""

import contextlib
import io
import tarfile
from collections import deque
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from nullface_pipeline.dataset.job import DatasetJob
from nullface_pipeline.dataset.places import ShardError
from nullface_pipeline.dataset.rows import Row
from nullface_pipeline.photo_folder.jobs import is_photo_name


class TarRows:
    """`ShardRows` of one tar file."""

    def __init__(self, source: tarfile.TarFile, target: tarfile.TarFile, columns: tuple[str, ...]) -> None:
        self._source, self._target, self._columns = source, target, columns
        # Members that are read and not yet written; without data where the photo's result is to come.
        self._members: deque[tuple[str, bytes | None]] = deque()
        self._unwritten = 0

    def __iter__(self) -> Iterator[Row]:
        for member in self._source:
            if not member.isfile():
                continue
            name, is_photo = member.name, is_photo_name(member.name)
            if not is_photo and suffix(name) not in self._columns:
                continue
            data = self._source.extractfile(member).read()  # type: ignore[union-attr]
            self._members.append((name, None if is_photo else data))
            if is_photo:
                self._unwritten += 1
                yield Row(name, lambda data=data: data)  # type: ignore[misc]

    def add(self, row: Row, data: bytes | None, reason: str) -> None:
        self._copy_members()
        self._members.popleft()
        self._put(*((f"{row.id}.refused", reason.encode()) if data is None else (row.id, data)))
        self._unwritten -= 1

    def finish(self) -> None:
        """What comes after the last photo."""
        self._copy_members()
        if self._unwritten or self._members:
            raise ShardError(f"{self._unwritten} photos were read but not written.")
        self._target.close()

    def _copy_members(self) -> None:
        """Up to the next photo."""
        while self._members and self._members[0][1] is not None:
            name, data = self._members.popleft()
            self._put(name, data or b"")

    def _put(self, name: str, data: bytes) -> None:
        """With nothing of the source's member but the name: no owner, no time."""
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._target.addfile(member, io.BytesIO(data))


@contextlib.contextmanager
def open_tar(job: DatasetJob, name: str) -> Iterator[TarRows]:
    with job.source.open(name) as source, job.target.written(name) as target:
        with tarfile.open(fileobj=source, mode="r:") as read, tarfile.open(fileobj=target, mode="w:") as written:
            rows = TarRows(read, written, job.columns)
            yield rows
            rows.finish()
            _check_whole(read, source)


def _check_whole(read: tarfile.TarFile, source: BinaryIO) -> None:
    """`tarfile` takes the place where a file was cut off for its end, which is marked by blocks of zeros."""
    if source.seek(0, io.SEEK_END) - read.offset < tarfile.BLOCKSIZE:
        raise ShardError("The tar file is cut off: copy it again from where it came.")


def suffix(name: str) -> str:
    """As WebDataset has it: what comes after the first point of the bare name."""
    return PurePosixPath(name).name.partition(".")[2]
