"""Train the 256 px autoencoder of nullface-tiny, which shares the latents of the 128 px one.

    python -m training.autoencoder_256 --minutes 100

The encoder regresses the latents that the 128 px encoder gives at half size, so that the UNet stays
valid. The decoder first minimizes the reconstruction loss, then an adversarial loss for sharpness
as well. Latents made by the pipeline have no reference photo: at half size, the decoder has to
match the 128 px decoder there; the critic scores the full size.
"""

import argparse
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.autoencoder import LATENT_NOISE, load_crops, reconstruction_loss, to_tensor
from training.critic import adversarial_loss, critic_loss, discriminator
from training.denoiser_export import clean_config
from training.loop import RUNS, Budget, Every, LossLog, cosine_rate, option_parser, resume, save_checkpoint, set_up
from training.photometry import MIN_CHROMA_SPREAD, chroma_spread, random_style


SIZE = 256
WINDOW = 96
# Shares of the budget: end of the encoder's training, start of the critic and of its loss.
ENCODER_END, CRITIC_START, ADVERSARIAL_START = 0.06, 0.3, 0.34
CRITIC_WEIGHT = 2.0  # norm of the adversarial gradient, relative to that of the reconstruction loss
SMALL_SHARE = 0.17  # share of windows from portraits below 256 px, which count at half size only
MAX_TEXTURE = 12.0  # see `texture`; engravings and halftone prints have more
JITTER = 0.02  # of the critic's regularization; the 128 px decoder's missing detail is about 0.06
RESULT_EVERY = 2  # steps with photos per step with latents made by the pipeline
EMA_DECAY = 0.998  # of the decoder's weights, per step

logger = logging.getLogger("training.autoencoder_256")


def build_autoencoder() -> AutoencoderTiny:
    """Untrained autoencoder: downsamples by 8; no blocks at full size, the costliest stage."""
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        num_encoder_blocks=(0, 1, 2, 4),
        num_decoder_blocks=(4, 4, 3, 0),
    )


@torch.no_grad()
def initialize_from(model: AutoencoderTiny, small: AutoencoderTiny) -> None:
    """Initialize the 256 px model to match the 128 px model between down- and upsampling.

    Added blocks start as the identity, added convolutions close to it.
    """
    for block in model.modules():
        if type(block).__name__ == "AutoencoderTinyBlock":
            nn.init.zeros_(block.conv[-1].weight)
            nn.init.zeros_(block.conv[-1].bias)
    old, new = small.encoder.layers, model.encoder.layers
    # 128 px: conv, half, 2 blocks, half, 4 blocks, conv.
    # 256 px: conv, half, 1 block, half, 2 blocks, half, ...
    for layer, source in zip(new[3:], old[1:], strict=True):
        layer.load_state_dict(source.state_dict())
    new[0].load_state_dict(old[0].state_dict())
    nn.init.zeros_(new[1].weight)
    for channel in range(len(new[1].weight)):
        new[1].weight[channel, channel] = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16.0
    old, new = small.decoder.layers, model.decoder.layers
    # 128 px: conv, ReLU, 4 blocks, up, conv, 2 blocks, up, conv, 1 block, conv.
    # 256 px: conv, ReLU, 4 blocks, up, conv, 4 blocks, up, conv, 3 blocks, up, conv, conv.
    for layer, source in zip([*range(10), 12, 13, 14, 19], old, strict=True):
        new[layer].load_state_dict(source.state_dict())
    nn.init.dirac_(new[18].weight)


class Windows:
    """Random windows of 256 px portraits and of upscaled smaller ones, flipped and toned."""

    def __init__(self, large: np.ndarray, small: np.ndarray) -> None:
        self.large, self.small = large, small
        self.coloured = np.flatnonzero([chroma_spread(crop[::2, ::2]) > MIN_CHROMA_SPREAD for crop in large])

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(B, W, W, 3) uint8 windows, their (B, 2) x and y, and (B,) bool: of 256 px portraits."""
        windows = np.empty((count, WINDOW, WINDOW, 3), dtype=np.uint8)
        corners = rng.integers(SIZE - WINDOW + 1, size=(count, 2))
        # Half of the windows are close to the eyes, the nose and the mouth.
        corners[::2] = rng.integers(32, SIZE - WINDOW - 32, size=corners[::2].shape)
        is_large = rng.random(count) >= SMALL_SHARE if len(self.small) else np.ones(count, dtype=bool)
        is_large[0] = True
        for index, (x, y) in enumerate(corners):
            window = self._cut(is_large[index], x, y, rng)
            windows[index] = random_style(window, rng) if rng.random() < 0.3 else window
        return windows, corners, is_large

    def _cut(self, is_large: bool, x: int, y: int, rng: np.random.Generator) -> np.ndarray:
        if is_large:
            coloured = rng.random() < 0.6 and len(self.coloured)
            crop = self.large[rng.choice(self.coloured) if coloured else rng.integers(len(self.large))]
        else:
            small = self.small[rng.integers(len(self.small))]
            crop = cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        return crop[y : y + WINDOW, x : x + WINDOW]


def result_windows(results: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(B, 4, W/8, W/8) float32 windows of (N, 4, 32, 32) latents, and (B, 2) x and y in px."""
    cells = WINDOW // 8
    corners = rng.integers(2, SIZE // 8 - cells - 1, size=(count, 2))
    rows = rng.integers(len(results), size=count)
    windows = [results[row, :, y : y + cells, x : x + cells] for row, (x, y) in zip(rows, corners)]
    return np.stack(windows).astype(np.float32), 8 * corners


def texture(crop: np.ndarray) -> float:
    """Median absolute Laplacian, in grey levels, of the centre of a (256, 256, 3) uint8 crop."""
    grey = cv2.cvtColor(crop[48:208, 64:192], cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float(np.median(np.abs(cv2.Laplacian(grey, cv2.CV_32F))))


def add_position_channels(windows: Tensor, corners: Tensor) -> Tensor:
    """Append x and y in the crop, in [-1, 1], to (B, 3, W, W) windows as two channels."""
    ticks = torch.arange(windows.shape[-1], device=windows.device)
    x = (corners[:, :1, None] + ticks).expand(-1, windows.shape[-1], -1)
    y = (corners[:, 1:, None] + ticks).expand(-1, windows.shape[-1], -1).transpose(1, 2)
    position = torch.stack([x, y], dim=1).float().mul(2.0 / SIZE).sub(1.0)
    return torch.cat([windows, position], dim=1)


def gradient_energy(images: Tensor) -> Tensor:
    """(B,) mean squared finite difference of (B, 3, H, W) images."""
    horizontal, vertical = images.diff(dim=-1), images.diff(dim=-2)
    return horizontal.square().mean(dim=(1, 2, 3)) + vertical.square().mean(dim=(1, 2, 3))


@torch.no_grad()
def validate(model: AutoencoderTiny, crops: np.ndarray, device: torch.device) -> tuple[float, float]:
    """Mean PSNR in dB and mean relative gradient energy over (N, 256, 256, 3) uint8 crops."""
    psnr, energy = [], []
    for start in range(0, len(crops), 8):
        images = to_tensor(crops[start : start + 8], device)
        output = model.decode(model.encode(images).latents).sample.clamp(-1.0, 1.0)
        error = (output - images).div(2.0)
        psnr.append(-10.0 * error.square().mean(dim=(1, 2, 3)).log10())
        energy.append(gradient_energy(output) / gradient_energy(images))
    return torch.cat(psnr).mean().item(), torch.cat(energy).mean().item()


class Trainer:
    """Networks, optimizers and one training step of each kind."""

    def __init__(self, small: AutoencoderTiny, lr: float, device: torch.device) -> None:
        self.small = small.to(device).requires_grad_(False)
        self.model = build_autoencoder().to(device).to(memory_format=torch.channels_last)
        initialize_from(self.model, small)
        # (B, 5, H, W) windows with positions to (B, 1, H/8, W/8) logits
        self.critic = (
            discriminator((5, 32, 64, 128, 128), strides=(2, 2, 2, 1)).to(device).to(memory_format=torch.channels_last)
        )
        self.average = AveragedModel(self.model.decoder, multi_avg_fn=get_ema_multi_avg_fn(EMA_DECAY))
        self.encoder_optimizer = torch.optim.AdamW(self.model.encoder.parameters(), lr=lr, weight_decay=0.0)
        self.decoder_optimizer = torch.optim.AdamW(self.model.decoder.parameters(), lr=lr, weight_decay=0.0)
        self.critic_optimizer = torch.optim.AdamW(
            self.critic.parameters(), lr=4e-4, betas=(0.5, 0.99), weight_decay=0.0
        )

    def parts(self) -> dict[str, Any]:
        """All that a checkpoint holds, by name."""
        names = ("model", "critic", "average", "encoder_optimizer", "decoder_optimizer", "critic_optimizer")
        return {name: getattr(self, name) for name in names}

    def averaged(self) -> AutoencoderTiny:
        """The model with the moving average of the decoder's weights."""
        model = build_autoencoder()
        model.encoder.load_state_dict(self.model.encoder.state_dict())
        model.decoder.load_state_dict(self.average.module.state_dict())
        return model.eval()

    def encoder_step(self, images: Tensor, rate: float) -> Tensor:
        """Train the encoder on the 128 px latents of the images; return the loss."""
        with torch.no_grad():
            target = self.small.encoder(F.avg_pool2d(images, 2))
        loss = F.mse_loss(self.model.encoder(images), target)
        update(self.encoder_optimizer, loss, rate)
        return loss

    def decoder_step(
        self, images: Tensor, corners: Tensor, is_large: Tensor, rate: float, train_critic: bool, adversarial: bool
    ) -> Tensor:
        """Train the decoder on photos and optionally the critic; return the reconstruction loss.

        Args:
            images (`Tensor`): (B, 3, W, W) float32 windows in [-1, 1].
            corners (`Tensor`): (B, 2) x and y of the windows in the crop, px.
            is_large (`Tensor`): (B,) bool, windows with detail at 256 px.
            rate (`float`): learning rate of the decoder.
            train_critic (`bool`): also train the critic.
            adversarial (`bool`): add the adversarial gradient to the decoder's.
        """
        with torch.no_grad():
            latents = self.model.encoder(images)
            latents = latents + LATENT_NOISE * torch.randn_like(latents)
        output = self.model.decoder(latents)
        loss = reconstruction_loss(output[is_large], images[is_large])
        if not is_large.all():
            halves = F.avg_pool2d(output[~is_large], 2), F.avg_pool2d(images[~is_large], 2)
            loss = loss + SMALL_SHARE * reconstruction_loss(*halves)
        [gradient] = torch.autograd.grad(loss, output, retain_graph=True)
        if adversarial:
            gradient = gradient + self._critic_gradient(output, corners, is_large, gradient)
        self._update_decoder(output, gradient, rate)
        if train_critic:
            self._update_critic(output[is_large], images[is_large], corners[is_large], corners[is_large])
        return loss

    def result_step(
        self, latents: Tensor, corners: Tensor, images: Tensor, image_corners: Tensor, rate: float
    ) -> None:
        """Train the decoder and the critic on latents made by the pipeline.

        Args:
            latents (`Tensor`): (B, 4, W/8, W/8) float32.
            corners (`Tensor`): (B, 2) x and y of the latents' windows in the crop, px.
            images (`Tensor`): (B, 3, W, W) float32 windows of photos, real samples for the critic.
            image_corners (`Tensor`): (B, 2) x and y of these windows, px.
            rate (`float`): learning rate of the decoder.
        """
        with torch.no_grad():
            target = self.small.decoder(latents)
        output = self.model.decoder(latents)
        loss = reconstruction_loss(F.avg_pool2d(output, 2), target)
        [gradient] = torch.autograd.grad(loss, output, retain_graph=True)
        counted = torch.ones(len(output), dtype=torch.bool, device=output.device)
        gradient = gradient + self._critic_gradient(output, corners, counted, gradient)
        self._update_decoder(output, gradient, rate)
        self._update_critic(output, images, corners, image_corners)

    def _update_decoder(self, output: Tensor, gradient: Tensor, rate: float) -> None:
        set_rate(self.decoder_optimizer, rate)
        self.decoder_optimizer.zero_grad(set_to_none=True)
        output.backward(gradient)
        torch.nn.utils.clip_grad_norm_(self.model.decoder.parameters(), 1.0)
        self.decoder_optimizer.step()
        self.average.update_parameters(self.model.decoder)

    def _update_critic(self, output: Tensor, images: Tensor, corners: Tensor, image_corners: Tensor) -> None:
        fake, real = add_position_channels(output, corners), add_position_channels(images, image_corners)
        update(self.critic_optimizer, critic_loss(self.critic, fake, real, fake.new_ones(len(fake)), JITTER))

    def _critic_gradient(self, output: Tensor, corners: Tensor, counted: Tensor, other: Tensor) -> Tensor:
        """Adversarial gradient at the image, scaled relative to the norm of `other`."""
        loss = adversarial_loss(self.critic, add_position_channels(output, corners), counted.float())
        [gradient] = torch.autograd.grad(loss, output, retain_graph=True)
        return CRITIC_WEIGHT * gradient * (other.norm() / gradient.norm().clamp(min=1e-8))


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def update(optimizer: torch.optim.Optimizer, loss: Tensor, rate: float | None = None) -> None:
    if rate is not None:
        set_rate(optimizer, rate)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def export(model: AutoencoderTiny, small: AutoencoderTiny, folder: Path) -> None:
    """Save in float16, with the scaling factor of the 128 px autoencoder."""
    model.register_to_config(scaling_factor=small.config.scaling_factor)
    model.half().save_pretrained(folder)
    clean_config(folder / "config.json")
    logger.info("exported to %s", folder)


def train(args: argparse.Namespace) -> None:
    """Train until the budget is spent; resume from a checkpoint if there is one."""
    device = torch.device(args.device)
    all_crops = (load_crops(args.large_data, split, args.runs, SIZE) for split in ("train", "validation"))
    large, validation = (crops[[texture(crop) <= MAX_TEXTURE for crop in crops]] for crops in all_crops)
    windows = Windows(large, load_crops(args.data, "train", args.runs))
    path = args.runs / "decoded_results.npy"
    results = np.load(path) if path.exists() else np.empty((0, 4, 32, 32))
    torch.manual_seed(args.seed)
    small = AutoencoderTiny.from_pretrained(args.autoencoder)
    trainer = Trainer(small, args.lr, device)
    parts, checkpoint = trainer.parts(), args.runs / "autoencoder_256.pt"
    progress = resume(checkpoint, parts, device)
    step = progress.get("step", 0)
    rng = np.random.default_rng([args.seed, step])
    budget, log, save = Budget(args.minutes, progress.get("spent", 0.0)), LossLog(logger), Every(240)

    while budget.fraction < 1.0:
        drawn, corners, is_large = windows.draw(args.batch_size, rng)
        images = to_tensor(drawn, device)
        if budget.fraction < ENCODER_END:
            rate = cosine_rate(args.lr, budget.fraction / ENCODER_END, step)
            loss = trainer.encoder_step(images, rate)
        else:
            rate = cosine_rate(args.lr, budget.fraction, step)
            image_corners, large_rows = torch.from_numpy(corners).to(device), torch.from_numpy(is_large).to(device)
            train_critic, adversarial = budget.fraction >= CRITIC_START, budget.fraction >= ADVERSARIAL_START
            loss = trainer.decoder_step(images, image_corners, large_rows, rate, train_critic, adversarial)
            if adversarial and step % RESULT_EVERY == 0 and len(results):
                cut = result_windows(results, int(is_large.sum()), rng)
                latents, result_corners = (torch.from_numpy(part).to(device) for part in cut)
                trainer.result_step(latents, result_corners, images[large_rows], image_corners[large_rows], rate)
        step += 1
        log(budget.fraction, f"step {step}", loss=loss)
        if save():
            save_checkpoint(checkpoint, parts, step=step, spent=budget.spent)
            psnr, energy = validate(trainer.averaged().to(device), validation[:24], device)
            logger.info("validation %.2f dB, gradient energy %.3f, %d windows", psnr, energy, step * args.batch_size)

    save_checkpoint(checkpoint, parts, step=step, spent=budget.spent)
    export(trainer.averaged(), small, args.output)
    exported = AutoencoderTiny.from_pretrained(args.output).to(device)
    logger.info("exported: validation %.2f dB, gradient energy %.3f", *validate(exported, validation, device))


def main() -> None:
    folders = {"output": Path("nullface_pipeline/tiny/model/vae"), "autoencoder": RUNS / "vae_128"}
    defaults = {"minutes": 100.0, "batch_size": 8, "lr": 5e-4}
    parser = option_parser(__doc__, "data", "runs", "device", "threads", "seed", **folders, **defaults)
    large = Path("../shared/data/portraits_large.parquet")
    parser.add_argument("--large-data", type=Path, default=large, help="parquet file of portraits at full size")
    args = parser.parse_args()
    set_up(args.threads)
    train(args)


if __name__ == "__main__":
    main()
