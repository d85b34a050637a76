"""Worker of all engines: loads the models once, and processes shards."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from nullface_pipeline.dataset.job import DatasetJob
from nullface_pipeline.dataset.report import PhotoLine, read_lines, write_report
from nullface_pipeline.dataset.rows import Row, ShardRows
from nullface_pipeline.dataset.shards import Shard, is_done, open_shard
from nullface_pipeline.dataset.storage import ShardError
from nullface_pipeline.photo_files import PhotoFileError
from nullface_pipeline.photo_files.anonymize import photo_anonymizer
from nullface_pipeline.photo_files.steps import (
    DecodedPhoto,
    ProcessedPhoto,
    decode_photo,
    encode_result,
    process_photo,
)
from nullface_pipeline.runs.jobs import overlapped
from nullface_pipeline.runs.messages import format_error, is_broken_device, with_option_names


if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ShardOutcome:
    """Outcome of a shard.

    Attributes:
        photos, anonymized, covered, refused (`int`): number of photos, in total and by status.
        failed (`str`): reason why the shard failed and must be retried, else "".
    """

    name: str
    photos: int = 0
    anonymized: int = 0
    covered: int = 0
    refused: int = 0
    failed: str = ""


class ShardWorker:
    """Anonymizes shards with one model.

    Args:
        job (`DatasetJob`): settings of the job.

    Attributes:
        on_photo (`Callable`, *optional*): called after each photo.

    Raises:
        ImportError, OSError, RuntimeError, TypeError, ValueError: if a model cannot be loaded.
    """

    def __init__(self, job: DatasetJob) -> None:
        import torch

        from nullface_pipeline.model_sets import load_model_set

        dtype = None if job.dtype is None else getattr(torch, job.dtype)
        pipe = load_model_set(job.model, job.device, dtype, job.detection_threshold)
        self._job = job
        self._anonymize = photo_anonymizer(pipe, job.options, job.verifier, job.seed)
        self.on_photo: Callable[[], None] | None = None
        self._device = torch.cuda.get_device_name(pipe.device) if pipe.device.type == "cuda" else pipe.device.type
        self._evaluations = 0
        pipe.unet.register_forward_hook(self._count_evaluations)

    def __call__(self, row: dict[str, object]) -> dict[str, object]:
        """Process a row of Ray Data: `Shard.as_row` to the fields of a `ShardOutcome`."""
        return asdict(self.run(Shard.from_row(row)))

    def run(self, shard: Shard) -> ShardOutcome:
        """Process a shard unless it is done. Any error but a broken device marks it as failed."""
        try:
            if is_done(self._job, shard):
                return _outcome(shard, read_lines(self._job.reports, shard.report))
            return _outcome(shard, self._do(shard))
        except Exception as error:
            if is_broken_device(error):
                raise
            return ShardOutcome(shard.name, failed=_problem(error))

    def _do(self, shard: Shard) -> list[PhotoLine]:
        started = time.perf_counter()
        self._remove_earlier(shard)
        with open_shard(self._job, shard) as rows:
            lines = list(
                overlapped(
                    rows,
                    read=lambda row: decode_photo(row.load),
                    work=self._process,
                    write=lambda row, done: self._write(rows, row, *done),
                )
            )
        seconds = time.perf_counter() - started
        write_report(self._job, shard.report, lines, rows.hashes, seconds, self._device)
        return lines

    def _remove_earlier(self, shard: Shard) -> None:
        """Remove results that do not match their report, so that a failed shard has none."""
        if self._job.reports.exists(shard.report):
            for name in shard.photos or (shard.name,):
                self._job.target.remove(name)
            self._job.reports.remove(shard.report)

    def _process(self, row: Row, decoded: DecodedPhoto | PhotoFileError) -> tuple[ProcessedPhoto, float, int]:
        """Anonymize one photo; its result, time in seconds, and number of UNet evaluations."""
        started, before = time.perf_counter(), self._evaluations
        processed = process_photo(self._anonymize, row.id, decoded)
        if self.on_photo is not None:
            self.on_photo()
        return processed, time.perf_counter() - started, self._evaluations - before

    def _write(
        self, rows: ShardRows, row: Row, processed: ProcessedPhoto, seconds: float, evaluations: int
    ) -> PhotoLine:
        line = PhotoLine(row.id, "refused", processed.reason, seconds=seconds, unet_evaluations=evaluations)
        data = None
        if processed.image is not None and processed.decoded is not None:
            try:
                data, hashes = encode_result(
                    processed.image, processed.decoded, self._job.keep_metadata, self._job.options_sha256
                )
                line = replace(line, status=processed.status, reason="", faces=processed.faces, hashes=hashes)
            except PhotoFileError as error:
                line = replace(line, reason=str(error))
        line = replace(line, reason=with_option_names(line.reason))
        rows.add(row, data, line.reason)
        return line

    def _count_evaluations(self, module: object, inputs: object, output: "tuple[torch.Tensor, ...]") -> None:
        self._evaluations += output[0].shape[0]


def _outcome(shard: Shard, lines: list[PhotoLine]) -> ShardOutcome:
    counts = Counter(line.status for line in lines)
    return ShardOutcome(shard.name, len(lines), counts["anonymized"], counts["covered"], counts["refused"])


def _problem(error: Exception) -> str:
    """Reason why a shard failed, as one sentence."""
    if isinstance(error, ShardError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        reason = format_error(error, name_file=False)
        return f"It cannot be read or written ({reason}): check the free space of the disk and the permissions."
    return f"It could not be processed. {format_error(error)}."
