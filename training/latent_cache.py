"""Latents of the portraits the denoiser is trained on, in several photographic styles each, encoded once.

python -m training.latent_cache
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny
from rich.progress import track

from nullface_pipeline.face_crops import FaceCrop
from training.autoencoder import CROP_SIZE, to_tensor
from training.photometry import MIN_CHROMA_SPREAD, chroma_spread, random_style
from training.portraits import Portrait, load_portraits


MIN_CROP_SIDE = 90.0
MAX_HATCHING = 0.165
COLOUR_WEIGHT = 2.5


@dataclass(frozen=True)
class LatentCache:
    """Scaled latents of the chosen portraits of one split; the second half of each portrait's variants is mirrored."""

    ids: np.ndarray  # (N,) str, ids of the portraits
    weights: np.ndarray  # (N,) float32, how often to draw each portrait, relative to the others
    latents: np.ndarray  # (N, V, 4, 32, 32) float16, about unit variance

    @classmethod
    def load(cls, split: str, runs: Path) -> "LatentCache":
        """Read what `python -m training.latent_cache` wrote."""
        with np.load(runs / f"latents_{split}.npz") as file:
            return cls(file["ids"], file["weights"], file["latents"])

    def save(self, split: str, runs: Path) -> None:
        """Write the cache, under a temporary name first."""
        temporary = runs / f"latents_{split}.part.npz"
        np.savez(temporary, ids=self.ids, weights=self.weights, latents=self.latents)
        temporary.replace(runs / f"latents_{split}.npz")


def hatching(crop: np.ndarray) -> float:
    """Share of fine strokes in the face of an (H, W, 3) uint8 crop: high for engravings and coarse halftone."""
    face = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float32)[24:112, 24:104]
    strokes = face - cv2.GaussianBlur(face, (0, 0), 1.5)
    return float(np.abs(strokes).mean() / (face.std() + 8.0))


def drawing_weight(portrait: Portrait) -> float:
    """How often to train on a portrait: not at all if small or engraved, more often if in real colour."""
    crop = portrait.face_crop(CROP_SIZE)
    if CROP_SIZE / crop.scale < MIN_CROP_SIDE:
        return 0.0
    image = crop.crop_image(portrait.image())
    if portrait.colour and chroma_spread(image) > MIN_CHROMA_SPREAD:
        return COLOUR_WEIGHT
    return 1.0 if hatching(image) < MAX_HATCHING else 0.0


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


@torch.no_grad()
def encode(autoencoder: AutoencoderTiny, crops: np.ndarray, device: torch.device) -> np.ndarray:
    """(B, 128, 128, 3) uint8 crops to (B, 4, 32, 32) float16 latents, scaled to about unit variance."""
    latents = autoencoder.encode(to_tensor(crops, device)).latents * autoencoder.config.scaling_factor
    return latents.to(torch.float16).cpu().numpy()


def build_cache(args: argparse.Namespace, split: str, variants: int) -> LatentCache:
    """Choose the portraits of a split and encode them; without variants, the clean crops of all of them."""
    device = torch.device(args.device)
    autoencoder = AutoencoderTiny.from_pretrained(args.autoencoder).to(device).to(memory_format=torch.channels_last)
    ids, weights, latents = [], [], []
    for index, portrait in enumerate(track(load_portraits(args.data, split), f"encoding {split}")):
        weight = drawing_weight(portrait) if variants else 1.0
        if weight == 0.0:
            continue
        if variants:
            crops = styled_crops(portrait, variants, np.random.default_rng([args.seed, index]))
        else:
            crops = portrait.face_crop(CROP_SIZE).crop_image(portrait.image())[None]
        ids.append(portrait.id)
        weights.append(weight)
        latents.append(encode(autoencoder, crops, device))
    return LatentCache(np.array(ids), np.array(weights, dtype=np.float32), np.stack(latents))


def main() -> None:
    parser = argparse.ArgumentParser(description="Encode the denoiser's training portraits.")
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="parquet file of portraits")
    parser.add_argument("--autoencoder", type=Path, default=Path("nullface_pipeline/tiny/model/vae"))
    parser.add_argument("--runs", type=Path, default=Path("training/runs"), help="folder of caches and checkpoints")
    parser.add_argument("--variants", type=int, default=4, help="styles a portrait")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    build_cache(args, "validation", variants=0).save("validation", args.runs)
    build_cache(args, "train", args.variants).save("train", args.runs)


if __name__ == "__main__":
    main()
