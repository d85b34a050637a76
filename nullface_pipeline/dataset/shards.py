"""Shards of a data set: find them, check which are done, and open them."""

import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nullface_pipeline.dataset.folder_shard import open_photos, photos_sha256
from nullface_pipeline.dataset.job import DatasetJob, reports_location
from nullface_pipeline.dataset.report import REPORT_SUFFIX, read_hashes
from nullface_pipeline.dataset.rows import ShardHashes, ShardRows
from nullface_pipeline.dataset.storage import StorageLocation
from nullface_pipeline.photo_files import is_photo_name
from nullface_pipeline.photo_folder import search_photos


RUN_NAME = "run.json"


@dataclass(frozen=True)
class Shard:
    """Unit of work: one file, or some photos of a folder.

    Attributes:
        name (`str`): name of the file in source and target, or a name derived from the photos.
        photos (`tuple[str, ...]`): names of the photos of a folder; empty for a file.
    """

    name: str
    photos: tuple[str, ...] = ()

    @property
    def report(self) -> str:
        """Name of the report, which is written last."""
        return self.name + REPORT_SUFFIX

    def as_row(self) -> dict[str, object]:
        """The shard as a dictionary, for Ray."""
        return {"name": self.name, "photos": list(self.photos)}

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Shard":
        return cls(str(row["name"]), tuple(map(str, row["photos"])))


def find_shards(source: StorageLocation, target: StorageLocation, shard_size: int = 256) -> list[Shard]:
    """Find the shards of the source, sorted by name: Parquet files, tar files, or groups of photos.

    Args:
        shard_size (`int`): number of photos of a folder in one shard.

    Raises:
        ShardError: if a name in the source leads out of it.
        ValueError: if the source has no shards or several kinds, or overlaps with the target.
    """
    _check_apart(source, target)
    names = source.names()
    kinds = {
        "Parquet files": [name for name in names if name.endswith(".parquet")],
        "tar files": [name for name in names if name.endswith(".tar")],
        "photos": [name for name in names if is_photo_name(name)],
    }
    found = [kind for kind, listed in kinds.items() if listed]
    if not found:
        raise ValueError(f"There are no Parquet files, tar files or photos in {source.root}.")
    if len(found) > 1:
        raise ValueError(f"{source.root} contains {' and '.join(found)}: choose a folder with one kind.")
    if found != ["photos"]:
        return [Shard(name) for name in kinds[found[0]]]
    return _photo_shards(_photo_names(source, target), shard_size)


def _photo_names(source: StorageLocation, target: StorageLocation) -> list[str]:
    """Names of the photos. In a local folder, `search_photos` finds and checks them."""
    folder = source.folder
    if folder is None:
        return [name for name in source.names() if is_photo_name(name)]
    # For a target in an object store, any other folder will do: only the relative names are used.
    beside = folder.with_name(f"{folder.name}-anonymized")
    return sorted(photo.name for photo in search_photos([folder], target.folder or beside).jobs)


def _photo_shards(names: list[str], size: int) -> list[Shard]:
    """Group photos into shards, named by number and hash of the photos' names."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"The file name {name!a} is not valid text: rename the photo.") from error
    chunks = [tuple(names[start : start + size]) for start in range(0, len(names), size)]
    digests = [hashlib.blake2b("\0".join(chunk).encode(), digest_size=8).hexdigest() for chunk in chunks]
    return [
        Shard(f"photos-{number:06}-{digest}", chunk) for number, (digest, chunk) in enumerate(zip(digests, chunks))
    ]


def _check_apart(source: StorageLocation, target: StorageLocation) -> None:
    if not source.exists():
        raise ValueError(f"{source.root} does not exist.")
    if source.folder is not None and not source.folder.is_dir():
        raise ValueError(f"{source.root} is not a folder: give the folder of the shards.")
    if target.folder is None and "/" not in target.path(""):
        raise ValueError(f"{target.root} is a bucket, which leaves no place for reports: choose a folder in it.")
    roots = [_real(location) for location in (source, target, reports_location(target))]
    for other in roots[1:]:
        if other == roots[0] or other.startswith(roots[0] + "/") or roots[0].startswith(other + "/"):
            raise ValueError(f"{source.root} and {target.root} overlap: choose another --output.")


def _real(location: StorageLocation) -> str:
    folder = location.folder
    return location.root.rstrip("/") if folder is None else str(Path(folder).resolve())


def begin(job: DatasetJob, shards: list[Shard]) -> list[Shard]:
    """Claim the target, and return the unfinished shards by their hashes.

    Raises:
        ValueError: as `claim_target`.
    """
    claim_target(job, shards)
    return [shard for shard in shards if not is_done(job, shard)]


def is_done(job: DatasetJob, shard: Shard) -> bool:
    """Whether the hashes in a shard's report match its source and result."""
    recorded = read_hashes(job.reports, shard.report)
    return recorded is not None and recorded == ShardHashes(_sha256(job.source, shard), _sha256(job.target, shard))


def _sha256(location: StorageLocation, shard: Shard) -> str | None:
    if shard.photos:
        return photos_sha256({name: location.sha256(name) for name in shard.photos})
    return location.sha256(shard.name)


def claim_target(job: DatasetJob, shards: list[Shard]) -> None:
    """Begin a target, or check that it was begun with the same options.

    Raises:
        ValueError: if the target contains files of no run, or results of other options or another
            source.
    """
    done = {name for name in job.reports.names() if name.endswith(REPORT_SUFFIX)}
    if _begun_with(job) != job.options_sha256:
        existing = [*job.target.names(), *sorted(done)]
        # Read again, because another process may have begun the same run in the meantime.
        if (options := _begun_with(job)) != job.options_sha256:
            _check_new(job, existing, options)
            job.reports.write(RUN_NAME, json.dumps({"options_sha256": job.options_sha256}).encode())
    unknown = done - {shard.report for shard in shards}
    if unknown:
        raise ValueError(
            f"{job.reports.root} contains reports of shards that {job.source.root} does not have, such as "
            f"{min(unknown)}: the source has changed. Choose another --output."
        )


def _begun_with(job: DatasetJob) -> str | None:
    """Options digest of the run that began the target, if any."""
    return json.loads(job.reports.read(RUN_NAME))["options_sha256"] if job.reports.exists(RUN_NAME) else None


def _check_new(job: DatasetJob, existing: list[str], options: str | None) -> None:
    """Check that a target that this run did not begin is empty."""
    if existing and options is not None:
        raise ValueError(
            f"{job.target.root} was begun with other options or another version: choose another --output."
        )
    if existing:
        raise ValueError(
            f"{job.target.root} contains files of no earlier run, such as {existing[0]}: choose another --output."
        )


def open_shard(job: DatasetJob, shard: Shard) -> AbstractContextManager[ShardRows]:
    """Open a shard for reading and writing. Its result is written atomically at the end."""
    from nullface_pipeline.dataset.parquet_shard import open_parquet
    from nullface_pipeline.dataset.tar_shard import open_tar

    if shard.photos:
        return open_photos(job, shard.photos)
    if shard.name.endswith(".parquet"):
        return open_parquet(job, shard.name)
    return open_tar(job, shard.name)
