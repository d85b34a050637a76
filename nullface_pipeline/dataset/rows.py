"""Interface between the worker and a shard of any file type."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Row:
    """Photo of a shard.

    Attributes:
        id (`str`): path or row of the photo, from which its seed is derived.
        load (`Callable`): returns the bytes of the file, or raises OSError or PhotoFileError.
    """

    id: str
    load: Callable[[], bytes]


@dataclass(frozen=True)
class ShardHashes:
    """SHA-256 (hexadecimal) of the source and the result of a shard; None for a missing file."""

    source: str | None
    result: str | None


class ShardRows(Protocol):
    """Open shard. It is read in one thread and written in another."""

    @property
    def hashes(self) -> ShardHashes:
        """Hashes of source and result, available once the shard is complete."""

    def __iter__(self) -> Iterator[Row]:
        """Iterate over the photos in order."""

    def add(self, row: Row, data: bytes | None, reason: str) -> None:
        """Add the result of the next photo, or `None` and the reason of its refusal."""
