"""Jobs of a run: one input file and its output each."""

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
    """Path of a photo, and of its result.

    Attributes:
        folder (`Path`, *optional*): the output folder, whose tree the output lies in.
    """

    source: Path
    output: Path
    folder: Path | None = field(default=None, compare=False)

    @property
    def name(self) -> str:
        """Path of the output in its folder, which the photo's noise depends on; without a folder
        the file name."""
        return self.output.name if self.folder is None else self.output.relative_to(self.folder).as_posix()


def planned_results(jobs: Iterable[PhotoJob]) -> list[WrittenFile]:
    """Result files of the jobs."""
    remedy = "run them apart, or name another output folder"
    return [WrittenFile(job.output, f"the result of {job.source}", remedy) for job in jobs]


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    work: Callable[[Item, Read], Done],
    write: Callable[[Item, Done], Result],
) -> Iterator[Result]:
    """Run three steps for each item, in order. While one item is processed, the next is read and
    the last one written.

    `items` and `read` run in one thread, `work` in the caller's, `write` in another; so at most three items are held.
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
            item, what = current
            done = work(item, what)
            if writing is not None:
                yield writing.result()
            writing = writer.submit(write, item, done)
        if writing is not None:
            yield writing.result()
