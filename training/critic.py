"""Adversarial critic (discriminator) that makes predicted latents sharp.

The mean squared error alone is minimized by the mean of all plausible images, which is blurred. The
critic compares clean latents, predicted from noisy ones in one step, with the target latents.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


JITTER, JITTER_WEIGHT = 0.05, 100.0  # noise of the critic's regularization: standard deviation, weight of the loss


def discriminator(widths: Sequence[int], strides: Sequence[int]) -> nn.Sequential:
    """Convolutions with leaky ReLU from `widths[0]` channels to one channel of logits."""
    layers: list[nn.Module] = []
    for channels_in, channels, stride in zip(widths[:-1], widths[1:], strides, strict=True):
        layers += [nn.Conv2d(channels_in, channels, 2 + stride, stride, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))


class Critic(nn.Module):
    """Discriminator: (B, 4, 32, 32) latents of aligned faces to (B, 1, 8, 8) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = discriminator((6, 64, 128, 256, 256), strides=(1, 2, 2, 1))

    def forward(self, latents: Tensor) -> Tensor:
        # Positions are inputs as well, because faces are aligned.
        ticks = torch.linspace(-1.0, 1.0, latents.shape[-1], device=latents.device)
        position = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij")).expand(len(latents), -1, -1, -1)
        with torch.autocast(latents.device.type, torch.bfloat16):
            return self.layers(torch.cat([latents, position], dim=1)).float()


def adversarial_loss(critic: nn.Module, predicted: Tensor, counted: Tensor) -> Tensor:
    """Non-saturating generator loss of (B, 4, 32, 32) predictions, weighted by (B,) `counted`."""
    return masked_mean(F.softplus(-critic(predicted)), counted)


def critic_loss(
    critic: nn.Module, predicted: Tensor, target: Tensor, counted: Tensor, jitter: float = JITTER
) -> Tensor:
    """Loss of the critic itself, with a finite-difference gradient penalty at the real samples.

    Args:
        critic (`nn.Module`): logits, above 0 for real samples.
        predicted (`Tensor`): (B, C, H, W) predictions.
        target (`Tensor`): (N, C, H, W) real samples.
        counted (`Tensor`): (B,) weights of the predictions, 0 or 1.
        jitter (`float`): noise of the penalty, a standard deviation (arXiv 2501.08316).
    """
    real = critic(target)
    jittered = critic(target + jitter * torch.randn_like(target))
    classification = masked_mean(F.softplus(critic(predicted.detach())), counted) + F.softplus(-real).mean()
    return classification + JITTER_WEIGHT * (real - jittered).square().mean()


def masked_mean(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of (B, ...) values over the samples where (B,) `counted` is 1."""
    return (values.flatten(1).mean(dim=1) * counted).sum() / counted.sum().clamp(min=1.0)
