"""The autoencoder of nullface-tiny at 256 px: the 128 px one with one more stage, and the same 32 x 32 x 4 latents.

    python -m training.autoencoder_256 --minutes 100

The encoder learns to give the 128 px encoder's latents of the picture at half size, so that the UNet stays as it is.
The decoder learns the picture at full size, then with a critic, which makes it sharp. Latents that the pipeline made
have no photo: of them the decoder has to make what the 128 px decoder makes, at half size, and the critic judges it.
"""

import argparse
import logging
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from training.autoencoder import LATENT_NOISE, autoencoder_parser, load_crops, reconstruction_loss, to_tensor
from training.critic import critic_loss, realism_loss
from training.denoiser_export import drop_odd_settings
from training.loop import RUNS, Budget, Every, cosine_rate, save_checkpoint
from training.photometry import MIN_CHROMA_SPREAD, chroma_spread, random_style


SIZE = 256
WINDOW = 96
ENCODER_SHARE = 0.06  # of the budget: only the encoder learns
CRITIC_SHARE = 0.3  # of the budget: from here on the critic learns
SAY_SHARE = 0.34  # of the budget: from here on the decoder learns from it
CRITIC_LENGTH = 1.3  # of the critic's gradient, relative to that of the reconstruction loss
SMALL_SHARE = 0.17  # of the windows, from portraits that have no 256 px; they count at half size only
JITTER = 0.02  # deviation of the noise that the critic has to overlook; what the 128 px lack is about 0.06
RESULT_EVERY = 2  # steps with photos per step with latents that the pipeline made
DECAY = 0.998  # of the moving average of the decoder's weights, per step

logger = logging.getLogger("training.autoencoder_256")


class PatchCritic(nn.Module):
    """(B, 5, H, W) windows with their place to (B, 1, H/8, W/8), each above 0 where it looks like a photo."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(5, 32, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(32, 64, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(64, 128, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(128, 128, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(128, 1, 3, padding=1),
        )

    def forward(self, windows: Tensor) -> Tensor:
        return self.layers(windows)


def build_autoencoder() -> AutoencoderTiny:
    """Eight-fold downsampling; the stage at full size has no blocks, which would be most of the work."""
    return AutoencoderTiny(
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        num_encoder_blocks=(0, 1, 2, 4),
        num_decoder_blocks=(4, 4, 3, 0),
    )


@torch.no_grad()
def start_from(model: AutoencoderTiny, small: AutoencoderTiny) -> None:
    """Copy the 128 px weights, so that `model` begins as `small` between half-sizing and doubling.

    The added blocks pass on what they get, the added convolutions nearly so.
    """
    for block in model.modules():
        if type(block).__name__ == "AutoencoderTinyBlock":
            nn.init.zeros_(block.conv[-1].weight)
            nn.init.zeros_(block.conv[-1].bias)
    old, new = small.encoder.layers, model.encoder.layers
    # 128 px: conv, half, 2 blocks, half, 4 blocks, conv. 256 px: conv, half, 1 block, half, 2 blocks, half, ...
    for layer, source in zip(new[3:], old[1:], strict=True):
        layer.load_state_dict(source.state_dict())
    new[0].load_state_dict(old[0].state_dict())
    nn.init.zeros_(new[1].weight)
    for channel in range(len(new[1].weight)):
        new[1].weight[channel, channel] = torch.tensor([[1, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16.0
    old, new = small.decoder.layers, model.decoder.layers
    # 128 px: conv, ReLU, 4 blocks, up, conv, 2 blocks, up, conv, 1 block, conv.
    # 256 px: conv, ReLU, 4 blocks, up, conv, 4 blocks, up, conv, 3 blocks, up, conv, conv.
    places = [*range(10), 12, 13, 14, 19]
    for place, source in zip(places, old, strict=True):
        new[place].load_state_dict(source.state_dict())
    nn.init.dirac_(new[18].weight)


def upscaled(image: np.ndarray, size: int) -> np.ndarray:
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_CUBIC)


class Windows:
    """Random windows of portraits at 256 px, flipped and toned at random, and of smaller ones upscaled."""

    def __init__(self, large: np.ndarray, small: np.ndarray) -> None:
        self.large, self.small = large, small
        self.coloured = np.flatnonzero([chroma_spread(crop[::2, ::2]) > MIN_CHROMA_SPREAD for crop in large])

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(B, W, W, 3) uint8 windows, (B, 2) their x and y in the crop, (B,) bool: which are of large portraits."""
        windows = np.empty((count, WINDOW, WINDOW, 3), dtype=np.uint8)
        corners = rng.integers(SIZE - WINDOW + 1, size=(count, 2))
        # Half of them about the eyes, the nose and the mouth.
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
            crop = upscaled(self.small[rng.integers(len(self.small))], SIZE)
        crop = crop[:, ::-1] if rng.random() < 0.5 else crop
        return crop[y : y + WINDOW, x : x + WINDOW]


def result_windows(results: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(B, 4, W/8, W/8) windows of (N, 4, 32, 32) latents, and (B, 2) their x and y in the crop."""
    cells = WINDOW // 8
    corners = rng.integers(2, SIZE // 8 - cells - 1, size=(count, 2))
    rows = rng.integers(len(results), size=count)
    windows = [results[row, :, y : y + cells, x : x + cells] for row, (x, y) in zip(rows, corners)]
    return np.stack(windows).astype(np.float32), 8 * corners


def with_place(windows: Tensor, corners: Tensor) -> Tensor:
    """(B, 3, W, W) windows with x and y in the crop, each from -1 to 1, as two more channels."""
    ticks = torch.arange(windows.shape[-1], device=windows.device)
    x = (corners[:, :1, None] + ticks).expand(-1, windows.shape[-1], -1)
    y = (corners[:, 1:, None] + ticks).expand(-1, windows.shape[-1], -1).transpose(1, 2)
    place = torch.stack([x, y], dim=1).float().mul(2.0 / SIZE).sub(1.0)
    return torch.cat([windows, place], dim=1)


def gradient_energy(images: Tensor) -> Tensor:
    """(B,) mean squared difference to the neighbours of (B, 3, H, W) images."""
    horizontal, vertical = images.diff(dim=-1), images.diff(dim=-2)
    return horizontal.square().mean(dim=(1, 2, 3)) + vertical.square().mean(dim=(1, 2, 3))


@torch.no_grad()
def validate(model: AutoencoderTiny, crops: np.ndarray, device: torch.device) -> tuple[float, float]:
    """Mean PSNR in dB and mean share of the photos' gradient energy over (N, 256, 256, 3) uint8 crops."""
    psnr, energy = [], []
    for start in range(0, len(crops), 8):
        images = to_tensor(crops[start : start + 8], device)
        output = model.decode(model.encode(images).latents).sample.clamp(-1.0, 1.0)
        error = (output - images).div(2.0)
        psnr.append(-10.0 * error.square().mean(dim=(1, 2, 3)).log10())
        energy.append(gradient_energy(output) / gradient_energy(images))
    return torch.cat(psnr).mean().item(), torch.cat(energy).mean().item()


class Trainer:
    """The networks, their optimizers and one step of each kind."""

    def __init__(self, small: AutoencoderTiny, lr: float, device: torch.device) -> None:
        self.small = small.to(device).requires_grad_(False)
        self.model = build_autoencoder().to(device).to(memory_format=torch.channels_last)
        start_from(self.model, small)
        self.critic = PatchCritic().to(device).to(memory_format=torch.channels_last)
        self.average = AveragedModel(self.model.decoder, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
        self.encoder_optimizer = torch.optim.AdamW(self.model.encoder.parameters(), lr=lr, weight_decay=0.0)
        self.decoder_optimizer = torch.optim.AdamW(self.model.decoder.parameters(), lr=lr, weight_decay=0.0)
        self.critic_optimizer = torch.optim.AdamW(
            self.critic.parameters(), lr=4e-4, betas=(0.5, 0.99), weight_decay=0.0
        )

    PARTS = ("model", "critic", "average", "encoder_optimizer", "decoder_optimizer", "critic_optimizer")

    def state(self) -> dict:
        return {name: getattr(self, name).state_dict() for name in self.PARTS}

    def load(self, state: dict) -> None:
        for name in self.PARTS:
            getattr(self, name).load_state_dict(state[name])

    def averaged(self) -> AutoencoderTiny:
        """The model with the moving average of the decoder's weights."""
        model = build_autoencoder()
        model.encoder.load_state_dict(self.model.encoder.state_dict())
        model.decoder.load_state_dict(self.average.module.state_dict())
        return model.eval()

    def encoder_step(self, images: Tensor, rate: float) -> float:
        """Teach the encoder the latents of the picture at half size."""
        with torch.no_grad():
            wanted = self.small.encoder(F.avg_pool2d(images, 2))
        loss = F.mse_loss(self.model.encoder(images), wanted)
        update(self.encoder_optimizer, loss, rate)
        return loss.item()

    def decoder_step(
        self, images: Tensor, corners: Tensor, is_large: Tensor, rate: float, critic: bool, has_say: bool
    ) -> float:
        """Teach the decoder the picture, and if the critic `has_say` to look like one; then the critic."""
        with torch.no_grad():
            latents = self.model.encoder(images)
            latents = latents + LATENT_NOISE * torch.randn_like(latents)
        output = self.model.decoder(latents)
        loss = reconstruction_loss(output[is_large], images[is_large])
        if not is_large.all():
            halves = F.avg_pool2d(output[~is_large], 2), F.avg_pool2d(images[~is_large], 2)
            loss = loss + SMALL_SHARE * reconstruction_loss(*halves)
        [gradient] = torch.autograd.grad(loss, output, retain_graph=True)
        if has_say:
            gradient = gradient + self._critic_gradient(output, corners, is_large, gradient)
        self._update_decoder(output, gradient, rate)
        if critic:
            self._update_critic(output[is_large], images[is_large], corners[is_large], corners[is_large])
        return loss.item()

    def result_step(self, latents: Tensor, corners: Tensor, images: Tensor, places: Tensor, rate: float) -> float:
        """Teach the decoder to make sharp what the pipeline made; `images` at `places` are what the critic compares."""
        with torch.no_grad():
            wanted = self.small.decoder(latents)
        output = self.model.decoder(latents)
        loss = reconstruction_loss(F.avg_pool2d(output, 2), wanted)
        [gradient] = torch.autograd.grad(loss, output, retain_graph=True)
        counted = torch.ones(len(output), dtype=torch.bool, device=output.device)
        gradient = gradient + self._critic_gradient(output, corners, counted, gradient)
        self._update_decoder(output, gradient, rate)
        self._update_critic(output, images, corners, places)
        return loss.item()

    def _update_decoder(self, output: Tensor, gradient: Tensor, rate: float) -> None:
        set_rate(self.decoder_optimizer, rate)
        self.decoder_optimizer.zero_grad(set_to_none=True)
        output.backward(gradient)
        torch.nn.utils.clip_grad_norm_(self.model.decoder.parameters(), 1.0)
        self.decoder_optimizer.step()
        self.average.update_parameters(self.model.decoder)

    def _update_critic(self, output: Tensor, images: Tensor, corners: Tensor, places: Tensor) -> None:
        made, real = with_place(output, corners), with_place(images, places)
        update(self.critic_optimizer, critic_loss(self.critic, made, real, made.new_ones(len(made)), JITTER))

    def _critic_gradient(self, output: Tensor, corners: Tensor, counted: Tensor, other: Tensor) -> Tensor:
        """Gradient of the critic's loss at the picture, scaled to the length of the `other` one."""
        loss = realism_loss(self.critic, with_place(output, corners), counted.float())
        [gradient] = torch.autograd.grad(loss, output, retain_graph=True)
        return CRITIC_LENGTH * gradient * (other.norm() / gradient.norm().clamp(min=1e-8))


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
    """Save in float16; the latents are those of the 128 px autoencoder, and so is their scaling factor."""
    model.register_to_config(scaling_factor=small.config.scaling_factor)
    model.half().save_pretrained(folder)
    drop_odd_settings(folder / "config.json")
    logger.info("exported to %s", folder)


def train(args: argparse.Namespace) -> None:
    """Train until the budget is spent, from the checkpoint if there is one."""
    device = torch.device(args.device)
    large, validation = (load_crops(args.large_data, split, args.runs, SIZE) for split in ("train", "validation"))
    windows = Windows(large, load_crops(args.data, "train", args.runs))
    path = args.runs / "decoded_results.npy"
    results = np.load(path) if path.exists() else np.empty((0, 4, 32, 32))
    torch.manual_seed(args.seed)
    small = AutoencoderTiny.from_pretrained(args.autoencoder)
    trainer = Trainer(small, args.lr, device)
    checkpoint, step, spent = args.runs / "autoencoder_256.pt", 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        trainer.load(state)
        step, spent = state["step"], state["spent"]
    rng = np.random.default_rng([args.seed, step])
    budget, log, save = Budget(args.minutes, spent), Every(30), Every(240)

    losses: list[float] = []
    while budget.fraction < 1.0:
        drawn, corners, is_large = windows.draw(args.batch_size, rng)
        images = to_tensor(drawn, device)
        if budget.fraction < ENCODER_SHARE:
            rate = cosine_rate(args.lr, budget.fraction / ENCODER_SHARE, step)
            losses.append(trainer.encoder_step(images, rate))
        else:
            rate = cosine_rate(args.lr, budget.fraction, step)
            places, counted = torch.from_numpy(corners).to(device), torch.from_numpy(is_large).to(device)
            critic, has_say = budget.fraction >= CRITIC_SHARE, budget.fraction >= SAY_SHARE
            losses.append(trainer.decoder_step(images, places, counted, rate, critic, has_say))
            if has_say and step % RESULT_EVERY == 0 and len(results):
                cut = result_windows(results, int(is_large.sum()), rng)
                latents, result_places = (torch.from_numpy(part).to(device) for part in cut)
                trainer.result_step(latents, result_places, images[counted], places[counted], rate)
        step += 1
        if log():
            done, mean_loss = 100.0 * budget.fraction, np.mean(losses)
            logger.info("%5.1f %%  step %d  loss %.5f  lr %.1e", done, step, mean_loss, rate)
            losses.clear()
        if save():
            save_checkpoint(checkpoint, trainer.state() | {"step": step, "spent": budget.spent})
            psnr, energy = validate(trainer.averaged().to(device), validation[:24], device)
            logger.info("validation %.2f dB, gradient energy %.3f, %d windows", psnr, energy, step * args.batch_size)

    save_checkpoint(checkpoint, trainer.state() | {"step": step, "spent": budget.spent})
    export(trainer.averaged(), small, args.output)
    exported = AutoencoderTiny.from_pretrained(args.output).to(device)
    logger.info("exported: validation %.2f dB, gradient energy %.3f", *validate(exported, validation, device))


def main() -> None:
    parser = autoencoder_parser(__doc__, Path("nullface_pipeline/tiny/model/vae"), 100.0, 8, 5e-4)
    parser.add_argument("--large-data", default="../shared/data/portraits_large.parquet", help="those at full size")
    parser.add_argument("--autoencoder", type=Path, default=RUNS / "vae_128", help="the 128 px autoencoder")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(0)
    train(args)


if __name__ == "__main__":
    main()
