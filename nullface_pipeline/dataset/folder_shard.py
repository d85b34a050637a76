"""Photos of a folder: each result is a file under the photo's own path. A refused photo has none."""

import contextlib
from collections.abc import Iterator
from functools import partial

from nullface_pipeline.dataset.job import DatasetJob
from nullface_pipeline.dataset.rows import Row


class FolderRows:
    """`ShardRows` of some photos of a folder."""

    def __init__(self, job: DatasetJob, names: tuple[str, ...]) -> None:
        self._job, self._names = job, names

    def __iter__(self) -> Iterator[Row]:
        for name in self._names:
            yield Row(name, partial(self._job.source.read, name))

    def add(self, row: Row, data: bytes | None, reason: str) -> None:
        if data is not None:
            self._job.target.write(row.id, data)


@contextlib.contextmanager
def open_photos(job: DatasetJob, names: tuple[str, ...]) -> Iterator[FolderRows]:
    yield FolderRows(job, names)
