"""Settings of an anonymization job over a data set."""

from dataclasses import dataclass, field
from functools import cached_property

from nullface_pipeline.dataset.storage import StorageLocation
from nullface_pipeline.photo_options import PhotoOptions


@dataclass(frozen=True, kw_only=True)
class DatasetJob:
    """Source, target, model and options of a job over a data set.

    Attributes:
        source, target (`StorageLocation`): locations of the shards and of their results, which
            every worker must be able to access.
        options (`PhotoOptions`): options of each photo, without seed and verifier.
        seed (`int`): secret seed, see `photo_seed`.
        options_sha256 (`str`): `options_digest` of the run.
        model, device, detection_threshold: see `load_model_set`.
        dtype (`str`, *optional*): name of a `torch.dtype`.
        verifier (`str`, *optional*): InsightFace pack of a second recognizer.
        keep_metadata (`bool`): see `encode_photo`.
        columns (`tuple[str, ...]`): other columns of Parquet files, and suffixes of other members
            of tars, to keep.
        image_column (`str`): image column of Parquet files.
        id_column (`str`, *optional*): column of Parquet files with a unique value per row; by
            default a row is identified by its file and number.
        shard_size (`int`): number of photos of a folder in one shard.
    """

    source: StorageLocation
    target: StorageLocation
    options: PhotoOptions
    seed: int = field(repr=False)
    options_sha256: str
    model: str = "tiny"
    device: str | None = None
    dtype: str | None = None
    detection_threshold: float = 0.3
    verifier: str | None = None
    keep_metadata: bool = False
    columns: tuple[str, ...] = ()
    image_column: str = "image"
    id_column: str | None = None
    shard_size: int = 256

    @cached_property
    def reports(self) -> StorageLocation:
        """Location of the reports, outside the target because they describe the originals."""
        return reports_location(self.target)


def reports_location(target: StorageLocation) -> StorageLocation:
    """Location of the reports of a target."""
    return StorageLocation(f"{target.root.rstrip('/')}-reports")
