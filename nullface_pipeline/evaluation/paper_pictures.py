"""Results for the paper's settings from aligned faces, in one folder per setting.

Results are the pipeline's output for the aligned face, as in the paper. They are not pasted back
and not verified: use them for measurements only.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from nullface_pipeline.evaluation.inpainting import FaceInpaintPipeline, is_blending
from nullface_pipeline.evaluation.paper import PAPER_STEPS, Setting
from nullface_pipeline.face_identity import detect_faces
from nullface_pipeline.face_masks import mask_picture
from nullface_pipeline.face_parsing import anonymization_mask
from nullface_pipeline.photo_files import read_photo, write_picture
from nullface_pipeline.pipeline import StableDiffusionNullFacePipeline


BATCH = 8


@dataclass(frozen=True, eq=False)
class Subject:
    """One aligned photo, ready for the pipeline.

    Attributes:
        name (`str`): file name without suffix.
        size (`tuple[int, int]`): width and height of the photo; results are resized to it.
        face (`PIL.Image.Image`): the photo at the model's size.
        embedding (`np.ndarray`): (512,) float32.
        labels (`np.ndarray`): (S, S) int64 labels of the face parser, at the model's size S.
        seed (`int`): seed of the noise.
    """

    name: str
    size: tuple[int, int]
    face: PIL.Image.Image
    embedding: np.ndarray
    labels: np.ndarray
    seed: int


def make_pictures(
    pipe: StableDiffusionNullFacePipeline,
    photos: Sequence[Path],
    settings: Sequence[Setting],
    output: Path,
    num_inference_steps: int = PAPER_STEPS,
    batch_size: int = BATCH,
    inpainter: FaceInpaintPipeline | None = None,
) -> Iterator[tuple[Path, str]]:
    """Write `output/SETTING/NAME.png` for every setting and photo, unless it exists.

    Args:
        photos (`Sequence[Path]`): square photos of one aligned face each; the index of a photo is
            its seed.
        inpainter ([`FaceInpaintPipeline`], *optional*): for the baseline of table 2, which inpaints
            the whole face.

    Yields:
        Each finished photo, with the reason if it was skipped, and "" otherwise.
    """
    names = [setting.name for setting in settings] + ([inpainting_name(inpainter)] if inpainter else [])
    for start in range(0, len(photos), batch_size):
        batch = photos[start : start + batch_size]
        if all((output / name / f"{path.stem}.png").is_file() for name in names for path in batch):
            yield from ((path, "") for path in batch)
            continue
        subjects, reasons = [], {}
        for seed, path in enumerate(batch, start=start):
            try:
                subjects.append(read_subject(pipe, path, seed))
            except ValueError as error:
                reasons[path] = str(error)
        if subjects:
            for name, pictures in anonymized(pipe, subjects, settings, num_inference_steps):
                write_all(pictures, subjects, output / name)
            if inpainter:
                write_all(
                    inpainted(pipe, inpainter, subjects, num_inference_steps),
                    subjects,
                    output / inpainting_name(inpainter),
                )
        yield from ((path, reasons.get(path, "")) for path in batch)


def inpainting_name(inpainter: FaceInpaintPipeline) -> str:
    """Name of the baseline of table 2."""
    return "inpainting by blending" if is_blending(inpainter) else "SD Inpainting"


def read_subject(pipe: StableDiffusionNullFacePipeline, path: Path, seed: int) -> Subject:
    """Read a photo; raises ValueError if it is not square or shows no face."""
    photo = read_photo(path).image
    if photo.width != photo.height:
        raise ValueError(f"{path.name} is {photo.width} x {photo.height}; aligned faces are square.")
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    face = photo.resize((side, side), PIL.Image.Resampling.LANCZOS) if photo.width != side else photo
    faces = detect_faces(pipe.face_analyser, np.asarray(photo))
    if not faces:
        raise ValueError(f"No face was found in {path.name}.")
    labels = pipe.face_parser(np.asarray(face))
    if not anonymization_mask(labels, pipe.face_parser.labels, ()).any():
        raise ValueError(f"The face parser finds no face in {path.name}.")
    return Subject(path.stem, photo.size, face, faces[0].embedding, labels, seed)


def anonymized(
    pipe: StableDiffusionNullFacePipeline,
    subjects: list[Subject],
    settings: Sequence[Setting],
    num_inference_steps: int,
) -> Iterator[tuple[str, list[PIL.Image.Image]]]:
    """Yield name and results of each setting; settings with the same skip share an inversion."""
    faces = [subject.face for subject in subjects]
    for skip, group in groupby(sorted(settings, key=lambda setting: setting.skip), key=lambda setting: setting.skip):
        inversion = pipe.invert(
            faces, num_inference_steps=num_inference_steps, skip=skip, generator=generators(subjects)
        )
        for setting in group:
            yield (
                setting.name,
                pipe(
                    faces,
                    inversion=inversion,
                    identity_embeds=embeddings(subjects),
                    mask_image=masks(pipe, subjects, setting.keep),
                    guidance_scale=setting.guidance_scale,
                    identity_scale=setting.identity_scale,
                    mask_start=setting.mask_start,
                ).images,
            )


def inpainted(
    pipe: StableDiffusionNullFacePipeline,
    inpainter: FaceInpaintPipeline,
    subjects: list[Subject],
    num_inference_steps: int,
) -> list[PIL.Image.Image]:
    """Whole faces inpainted by the baseline of table 2."""
    return inpainter.inpaint(
        [subject.face for subject in subjects],
        masks(pipe, subjects, ()),
        embeddings(subjects),
        num_inference_steps=num_inference_steps,
        generator=generators(subjects),
    )


def embeddings(subjects: list[Subject]) -> torch.Tensor:
    """Embeddings of the subjects, (B, 512) float32."""
    return torch.from_numpy(np.stack([subject.embedding for subject in subjects]))


def masks(
    pipe: StableDiffusionNullFacePipeline, subjects: list[Subject], keep: Sequence[str]
) -> list[PIL.Image.Image]:
    """Masks that are white where the face may change."""
    return [mask_picture(anonymization_mask(s.labels, pipe.face_parser.labels, keep)) for s in subjects]


def generators(subjects: list[Subject]) -> list[torch.Generator]:
    """One generator per subject, so that noise does not depend on the other photos."""
    return [torch.Generator().manual_seed(subject.seed) for subject in subjects]


def write_all(pictures: list[PIL.Image.Image], subjects: list[Subject], folder: Path) -> None:
    """Write results at the sizes of their photos."""
    for picture, subject in zip(pictures, subjects):
        full = picture.resize(subject.size, PIL.Image.Resampling.LANCZOS) if picture.size != subject.size else picture
        write_picture(full, folder / f"{subject.name}.png")
