"""Shard of a photo folder: each result is written under the path of its photo, refused photos have
none."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from functools import partial

from nullface_pipeline.dataset.job import DatasetJob
from nullface_pipeline.dataset.rows import Row, ShardHashes
from nullface_pipeline.runs.digests import digest


class FolderRows:
    """`ShardRows` of some photos of a folder."""

    def __init__(self, job: DatasetJob, names: tuple[str, ...]) -> None:
        self._job, self._names = job, names
        # SHA-256 by name: of the bytes that were read, and of those that were written.
        self._read: dict[str, str | None] = dict.fromkeys(names)
        self._made: dict[str, str | None] = dict.fromkeys(names)

    def __iter__(self) -> Iterator[Row]:
        for name in self._names:
            yield Row(name, partial(self._load, name))

    def _load(self, name: str) -> bytes:
        data = self._job.source.read(name)
        self._read[name] = digest(data)
        return data

    def add(self, row: Row, data: bytes | None, reason: str) -> None:
        if data is None:
            self._job.target.remove(row.id)
        else:
            self._job.target.write(row.id, data)
            self._made[row.id] = digest(data)

    @property
    def hashes(self) -> ShardHashes:
        return ShardHashes(photos_sha256(self._read), photos_sha256(self._made))


def photos_sha256(photos: Mapping[str, str | None]) -> str:
    """SHA-256 over the names and hashes of several photos."""
    return digest(json.dumps(sorted(photos.items())).encode())


@contextlib.contextmanager
def open_photos(job: DatasetJob, names: tuple[str, ...]) -> Iterator[FolderRows]:
    yield FolderRows(job, names)
