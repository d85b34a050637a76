"""Checks of the model parts: measurements on a few faces, and their expected ranges.

The ranges of nullface-tiny were measured. Those of the published weights, which were not run here,
have wide margins and follow from their purpose: an autoencoder reconstructs, and different people
are dissimilar.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import PIL.Image
import torch
from diffusers import DDIMScheduler

from nullface_pipeline.face_adapter import check_face_adapter, has_face_lora
from nullface_pipeline.face_crops import FaceCrop
from nullface_pipeline.face_identity import (
    FACEID_RECOGNIZER,
    embed_face,
    locate_faces,
    recognizer_name,
    same_person_similarity,
    similarity,
)
from nullface_pipeline.face_masks import face_ellipse
from nullface_pipeline.face_parsing import FACE_REGIONS, region_mask
from nullface_pipeline.photo_records import AnonymizedPhoto
from nullface_pipeline.pipeline import StableDiffusionNullFacePipeline
from nullface_pipeline.protocols import FaceAnalyser, FaceSegmenter
from nullface_pipeline.selftest.findings import Finding, at_least, at_most
from nullface_pipeline.selftest.people import ASTRONAUT_LANDMARKS, Person, astronaut, darker, group_photos, mirrored
from nullface_pipeline.unet_denoiser import UNetDenoiser


PSNR = 26.0  # dB, of the autoencoder's reconstruction
REPRODUCTION_PSNR = 30.0  # dB, of inversion and denoising without guidance, to the reconstruction
LANDMARK_ERROR = 0.15  # eye distances
DIFFERENT_PEOPLE, SAME_FACE = 0.3, 0.7  # mean cosines
REPRODUCTION_STEPS = 20
TIMESTEPS = (150, 300, 450, 600)
DENOISER_PEOPLE = 4


@dataclass(frozen=True)
class Expected:
    """Expected values that differ between nullface-tiny and the published weights.

    Attributes:
        noise_error (`float`): largest mean squared error of the predicted noise; 1 for a
            prediction of zero.
        identity_gain (`float`): smallest relative reduction of this error by the person's own
            identity, compared with the negated one.
    """

    noise_error: float
    identity_gain: float


TINY = Expected(noise_error=0.19, identity_gain=0.12)
PUBLISHED = Expected(noise_error=0.35, identity_gain=0.0)


def check_detector(analyser: FaceAnalyser) -> Iterator[Finding]:
    """Check the number of faces, and the landmarks against those of dlib."""
    faces = locate_faces(analyser, astronaut())
    yield Finding("detector", "faces in the portrait", f"{len(faces)} (1)", len(faces) == 1)
    for photo, count in group_photos():
        found = len(locate_faces(analyser, photo))
        yield Finding("detector", "faces in another photo", f"{found} ({count})", found == count)
    if faces:
        eyes = np.linalg.norm(ASTRONAUT_LANDMARKS[1] - ASTRONAUT_LANDMARKS[0])
        error = np.linalg.norm(faces[0].landmarks - ASTRONAUT_LANDMARKS, axis=1).mean() / eyes
        yield at_most("detector", "error of landmarks, eye distances", float(error), LANDMARK_ERROR)


def check_recognizer(analyser: FaceAnalyser, people: list[Person], published: bool) -> Iterator[Finding]:
    """Check that different people are dissimilar, and that mirrored and darker faces match."""
    if published:
        name = recognizer_name(analyser)
        yield Finding("recognizer", "file", f"{name} ({FACEID_RECOGNIZER})", name == FACEID_RECOGNIZER)
    embeddings = [embedding(analyser, person) for person in people]
    different = [similarity(*pair) for pair in combinations(embeddings, 2)]
    same = [
        similarity(own, embedding(analyser, change(person)))
        for own, person in zip(embeddings, people)
        for change in (mirrored, darker)
    ]
    if different:
        mean = float(np.mean(different))
        yield at_most("recognizer", "similarity of different people", mean, DIFFERENT_PEOPLE, "+.2f")
    yield at_least("recognizer", "similarity of the same face", float(np.mean(same)), SAME_FACE, "+.2f")


def check_parser(parser: FaceSegmenter, person: Person) -> Iterator[Finding]:
    """Check that eyes, nose and mouth are found at the landmarks, and the face in its ellipse."""
    crop = FaceCrop.from_landmarks(person.face.landmarks, 256)
    labels = parser(crop.crop_image(person.photo))
    landmarks = crop.points_to_crop(person.face.landmarks)
    points = [*landmarks[:3], landmarks[3:].mean(axis=0)]
    right = 0
    for (x, y), region in zip(np.round(points).astype(int), ("eyes", "eyes", "nose", "mouth")):
        # A landmark may be slightly outside a narrow eye.
        around = labels[y - 6 : y + 7, x - 6 : x + 7]
        right += bool(region_mask(around, parser.labels, [region]).any())
    yield Finding("parser", "eyes, nose and mouth found", f"{right} of 4 (at least 3)", right >= 3)
    face = region_mask(labels, parser.labels, FACE_REGIONS)[face_ellipse(landmarks, 256) > 0.5].mean()
    yield at_least("parser", "share of the face found", float(face), 0.5)


@torch.no_grad()
def check_autoencoder(pipe: StableDiffusionNullFacePipeline, people: list[Person]) -> Iterator[Finding]:
    """Check the reconstruction of encoded pictures."""
    errors = [psnr(np.asarray(face), np.asarray(reconstruct(pipe, face))) for face in aligned_faces(pipe, people)]
    yield at_least("autoencoder", "reconstruction, dB PSNR", float(np.mean(errors)), PSNR, ".1f")


def check_denoiser(
    pipe: StableDiffusionNullFacePipeline, people: list[Person], expected: Expected
) -> Iterator[Finding]:
    """Check the error of the predicted noise, and that the person's own identity reduces it."""
    check_face_adapter(pipe.unet)
    embeddings = torch.from_numpy(np.stack([embedding(pipe.face_analyser, person) for person in people]))
    errors = {
        name: noise_error(pipe, people, identities)
        for name, identities in (("null", 0.0 * embeddings), ("own", embeddings), ("opposite", -embeddings))
    }
    yield at_most("denoiser", "error of the predicted noise", errors["null"], expected.noise_error, ".3f")
    yield Finding(
        "adapter", "LoRA half", "loaded" if has_face_lora(pipe.unet) else "missing", has_face_lora(pipe.unet)
    )
    gain = 1.0 - errors["own"] / errors["opposite"]
    yield at_least("adapter", "gain by the own identity over its opposite", gain, expected.identity_gain, ".3f")


@torch.no_grad()
def noise_error(pipe: StableDiffusionNullFacePipeline, people: list[Person], identities: torch.Tensor) -> float:
    """Mean squared error of the predicted noise at `TIMESTEPS`, always with the same noise.

    Args:
        identities (`torch.Tensor`): (P, 512) identity of each person.
    """
    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    generator = torch.Generator().manual_seed(0)
    timesteps = torch.tensor(TIMESTEPS)
    errors = []
    for face, identity in zip(aligned_faces(pipe, people), identities):
        pixels = pipe.prepare_image(face)
        latents = pipe.encode_image(pixels).expand(len(TIMESTEPS), -1, -1, -1).cpu()
        noise = torch.randn(latents.shape, generator=generator)
        noised = scheduler.add_noise(latents, noise, timesteps).to(pipe.unet.device)
        denoiser = UNetDenoiser(pipe.unet, pipe.prompt_conditions("", *pixels.shape[-2:]))
        rows = identity.to(noised.device).expand(len(TIMESTEPS), -1)
        predicted = denoiser(noised, timesteps.to(noised.device), rows)
        errors.append(float((predicted.cpu() - noise).square().mean()))
    return float(np.mean(errors))


def check_inversion(pipe: StableDiffusionNullFacePipeline, person: Person) -> Iterator[Finding]:
    """Check that inversion and denoising without guidance reproduce the autoencoder's output."""
    face = next(aligned_faces(pipe, [person]))
    result = pipe(
        face,
        identity_embeds=embedding(pipe.face_analyser, person)[None],
        guidance_scale=0.0,
        num_inference_steps=REPRODUCTION_STEPS,
        generator=torch.Generator().manual_seed(0),
    ).images[0]
    agreement = psnr(np.asarray(reconstruct(pipe, face)), np.asarray(result))
    yield at_least("denoiser", "inversion and back, dB PSNR", agreement, REPRODUCTION_PSNR, ".1f")


def check_portrait(pipe: StableDiffusionNullFacePipeline, result: AnonymizedPhoto) -> Iterator[Finding]:
    """Check the anonymized portrait: one new face in at most two attempts, no other change."""
    before, after = astronaut(), np.asarray(result.image)
    record = result.faces[0]
    hidden = len(result.faces) == 1 and record.method == "replaced"
    yield Finding("portrait", "method", f"{record.method} ({len(result.faces)} face)", hidden)
    similar = float("nan") if record.similarity is None else record.similarity
    yield at_most("portrait", "similarity to the person", similar, same_person_similarity(pipe.face_analyser), "+.2f")
    yield Finding("portrait", "attempts", f"{record.attempts} (at most 2)", record.attempts <= 2)
    crop = FaceCrop.from_landmarks(ASTRONAUT_LANDMARKS, 256)
    change = np.abs(crop.crop_image(after).astype(float) - crop.crop_image(before)).mean(axis=-1)
    face = change[face_ellipse(crop.points_to_crop(ASTRONAUT_LANDMARKS), 256) > 0.5].mean()
    in_range = 4.0 <= face <= 70.0
    yield Finding("portrait", "mean change of the face, of 255", f"{face:.1f} (4 to 70)", in_range)
    elsewhere = (after[256:] != before[256:]).any()
    yield Finding("portrait", "pixels far from the face", "changed" if elsewhere else "untouched", not elsewhere)
    found = len(locate_faces(pipe.face_analyser, after))
    yield Finding("portrait", "faces found in the result", f"{found} (1)", found == 1)


def embedding(analyser: FaceAnalyser, person: Person) -> np.ndarray:
    """Embedding of a person: (512,) float32, unit norm."""
    return embed_face(analyser, person.photo, person.face.landmarks)


def aligned_faces(pipe: StableDiffusionNullFacePipeline, people: list[Person]) -> Iterator[PIL.Image.Image]:
    """Yield aligned faces at the size of the model."""
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    for person in people:
        crop = FaceCrop.from_landmarks(person.face.landmarks, side)
        yield PIL.Image.fromarray(crop.crop_image(person.photo))


@torch.no_grad()
def reconstruct(pipe: StableDiffusionNullFacePipeline, face: PIL.Image.Image) -> PIL.Image.Image:
    """Encode and decode a picture."""
    decoded = pipe.decode_latents(pipe.encode_image(pipe.prepare_image(face)))
    return pipe.image_processor.postprocess(decoded)[0]


def psnr(first: np.ndarray, second: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures in dB."""
    error = np.square(first.astype(float) - second).mean()
    return float(10.0 * np.log10(255.0**2 / max(error, 1e-9)))
