"""One photo after the other through the pipeline, without a leak."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import PIL.Image
import torch

from nullface_pipeline.photo_files import TEMPORARY_PATTERN, PhotoFile, PhotoFileError, read_photo, write_photo
from nullface_pipeline.photo_folder.jobs import PhotoJob
from nullface_pipeline.photo_folder.report import PhotoOutcome
from nullface_pipeline.photo_records import AnonymizedPhoto, FaceNotHiddenError, NoFaceFoundError


def remove_leftovers(jobs: list[PhotoJob]) -> None:
    """Delete the half-written files that a killed run left where these jobs write."""
    for folder in {job.output.parent for job in jobs}:
        for leftover in folder.glob(TEMPORARY_PATTERN):
            leftover.unlink(missing_ok=True)


def anonymize_photos(
    anonymize: Callable[[PIL.Image.Image, str], AnonymizedPhoto], jobs: list[PhotoJob], keep_metadata: bool = False
) -> Iterator[PhotoOutcome]:
    """Run photos through `anonymize` one by one; while the model works, the next is read and the last is written.

    Args:
        anonymize (`Callable`): takes an upright RGB photo and the name of its output.
        keep_metadata (`bool`): as for `write_photo`.

    Yields:
        `PhotoOutcome`: in the order of `jobs`, once the photo is on the disk or refused.
    """
    remove_leftovers(jobs)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reading = deque([reader.submit(_read, jobs[0])] if jobs else [])
        writing: Future[PhotoOutcome] | None = None
        for number, job in enumerate(jobs):
            if number + 1 < len(jobs):
                reading.append(reader.submit(_read, jobs[number + 1]))
            outcome = _hide_faces(anonymize, job, reading.popleft().result())
            if writing is not None:
                yield writing.result()
            writing = writer.submit(_write, outcome, keep_metadata)
        if writing is not None:
            yield writing.result()


@dataclass(frozen=True)
class _Unwritten:
    """An outcome, and what is to be written for it if anything is."""

    outcome: PhotoOutcome
    image: PIL.Image.Image | None = None
    file: PhotoFile | None = None


def _read(job: PhotoJob) -> PhotoFile | PhotoFileError:
    try:
        return read_photo(job.source)
    except PhotoFileError as error:
        return error


def _hide_faces(
    anonymize: Callable[[PIL.Image.Image, str], AnonymizedPhoto], job: PhotoJob, file: PhotoFile | PhotoFileError
) -> _Unwritten:
    if isinstance(file, PhotoFileError):
        return _Unwritten(PhotoOutcome(job, "refused", str(file)))
    try:
        result = anonymize(file.image, job.output.name)
    except (NoFaceFoundError, FaceNotHiddenError) as error:
        not_hidden = isinstance(error, FaceNotHiddenError)
        return _Unwritten(PhotoOutcome(job, "refused", str(error), not_hidden=not_hidden))
    except (MemoryError, torch.OutOfMemoryError):
        reason = "It needs more memory than there is: shrink it, or lower the number of faces in a batch."
        return _Unwritten(PhotoOutcome(job, "refused", reason))
    # One photo that a library chokes on is no reason to give up the others.
    except Exception as error:
        reason = f"It could not be processed ({type(error).__name__}: {' '.join(str(error).split())[:200]})."
        return _Unwritten(PhotoOutcome(job, "refused", reason))
    covered = any(face.method == "covered" for face in result.faces)
    outcome = PhotoOutcome(job, "covered" if covered else "anonymized", faces=result.faces)
    return _Unwritten(outcome, result.image, file)


def _write(unwritten: _Unwritten, keep_metadata: bool) -> PhotoOutcome:
    outcome = unwritten.outcome
    if unwritten.image is None or unwritten.file is None:
        if outcome.job.output.exists():
            return replace(outcome, reason=f"{outcome.reason} An older result is still at {outcome.job.output}.")
        return outcome
    try:
        outcome.job.output.parent.mkdir(parents=True, exist_ok=True)
        write_photo(unwritten.image, outcome.job.output, unwritten.file, keep_metadata)
    except (PhotoFileError, OSError) as error:
        return PhotoOutcome(outcome.job, "refused", str(error))
    return outcome
