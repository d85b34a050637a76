"""Run over photos: each result is encoded, hashed, recorded, and then written atomically.

In this order, a run that is killed at any time leaves no unrecorded result.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from nullface_pipeline.photo_files import PhotoFileError, read_photo
from nullface_pipeline.photo_files.reading import file_bytes
from nullface_pipeline.photo_files.steps import Anonymize, ProcessedPhoto, decode_photo, encode_result, process_photo
from nullface_pipeline.runs.atomic_files import write_whole
from nullface_pipeline.runs.digests import ResultHashes, digest, file_digest
from nullface_pipeline.runs.jobs import PhotoJob, overlapped
from nullface_pipeline.runs.paths import identity
from nullface_pipeline.runs.report import PhotoOutcome


if TYPE_CHECKING:
    import numpy as np


def anonymize_photos(
    anonymize: Anonymize,
    jobs: list[PhotoJob],
    keep_metadata: bool = False,
    options: str = "",
    before_writing: Callable[[ResultHashes], None] = lambda hashes: None,
) -> Iterator[PhotoOutcome]:
    """Anonymize photos, while the next photo is read and the previous result is written.

    Args:
        anonymize (`Callable`): function of a photo and its `PhotoJob.name`, see `photo_anonymizer`.
        keep_metadata (`bool`): see `write_photo`.
        options (`str`): `options_digest` of the run.
        before_writing (`Callable`): called with the hashes of a result before it is
            written. An `OSError` refuses the photo.

    Yields:
        `PhotoOutcome`: outcome of each job in order, once its result is written or refused.
    """

    def write(job: PhotoJob, processed: ProcessedPhoto) -> PhotoOutcome:
        if processed.image is None or processed.decoded is None:
            older = f" An older result remains at {job.output}." if job.output.exists() else ""
            return PhotoOutcome(job, "refused", processed.reason + older, not_hidden=processed.not_hidden)
        try:
            if identity(job.output) == identity(job.source):
                raise PhotoFileError("The output would replace the original: choose another output folder or name.")
            data, hashes = encode_result(processed.image, processed.decoded, keep_metadata, options)
            job.output.parent.mkdir(parents=True, exist_ok=True)
            before_writing(hashes)
            write_whole(job.output, data, job.source)
        except (PhotoFileError, OSError) as error:
            return PhotoOutcome(job, "refused", str(error))
        return PhotoOutcome(job, processed.status, faces=processed.faces, hashes=hashes)

    yield from overlapped(
        jobs,
        read=lambda job: decode_photo(lambda: file_bytes(job.source)),
        work=lambda job, decoded: process_photo(anonymize, job.name, decoded),
        write=write,
    )


def album_digest(options: str, jobs: Iterable[PhotoJob]) -> str:
    """Digest of the options and photos that the results of an album depend on."""
    return digest("".join([options, *sorted(file_digest(job.source) or "" for job in jobs)]).encode())


def read_album(jobs: Iterable[PhotoJob]) -> "Iterator[np.ndarray]":
    """Yield the upright (H, W, 3) uint8 RGB pixels of the readable photos; others are skipped."""
    from nullface_pipeline.photo import read_pixels

    for job in jobs:
        try:
            pixels, _ = read_pixels(read_photo(job.source).image)
        except (PhotoFileError, OSError, ValueError, MemoryError):
            continue
        yield pixels
