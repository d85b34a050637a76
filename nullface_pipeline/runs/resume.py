"""Resume: which results of previous runs are finished, and which files may be replaced.

A file counts as a result only if the record has its hash, and as finished only if the record also
has the hashes of the photo and options. Other results are replaced, unknown files refused.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from nullface_pipeline.runs.digests import ResultHashes, file_digest
from nullface_pipeline.runs.jobs import PhotoJob
from nullface_pipeline.runs.paths import WrittenFile
from nullface_pipeline.runs.records import ResultRecord
from nullface_pipeline.runs.report import PhotoOutcome, real_path


@dataclass(frozen=True)
class PreviousRun:
    """Record and report of previous runs.

    Attributes:
        record (`ResultRecord`): record of this output folder.
        reported (`dict[Path, PhotoOutcome]`, *optional*): output of `read_report`, if there is a
            report.
    """

    record: ResultRecord
    reported: dict[Path, PhotoOutcome] | None = None

    def reported_as(self, job: PhotoJob, result: str | None) -> PhotoOutcome | None:
        """Outcome in the report for a result with this hash."""
        outcome = (self.reported or {}).get(real_path(job.output))
        return outcome if outcome and outcome.hashes and outcome.hashes.result == result else None

    def knows(self, job: PhotoJob, result: str) -> bool:
        """Whether a run wrote the file."""
        return self.record.knows(result) or self.reported_as(job, result) is not None


@dataclass
class SplitJobs:
    """Jobs that are finished, refused, and pending."""

    finished: list[PhotoOutcome] = field(default_factory=list)
    refused: list[PhotoOutcome] = field(default_factory=list)
    pending: list[PhotoJob] = field(default_factory=list)


def split_jobs(
    jobs: list[PhotoJob], options: str, previous: PreviousRun, resume: bool = True, overwrite: bool = False
) -> SplitJobs:
    """Split jobs into finished, refused and pending ones by their existing output files.

    Args:
        options (`str`): `options_digest` of this run.
        resume (`bool`): whether finished photos are skipped.
        overwrite (`bool`): whether files that are not in the record are replaced.
    """
    split = SplitJobs()
    originals = {job.source: file_digest(job.source) for job in jobs if os.path.lexists(job.output)}
    original_hashes = set(originals.values())
    for job in jobs:
        if job.source not in originals:
            split.pending.append(job)
            continue
        result = file_digest(job.output)
        outcome = _finished(job, ResultHashes(originals[job.source] or "", options, result or ""), previous)
        if result is not None and result in original_hashes:
            outcome, reason = None, "is an original, not a result"
        elif result is None or not previous.knows(job, result):
            outcome, reason = None, "already exists and was not written by an earlier run"
        else:
            reason = ""
        if reason and not overwrite:
            split.refused.append(PhotoOutcome(job, "refused", f"{job.output} {reason}: {_REMEDY}"))
        elif outcome is not None and resume:
            split.finished.append(outcome)
        else:
            split.pending.append(job)
    return split


_REMEDY = "move it, or pass --overwrite to replace it."


def _finished(job: PhotoJob, hashes: ResultHashes, previous: PreviousRun) -> PhotoOutcome | None:
    """Outcome of a previous run with the same hashes; `None` if it is not recorded or reported."""
    if previous.reported is None:
        return PhotoOutcome(job, "done before", hashes=hashes) if hashes in previous.record else None
    before = previous.reported_as(job, hashes.result)
    return replace(before, job=job) if before is not None and before.hashes == hashes else None


def check_replaceable(files: Iterable[WrittenFile], record: ResultRecord, remedy: str = "pass --overwrite") -> None:
    """Check that existing files that would be replaced were written by a run.

    Args:
        remedy (`str`): advice in the message, besides deleting the file.

    Raises:
        ValueError: if a file exists that is not in the record.
    """
    for file in files:
        if os.path.lexists(file.path) and not record.knows(file_digest(file.path) or ""):
            raise ValueError(
                f"{file.path} already exists and was not written by an earlier run. Delete it, {file.remedy}, or "
                f"{remedy}."
            )
