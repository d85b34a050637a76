"""Settings of an anonymization job over a data set."""

from dataclasses import dataclass, field
from functools import cached_property

from nullface_pipeline.dataset.storage import StorageLocation
from nullface_pipeline.photo_options import PhotoOptions


@dataclass(frozen=True, kw_only=True)
class DatasetJob:
    """Source, target, model and options of a job over a data set.

    Attributes:
        source, target (`StorageLocation`): where shards are read, and where those of the same names are written. Every worker has
            to reach both by these names.
        options (`PhotoOptions`): of each photo, but for the seed and the verifier.
        seed (`int`): secret, see `photo_seed`.
        options_sha256 (`str`): by `options_digest`, of all that decides on a result but for the seed.
        model, device, detection_threshold: as for `load_model_set`.
        dtype (`str`, *optional*): name of the `torch.dtype`.
        verifier (`str`, *optional*): InsightFace pack of a second recognizer.
        keep_metadata (`bool`): as for `encode_photo`.
        columns (`tuple[str, ...]`): other columns of Parquet files, and other members of tars by suffix, that are kept.
        image_column (`str`): of Parquet files.
        id_column (`str`, *optional*): of Parquet files, which tells a row from all others; by default a row is known by
            its file and number.
        shard_size (`int`): photos of a folder in one shard.
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
        """Location of the reports. It lies beside the target, because reports describe the
        originals."""
        return reports_location(self.target)


def reports_location(target: StorageLocation) -> StorageLocation:
    """Location of the reports on a target."""
    return StorageLocation(f"{target.root.rstrip('/')}-reports")
