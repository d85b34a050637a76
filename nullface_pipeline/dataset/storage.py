"""Storage locations: folders on a disk or in an object store, with atomic writes."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from nullface_pipeline.photo_files.reading import file_bytes
from nullface_pipeline.runs.atomic_files import restrict_mode, whole_file, write_whole
from nullface_pipeline.runs.digests import file_digest


class ShardError(Exception):
    """Shard that cannot be read or written. The next run retries it."""


def check_name(name: str, where: str) -> None:
    """Check that a relative file name does not leave its folder.

    Raises:
        ShardError: if the name is absolute, or has an empty part, `.` or `..`.
    """
    windows = os.name == "nt" and any(letter in name for letter in "\\:")
    if windows or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise ShardError(f"{where} contains a file named {name!a}, which leads to another folder: rename it.")


def file_sha256(file: BinaryIO) -> str:
    """SHA-256 (hexadecimal) of an open file, which is rewound afterwards."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256")  # type: ignore[arg-type]
    file.seek(0)
    return digest.hexdigest()


@dataclass(frozen=True)
class StorageLocation:
    """Folder by path or by a URL of fsspec, such as `s3://`, `gs://` or `hf://`.

    Names of files are relative, with /. Methods raise `ShardError` for names that leave the folder.
    """

    root: str

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """File system and path in it.

        Raises:
            ImportError: if fsspec, or its package for this protocol, is not installed.
            ValueError: if the protocol is unknown.
        """
        from fsspec.core import url_to_fs

        return url_to_fs(self.root)

    @property
    def folder(self) -> Path | None:
        """Path of a local folder; None for an object store."""
        from fsspec.implementations.local import LocalFileSystem

        system, path = self._opened
        return Path(path) if isinstance(system, LocalFileSystem) else None

    def path(self, name: str = "") -> str:
        """Path of a file, or of the folder itself, in the file system."""
        root = self._opened[1]
        if not name:
            return str(root)
        check_name(name, self.root)
        return f"{root.rstrip('/')}/{name}".removeprefix("" if root else "/")

    def names(self) -> list[str]:
        """Names of all files in the folder and its subfolders, sorted; empty if it does not exist.

        Raises:
            ShardError: if a name is absolute, or has an empty part, `.` or `..`.
        """
        system, root = self._opened
        system.invalidate_cache()
        above = f"{root.rstrip('/')}/" if root else ""
        # Some stores list a folder as an object whose key ends with a slash.
        found = [path.removeprefix(above) for path in system.find(root) if path != root and not path.endswith("/")]
        for name in found:
            check_name(name, self.root)
        return sorted(found)

    def exists(self, name: str = "") -> bool:
        return bool(self._opened[0].exists(self.path(name)))

    def open(self, name: str) -> BinaryIO:
        """Open a file for reading, with seek."""
        return self._opened[0].open(self.path(name), "rb")

    def read(self, name: str) -> bytes:
        """Read a whole file.

        Raises:
            OSError, PhotoFileError: if it is not a file, or cannot be read.
            ShardError: if the store does not answer.
        """
        check_name(name, self.root)
        if (path := self.local_file(name)) is not None:
            return file_bytes(path)
        try:
            return bytes(self._opened[0].cat_file(self.path(name)))
        except FileNotFoundError:
            raise
        # A temporary failure of a store must not refuse a photo: the shard is retried instead.
        except Exception as error:
            raise ShardError(f"{name} cannot be read from {self.root} ({type(error).__name__}: {error}).") from error

    def sha256(self, name: str) -> str | None:
        """SHA-256 of a file in hexadecimal; `None` if it is missing or unreadable."""
        check_name(name, self.root)
        if (path := self.local_file(name)) is not None:
            return file_digest(path)
        try:
            with self.open(name) as file:
                return file_sha256(file)
        except FileNotFoundError:
            return None

    def remove(self, name: str) -> None:
        """Delete a file if it exists."""
        with contextlib.suppress(FileNotFoundError):
            if (path := self._writable(name)) is None:
                self._opened[0].rm_file(self.path(name))
            else:
                path.unlink()

    def local_file(self, name: str) -> Path | None:
        """Local path of a file; `None` in an object store."""
        return None if self.folder is None else self.folder / name

    def write(self, name: str, data: bytes, source: Path | None = None) -> None:
        """Write a file atomically, replacing an existing one; `source` as in `write_whole`."""
        if (path := self._writable(name)) is None:
            self._opened[0].pipe_file(self.path(name), data)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data, source)

    @contextlib.contextmanager
    def written(self, name: str, source: Path | None = None) -> Iterator[BinaryIO]:
        """Open a file for writing. It is renamed at the end, or deleted after an error.

        Args:
            source (`Path`, *optional*): as in `write_whole`.
        """
        if (path := self._writable(name)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as temporary, temporary.open("xb+") as file:
                if source is not None:
                    restrict_mode(temporary, source)
                yield file
            return
        # Holds results only; originals from a store are never written to disk.
        with tempfile.NamedTemporaryFile(prefix="nullface-") as file:
            yield file  # type: ignore[misc]
            file.flush()
            self._opened[0].put_file(file.name, self.path(name))

    def _writable(self, name: str) -> Path | None:
        """Local path of a file to write; `None` in an object store."""
        check_name(name, self.root)
        if self.folder is None:
            return None
        path = self.folder / name
        if not path.parent.resolve().is_relative_to(self.folder.resolve()):
            raise ShardError(f"{path} is reached by a link that leads out of {self.root}: remove the link.")
        return path
