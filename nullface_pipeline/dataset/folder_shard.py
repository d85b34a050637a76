"""Shard of a photo folder: each result is written at the same relative path as its photo."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from functools import partial

from nullface_pipeline.dataset.job import DatasetJob
from nullface_pipeline.dataset.rows import Row, ShardHashes
from nullface_pipeline.runs.digests import digest


class FolderRows:
    """`ShardRows` of photos of a folder. Refused photos have no result."""

    def __init__(self, job: DatasetJob, names: tuple[str, ...]) -> None:
        self._job, self._names = job, names
        # SHA-256 of sources and results by name.
        self._sources: dict[str, str | None] = dict.fromkeys(names)
        self._results: dict[str, str | None] = dict.fromkeys(names)

    def __iter__(self) -> Iterator[Row]:
        for name in self._names:
            yield Row(name, partial(self._load, name))

    def _load(self, name: str) -> bytes:
        data = self._job.source.read(name)
        self._sources[name] = digest(data)
        return data

    def add(self, row: Row, data: bytes | None, reason: str) -> None:
        if data is None:
            self._job.target.remove(row.id)
        else:
            self._job.target.write(row.id, data, self._job.source.local_file(row.id))
            self._results[row.id] = digest(data)

    @property
    def hashes(self) -> ShardHashes:
        return ShardHashes(photos_sha256(self._sources), photos_sha256(self._results))


def photos_sha256(photos: Mapping[str, str | None]) -> str:
    """SHA-256 (hexadecimal) of the names and hashes of several photos."""
    return digest(json.dumps(sorted(photos.items())).encode())


@contextlib.contextmanager
def open_photos(job: DatasetJob, names: tuple[str, ...]) -> Iterator[FolderRows]:
    yield FolderRows(job, names)
