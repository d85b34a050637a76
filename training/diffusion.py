"""The noise schedule and the error of a predicted noise, as all parts of the denoiser's training see them."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from nullface_pipeline.ddpm_inversion import guide_noise, posterior_mean, posterior_std
from training.denoiser_export import LATENT_SIZE, build_scheduler, build_text_encoder, empty_prompt


SNR_CAP = 2.0
EYE = (0.233, -0.054)  # middle of an eye in the crop, the middle of the crop being 0 and its borders 1 away


@dataclass
class Batch:
    """Latents, what is added to them, and what is to come out."""

    latents: torch.Tensor  # (B, 4, 32, 32) float32
    wanted: torch.Tensor  # (B, 4, 32, 32) float32, other than `latents` where another person is to come out
    identities: torch.Tensor  # (B, 1, 512) float32, zero where dropped
    timesteps: torch.Tensor  # (B,) int64
    noise: torch.Tensor  # (B, 4, 32, 32) float32


@dataclass
class GuidedBatch(Batch):
    """The same, and portraits of which a few guided steps are to make other people."""

    portraits: torch.Tensor  # (S, 4, 32, 32) float32
    told: torch.Tensor  # (S, 1, 512) float32, identities as in use: opposite, or turned towards a stranger
    first_timesteps: torch.Tensor  # (S,) int64, at which the portraits are noised
    guidance_scales: torch.Tensor  # (S,) float32


@dataclass
class Prediction:
    """The noise that a network sees in noisy latents, and the noise that it should see."""

    noisy: torch.Tensor  # (B, 4, 32, 32) float32
    noise: torch.Tensor  # (B, 4, 32, 32) float32, with gradients
    wanted_noise: torch.Tensor  # (B, 4, 32, 32) float32
    alphas: torch.Tensor  # (B,) float32, cumulative products of alpha

    def errors(self) -> torch.Tensor:
        """(B,) mean squared error of the noise, the face counting more than the background."""
        weight = face_weight(self.noise.shape[-1], self.noise.device)
        return ((self.noise - self.wanted_noise).square() * weight).mean(dim=(1, 2, 3))

    def latents(self) -> torch.Tensor:
        """(B, 4, 32, 32) float32: the clean latents that the noise leaves."""
        alphas = self.alphas.view(-1, 1, 1, 1)
        return (self.noisy - (1.0 - alphas).sqrt() * self.noise) / alphas.sqrt()


class Diffusion:
    """The noise schedule, the loss, and the constant empty prompt."""

    def __init__(self, runs: Path, device: torch.device) -> None:
        self.scheduler = build_scheduler()
        self.device = device
        self.prompt = empty_prompt(*build_text_encoder(runs / "tokenizer")).to(device)
        alphas = self.scheduler.alphas_cumprod
        self.alphas = alphas.to(device)
        snr = alphas / (1.0 - alphas)
        # Min-SNR weighting: at low noise the error is large, but about texture; who it is gets decided above.
        self.weights = (snr.clamp(max=SNR_CAP) / snr).to(device)

    def predict(
        self, unet: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, identities: torch.Tensor
    ) -> torch.Tensor:
        """The noise (B, 4, h, w) float32 in latents, told (B, 1, 512) identities; reckoned in bfloat16."""
        prompt = self.prompt.expand(len(noisy), -1, -1)
        is_half = next(unet.parameters()).dtype == torch.bfloat16
        if is_half:
            noisy, prompt, identities = (values.bfloat16() for values in (noisy, prompt, identities))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=not is_half):
            return unet(noisy, timesteps, prompt, added_cond_kwargs={"image_embeds": [identities]}).sample.float()

    def prediction(self, unet: torch.nn.Module, batch: Batch) -> Prediction:
        """What the network makes of a batch."""
        timesteps, noise = batch.timesteps.to(self.device), batch.noise.to(self.device)
        latents, identities = batch.latents.to(self.device), batch.identities.to(self.device)
        noisy = self.noised(latents, noise, timesteps)
        predicted = self.predict(unet, noisy, timesteps, identities)
        alphas = self.alphas[timesteps]
        return Prediction(noisy, predicted, noise_from(batch.wanted.to(self.device), latents, noise, alphas), alphas)

    def guided(
        self, unet: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, batch: GuidedBatch
    ) -> torch.Tensor:
        """The noise (S, 4, h, w) float32 by Eq. 3 of the paper; what is told no identity learns nothing by it."""
        with torch.no_grad():
            untold = self.predict(unet, noisy, timesteps, torch.zeros_like(batch.told))
        told = self.predict(unet, noisy, timesteps, batch.told)
        return guide_noise(untold, told, batch.guidance_scales.view(-1, 1, 1, 1))

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """(B, 4, h, w) float32 latents with noise of (B,) timesteps, laid out as the network is."""
        return self.scheduler.add_noise(latents, noise, timesteps).contiguous(memory_format=faster(self.device))

    @torch.no_grad()
    def step(self, prediction: Prediction, timesteps: torch.Tensor) -> torch.Tensor:
        """(B, 4, h, w) float32: where a step of DDPM with fresh noise leads, at (B,) timesteps."""
        before, after = (alphas.view(-1, 1, 1, 1) for alphas in (prediction.alphas, self.alphas[timesteps]))
        mean = posterior_mean(prediction.latents(), prediction.noise, before, after, 1.0)
        return mean + posterior_std(before, after, 1.0) * torch.randn_like(mean)

    def errors(self, unet: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """(B,) mean squared error of the predicted noise, the face counting more than the background."""
        return self.prediction(unet, batch).errors()

    def loss(self, unet: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The weighted training loss, a scalar."""
        return self.weighted(self.errors(unet, batch), batch.timesteps)

    def weighted(self, errors: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """The mean of (B,) errors, each weighted by its timestep, a scalar."""
        return (errors * self.weights[timesteps.to(self.device)]).mean()


def faster(device: torch.device) -> torch.memory_format:
    """How tensors are laid out where this network trains fastest: on an H200 contiguous ones were 1.12 times as fast."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def noise_from(wanted: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor) -> torch.Tensor:
    """The noise that leads from wanted latents to where `noise` led from `latents`.

    All (B, 4, h, w) float32, but (B,) cumulative products of alpha.
    """
    signal_to_noise = (alphas / (1.0 - alphas)).sqrt().view(-1, 1, 1, 1)
    return noise + signal_to_noise * (latents - wanted)


@lru_cache
def face_weight(window: int, device: torch.device) -> torch.Tensor:
    """(window, window) float32 of mean 1: the face, an ellipse in the middle, counts three times the background.

    The eyes, small and looked at first, count up to seven times as much.
    """
    reach = window / LATENT_SIZE
    y, x = torch.meshgrid(*2 * [torch.linspace(-reach, reach, window, device=device)], indexing="ij")
    distance = ((x / 0.6).square() + ((y - 0.1) / 0.75).square()).sqrt()
    eyes = torch.exp(-0.5 * (((x.abs() - EYE[0]) / 0.11).square() + ((y - EYE[1]) / 0.07).square()))
    weight = 1.0 + 2.0 * torch.sigmoid((1.0 - distance) / 0.08) + 4.0 * eyes
    return weight / weight.mean()
