"""What became of the photos, as the report tells it to the next run."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nullface_pipeline.photo_folder.jobs import PhotoJob
from nullface_pipeline.photo_records import FaceRecord


_LINE_START = b'{"source": '


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
