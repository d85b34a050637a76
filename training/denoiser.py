"""Part 5 of nullface-tiny: UNet and FaceID adapter, trained together from scratch on cached latents.

    python -m training.latent_cache && python -m training.identities && python -m training.pose_erasure
    python -m training.denoiser --minutes 90
    torchrun --nproc-per-node 2 -m training.denoiser --minutes 90      # data-parallel, the same schedule

The identity embeddings are the recognizer's, of another copy of the photo than the one denoised, so that they tell little
but who it is. What they tell of the pose all the same is erased in the exported adapter, not in training: a model trained
on erased embeddings heeds the identity less, and needs guidance that distorts more.
"""

import argparse
import copy
import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from diffusers.utils import logging as diffusers_logging
from torch.nn.parallel import DistributedDataParallel

from training.denoiser_export import (
    LATENT_SIZE,
    attach_fresh_adapter,
    build_scheduler,
    build_text_encoder,
    build_unet,
    empty_prompt,
    export,
)
from training.latent_cache import LatentCache
from training.loop import Budget, Every, cosine_rate, save_checkpoint
from training.pose_erasure import load_projection


ZERO_IDENTITY_SHARE = 0.15
LATE_TIMESTEPS, LATE_SHARE = 500, 0.8
SNR_CAP = 2.0
EMA_DECAY = 0.998
# The first part of the budget goes to the middle of the crops, which holds the face and takes about half the time.
# The rest is needed at full size: until then the error there is a quarter higher than it need be.
WINDOW, WINDOW_SHARE = 24, 0.5
VALIDATION_TIMESTEPS = (100, 200, 300, 400, 500, 600)

logger = logging.getLogger("training.denoiser")


def load_identities(ids: np.ndarray, split: str, runs: Path) -> np.ndarray:
    """(N, E, 512) float32 embeddings of the portraits `ids`, E of each."""
    with np.load(runs / f"identities_{split}.npz") as file:
        row = {portrait: index for index, portrait in enumerate(file["ids"])}
        embeddings = file["embeddings"].astype(np.float32)
    return embeddings[[row[portrait] for portrait in ids]]


@dataclass
class Batch:
    """Noisy latents and what was added to them."""

    latents: torch.Tensor  # (B, 4, 32, 32) float32
    identities: torch.Tensor  # (B, 1, 512) float32, zero where dropped
    timesteps: torch.Tensor  # (B,) int64
    noise: torch.Tensor  # (B, 4, 32, 32) float32


class Sampler:
    """Draws training samples: portraits by weight, variant and embedding independently of each other."""

    def __init__(self, cache: LatentCache, identities: np.ndarray) -> None:
        self.latents, self.identities = cache.latents, identities
        self.probabilities = cache.weights.astype(np.float64) / cache.weights.sum()

    def draw(self, batch_size: int, window: int, rng: np.random.Generator) -> Batch:
        """A batch on the CPU, of windows of `window` latent pixels about the middle."""
        rows = rng.choice(len(self.probabilities), size=batch_size, p=self.probabilities)
        latents = self.latents[rows, rng.integers(self.latents.shape[1], size=batch_size)].astype(np.float32)
        margin = latents.shape[-1] - window
        x, y = rng.integers(margin // 4, margin - margin // 4 + 1, size=2)
        latents = latents[..., y : y + window, x : x + window]
        identities = self.identities[rows, rng.integers(self.identities.shape[1], size=batch_size)]
        identities = identities * (rng.random((batch_size, 1)) >= ZERO_IDENTITY_SHARE)
        late = rng.integers(LATE_TIMESTEPS, size=batch_size)
        early = rng.integers(LATE_TIMESTEPS, 1000, size=batch_size)
        timesteps = np.where(rng.random(batch_size) < LATE_SHARE, late, early)
        return Batch(
            torch.from_numpy(np.ascontiguousarray(latents)),
            torch.from_numpy(identities.astype(np.float32)[:, None]),
            torch.from_numpy(timesteps),
            torch.from_numpy(rng.standard_normal(latents.shape, dtype=np.float32)),
        )


class Diffusion:
    """The noise schedule, the loss, and the constant empty prompt."""

    def __init__(self, runs: Path, device: torch.device) -> None:
        self.scheduler = build_scheduler()
        self.device = device
        self.prompt = empty_prompt(*build_text_encoder(runs / "tokenizer")).to(device)
        alphas = self.scheduler.alphas_cumprod
        snr = alphas / (1.0 - alphas)
        # Min-SNR weighting: at low noise the error is large, but about texture; who it is gets decided above.
        self.weights = (snr.clamp(max=SNR_CAP) / snr).to(device)

    def errors(self, unet: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """(B,) mean squared error of the predicted noise, the face counting more than the background."""
        timesteps, noise = batch.timesteps.to(self.device), batch.noise.to(self.device)
        latents, identities = batch.latents.to(self.device), batch.identities.to(self.device)
        noisy = self.scheduler.add_noise(latents, noise, timesteps).contiguous(memory_format=torch.channels_last)
        prompt = self.prompt.expand(len(noisy), -1, -1)
        predicted = unet(noisy, timesteps, prompt, added_cond_kwargs={"image_embeds": [identities]}).sample
        return ((predicted - noise).square() * face_weight(noise.shape[-1], self.device)).mean(dim=(1, 2, 3))

    def loss(self, unet: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The weighted training loss, a scalar."""
        return (self.errors(unet, batch) * self.weights[batch.timesteps.to(self.device)]).mean()


@lru_cache
def face_weight(window: int, device: torch.device) -> torch.Tensor:
    """(window, window) float32 of mean 1: the face, an ellipse in the middle, counts three times the background."""
    reach = window / LATENT_SIZE
    y, x = torch.meshgrid(*2 * [torch.linspace(-reach, reach, window, device=device)], indexing="ij")
    distance = ((x / 0.6).square() + ((y - 0.1) / 0.75).square()).sqrt()
    weight = 1.0 + 2.0 * torch.sigmoid((1.0 - distance) / 0.08)
    return weight / weight.mean()


class Validation:
    """The same noise on the same unseen portraits each time; what knowing the identity gains is what counts."""

    def __init__(self, runs: Path, count: int = 48) -> None:
        cache = LatentCache.load("validation", runs)
        rows = np.random.default_rng(0).permutation(len(cache.ids))[:count]
        identities = torch.from_numpy(load_identities(cache.ids[rows], "validation", runs)[:, :1])
        latents = torch.from_numpy(cache.latents[rows, 0].astype(np.float32))
        timesteps = torch.tensor(VALIDATION_TIMESTEPS).repeat(count)[:count]
        noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
        self.batches = {
            name: Batch(latents, scale * identities, timesteps, noise)
            for name, scale in {"identity": 1.0, "none": 0.0, "negative": -1.0}.items()
        }

    @torch.no_grad()
    def __call__(self, diffusion: Diffusion, unet: torch.nn.Module) -> dict[str, float]:
        """Mean error with the right identity, with none and with its negative."""
        return {name: diffusion.errors(unet, batch).mean().item() for name, batch in self.batches.items()}


@torch.no_grad()
def update_average(average: torch.nn.Module, model: torch.nn.Module, step: int) -> None:
    """Exponential moving average of the weights, with a short memory at the start."""
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - decay)


def shared(value: float, device: torch.device) -> float:
    """Rank 0's value, so that all processes follow one clock."""
    if not dist.is_initialized():
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(tensor, src=0)
    return tensor.item()


def train(args: argparse.Namespace, rank: int, world_size: int) -> None:
    """Train until the budget is spent, from the checkpoint if there is one."""
    device = torch.device(args.device, rank) if args.device == "cuda" else torch.device(args.device)
    cache = LatentCache.load("train", args.runs)
    sampler = Sampler(cache, load_identities(cache.ids, "train", args.runs))
    diffusion, validation = Diffusion(args.runs, device), Validation(args.runs)
    projection = torch.from_numpy(load_projection(args.runs))
    torch.manual_seed(args.seed)
    unet = build_unet()
    attach_fresh_adapter(unet)
    unet = unet.to(device).to(memory_format=torch.channels_last).requires_grad_(True)
    average = copy.deepcopy(unet).requires_grad_(False)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    checkpoint, step, spent = args.runs / "denoiser.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        unet.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    rng = np.random.default_rng([args.seed, step, rank])
    model = DistributedDataParallel(unet, gradient_as_bucket_view=True) if world_size > 1 else unet
    budget, log, save, snapshot = Budget(args.minutes, spent), Every(30), Every(180), Every(600)
    logger.info("%d portraits, %.2f M parameters", len(cache.ids), sum(p.numel() for p in unet.parameters()) / 1e6)

    def save_state() -> None:
        state = {"model": unet.state_dict(), "average": average.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(checkpoint, state | {"step": step, "spent": budget.spent})
        gains = validation(diffusion, average)
        logger.info("validation  " + "  ".join(f"{name} {error:.4f}" for name, error in gains.items()))

    losses: list[float] = []
    while (fraction := shared(budget.fraction, device)) < 1.0:
        optimizer.param_groups[0]["lr"] = cosine_rate(args.lr, fraction, step, floor=0.05)
        window = WINDOW if fraction < WINDOW_SHARE else LATENT_SIZE
        loss = diffusion.loss(model, sampler.draw(args.batch_size // world_size, window, rng))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        update_average(average, unet, step)
        step += 1
        losses.append(loss.item())
        if rank > 0:
            continue
        if log():
            rate = optimizer.param_groups[0]["lr"]
            logger.info("%5.1f %%  step %d  loss %.4f  lr %.1e", 100 * fraction, step, np.mean(losses), rate)
            losses.clear()
        if save():
            save_state()
        if snapshot():
            export(average, projection, args.autoencoder, args.output, args.runs / "export")
    if rank == 0:
        save_state()
        export(average, projection, args.autoencoder, args.output, args.runs / "export")
        logger.info("%d steps, %d samples", step, step * args.batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the UNet and the FaceID adapter of nullface-tiny.")
    parser.add_argument("--output", type=Path, default=Path("nullface_pipeline/tiny"), help="folder of the model set")
    parser.add_argument("--autoencoder", type=Path, default=Path("nullface_pipeline/tiny/model/vae"))
    parser.add_argument("--runs", type=Path, default=Path("training/runs"), help="folder of caches and checkpoints")
    parser.add_argument("--minutes", type=float, default=95.0, help="wall-clock budget, all runs together")
    parser.add_argument("--batch-size", type=int, default=16, help="of all processes together")
    parser.add_argument("--lr", type=float, default=8e-4)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="per process")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    logging.basicConfig(
        level=logging.INFO if rank == 0 else logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S"
    )
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    if world_size > 1:
        dist.init_process_group("nccl" if args.device == "cuda" else "gloo")
    train(args, rank, world_size)
    if world_size > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
