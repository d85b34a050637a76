"""What a command was asked, and what that means for each photo."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image

from nullface_pipeline.cli.options import STREAM, Cover, Dtype, NumberedFace, OnFailure, Preset, names


if TYPE_CHECKING:
    from nullface_pipeline.photo_records import Box, PhotoOptions
    from nullface_pipeline.runs.jobs import PhotoJob


@dataclass(frozen=True, kw_only=True)
class AskedOfFaces:
    """What commands ask of each face, in photos and in videos, as they name it."""

    keep: list[str] | None
    skip_face: "list[Path | NumberedFace | Box] | None"
    preset: Preset
    same_face: bool = False
    opposite: bool = False
    steps: int | None
    skip: float | None
    guidance_scale: float | None
    identity_scale: float | None
    identity_angle: float | None
    similarity_threshold: float | None
    accept_recognizable: bool
    verifier: str | None
    detection_threshold: float
    min_face: float
    cover: Cover
    model: str
    device: str | None
    dtype: Dtype | None
    batch_faces: int
    quiet: bool

    @property
    def face_options(self) -> dict[str, Any]:
        """Fields of `PhotoOptions`, besides the seed, the verifier and the preset's numbers, which depend on the model.

        Raises:
            ValueError: if options do not go together.
        """
        if self.same_face and self.identity_angle:
            raise ValueError(
                "--same-face is one new face for a person, --identity-angle another one each time: leave one out."
            )
        return {
            "keep": names(self.keep),
            "skip_faces": tuple(
                read_picture(face, "--skip-face") if isinstance(face, Path) else face
                for face in self.skip_face or ()
                if not isinstance(face, NumberedFace)
            ),
            "similarity_threshold": self.similarity_threshold,
            "accept_recognizable": self.accept_recognizable,
            "identity": self.identity,
            "min_face": self.min_face,
            "cover": self.cover.value,
            "batch_faces": self.batch_faces,
            "preset": self.preset.value,
            **self.knobs,
        }

    @property
    def identity(self) -> str:
        """One of `IDENTITIES`."""
        return "consistent" if self.same_face else "opposite" if self.opposite else "random"

    @property
    def knobs(self) -> dict[str, Any]:
        """The pipeline's settings that were given; they take precedence over the preset's."""
        knobs = {
            "num_inference_steps": self.steps,
            "skip": self.skip,
            "guidance_scale": self.guidance_scale,
            "identity_scale": self.identity_scale,
            "identity_angle": self.identity_angle,
        }
        return {name: value for name, value in knobs.items() if value is not None}

    @property
    def decides(self) -> dict[str, Any]:
        """All of this that decides on a result, for `options_digest`."""
        from nullface_pipeline.runs.digests import file_digest

        return {
            "model": self.model,
            "preset": self.preset,
            "keep": sorted(names(self.keep)),
            "skip_faces": [
                file_digest(face) if isinstance(face, Path) else str(face) for face in self.skip_face or ()
            ],
            "similarity_threshold": self.similarity_threshold,
            "verifier": self.verifier,
            "identity": self.identity,
            "min_face": self.min_face,
            "cover": self.cover,
            "detection_threshold": self.detection_threshold,
            **self.knobs,
        }


@dataclass(frozen=True, kw_only=True)
class AskedOfPhotos(AskedOfFaces):
    """What commands ask of each photo, as they name it."""

    keep_mask: Path | None = None
    on_failure: OnFailure
    keep_metadata: bool

    @property
    def other_inputs(self) -> list[Path]:
        """Files that are read besides the photos: reference photos and the mask."""
        masks = [] if self.keep_mask is None else [self.keep_mask]
        return [*(face for face in self.skip_face or () if isinstance(face, Path)), *masks]

    @property
    def about_one_photo(self) -> str | None:
        """The option that only makes sense with one photo, if there is any."""
        if self.keep_mask is not None:
            return "--keep-mask"
        for face in self.skip_face or ():
            if isinstance(face, NumberedFace) and not face.photo:
                return "--skip-face with a number alone"
            if isinstance(face, tuple):
                return "--skip-face with a box"
        return None

    def skip_numbers(self, jobs: "list[PhotoJob]") -> dict[str, list[int]]:
        """Numbers of the faces to leave alone, by `PhotoJob.name`.

        Raises:
            ValueError: if `--skip-face PHOTO:NUMBER` does not name exactly one of the photos.
        """
        numbers: dict[str, list[int]] = {}
        for face in self.skip_face or ():
            if isinstance(face, NumberedFace):
                numbers.setdefault(_named_job(jobs, face).name, []).append(face.number)
        return numbers

    @cached_property
    def photo_options(self) -> "PhotoOptions":
        """What is asked of each photo, besides what `face_options` leaves open.

        Raises:
            TypeError, ValueError: with the field's name, see `as_options`.
        """
        from nullface_pipeline.photo_records import PhotoOptions

        return PhotoOptions(
            **self.face_options,
            keep_mask=None if self.keep_mask is None else read_picture(self.keep_mask, "--keep-mask"),
            on_failure="cover" if self.on_failure is OnFailure.cover else "error",
        )

    @property
    def digest(self) -> str:
        """Of all that decides on a result, but for the seed, see `options_digest`."""
        from nullface_pipeline.runs.digests import file_digest, options_digest

        return options_digest(
            {
                **self.decides,
                "keep_mask": None if self.keep_mask is None else file_digest(self.keep_mask),
                "on_failure": self.photo_options.on_failure,
                "keep_metadata": self.keep_metadata,
            }
        )


@dataclass(frozen=True, kw_only=True)
class Asked(AskedOfPhotos):
    """The arguments of `nullface anonymize`."""

    paths: list[str]
    output: Path
    seed: int | None
    report: Path | None
    contact_sheet: Path | None
    no_resume: bool
    overwrite: bool
    dry_run: bool
    json: bool

    @property
    def streams(self) -> bool:
        """Whether one photo comes from the standard input, or its result goes to the standard output."""
        return STREAM in (*self.paths, str(self.output))

    @property
    def names_a_file(self) -> bool:
        """Whether the output is a file for one photo and no folder."""
        from nullface_pipeline.photo_files import is_photo_name

        return is_photo_name(self.output.name) and not self.output.is_dir()

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return self.output.parent if self.names_a_file else self.output


def _named_job(jobs: "list[PhotoJob]", face: NumberedFace) -> "PhotoJob":
    """The job whose photo has this path, this path in the output folder, or else this file name."""
    named = [job for job in jobs if not face.photo or Path(face.photo) in (job.source, Path(job.name))]
    named = named or [job for job in jobs if job.source.name == face.photo]
    if len(named) != 1:
        raise ValueError(f"--skip-face {face.photo}:{face.number} names {len(named)} of the photos, not one.")
    return named[0]


def read_picture(path: Path, option: str) -> PIL.Image.Image:
    """A picture that an option names, upright and in RGB.

    Raises:
        ValueError: if it cannot be read.
    """
    from nullface_pipeline.photo_files import PhotoFileError, read_photo

    try:
        return read_photo(path).image
    except PhotoFileError as error:
        raise ValueError(f"{option} {path}: {error}") from error
