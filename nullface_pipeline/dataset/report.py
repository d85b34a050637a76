"""Reports of shards, one Parquet row per photo, and their summary over a data set."""

import io
import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nullface_pipeline.dataset.job import DatasetJob, reports_location
from nullface_pipeline.dataset.rows import ShardHashes
from nullface_pipeline.dataset.storage import StorageLocation
from nullface_pipeline.photo_records import FaceRecord
from nullface_pipeline.runs.digests import ResultHashes


_FACE = pa.struct(
    {
        "box": pa.list_(pa.float64()),
        "score": pa.float64(),
        "similarity": pa.float64(),
        "attempts": pa.int64(),
        "method": pa.string(),
    }
)
_HASHES = {f"{name}_sha256": pa.string() for name in ("original", "options", "result")}
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        "faces": pa.list_(_FACE),
        **_HASHES,
        "seconds": pa.float64(),
        "unet_evaluations": pa.int64(),
    }
)
METADATA = b"nullface"
REPORT_SUFFIX = ".report.parquet"


@dataclass(frozen=True)
class PhotoLine:
    """Report line of one photo of a shard.

    Attributes:
        id (`str`): path or row of the photo.
        status, reason, faces, hashes: see `PhotoOutcome`.
        seconds (`float`): time in the model, without reading and writing.
        unet_evaluations (`int`): number of samples that the UNet processed.
    """

    id: str
    status: str
    reason: str = ""
    faces: tuple[FaceRecord, ...] = ()
    hashes: ResultHashes | None = None
    seconds: float = 0.0
    unet_evaluations: int = 0

    def as_row(self) -> dict[str, object]:
        """The line as a row of `SCHEMA`."""
        hashes = {} if self.hashes is None else asdict(self.hashes)
        return {
            "id": self.id,
            "status": self.status,
            "reason": self.reason or None,
            "faces": [asdict(face) for face in self.faces],
            **{f"{name}_sha256": value for name, value in hashes.items()},
            "seconds": self.seconds,
            "unet_evaluations": self.unet_evaluations,
        }


@dataclass(frozen=True)
class ShardInfo:
    """Metadata of a shard's report.

    Attributes:
        seconds (`float`): time for the shard, including reading and writing.
        device (`str`): name of the GPU, or "cpu".
        model, identity (`str`): options of the run.
        sha256 (`ShardHashes`): hashes of source and result.
    """

    seconds: float
    device: str
    model: str
    identity: str
    sha256: ShardHashes


def write_report(
    job: DatasetJob, name: str, lines: list[PhotoLine], hashes: ShardHashes, seconds: float, device: str
) -> None:
    """Write the report that marks a shard as done.

    Args:
        hashes (`ShardHashes`): hashes of source and result. The shard is done while both match.
        seconds, device: see `ShardInfo`.
    """
    shard = asdict(ShardInfo(seconds, device, job.model, job.options.identity, hashes))
    table = pa.Table.from_pylist([line.as_row() for line in lines], SCHEMA)
    file = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({METADATA: json.dumps(shard).encode()}), file)
    job.reports.write(name, file.getvalue())


def read_hashes(reports: StorageLocation, name: str) -> ShardHashes | None:
    """Read the hashes in a shard's report; `None` if it is missing or invalid."""
    try:
        with reports.open(name) as file:
            return _shard_info(pq.read_schema(file)).sha256
    except (pa.ArrowException, KeyError, OSError, TypeError, ValueError):
        return None


def _shard_info(schema: pa.Schema) -> ShardInfo:
    info = json.loads(schema.metadata[METADATA])
    return ShardInfo(**{**info, "sha256": ShardHashes(**info["sha256"])})


def read_lines(reports: StorageLocation, name: str) -> list[PhotoLine]:
    """Read id, status and reason of each photo of a finished shard."""
    with reports.open(name) as file:
        table = pq.read_table(file, columns=["id", "status", "reason"])
    return [PhotoLine(row["id"], row["status"], row["reason"] or "") for row in table.to_pylist()]


@dataclass
class RunSummary:
    """Sums over all reports of a data set.

    Attributes:
        photos, faces (`Counter`): number of photos by status, and of faces by method. Photos whose
            result was modified after the run have the status "changed"; their faces are not
            counted.
        changed (`list[str]`): names of the modified results.
        reasons (`Counter`): number of refused photos by reason.
        seconds (`Counter`): processing time of shards by device.
        unet_evaluations (`int`): total number.
        models, identities (`set`): models and identity choices of the shards.
    """

    shards: int = 0
    photos: Counter[str] = field(default_factory=Counter)
    faces: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    unet_evaluations: int = 0
    models: set[str] = field(default_factory=set)
    identities: set[str] = field(default_factory=set)
    changed: list[str] = field(default_factory=list)

    def add(self, name: str, table: pa.Table, target: StorageLocation) -> None:
        """Add the report of one more shard."""
        shard = _shard_info(table.schema)
        self.shards += 1
        self.models.add(shard.model)
        self.identities.add(shard.identity)
        self.seconds[shard.device] += shard.seconds  # type: ignore[assignment]
        rows = table.to_pylist()
        changed = _changed_results(name, shard.sha256.result, rows, target)
        self.changed += changed
        for row in rows:
            if name in changed or row["id"] in changed:
                self.photos["changed"] += 1
                continue
            self.photos[row["status"]] += 1
            self.faces.update(face["method"] for face in row["faces"])
            self.unet_evaluations += row["unet_evaluations"]
            if row["reason"] is not None:
                self.reasons[row["reason"]] += 1


def summarize(target: StorageLocation) -> RunSummary:
    """Sum the reports of a target, and compare its files with their hashes.

    Raises:
        ValueError: if it has no reports.
    """
    reports = reports_location(target)
    names = [name for name in reports.names() if name.endswith(REPORT_SUFFIX)]
    if not names:
        raise ValueError(f"{reports.root} has no reports. Pass the --output of a run.")
    summary = RunSummary()
    for name in names:
        with reports.open(name) as file:
            summary.add(name.removesuffix(REPORT_SUFFIX), pq.read_table(file), target)
    return summary


def _changed_results(
    name: str, recorded: str | None, rows: list[dict[str, Any]], target: StorageLocation
) -> list[str]:
    """Names of the results whose hash differs from the report."""
    if not name.endswith((".parquet", ".tar")):
        return [row["id"] for row in rows if target.sha256(row["id"]) != row["result_sha256"]]
    return [] if recorded is not None and target.sha256(name) == recorded else [name]
