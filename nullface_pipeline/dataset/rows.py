"""What a shard is to the worker, whatever its kind of file."""

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
    """SHA-256 in hexadecimal of the source and the result of a shard; None for a missing file."""

    source: str | None
    result: str | None


class ShardRows(Protocol):
    """A shard that is read from one end while it is written at the other; each from one thread."""

    @property
    def hashes(self) -> ShardHashes:
        """Of source and result, once the shard is complete."""

    def __iter__(self) -> Iterator[Row]:
        """The photos, in order."""

    def add(self, row: Row, data: bytes | None, reason: str) -> None:
        """The result for the next photo, in the same order; None if it was refused, for this reason."""
