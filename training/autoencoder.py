"""Part 1 of nullface-tiny: an `AutoencoderTiny` from 128 x 128 px faces to 32 x 32 x 4 latents and back.

`training.autoencoder_256` makes of it the one that is shipped.

python -m training.autoencoder --minutes 35
"""

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from rich.progress import track

from training.loop import RUNS, Budget, Every, cosine_rate, save_checkpoint
from training.photometry import MIN_CHROMA_SPREAD, chroma_spread, random_style
from training.portraits import load_portraits


CROP_SIZE = 128
WINDOW = 64
LATENT_NOISE = 0.03

logger = logging.getLogger("training.autoencoder")


def build_autoencoder() -> AutoencoderTiny:
    """Four-fold downsampling to 4 channels; no normalisation layers, so that it trains fast and runs in fp16."""
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32),
        decoder_block_out_channels=(32, 32, 32),
        num_encoder_blocks=(0, 2, 4),
        num_decoder_blocks=(4, 2, 1),
        latent_channels=4,
    )


def load_crops(data: str, split: str, cache: Path, size: int = CROP_SIZE) -> np.ndarray:
    """(N, size, size, 3) uint8 aligned face crops of one split, in file order; cut once, then read from `cache`."""
    path = cache / (f"crops_{split}.npy" if size == CROP_SIZE else f"crops_{split}_{size}.npy")
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        portraits = track(load_portraits(data, split), f"cutting {split}")
        crops = np.stack([portrait.face_crop(size).crop_image(portrait.image()) for portrait in portraits])
        temporary = path.with_suffix(".part.npy")
        np.save(temporary, crops)
        temporary.replace(path)
    return np.load(path)


def to_tensor(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [-1, 1], channels last."""
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)
    return pixels.float().div(127.5).sub(1.0).contiguous(memory_format=torch.channels_last)


def random_windows(crops: np.ndarray, coloured: np.ndarray, batch_size: int, rng: np.random.Generator) -> np.ndarray:
    """(B, 64, 64, 3) uint8 windows of random crops, flipped and toned at random; half of them from `coloured` rows."""
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
    """L1 of the pixels, of their differences to the neighbours (edges) and of the local mean chroma.

    Most portraits are grey: without the last term one of the two axes of colour is given up.
    """
    error = output - target
    horizontal, vertical = error[..., :, 1:] - error[..., :, :-1], error[..., 1:, :] - error[..., :-1, :]
    chroma = F.avg_pool2d(error - error.mean(dim=1, keepdim=True), 4)
    edges = horizontal.abs().mean() + vertical.abs().mean()
    return error.abs().mean() + 0.5 * edges + 1.5 * chroma.abs().mean()


def latent_penalty(latents: torch.Tensor) -> torch.Tensor:
    """Squared distance of each channel's mean from 0 and standard deviation from 1: what a diffusion model expects."""
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
    """Train until the budget is spent, from the checkpoint if there is one."""
    device = torch.device(args.device)
    crops, validation = (load_crops(args.data, split, args.runs) for split in ("train", "validation"))
    coloured = np.flatnonzero([chroma_spread(crop) > MIN_CHROMA_SPREAD for crop in crops])
    torch.manual_seed(args.seed)
    model = build_autoencoder().to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=0.0)
    checkpoint, step, spent = args.runs / "autoencoder.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, spent = state["step"], state["spent"]
    rng = np.random.default_rng([args.seed, step])
    budget, log, save = Budget(args.minutes, spent), Every(30), Every(180)

    losses: list[float] = []
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
        losses.append(loss.item())
        step += 1
        if log():
            rate = optimizer.param_groups[0]["lr"]
            done, mean_loss = 100.0 * budget.fraction, np.mean(losses)
            logger.info("%5.1f %%  step %d  loss %.4f  lr %.1e", done, step, mean_loss, rate)
            losses.clear()
        if save():
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(checkpoint, state | {"step": step, "spent": budget.spent})
            psnr = validation_psnr(model, validation[:64], device)
            logger.info("validation PSNR %.2f dB (64 portraits), %d windows seen", psnr, step * args.batch_size)

    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    save_checkpoint(checkpoint, state | {"step": step, "spent": budget.spent})
    export(model, crops, args.output, device)
    exported = AutoencoderTiny.from_pretrained(args.output).to(device).to(memory_format=torch.channels_last)
    logger.info("exported: validation PSNR %.2f dB", validation_psnr(exported, validation, device))


def autoencoder_parser(
    description: str | None, output: Path, minutes: float, batch_size: int, lr: float
) -> argparse.ArgumentParser:
    """Options of the training of an autoencoder, with these defaults."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="parquet file of portraits")
    parser.add_argument("--output", type=Path, default=output)
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of caches and checkpoints")
    parser.add_argument("--minutes", type=float, default=minutes, help="wall-clock budget, all runs together")
    parser.add_argument("--batch-size", type=int, default=batch_size)
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main() -> None:
    args = autoencoder_parser("Train the autoencoder of nullface-tiny.", RUNS / "vae_128", 35.0, 16, 2e-3).parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(args.threads)
    train(args)


if __name__ == "__main__":
    main()
