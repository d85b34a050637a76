"""Album: all photos of a folder, for steps that need them before the first is changed."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nullface_pipeline.photo_files import PhotoFileError, read_photo
from nullface_pipeline.runs.digests import digest, file_digest
from nullface_pipeline.runs.jobs import PhotoJob


if TYPE_CHECKING:
    import numpy as np


def album_digest(options: str, jobs: Iterable[PhotoJob]) -> str:
    """Digest of everything that the results of an album depend on: options and photos."""
    return digest("".join([options, *sorted(file_digest(job.source) or "" for job in jobs)]).encode())


def read_album(jobs: Iterable[PhotoJob]) -> "Iterator[np.ndarray]":
    """Yield the pixels of each readable photo: (H, W, 3) uint8 RGB, upright. The others are refused
    later."""
    from nullface_pipeline.photo import read_pixels

    for job in jobs:
        try:
            pixels, _ = read_pixels(read_photo(job.source).image)
        except (PhotoFileError, OSError, ValueError, MemoryError):
            continue
        yield pixels
