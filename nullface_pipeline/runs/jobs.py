"""Jobs of a run: the paths of an input file and its output."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from nullface_pipeline.runs.paths import WrittenFile


Item = TypeVar("Item")
Read = TypeVar("Read")
Done = TypeVar("Done")
Result = TypeVar("Result")


@dataclass(frozen=True)
class PhotoJob:
    """Paths of a photo and its result.

    Attributes:
        folder (`Path`, *optional*): output folder, which contains `output`.
    """

    source: Path
    output: Path
    folder: Path | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """Path of the output relative to `folder`, or its file name. The noise depends on it."""
        return self.output.name if self.folder is None else self.output.relative_to(self.folder).as_posix()


def planned_results(jobs: Iterable[PhotoJob]) -> list[WrittenFile]:
    """Result files of the jobs."""
    remedy = "choose another output folder"
    return [WrittenFile(job.output, f"the result of {job.source}", remedy) for job in jobs]


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Done],
    write: Callable[[Item, Done], Result],
) -> Iterator[Result]:
    """Process items in order, while the next item is read and the previous result is written.

    `items` and `read` run in one thread, `work` in the caller's, and `write` in another, so that at
    most three items are in memory.
    """
    waiting = iter(items)

    def read_next() -> tuple[Item, Read] | None:
        for item in waiting:
            return item, read(item)
        return None

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reading = reader.submit(read_next)
        writing: Future[Result] | None = None
        while (current := reading.result()) is not None:
            reading = reader.submit(read_next)
            item, data = current
            done = work(item, data)
            if writing is not None:
                yield writing.result()
            writing = writer.submit(write, item, done)
        if writing is not None:
            yield writing.result()
