"""One photo after the other through the pipeline, without a leak.

A result is written under a passing name and hashed; what it is gets recorded; then it appears under its own name. So a
run that is killed at any moment leaves no result that the next one would not know.
"""

import secrets
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import PIL.Image

from nullface_pipeline.photo_files import TEMPORARY_PATTERN, PhotoFile, PhotoFileError, read_photo, write_photo
from nullface_pipeline.photo_folder.jobs import PhotoJob
from nullface_pipeline.photo_folder.paths import identity
from nullface_pipeline.photo_folder.records import MadeFrom, digest, file_digest
from nullface_pipeline.photo_folder.report import PhotoOutcome
from nullface_pipeline.photo_records import AnonymizedPhoto, FaceNotHiddenError, NoFaceFoundError


Anonymize = Callable[[PIL.Image.Image, str], AnonymizedPhoto]


def anonymize_photos(
    anonymize: Anonymize,
    jobs: list[PhotoJob],
    keep_metadata: bool = False,
    options: str = "",
    before_writing: Callable[[MadeFrom], None] | None = None,
) -> Iterator[PhotoOutcome]:
    """Run photos through `anonymize` one by one; while the model works, the next is read and the last is written.

    Args:
        anonymize (`Callable`): takes an upright RGB photo and the name of its output.
        keep_metadata (`bool`): as for `write_photo`.
        options (`str`): what the outcomes say of the options, see `options_digest`.
        before_writing (`Callable`, *optional*): is told the hashes of a result before it appears under its name. What
            it raises as an `OSError` has the photo refused.

    Yields:
        `PhotoOutcome`: in the order of `jobs`, once the photo is on the disk or refused.
    """
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reading = deque([reader.submit(_read, jobs[0])] if jobs else [])
        writing: Future[PhotoOutcome] | None = None
        for number, job in enumerate(jobs):
            if number + 1 < len(jobs):
                reading.append(reader.submit(_read, jobs[number + 1]))
            unwritten = _hide_faces(anonymize, job, reading.popleft().result())
            if writing is not None:
                yield writing.result()
            writing = writer.submit(_write, unwritten, keep_metadata, options, before_writing)
        if writing is not None:
            yield writing.result()


@dataclass(frozen=True)
class _Read:
    """A photo, and the hash of its file."""

    file: PhotoFile
    original: str


@dataclass(frozen=True)
class _Unwritten:
    """An outcome, and what is to be written for it if anything is."""

    outcome: PhotoOutcome
    image: PIL.Image.Image | None = None
    read: _Read | None = None


def _read(job: PhotoJob) -> _Read | PhotoFileError:
    original = file_digest(job.source)
    try:
        file = read_photo(job.source)
    except PhotoFileError as error:
        return error
    if original is None or file_digest(job.source) != original:
        return PhotoFileError("It changed while it was read: wait until nobody writes to it, and try again.")
    return _Read(file, original)


def _hide_faces(anonymize: Anonymize, job: PhotoJob, read: _Read | PhotoFileError) -> _Unwritten:
    if isinstance(read, PhotoFileError):
        return _Unwritten(PhotoOutcome(job, "refused", str(read)))
    try:
        result = anonymize(read.file.image, job.output.name)
    except (NoFaceFoundError, FaceNotHiddenError) as error:
        not_hidden = isinstance(error, FaceNotHiddenError)
        return _Unwritten(PhotoOutcome(job, "refused", str(error), not_hidden=not_hidden))
    # One photo that a library chokes on is no reason to give up the others.
    except Exception as error:
        return _Unwritten(PhotoOutcome(job, "refused", _in_words(error)))
    covered = any(face.method == "covered" for face in result.faces)
    outcome = PhotoOutcome(job, "covered" if covered else "anonymized", faces=result.faces)
    return _Unwritten(outcome, result.image, read)


def _in_words(error: Exception) -> str:
    # By its name, because torch, whose error it is, takes seconds to import.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "It needs more memory than there is: shrink it, or lower the number of faces in a batch."
    return f"It could not be processed ({type(error).__name__}: {' '.join(str(error).split())[:200]})."


def _write(
    unwritten: _Unwritten,
    keep_metadata: bool,
    options: str,
    before_writing: Callable[[MadeFrom], None] | None,
) -> PhotoOutcome:
    outcome = unwritten.outcome
    if unwritten.image is None or unwritten.read is None:
        if outcome.job.output.exists():
            return replace(outcome, reason=f"{outcome.reason} An older result is still at {outcome.job.output}.")
        return outcome
    try:
        made = _write_result(unwritten.image, unwritten.read, outcome.job, keep_metadata, options, before_writing)
    except (PhotoFileError, OSError) as error:
        return PhotoOutcome(outcome.job, "refused", str(error))
    return replace(outcome, made=made)


def _write_result(
    image: PIL.Image.Image,
    read: _Read,
    job: PhotoJob,
    keep_metadata: bool,
    options: str,
    before_writing: Callable[[MadeFrom], None] | None,
) -> MadeFrom:
    """Write a result under a passing name, say what it is, and only then give it its own."""
    if identity(job.output) == identity(job.source):
        raise PhotoFileError("The output would replace the original: choose another folder or name.")
    job.output.parent.mkdir(parents=True, exist_ok=True)
    # Not the photo's own name with something added: that may be as long as names can be.
    passing = job.output.with_name(TEMPORARY_PATTERN.replace("*", secrets.token_hex(8)))
    try:
        write_photo(image, passing, read.file, keep_metadata)
        made = MadeFrom(read.original, options, digest(passing.read_bytes()))
        if made.result == made.original:
            raise PhotoFileError("The result would be the original, byte by byte: nothing was written.")
        if before_writing is not None:
            before_writing(made)
        passing.replace(job.output)
    finally:
        passing.unlink(missing_ok=True)
    return made
