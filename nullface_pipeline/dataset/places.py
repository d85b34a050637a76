"""Folders on a disk or in an object store, by path or URL: what is written there appears whole or not at all."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from nullface_pipeline.photo_files import whole_file, write_whole
from nullface_pipeline.photo_folder.steps import file_bytes


class ShardError(Exception):
    """A shard that cannot be read or written now. Nothing of it counts as done; the next run tries it again."""


@dataclass(frozen=True)
class Place:
    """A folder by its path, or by a URL that fsspec knows: `s3://`, `gs://`, `hf://`. Names in it are relative, with /."""

    root: str

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The file system and the path in it.

        Raises:
            ImportError: if fsspec, or its package for this kind of URL, is not installed.
            ValueError: if the URL's kind is unknown.
        """
        from fsspec.core import url_to_fs

        return url_to_fs(self.root)

    @property
    def folder(self) -> Path | None:
        """On this machine's disks; None for an object store."""
        from fsspec.implementations.local import LocalFileSystem

        system, path = self._opened
        return Path(path) if isinstance(system, LocalFileSystem) else None

    def path(self, name: str) -> str:
        """A name as the file system knows it."""
        return f"{self._opened[1].rstrip('/')}/{name}" if name else self._opened[1]

    def names(self) -> list[str]:
        """All files below, sorted; none if there is no such folder."""
        system, root = self._opened
        system.invalidate_cache()
        return sorted(found[len(root.rstrip("/")) + 1 :] for found in system.find(root) if found != root)

    def exists(self, name: str = "") -> bool:
        return bool(self._opened[0].exists(self.path(name)))

    def size(self, name: str) -> int:
        """In bytes."""
        return int(self._opened[0].size(self.path(name)))

    def open(self, name: str) -> BinaryIO:
        """For reading, at any position."""
        return self._opened[0].open(self.path(name), "rb")

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            OSError, PhotoFileError: if it is none, or cannot be read.
            ShardError: if the store does not answer.
        """
        if self.folder is not None:
            return file_bytes(self.folder / name)
        try:
            return bytes(self._opened[0].cat_file(self.path(name)))
        except FileNotFoundError:
            raise
        # Of a store that fails for a moment no photo is to be refused for good.
        except Exception as error:
            raise ShardError(f"{name} cannot be read from {self.root} ({type(error).__name__}: {error}).") from error

    def write(self, name: str, data: bytes) -> None:
        """One whole file, over an older one."""
        if self.folder is None:
            self._opened[0].pipe_file(self.path(name), data)
            return
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)

    @contextlib.contextmanager
    def written(self, name: str) -> Iterator[BinaryIO]:
        """A file to write to piece by piece, which gets its name at the end, or is dropped after an error."""
        if self.folder is not None:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as temporary, temporary.open("xb") as file:
                yield file
            return
        # Results only: what is read from a store never lies on a disk.
        with tempfile.NamedTemporaryFile(prefix="nullface-") as file:
            yield file  # type: ignore[misc]
            file.flush()
            self._opened[0].put_file(file.name, self.path(name))
