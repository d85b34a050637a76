"""Encode the denoiser's training portraits, in several photographic styles each.

python -m training.latent_cache
"""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from rich.progress import track

from nullface_pipeline.face_crops import FaceCrop
from training.augmentation import mirrored
from training.autoencoder import CROP_SIZE, to_tensor
from training.denoiser_export import LATENT_SIZE
from training.loop import ArrayCache, cached_array, option_parser, set_up
from training.photometry import MIN_CHROMA_SPREAD, chroma_spread, random_style
from training.portraits import Portrait, load_portraits


MIN_CROP_SIDE = 90.0
MAX_HATCHING = 0.165


@dataclass(frozen=True)
class LatentCache(ArrayCache):
    """Scaled latents of the chosen portraits of a split; the second half of V is mirrored."""

    FILE = "latents_{split}.npz"
    ids: np.ndarray  # (N,) str, ids of the portraits
    real_colour: np.ndarray  # (N,) bool, whether it is a colour photograph, not a grey photo or a tinted print
    latents: np.ndarray  # (N, V, 4, 32, 32) float16, about unit variance


def hatching(crop: np.ndarray) -> float:
    """Amount of fine strokes in an (H, W, 3) uint8 crop: high for engravings and halftone."""
    face = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)[24:112, 24:104]
    strokes = face - cv2.GaussianBlur(face, (0, 0), 1.5)
    return float(np.abs(strokes).mean() / (face.std() + 8.0))


def is_large(portrait: Portrait) -> bool:
    """Whether the model's crop spans at least `MIN_CROP_SIDE` px of the photo."""
    return CROP_SIZE / portrait.face_crop(CROP_SIZE).scale >= MIN_CROP_SIDE


def has_real_colour(portrait: Portrait, crop: np.ndarray) -> bool:
    """Whether an (H, W, 3) uint8 crop of the portrait is a colour photograph."""
    return portrait.colour and chroma_spread(crop) > MIN_CHROMA_SPREAD


def jittered_crop(portrait: Portrait, rng: np.random.Generator) -> FaceCrop:
    """The portrait's crop with a small random shift, rotation and scale."""
    matrix = portrait.face_crop(CROP_SIZE).matrix
    centre = (CROP_SIZE - 1) / 2.0
    jitter = cv2.getRotationMatrix2D((centre, centre), rng.normal(0.0, 2.0), np.exp(rng.normal(0.0, 0.025)))
    jitter[:, 2] = jitter[:, 2] + rng.normal(0.0, 0.01 * CROP_SIZE, size=2)
    matrix = np.hstack([jitter[:, :2] @ matrix[:, :2], (jitter[:, :2] @ matrix[:, 2] + jitter[:, 2])[:, None]])
    return FaceCrop(matrix, CROP_SIZE)


def styled_crops(portrait: Portrait, variants: int, rng: np.random.Generator) -> np.ndarray:
    """(V, 128, 128, 3) uint8 jittered crops in random styles, the second half mirrored."""
    photo = portrait.image()
    crops = [random_style(jittered_crop(portrait, rng).crop_image(photo), rng) for _ in range(variants)]
    return np.stack([crop[:, ::-1] if 2 * i >= variants else crop for i, crop in enumerate(crops)])


def variant_landmarks(portrait: Portrait, variants: int, rng: np.random.Generator) -> np.ndarray:
    """(V, 68, 2) landmarks in the crops that `styled_crops` makes with an equal generator."""
    size = np.zeros((CROP_SIZE, CROP_SIZE, 3), np.uint8)
    result = []
    for i in range(variants):
        points = jittered_crop(portrait, rng).points_to_crop(portrait.landmarks)
        random_style(size[:2, :2], rng)  # keeps the generator in step with `styled_crops`
        result.append(mirrored(size, points)[1] if 2 * i >= variants else points)
    return np.stack(result)


def cached_landmarks(data: Path, split: str, runs: Path, seed: int = 0) -> np.ndarray:
    """(N, V, 68, 2) float32 landmarks, in px of the latent cache's crops, cached on disk."""

    def make() -> np.ndarray:
        cache = LatentCache.load(runs, split)
        variants = cache.latents.shape[1]
        ids, found = set(cache.ids), {}
        for index, portrait in enumerate(track(load_portraits(data, split), "placing landmarks")):
            if portrait.id not in ids:
                continue
            points = portrait.face_crop(CROP_SIZE).points_to_crop(portrait.landmarks)[None]
            if variants > 1:
                points = variant_landmarks(portrait, variants, np.random.default_rng([seed, index]))
            found[portrait.id] = points
        return np.stack([found[portrait_id] for portrait_id in cache.ids]).astype(np.float32)

    return cached_array(runs / f"landmarks_{split}.npy", make)


@torch.no_grad()
def scaled_latents(autoencoder: AutoencoderTiny, crops: np.ndarray, device: torch.device) -> torch.Tensor:
    """Encode (B, 128, 128, 3) uint8 crops as (B, 4, 32, 32) float32 latents of unit variance."""
    images, size = to_tensor(crops, device), LATENT_SIZE * 2 ** (len(autoencoder.config.block_out_channels) - 1)
    if size != CROP_SIZE:
        images = F.interpolate(images, (size, size), mode="bicubic")
    return autoencoder.encode(images).latents * autoencoder.config.scaling_factor


def encode(autoencoder: AutoencoderTiny, crops: np.ndarray, device: torch.device) -> np.ndarray:
    """Encode (B, 128, 128, 3) uint8 crops as (B, 4, 32, 32) float16 scaled latents."""
    return scaled_latents(autoencoder, crops, device).to(torch.float16).cpu().numpy()


def build_cache(args: Namespace, split: str, variants: int) -> LatentCache:
    """Choose and encode portraits of a split; if `variants` is 0, the clean crops of all."""
    device = torch.device(args.device)
    autoencoder = AutoencoderTiny.from_pretrained(args.autoencoder).to(device).to(memory_format=torch.channels_last)
    ids, real_colour, latents = [], [], []
    for index, portrait in enumerate(track(load_portraits(args.data, split), f"encoding {split}")):
        crop = portrait.face_crop(CROP_SIZE).crop_image(portrait.image())
        colour = has_real_colour(portrait, crop)
        if variants and not (is_large(portrait) and (colour or hatching(crop) < MAX_HATCHING)):
            continue
        crops = styled_crops(portrait, variants, np.random.default_rng([args.seed, index])) if variants else crop[None]
        ids.append(portrait.id)
        real_colour.append(colour)
        latents.append(encode(autoencoder, crops, device))
    return LatentCache(np.array(ids), np.array(real_colour), np.stack(latents))


def main() -> None:
    parser = option_parser(__doc__, "data", "autoencoder", "runs", "device", "threads", "seed")
    parser.add_argument("--variants", type=int, default=4, help="styles per portrait")
    args = parser.parse_args()
    set_up(args.threads)
    args.runs.mkdir(parents=True, exist_ok=True)
    build_cache(args, "validation", variants=0).save(args.runs, "validation")
    build_cache(args, "train", args.variants).save(args.runs)


if __name__ == "__main__":
    main()
