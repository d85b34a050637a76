"""What `nullface anonymize` was asked, and what that means for each photo."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from nullface_pipeline.cli.options import Dtype, OnFailure, Preset, region_names


if TYPE_CHECKING:
    from nullface_pipeline.photo_records import PhotoOptions


@dataclass(frozen=True)
class Asked:
    """The command's arguments, as they are named there."""

    paths: list[str]
    output: Path
    model: str
    keep: str
    preset: Preset
    fast: bool
    device: str | None
    dtype: Dtype | None
    seed: int | None
    on_failure: OnFailure
    threshold: float | None
    accept_recognizable: bool
    detection_threshold: float
    min_face: float
    batch_faces: int
    keep_metadata: bool
    report: Path | None
    contact_sheet: Path | None
    resume: bool
    overwrite: bool
    dry_run: bool

    @cached_property
    def photo_options(self) -> "PhotoOptions":
        """What is asked of each photo, besides the seed and the preset's numbers, which depend on the model."""
        from nullface_pipeline.photo_records import PhotoOptions

        return PhotoOptions(
            keep=region_names(self.keep),
            similarity_threshold=self.threshold,
            accept_recognizable=self.accept_recognizable,
            min_face=self.min_face,
            on_failure="cover" if self.on_failure is OnFailure.cover else "error",
            batch_faces=self.batch_faces,
        )

    @property
    def digest(self) -> str:
        """Of all that decides on a result, but for the seed, see `options_digest`."""
        from nullface_pipeline.photo_folder import options_digest

        photo = self.photo_options
        return options_digest(
            {
                "model": self.model,
                "preset": self.preset,
                "fast": self.fast,
                "keep": sorted(photo.keep),
                "threshold": photo.similarity_threshold,
                "min_face": photo.min_face,
                "on_failure": photo.on_failure,
                "detection_threshold": self.detection_threshold,
                "keep_metadata": self.keep_metadata,
            }
        )
