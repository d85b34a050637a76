"""Parsed arguments of the commands that anonymize photos."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image

from nullface_pipeline.cli.options import STREAM, NumberedFace, OnFailure, read_options
from nullface_pipeline.model_options import ModelOptions
from nullface_pipeline.photo_options import PhotoOptions, content


if TYPE_CHECKING:
    from nullface_pipeline.photo_records import Box
    from nullface_pipeline.runs.jobs import PhotoJob

    FaceToSkip = Path | NumberedFace | Box


@dataclass(frozen=True, kw_only=True)
class PhotoRun:
    """Arguments that apply to each photo.

    Attributes:
        options (`PhotoOptions`): without the seed, the verifier and numbered faces.
        model (`ModelOptions`): the model and its face models.
        skip_face (`list`): faces to keep, as given on the command line.
        keep_mask (`Path`, *optional*): file of `options.keep_mask`.
        on_failure (`OnFailure`): as in `options`, or `skip_file`.
        keep_metadata (`bool`): whether EXIF data is copied to the result.
    """

    options: PhotoOptions
    model: ModelOptions
    skip_face: "list[FaceToSkip]"
    keep_mask: Path | None = None
    on_failure: OnFailure
    keep_metadata: bool

    @property
    def other_inputs(self) -> list[Path]:
        """Files that are read besides the photos: reference photos and the mask."""
        masks = [] if self.keep_mask is None else [self.keep_mask]
        return [*(face for face in self.skip_face if isinstance(face, Path)), *masks]

    @property
    def single_photo_option(self) -> str | None:
        """Name of a given option that needs exactly one photo, or None."""
        if self.keep_mask is not None:
            return "--keep-mask"
        for face in self.skip_face:
            if isinstance(face, NumberedFace) and not face.photo:
                return "--skip-face with a number alone"
            if isinstance(face, tuple):
                return "--skip-face with a box"
        return None

    def skip_numbers(self, jobs: "list[PhotoJob]") -> dict[str, list[int]]:
        """Numbers of the faces to keep, by `PhotoJob.name`.

        Raises:
            ValueError: if `--skip-face PHOTO:NUMBER` does not name exactly one of the photos.
        """
        numbers: dict[str, list[int]] = {}
        for face in self.skip_face:
            if isinstance(face, NumberedFace):
                numbers.setdefault(_named_job(jobs, face).name, []).append(face.number)
        return numbers

    @property
    def content(self) -> dict[str, Any]:
        """All arguments that results depend on except the seed, for `options_digest`."""
        numbered = [f"{face.photo}:{face.number}" for face in self.skip_face if isinstance(face, NumberedFace)]
        return {
            **content(self.options),
            **content(self.model),
            "numbered_faces": numbered,
            "keep_metadata": self.keep_metadata,
        }


def photo_arguments(
    values: dict[str, Any],
    skip_face: "list[FaceToSkip] | None",
    on_failure: OnFailure = OnFailure.cover,
    keep_mask: Path | None = None,
) -> dict[str, Any]:
    """Fields of `PhotoRun` from the generated options, the faces to keep and the mask.

    Raises:
        OptionError, ValueError: if a value is invalid or a file cannot be read.
    """
    faces = [face for face in skip_face or () if not isinstance(face, NumberedFace)]
    others = {
        "keep_mask": None if keep_mask is None else read_picture(keep_mask, "--keep-mask"),
        "skip_faces": [read_picture(face, "--skip-face") if isinstance(face, Path) else face for face in faces],
        "on_failure": "cover" if on_failure is OnFailure.cover else "error",
    }
    return {
        "options": read_options(PhotoOptions, values, **others),
        "model": read_options(ModelOptions, values),
        "skip_face": list(skip_face or ()),
        "on_failure": on_failure,
        "keep_mask": keep_mask,
    }


@dataclass(frozen=True, kw_only=True)
class FolderRun(PhotoRun):
    """Arguments of `nullface anonymize`."""

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
        """Whether standard input or standard output is used for the photo."""
        return STREAM in (*self.paths, str(self.output))

    @property
    def names_a_file(self) -> bool:
        """Whether the output is the file of one photo and not a folder."""
        from nullface_pipeline.photo_files import is_photo_name

        return is_photo_name(self.output.name) and not self.output.is_dir()

    @property
    def folder(self) -> Path:
        """Output folder."""
        return self.output.parent if self.names_a_file else self.output

    @property
    def is_album(self) -> bool:
        """Whether a person gets one new face in all photos."""
        return self.options.identity == "consistent"

    @property
    def digest(self) -> str:
        """Hash of all arguments that results depend on."""
        from nullface_pipeline.runs.digests import options_digest

        return options_digest(self.content)


def _named_job(jobs: "list[PhotoJob]", face: NumberedFace) -> "PhotoJob":
    """Find the job whose photo has the given path, path in the output folder, or else file name."""
    named = [job for job in jobs if not face.photo or Path(face.photo) in (job.source, Path(job.name))]
    named = named or [job for job in jobs if job.source.name == face.photo]
    if not named:
        raise ValueError(f"--skip-face {face.photo}:{face.number}: {face.photo} is not among the photos of this run.")
    if len(named) > 1:
        raise ValueError(
            f"--skip-face {face.photo}:{face.number}: {len(named)} photos have this name. Add the folder."
        )
    return named[0]


def read_picture(path: Path, option: str) -> PIL.Image.Image:
    """Read the image file of an option, upright and in RGB.

    Raises:
        ValueError: if it cannot be read.
    """
    from nullface_pipeline.photo_files import PhotoFileError, read_photo

    try:
        picture = read_photo(path).image
    except PhotoFileError as error:
        raise ValueError(f"{option} {path}: {error}") from error
    picture.filename = str(path)  # type: ignore[attr-defined]  # for messages
    return picture
