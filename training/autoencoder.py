"""Train the 128 px autoencoder of nullface-tiny: 128 x 128 px faces to 32 x 32 x 4 latents.

    python -m training.autoencoder --minutes 35

`training.autoencoder_256` derives the shipped autoencoder from it.
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from rich.progress import track

from training.loop import (
    RUNS,
    Budget,
    Every,
    LossLog,
    cached_array,
    cosine_rate,
    option_parser,
    resume,
    save_checkpoint,
    set_up,
)
from training.photometry import MIN_CHROMA_SPREAD, chroma_spread, random_style
from training.portraits import load_portraits


CROP_SIZE = 128
WINDOW = 64
LATENT_NOISE = 0.03

logger = logging.getLogger("training.autoencoder")


def build_autoencoder() -> AutoencoderTiny:
    """Untrained autoencoder: downsamples by 4 to 4 channels, without normalization layers."""
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(0, 2, 4),
        num_decoder_blocks=(4, 2, 1),
        latent_channels=4,
    )


def load_crops(data: Path, split: str, cache: Path, size: int = CROP_SIZE) -> np.ndarray:
    """(N, size, size, 3) uint8 aligned face crops of one split in file order, cached on disk."""

    def make() -> np.ndarray:
        portraits = track(load_portraits(data, split), f"cutting {split}")
        return np.stack([portrait.face_crop(size).crop_image(portrait.image()) for portrait in portraits])

    return cached_array(cache / (f"crops_{split}.npy" if size == CROP_SIZE else f"crops_{split}_{size}.npy"), make)


def to_tensor(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """Convert (B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1], channels last."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    return pixels.float().div(127.5).sub(1.0).contiguous(memory_format=torch.channels_last)


def random_windows(crops: np.ndarray, coloured: np.ndarray, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw (B, 64, 64, 3) uint8 windows of crops, half of them from the rows `coloured`."""
    windows = np.empty((batch_size, WINDOW, WINDOW, 3), dtype=np.uint8)
    rows = rng.integers(len(crops), size=batch_size)
    rows[::2] = rng.choice(coloured, size=len(rows[::2]))
    for window, row in zip(windows, rows, strict=True):
        x, y = rng.integers(CROP_SIZE - WINDOW + 1, size=2)
        crop = crops[row, y : y + WINDOW, x : x + WINDOW]
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        window[:] = random_style(crop, rng) if rng.random() < 0.4 else crop
    return windows


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """L1 loss of the pixels, of their finite differences (edges) and of the local mean chroma.

    Most portraits are grey: without the chroma term, the model gives up one of two colour axes.
    """
    error = output - target
    horizontal, vertical = error[..., :, 1:] - error[..., :, :-1], error[..., 1:, :] - error[..., :-1, :]
    chroma = F.avg_pool2d(error - error.mean(dim=1, keepdim=True), 4)
    edges = horizontal.abs().mean() + vertical.abs().mean()
    return error.abs().mean() + 0.5 * edges + 1.5 * chroma.abs().mean()


def latent_penalty(latents: torch.Tensor) -> torch.Tensor:
    """Squared deviation of the channels from zero mean and unit standard deviation."""
    mean, std = latents.mean(dim=(0, 2, 3)), latents.std(dim=(0, 2, 3))
    return mean.square().mean() + (std - 1.0).square().mean()


@torch.no_grad()
def validation_psnr(model: AutoencoderTiny, crops: np.ndarray, device: torch.device) -> float:
    """Mean PSNR in dB over (N, 128, 128, 3) uint8 crops, after rounding to 8 bits."""
    values = []
    for start in range(0, len(crops), 16):
        images = to_tensor(crops[start : start + 16], device)
        output = model.decode(model.encode(images).latents).sample.clamp(-1.0, 1.0)
        error = (output.mul(127.5).round() - images.mul(127.5).round()).div(255.0)
        values.append(-10.0 * error.square().mean(dim=(1, 2, 3)).log10())
    return torch.cat(values).mean().item()


@torch.no_grad()
def export(model: AutoencoderTiny, crops: np.ndarray, folder: Path, device: torch.device) -> None:
    """Save in float16, with the scaling factor that gives the latents of `crops` unit variance."""
    latents = torch.cat([model.encode(to_tensor(part, device)).latents for part in np.array_split(crops[:512], 16)])
    exported = build_autoencoder()
    exported.load_state_dict(model.state_dict())
    exported.register_to_config(scaling_factor=round(1.0 / latents.std().item(), 4))
    exported.half().save_pretrained(folder)
    logger.info("exported to %s, scaling factor %s", folder, exported.config.scaling_factor)


def train(args: argparse.Namespace) -> None:
    """Train until the budget is spent; resume from a checkpoint if there is one."""
    device = torch.device(args.device)
    crops, validation = (load_crops(args.data, split, args.runs) for split in ("train", "validation"))
    coloured = np.flatnonzero([chroma_spread(crop) > MIN_CHROMA_SPREAD for crop in crops])
    torch.manual_seed(args.seed)
    model = build_autoencoder().to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0)
    parts, checkpoint = {"model": model, "optimizer": optimizer}, args.runs / "autoencoder.pt"
    progress = resume(checkpoint, parts, device)
    step = progress.get("step", 0)
    rng = np.random.default_rng([args.seed, step])
    budget, log, save = Budget(args.minutes, progress.get("spent", 0.0)), LossLog(logger), Every(180)

    while budget.fraction < 1.0:
        images = to_tensor(random_windows(crops, coloured, args.batch_size, rng), device)
        latents = model.encoder(images)
        output = model.decoder(latents + LATENT_NOISE * torch.randn_like(latents))
        loss = reconstruction_loss(output, images) + 0.05 * latent_penalty(latents)
        optimizer.param_groups[0]["lr"] = cosine_rate(args.lr, budget.fraction, step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        step += 1
        log(budget.fraction, f"step {step}", loss=loss)
        if save():
            save_checkpoint(checkpoint, parts, step=step, spent=budget.spent)
            psnr = validation_psnr(model, validation[:64], device)
            logger.info("validation PSNR %.2f dB (64 portraits), %d windows seen", psnr, step * args.batch_size)

    save_checkpoint(checkpoint, parts, step=step, spent=budget.spent)
    export(model, crops, args.output, device)
    exported = AutoencoderTiny.from_pretrained(args.output).to(device).to(memory_format=torch.channels_last)
    logger.info("exported: validation PSNR %.2f dB", validation_psnr(exported, validation, device))


def main() -> None:
    defaults = {"output": RUNS / "vae_128", "minutes": 35.0, "batch_size": 16, "lr": 2e-3}
    args = option_parser(__doc__, "data", "runs", "device", "threads", "seed", **defaults).parse_args()
    set_up(args.threads)
    train(args)


if __name__ == "__main__":
    main()
