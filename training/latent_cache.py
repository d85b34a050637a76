"""Latents of the portraits the denoiser is trained on, in several photographic styles each, encoded once.

python -m training.latent_cache
"""

import argparse
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
from training.loop import RUNS
from training.photometry import MIN_CHROMA_SPREAD, chroma_spread, random_style
from training.portraits import Portrait, load_portraits


MIN_CROP_SIDE = 90.0
MAX_HATCHING = 0.165


@dataclass(frozen=True)
class LatentCache:
    """Scaled latents of the chosen portraits of one split; the second half of each portrait's variants is mirrored."""

    ids: np.ndarray  # (N,) str, ids of the portraits
    real_colour: np.ndarray  # (N,) bool, whether the colours are those of a colour photograph, not of a tinted print
    latents: np.ndarray  # (N, V, 4, 32, 32) float16, about unit variance

    @classmethod
    def load(cls, split: str, runs: Path) -> "LatentCache":
        """Read what `python -m training.latent_cache` wrote."""
        with np.load(runs / f"latents_{split}.npz") as file:
            return cls(file["ids"], file["real_colour"], file["latents"])

    def save(self, split: str, runs: Path) -> None:
        """Write the cache, under a temporary name first."""
        temporary = runs / f"latents_{split}.part.npz"
        np.savez(temporary, ids=self.ids, real_colour=self.real_colour, latents=self.latents)
        temporary.replace(runs / f"latents_{split}.npz")


def hatching(crop: np.ndarray) -> float:
    """Share of fine strokes in the face of an (H, W, 3) uint8 crop: high for engravings and coarse halftone."""
    face = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)[24:112, 24:104]
    strokes = face - cv2.GaussianBlur(face, (0, 0), 1.5)
    return float(np.abs(strokes).mean() / (face.std() + 8.0))


def is_large(portrait: Portrait) -> bool:
    """Whether the photo shows at least `MIN_CROP_SIDE` px of what the model's crop shows."""
    return CROP_SIZE / portrait.face_crop(CROP_SIZE).scale >= MIN_CROP_SIDE


def has_real_colour(portrait: Portrait, crop: np.ndarray) -> bool:
    """Whether an (H, W, 3) uint8 crop of the portrait is a colour photograph."""
    return portrait.colour and chroma_spread(crop) > MIN_CHROMA_SPREAD


def jittered_crop(portrait: Portrait, rng: np.random.Generator) -> FaceCrop:
    """The portrait's crop, a little moved, turned and scaled, as other landmarks would have given it."""
    matrix = portrait.face_crop(CROP_SIZE).matrix
    centre = (CROP_SIZE - 1) / 2.0
    jitter = cv2.getRotationMatrix2D((centre, centre), rng.normal(0.0, 2.0), np.exp(rng.normal(0.0, 0.025)))
    jitter[:, 2] = jitter[:, 2] + rng.normal(0.0, 0.01 * CROP_SIZE, size=2)
    matrix = np.hstack([jitter[:, :2] @ matrix[:, :2], (jitter[:, :2] @ matrix[:, 2] + jitter[:, 2])[:, None]])
    return FaceCrop(matrix, CROP_SIZE)


def styled_crops(portrait: Portrait, variants: int, rng: np.random.Generator) -> np.ndarray:
    """(V, 128, 128, 3) uint8 crops: jittered, in random styles, the second half mirrored."""
    photo = portrait.image()
    crops = [random_style(jittered_crop(portrait, rng).crop_image(photo), rng) for _ in range(variants)]
    return np.stack([crop[:, ::-1] if 2 * i >= variants else crop for i, crop in enumerate(crops)])


def variant_landmarks(portrait: Portrait, variants: int, rng: np.random.Generator) -> np.ndarray:
    """(V, 68, 2) landmarks in the crops that `styled_crops` cuts with an equal generator."""
    size = np.zeros((CROP_SIZE, CROP_SIZE, 3), np.uint8)
    result = []
    for i in range(variants):
        points = jittered_crop(portrait, rng).points_to_crop(portrait.landmarks)
        random_style(size[:2, :2], rng)  # draws what it drew then
        result.append(mirrored(size, points)[1] if 2 * i >= variants else points)
    return np.stack(result)


def cached_landmarks(data: str, split: str, runs: Path, seed: int = 0) -> np.ndarray:
    """(N, V, 68, 2) float32 px: where the landmarks are in the latents of the cache; worked out once."""
    path = runs / f"landmarks_{split}.npy"
    if not path.exists():
        cache = LatentCache.load(split, runs)
        variants = cache.latents.shape[1]
        wanted, found = set(cache.ids), {}
        for index, portrait in enumerate(track(load_portraits(data, split), "placing landmarks")):
            if portrait.id not in wanted:
                continue
            points = portrait.face_crop(CROP_SIZE).points_to_crop(portrait.landmarks)[None]
            if variants > 1:
                points = variant_landmarks(portrait, variants, np.random.default_rng([seed, index]))
            found[portrait.id] = points
        np.save(path, np.stack([found[portrait_id] for portrait_id in cache.ids]).astype(np.float32))
    return np.load(path)


@torch.no_grad()
def scaled_latents(autoencoder: AutoencoderTiny, crops: np.ndarray, device: torch.device) -> torch.Tensor:
    """(B, 128, 128, 3) uint8 crops to (B, 4, 32, 32) float32 latents, scaled to about unit variance."""
    images, size = to_tensor(crops, device), LATENT_SIZE * 2 ** (len(autoencoder.config.block_out_channels) - 1)
    if size != CROP_SIZE:
        images = F.interpolate(images, (size, size), mode="bicubic")
    return autoencoder.encode(images).latents * autoencoder.config.scaling_factor


def encode(autoencoder: AutoencoderTiny, crops: np.ndarray, device: torch.device) -> np.ndarray:
    """The same as a (B, 4, 32, 32) float16 array."""
    return scaled_latents(autoencoder, crops, device).to(torch.float16).cpu().numpy()


def build_cache(args: argparse.Namespace, split: str, variants: int) -> LatentCache:
    """Choose the portraits of a split and encode them; without variants, the clean crops of all of them."""
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
    parser = argparse.ArgumentParser(description="Encode the denoiser's training portraits.")
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="parquet file of portraits")
    parser.add_argument("--autoencoder", type=Path, default=Path("nullface_pipeline/tiny/model/vae"))
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of caches and checkpoints")
    parser.add_argument("--variants", type=int, default=4, help="styles a portrait")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.runs.mkdir(parents=True, exist_ok=True)
    build_cache(args, "validation", variants=0).save("validation", args.runs)
    build_cache(args, "train", args.variants).save("train", args.runs)


if __name__ == "__main__":
    main()
