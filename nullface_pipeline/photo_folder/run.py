"""One photo after the other through the pipeline, without a leak.

A result is encoded and hashed; what it is gets recorded; then it appears. So a run that is killed at any moment leaves
no result that the next one would not know.
"""

import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import PIL.Image

from nullface_pipeline.photo_files import (
    PhotoFile,
    PhotoFileError,
    encode_photo,
    read_photo,
    write_whole,
)
from nullface_pipeline.photo_folder.jobs import PhotoJob
from nullface_pipeline.photo_folder.paths import identity, is_regular
from nullface_pipeline.photo_folder.records import MadeFrom, digest
from nullface_pipeline.photo_folder.report import PhotoOutcome
from nullface_pipeline.photo_records import AnonymizedPhoto, FaceNotHiddenError, PhotoRefusedError


Anonymize = Callable[[PhotoFile, str], AnonymizedPhoto]


def anonymize_photos(
    anonymize: Anonymize,
    jobs: list[PhotoJob],
    keep_metadata: bool = False,
    options: str = "",
    before_writing: Callable[[MadeFrom], None] | None = None,
) -> Iterator[PhotoOutcome]:
    """Run photos through `anonymize` one by one; while the model works, the next is read and the last is written.

    Args:
        anonymize (`Callable`): takes a photo and its `PhotoJob.name`; `anonymize_file` with a pipeline and options.
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
    """What is hashed is what is decoded: the file's bytes, read once."""
    try:
        # What is no file, or cannot be opened, is for `read_photo` to put into words.
        if not is_regular(job.source):
            return _Read(read_photo(job.source), "")
        data = job.source.read_bytes()
        return _Read(read_photo(io.BytesIO(data)), digest(data))
    except PhotoFileError as error:
        return error
    except OSError as error:
        return PhotoFileError(f"It cannot be read ({error.strerror}): check its permissions.")
    except MemoryError:
        return PhotoFileError("It needs more memory than there is: shrink it.")


def _hide_faces(anonymize: Anonymize, job: PhotoJob, read: _Read | PhotoFileError) -> _Unwritten:
    if isinstance(read, PhotoFileError):
        return _Unwritten(PhotoOutcome(job, "refused", str(read)))
    try:
        result = anonymize(read.file, job.name)
    except PhotoRefusedError as error:
        not_hidden = isinstance(error, FaceNotHiddenError)
        return _Unwritten(PhotoOutcome(job, "refused", str(error), not_hidden=not_hidden))
    # One photo that a library chokes on is no reason to give up the others.
    except Exception as error:
        return _Unwritten(PhotoOutcome(job, "refused", in_words(error)))
    covered = any(face.method == "covered" for face in result.faces)
    outcome = PhotoOutcome(job, "covered" if covered else "anonymized", faces=result.faces)
    return _Unwritten(outcome, result.image, read)


def in_words(error: Exception) -> str:
    """Why a photo is refused that a library chokes on."""
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
    """Say what a result is, and only then let it appear."""
    if identity(job.output) == identity(job.source):
        raise PhotoFileError("The output would replace the original: choose another folder or name.")
    data = encode_photo(image, read.file, keep_metadata)
    made = MadeFrom(read.original, options, digest(data))
    if made.result == made.original:
        raise PhotoFileError("The result would be the original, byte by byte: nothing was written.")
    job.output.parent.mkdir(parents=True, exist_ok=True)
    if before_writing is not None:
        before_writing(made)
    write_whole(job.output, data)
    return made
