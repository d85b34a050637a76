"""Many photos: which there are, where each goes, and one after the other through the pipeline without a leak.

A photo ends up in the output folder complete and checked, or not at all. What is there already was finished by an
earlier run, because files only ever appear under their names whole; so a stopped run is resumed by giving it again.
"""

import json
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import PIL.Image

from nullface_pipeline.photo import AnonymizedPhoto, FaceNotHiddenError, FaceRecord, NoFaceFoundError
from nullface_pipeline.photo_files import SUFFIXES, PhotoFile, PhotoFileError, read_photo, write_photo


@dataclass(frozen=True)
class PhotoJob:
    """One photo and where its anonymized version goes."""

    source: Path
    output: Path


@dataclass(frozen=True)
class PhotoOutcome:
    """What became of one photo.

    Attributes:
        status (`str`): "anonymized", "redacted" (at least one face is covered), "refused" (nothing was written), or
            "done before".
        reason (`str`): why it was refused, else "".
    """

    job: PhotoJob
    status: str
    reason: str = ""
    faces: tuple[FaceRecord, ...] = ()

    def as_json(self) -> str:
        """One line for the report; it names no person and holds no embedding."""
        record = {
            "source": str(self.job.source),
            "output": str(self.job.output) if self.status != "refused" else None,
            "status": self.status,
            "reason": self.reason or None,
            "faces": [asdict(face) for face in self.faces],
        }
        return json.dumps(record, ensure_ascii=False)


def find_photos(paths: list[Path], output: Path) -> list[PhotoJob]:
    """Files by name and whole folders, whose trees are mirrored below `output`; sorted, each once.

    Raises:
        ValueError: if a path does not exist, two photos would get one name, or the output would be read as input.
    """
    jobs: dict[Path, Path] = {}
    for path in paths:
        if not path.exists():
            raise ValueError(f"{path} does not exist.")
        if path.is_dir():
            if output.resolve().is_relative_to(path.resolve()):
                raise ValueError(f"The output folder {output} lies in {path}, whose photos are read; name another.")
            sources = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
            found = [(source, output / source.relative_to(path)) for source in sources]
        else:
            found = [(path, output / path.name)]
        for source, target in found:
            if jobs.get(target, source) != source:
                raise ValueError(f"{jobs[target]} and {source} would both be written to {target}; run them apart.")
            jobs[target] = source
    return [PhotoJob(source, target) for target, source in jobs.items()]


def anonymize_photos(
    anonymize: Callable[[PIL.Image.Image, str], AnonymizedPhoto],
    jobs: list[PhotoJob],
    keep_metadata: bool = False,
    resume: bool = True,
) -> Iterator[PhotoOutcome]:
    """Run photos through `anonymize` one by one; while the model works, the next is read and the last is written.

    Args:
        anonymize (`Callable`): takes an upright RGB photo and the name of its output.
        keep_metadata (`bool`): as for `write_photo`.
        resume (`bool`): leave out what is in the output folder already.

    Yields:
        `PhotoOutcome`: first what was done before, then in the order of `jobs`, once on the disk or refused.
    """
    done = [job for job in jobs if resume and job.output.exists()]
    yield from (PhotoOutcome(job, "done before") for job in done)
    pending = [job for job in jobs if job not in done]
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        reading = deque([reader.submit(_read, pending[0])] if pending else [])
        writing: Future[PhotoOutcome] | None = None
        for number, job in enumerate(pending):
            if number + 1 < len(pending):
                reading.append(reader.submit(_read, pending[number + 1]))
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
        return _Unwritten(PhotoOutcome(job, "refused", str(error)))
    redacted = any(face.method == "redacted" for face in result.faces)
    outcome = PhotoOutcome(job, "redacted" if redacted else "anonymized", faces=result.faces)
    return _Unwritten(outcome, result.image, file)


def _write(unwritten: _Unwritten, keep_metadata: bool) -> PhotoOutcome:
    outcome = unwritten.outcome
    if unwritten.image is None or unwritten.file is None:
        return outcome
    try:
        outcome.job.output.parent.mkdir(parents=True, exist_ok=True)
        write_photo(unwritten.image, outcome.job.output, unwritten.file, keep_metadata)
    except (PhotoFileError, OSError) as error:
        return PhotoOutcome(outcome.job, "refused", str(error))
    return outcome
