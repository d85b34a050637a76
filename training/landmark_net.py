"""Finds the 68 landmarks in a latent: a small network that tells the denoiser's last training where a face has moved.

python -m training.landmark_net        # after training.latent_cache
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from training.latent_cache import CROP_SIZE, LatentCache, variant_landmarks
from training.loop import RUNS, Every, level_rate, save_checkpoint
from training.portraits import load_portraits


EYE_DISTANCE = 0.25  # about that of the crops, as a share of their side

logger = logging.getLogger("training.landmark_net")


def _convolution(channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels_in, channels, 3, stride, padding=1), nn.GroupNorm(8, channels), nn.SiLU())


class LandmarkNetwork(nn.Module):
    """(N, 4, 32, 32) latents to (N, 68, 2) landmarks as shares of the crop's side."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            _convolution(4, 32),
            _convolution(32, 32),
            _convolution(32, 64, stride=2),
            _convolution(64, 64),
            _convolution(64, 128, stride=2),
            _convolution(128, 128),
            _convolution(128, 64),
            nn.Flatten(),
            nn.Linear(64 * 8 * 8, 256),
            nn.SiLU(),
            nn.Linear(256, 136),
        )

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 + 0.25 * self.layers(x).float().unflatten(1, (68, 2))

    @classmethod
    def load(cls, runs: Path) -> "LandmarkNetwork":
        """The trained network, frozen."""
        network = cls().requires_grad_(False).eval().to(memory_format=torch.channels_last)
        network.load_state_dict(torch.load(runs / "landmark_net.pt", map_location="cpu"))
        return network


def cached_landmarks(data: str, split: str, runs: Path, seed: int = 0) -> np.ndarray:
    """(N, V, 68, 2) float32 px: where the landmarks are in the latents of the training cache; worked out once."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the landmark network of the latents.")
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="parquet file of portraits")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of caches and checkpoints")
    parser.add_argument("--samples", type=int, default=120_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    latents, points = LatentCache.load("train", args.runs).latents, cached_landmarks(args.data, "train", args.runs)
    validation = LatentCache.load("validation", args.runs)
    unseen = torch.from_numpy(validation.latents[validation.real_colour, 0].astype(np.float32))
    known = cached_landmarks(args.data, "validation", args.runs)[validation.real_colour, 0] / CROP_SIZE
    network, rng = LandmarkNetwork().to(memory_format=torch.channels_last), np.random.default_rng(args.seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=0.05)
    steps, log = args.samples // args.batch_size, Every(20)
    for step in range(steps):
        rows, variants = rng.integers(len(latents), size=args.batch_size), rng.integers(latents.shape[1])
        batch = torch.from_numpy(latents[rows, variants].astype(np.float32))
        # Noise, because it will be shown what a denoiser predicts.
        batch = batch + torch.rand(len(batch), 1, 1, 1) * 0.4 * torch.randn_like(batch)
        found = network(batch.contiguous(memory_format=torch.channels_last))
        loss = F.l1_loss(found, torch.from_numpy(points[rows, variants] / CROP_SIZE)) / EYE_DISTANCE
        optimizer.param_groups[0]["lr"] = args.lr * level_rate(step / steps, step, decay=0.7)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if log() or step == steps - 1:
            with torch.no_grad():
                error = (network(unseen) - torch.from_numpy(known)).norm(dim=-1).mean().item() / EYE_DISTANCE
            logger.info("step %d  loss %.4f  validation %.1f %% of the eye distance", step, loss.item(), 100.0 * error)
    save_checkpoint(args.runs / "landmark_net.pt", network.state_dict())


if __name__ == "__main__":
    main()
