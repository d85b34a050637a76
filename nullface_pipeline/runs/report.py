"""Report of a run, one line of JSON per photo."""

import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from nullface_pipeline.photo_records import FaceRecord
from nullface_pipeline.runs.atomic_files import restrict_mode
from nullface_pipeline.runs.digests import ResultHashes
from nullface_pipeline.runs.jobs import PhotoJob
from nullface_pipeline.runs.lock import lock_file


STATUSES = ("anonymized", "covered", "refused", "done before")

_LINE_START = b'{"source": '


@dataclass(frozen=True)
class PhotoOutcome:
    """Outcome of one photo.

    Attributes:
        status (`str`): "anonymized", "covered" (at least one face is covered), "refused" (nothing
            was written), or "done before" (by an earlier run without a report).
        reason (`str`): reason of a refusal, else "".
        not_hidden (`bool`): whether it was refused because a face could not be anonymized.
        hashes (`ResultHashes`, *optional*): hashes of original, options and result.
    """

    job: PhotoJob
    status: str
    reason: str = ""
    faces: tuple[FaceRecord, ...] = ()
    not_hidden: bool = False
    hashes: ResultHashes | None = None

    def as_json(self, identity: str) -> str:
        """Line of the report, which contains no embedding.

        Args:
            identity (`str`): `PhotoOptions.identity` of the run.
        """
        record = {
            "source": str(self.job.source),
            "output": str(self.job.output) if self.status != "refused" else None,
            "status": self.status,
            "reason": self.reason or None,
            "identity": identity,
            "original_sha256": None if self.hashes is None else self.hashes.original,
            "options_sha256": None if self.hashes is None else self.hashes.options,
            "result_sha256": None if self.hashes is None else self.hashes.result,
            "faces": [asdict(face) for face in self.faces],
        }
        # ASCII only, because file names may not be valid text.
        return json.dumps(record)


def read_report(path: Path) -> dict[Path, PhotoOutcome]:
    """Read the last outcome of each photo that a report lists as written, by resolved output path.

    Raises:
        ValueError: if the file is not a report.
    """
    recorded: dict[Path, PhotoOutcome] = {}
    lines, rest = _whole_lines(path)
    if rest and not rest.startswith(_LINE_START[: len(rest)]):
        raise ValueError(f"{path} is not a report. Name another file.")
    for number, line in enumerate(lines, start=1):
        try:
            outcome = _from_record(json.loads(line))
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is not a report: line {number} is not valid. Name another file.") from error
        if outcome.status == "refused":
            recorded = {output: other for output, other in recorded.items() if other.job.source != outcome.job.source}
        else:
            recorded[real_path(outcome.job.output)] = outcome
    return recorded


def real_path(path: Path) -> Path:
    """Absolute path with links resolved."""
    return Path(os.path.realpath(path))


def _from_record(record: dict[str, object]) -> PhotoOutcome:
    """Parse and check a line of a report."""
    output = Path() if record["output"] is None else _path(record["output"])
    job = PhotoJob(_path(record["source"]), output)
    reason, status = "" if record["reason"] is None else record["reason"], record["status"]
    if status not in STATUSES or not isinstance(reason, str) or (record["output"] is None) != (status == "refused"):
        raise ValueError("`status`, `reason` and `output` are not consistent.")
    faces = tuple(_face(face) for face in _list(record["faces"]))
    return PhotoOutcome(job, status, reason, faces, hashes=_hashes(record))


def _hashes(record: dict[str, object]) -> ResultHashes | None:
    """Hashes in a line; `None` for refused photos."""
    values = [record.get(f"{name}_sha256") for name in ("original", "options", "result")]
    if all(value is None for value in values):
        return None
    if not all(isinstance(value, str) for value in values):
        raise ValueError("A hash is not a string.")
    return ResultHashes(*map(str, values))


def _face(face: object) -> FaceRecord:
    if not isinstance(face, dict):
        raise TypeError("Not a face.")
    x0, y0, x1, y1 = (_number(value) for value in _list(face["box"]))
    similarity = None if face["similarity"] is None else _number(face["similarity"])
    attempts, method = face["attempts"], face["method"]
    if type(attempts) is not int or not isinstance(method, str):
        raise ValueError("`attempts` is not an integer, or `method` is not a string.")
    return FaceRecord((x0, y0, x1, y1), _number(face["score"]), similarity, attempts, method)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= sys.float_info.max:
        raise ValueError("Not a finite number.")
    return float(value)


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise TypeError("Not a list.")
    return value


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("Not a path.")
    # Raises an error for text that cannot be a file name.
    os.fsencode(value)
    return Path(value)


def append_to_report(path: Path, outcome: PhotoOutcome, identity: str) -> None:
    """Append a line to a report. An incomplete last line is dropped.

    Args:
        identity (`str`): `PhotoOptions.identity` of the run.

    Raises:
        OSError: if it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two runs may share a report. Locked, so that neither truncates a line of the other.
    with path.open("ab+") as file:
        lock_file(file)
        # Checked by the last byte, to avoid reading a long report for every photo.
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        if file.read(1) not in (b"", b"\n"):
            lines, _ = _whole_lines(path)
            file.truncate(sum(len(line) for line in lines))
        restrict_mode(path, outcome.job.source)
        file.write(outcome.as_json(identity).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _whole_lines(path: Path) -> tuple[list[bytes], bytes]:
    """Complete lines of a file, and the rest after them."""
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    rest = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
    return lines, rest
