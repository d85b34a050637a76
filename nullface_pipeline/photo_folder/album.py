"""All photos of a folder, one at a time, for whoever has to see them all before the first is changed."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from nullface_pipeline.photo_files import PhotoFileError, read_photo
from nullface_pipeline.runs.digests import digest, file_digest
from nullface_pipeline.runs.jobs import PhotoJob


if TYPE_CHECKING:
    import numpy as np


def album_digest(options: str, jobs: Iterable[PhotoJob]) -> str:
    """Of all that decides on the results of an album: the options' digest, and all of its photos."""
    return digest("".join([options, *sorted(file_digest(job.source) or "" for job in jobs)]).encode())


def read_album(jobs: Iterable[PhotoJob]) -> "Iterator[np.ndarray]":
    """(H, W, 3) uint8 RGB, upright, of each photo that can be read; the others are refused when their turn comes."""
    from nullface_pipeline.photo import read_pixels

    for job in jobs:
        try:
            pixels, _ = read_pixels(read_photo(job.source).image)
        except (PhotoFileError, OSError, ValueError, MemoryError):
            continue
        yield pixels
