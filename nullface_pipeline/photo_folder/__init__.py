"""Many photos: which there are, where each goes, and one after the other through the pipeline without a leak.

A photo ends up in the output folder complete and checked, or not at all. What is there already was finished by an
earlier run, because files only ever appear under their names whole; so a stopped run is resumed by giving it again.
"""

import glob
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import PIL.Image
import torch

from nullface_pipeline.photo_files import (
    SUFFIXES,
    TEMPORARY_PATTERN,
    PhotoFile,
    PhotoFileError,
    read_photo,
    write_photo,
)
from nullface_pipeline.photo_records import AnonymizedPhoto, FaceNotHiddenError, FaceRecord, NoFaceFoundError


_LINE_START = b'{"source": '


@dataclass(frozen=True)
class PhotoJob:
    """One photo and where its anonymized version goes."""

    source: Path
    output: Path


@dataclass(frozen=True)
class PhotoOutcome:
    """What became of one photo.

    Attributes:
        status (`str`): "anonymized", "covered" (at least one face is covered), "refused" (nothing was written), or
            "done before" (by an earlier run that kept no report).
        reason (`str`): why it was refused, else "".
        not_hidden (`bool`): whether it was refused because a face could not be hidden.
    """

    job: PhotoJob
    status: str
    reason: str = ""
    faces: tuple[FaceRecord, ...] = ()
    not_hidden: bool = False

    def as_json(self) -> str:
        """One line for the report; it names no person and holds no embedding."""
        record = {
            "source": str(self.job.source),
            "output": str(self.job.output) if self.status != "refused" else None,
            "status": self.status,
            "reason": self.reason or None,
            "faces": [asdict(face) for face in self.faces],
        }
        # Escaped, because names of files may be no valid text.
        return json.dumps(record)


def find_photos(paths: Sequence[str | Path], output: Path) -> list[PhotoJob]:
    """Files by name or pattern and whole folders, whose trees are mirrored below `output`; each once.

    Of what a folder or a pattern such as `photos/**/*.jpg` names, only files with a photo's suffix are taken.

    Raises:
        ValueError: if a path does not exist, two photos would get one name, or a photo would be written over.
    """
    jobs: dict[Path, Path] = {}
    for path in (found for named in paths for found in _expand(named)):
        if path.is_dir():
            if output.resolve().is_relative_to(path.resolve()):
                raise ValueError(f"The output folder {output} lies in {path}, whose photos are read; name another.")
            found = [
                (source, output / source.relative_to(path)) for source in sorted(path.rglob("*")) if _is_photo(source)
            ]
        else:
            found = [(path, output / path.name)]
        for source, target in found:
            if jobs.get(target, source) != source:
                raise ValueError(f"{jobs[target]} and {source} would both be written to {target}; run them apart.")
            jobs[target] = source
    originals = {source.resolve() for source in jobs.values()}
    for target in jobs:
        if target.resolve() in originals:
            raise ValueError(f"{target} is one of the photos and would be written over; name another output folder.")
    return [PhotoJob(source, target) for target, source in jobs.items()]


def _expand(path: str | Path) -> list[Path]:
    """A path as it is, or the photos that a pattern matches: not every shell expands them."""
    if Path(path).exists():
        return [Path(path)]
    if not glob.has_magic(str(path)):
        raise ValueError(f"{path} does not exist.")
    found = [Path(match) for match in sorted(glob.glob(str(path), recursive=True)) if _is_photo(Path(match))]
    if not found:
        raise ValueError(f"No photo matches {path}.")
    return found


def _is_photo(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def split_finished(jobs: list[PhotoJob], report: Path | None) -> tuple[list[PhotoOutcome], list[PhotoJob]]:
    """What an earlier run finished, and what is left to do.

    Files appear under their names complete, so a photo that is there is finished. With a report it has to be recorded
    there too: a run that was killed between writing a photo and recording it does that photo again.

    Raises:
        ValueError: if the report says that an output was made from another photo.
    """
    recorded = {} if report is None else read_report(report)
    finished: list[PhotoOutcome] = []
    pending: list[PhotoJob] = []
    for job in jobs:
        before = recorded.get(job.output.resolve())
        if before is not None and before.job.source.resolve() != job.source.resolve() and job.output.exists():
            raise ValueError(f"{job.output} was made from {before.job.source}, not from {job.source}; run them apart.")
        if job.output.exists() and (report is None or before is not None):
            finished.append(PhotoOutcome(job, "done before") if before is None else replace(before, job=job))
        else:
            pending.append(job)
    return finished, pending


def read_report(path: Path) -> dict[Path, PhotoOutcome]:
    """The photos that a report records as written, by resolved output; a later line counts more than an earlier one.

    Raises:
        ValueError: if it is not a report.
    """
    recorded: dict[Path, PhotoOutcome] = {}
    lines, rest = _whole_lines(path)
    if rest and not rest.startswith(_LINE_START[: len(rest)]):
        raise ValueError(f"{path} is no report; name another file for this one.")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            outcome = _from_record(record)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"Line {number} of {path} is none of a report; name another file for this one."
            ) from error
        if outcome.status == "refused":
            recorded = {output: other for output, other in recorded.items() if other.job.source != outcome.job.source}
        else:
            recorded[outcome.job.output.resolve()] = outcome
    return recorded


def _from_record(record: dict[str, Any]) -> PhotoOutcome:
    faces = tuple(FaceRecord(**{**face, "box": tuple(face["box"])}) for face in record["faces"])
    output = Path() if record["output"] is None else Path(record["output"])
    return PhotoOutcome(PhotoJob(Path(record["source"]), output), record["status"], record["reason"] or "", faces)


def append_to_report(path: Path, outcome: PhotoOutcome) -> None:
    """Add a line to a report, or begin one; what a killed run left half-written is dropped.

    Raises:
        OSError: if it cannot be written.
    """
    with path.open("ab+") as file:
        # The last byte tells; reading all of a long report for every photo would not be worth it.
        file.seek(max(0, file.tell() - 1))
        if file.read(1) not in (b"", b"\n"):
            lines, _ = _whole_lines(path)
            file.truncate(sum(len(line) for line in lines))
        file.write(outcome.as_json().encode() + b"\n")


def _whole_lines(path: Path) -> tuple[list[bytes], bytes]:
    """The lines of a file, and what comes after the last of them."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
    return lines, rest


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
