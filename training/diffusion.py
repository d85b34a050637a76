"""Noise schedule, noise prediction and loss of the denoiser's training."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from nullface_pipeline.ddpm_inversion import guide_noise, posterior_mean, posterior_std
from training.denoiser_export import LATENT_SIZE, build_scheduler, build_text_encoder, empty_prompt


SNR_CAP = 2.0
EYE = (0.233, -0.054)  # centre of an eye in the crop, whose coordinates run from -1 to 1


@dataclass
class Batch:
    """Training samples: input latents, noise, conditioning and target latents."""

    latents: torch.Tensor  # (B, 4, 32, 32) float32, to which the noise is added
    targets: torch.Tensor  # (B, 4, 32, 32) float32; differ from `latents` where the denoiser has to change the image
    identities: torch.Tensor  # (B, 1, 512) float32; null embedding where dropped
    timesteps: torch.Tensor  # (B,) int64
    noise: torch.Tensor  # (B, 4, 32, 32) float32


@dataclass
class GuidedBatch(Batch):
    """Training samples, and portraits for some guided denoising steps as in anonymization."""

    portraits: torch.Tensor  # (S, 4, 32, 32) float32 latents
    guided_identities: torch.Tensor  # (S, 1, 512) float32: opposite, or rotated towards a random identity
    first_timesteps: torch.Tensor  # (S,) int64, at which noise is added to the portraits
    guidance_scales: torch.Tensor  # (S,) float32


@dataclass
class Prediction:
    """Predicted and target noise of noisy latents."""

    noisy: torch.Tensor  # (B, 4, 32, 32) float32
    noise: torch.Tensor  # (B, 4, 32, 32) float32, with gradients
    target_noise: torch.Tensor  # (B, 4, 32, 32) float32
    alphas: torch.Tensor  # (B,) float32, cumulative products of alpha

    def errors(self) -> torch.Tensor:
        """(B,) mean squared error of the noise, weighted by `face_weight`."""
        weight = face_weight(self.noise.shape[-1], self.noise.device)
        return ((self.noise - self.target_noise).square() * weight).mean(dim=(1, 2, 3))

    def latents(self) -> torch.Tensor:
        """(B, 4, 32, 32) float32 clean latents that follow from the predicted noise."""
        alphas = self.alphas.view(-1, 1, 1, 1)
        return (self.noisy - (1.0 - alphas).sqrt() * self.noise) / alphas.sqrt()


class Diffusion:
    """Noise schedule, loss and the constant empty prompt."""

    def __init__(self, runs: Path, device: torch.device) -> None:
        self.scheduler = build_scheduler()
        self.device = device
        self.prompt = empty_prompt(*build_text_encoder(runs / "tokenizer")).to(device)
        alphas = self.scheduler.alphas_cumprod
        self.alphas = alphas.to(device)
        snr = alphas / (1.0 - alphas)
        # Min-SNR weighting: at low noise the error is large but concerns texture; identity is
        # decided at higher noise.
        self.weights = (snr.clamp(max=SNR_CAP) / snr).to(device)

    def predict(
        self, unet: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, identities: torch.Tensor
    ) -> torch.Tensor:
        """Predict (B, 4, h, w) float32 noise with (B, 1, 512) identities; bfloat16 inside."""
        prompt = self.prompt.expand(len(noisy), -1, -1)
        is_half = next(unet.parameters()).dtype == torch.bfloat16
        if is_half:
            noisy, prompt, identities = (values.bfloat16() for values in (noisy, prompt, identities))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=not is_half):
            return unet(noisy, timesteps, prompt, added_cond_kwargs={"image_embeds": [identities]}).sample.float()

    def prediction(self, unet: torch.nn.Module, batch: Batch) -> Prediction:
        """Predict the noise of a batch, beside its target noise."""
        timesteps, noise = batch.timesteps.to(self.device), batch.noise.to(self.device)
        latents, identities = batch.latents.to(self.device), batch.identities.to(self.device)
        noisy = self.noised(latents, noise, timesteps)
        predicted = self.predict(unet, noisy, timesteps, identities)
        alphas = self.alphas[timesteps]
        return Prediction(
            noisy, predicted, target_noise(batch.targets.to(self.device), latents, noise, alphas), alphas
        )

    def guided(
        self, unet: torch.nn.Module, noisy: torch.Tensor, timesteps: torch.Tensor, batch: GuidedBatch
    ) -> torch.Tensor:
        """Guided noise (S, 4, h, w) float32, Eq. 3 of the paper; unconditional part detached."""
        with torch.no_grad():
            unconditional = self.predict(unet, noisy, timesteps, torch.zeros_like(batch.guided_identities))
        conditioned = self.predict(unet, noisy, timesteps, batch.guided_identities)
        return guide_noise(unconditional, conditioned, batch.guidance_scales.view(-1, 1, 1, 1))

    def noised(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Add noise of (B,) timesteps to (B, 4, h, w) float32 latents."""
        return self.scheduler.add_noise(latents, noise, timesteps).contiguous(memory_format=memory_format(self.device))

    @torch.no_grad()
    def step(self, prediction: Prediction, timesteps: torch.Tensor) -> torch.Tensor:
        """Latents (B, 4, h, w) float32 at (B,) timesteps, after one DDPM step with fresh noise."""
        before, after = (alphas.view(-1, 1, 1, 1) for alphas in (prediction.alphas, self.alphas[timesteps]))
        mean = posterior_mean(prediction.latents(), prediction.noise, before, after, 1.0)
        return mean + posterior_std(before, after, 1.0) * torch.randn_like(mean)

    def errors(self, unet: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """(B,) mean squared error of the predicted noise, weighted by `face_weight`."""
        return self.prediction(unet, batch).errors()

    def loss(self, unet: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Min-SNR weighted training loss, a scalar."""
        return self.weighted(self.errors(unet, batch), batch.timesteps)

    def weighted(self, errors: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Mean of (B,) errors with the Min-SNR weights of their timesteps, a scalar."""
        return (errors * self.weights[timesteps.to(self.device)]).mean()


def memory_format(device: torch.device) -> torch.memory_format:
    """Fastest memory format for this network: channels last on a CPU, contiguous on a GPU."""
    return torch.channels_last if device.type == "cpu" else torch.contiguous_format


def target_noise(
    targets: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor, alphas: torch.Tensor
) -> torch.Tensor:
    """Noise that turns `targets` into the noisy latents that `noise` makes of `latents`.

    Args:
        targets, latents, noise (`torch.Tensor`): (B, 4, h, w) float32.
        alphas (`torch.Tensor`): (B,) float32, cumulative products of alpha.
    """
    signal_to_noise = (alphas / (1.0 - alphas)).sqrt().view(-1, 1, 1, 1)
    return noise + signal_to_noise * (latents - targets)


@lru_cache
def face_weight(window: int, device: torch.device) -> torch.Tensor:
    """(window, window) float32 loss weights of mean 1, relative to the background's weight of 1.

    The face, an ellipse in the middle, has a weight of 3, and the eyes up to 7.
    """
    reach = window / LATENT_SIZE
    y, x = torch.meshgrid(*2 * [torch.linspace(-reach, reach, window, device=device)], indexing="ij")
    distance = ((x / 0.6).square() + ((y - 0.1) / 0.75).square()).sqrt()
    eyes = torch.exp(-0.5 * (((x.abs() - EYE[0]) / 0.11).square() + ((y - EYE[1]) / 0.07).square()))
    weight = 1.0 + 2.0 * torch.sigmoid((1.0 - distance) / 0.08) + 4.0 * eyes
    return weight / weight.mean()
