"""Interface between the worker and a shard of any file type."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Row:
    """A photo of a shard.

    Attributes:
        id (`str`): its path, or its row: what its noise depends on.
        load (`Callable`): returns the bytes of its file; raises OSError or PhotoFileError if there are none.
    """

    id: str
    load: Callable[[], bytes]


@dataclass(frozen=True)
class ShardHashes:
    """SHA-256 (hexadecimal) of the source and the result of a shard; None for a missing file."""

    source: str | None
    result: str | None


class ShardRows(Protocol):
    """Protocol of an open shard. Reading and writing run at the same time, each in its own thread."""

    @property
    def hashes(self) -> ShardHashes:
        """Hashes of source and result, once the shard is complete."""

    def __iter__(self) -> Iterator[Row]:
        """Iterate over the photos, in order."""

    def add(self, row: Row, data: bytes | None, reason: str) -> None:
        """Add the result of the next photo, in the same order; None with a reason if it was
        refused."""
