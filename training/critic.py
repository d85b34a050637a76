"""What makes predictions sharp: a critic that learns to tell predicted latents from those of portraits.

The mean squared error alone is least for the mean of all that could be there, and the mean of many pairs of eyes is a blur.
The critic sees clean latents as they are predicted from noisy ones in one step, and the latents that were wanted.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


WIDTH = 64
JITTER, JITTER_WEIGHT = (
    0.05,
    100.0,
)  # deviation of the noise that may not change the critic's mind, and how much that counts


class Critic(nn.Module):
    """(B, 4, 32, 32) latents of aligned faces to (B, 1, 8, 8), each above 0 where it looks like a portrait."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(6, WIDTH, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(WIDTH, 2 * WIDTH, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * WIDTH, 4 * WIDTH, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * WIDTH, 4 * WIDTH, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * WIDTH, 1, 3, padding=1),
        )

    def forward(self, latents: Tensor) -> Tensor:
        # Where things are in the crop is told as well: eyes belong where eyes are.
        ticks = torch.linspace(-1.0, 1.0, latents.shape[-1], device=latents.device)
        place = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij")).expand(len(latents), -1, -1, -1)
        with torch.autocast(latents.device.type, torch.bfloat16):
            return self.layers(torch.cat([latents, place], dim=1)).float()


def realism_loss(critic: nn.Module, predicted: Tensor, counted: Tensor) -> Tensor:
    """How much (B, 4, 32, 32) predictions look like predictions, a scalar; (B,) `counted` says which of them count."""
    return mean_of(F.softplus(-critic(predicted)), counted)


def critic_loss(
    critic: nn.Module, predicted: Tensor, wanted: Tensor, counted: Tensor, jitter: float = JITTER
) -> Tensor:
    """What the critic learns from: to tell them apart, but not by what a little noise can change.

    The last is a penalty of its gradient at the portraits, by differences (Lin et al. 2025, arXiv 2501.08316).
    """
    real = critic(wanted)
    shaken = critic(wanted + jitter * torch.randn_like(wanted))
    apart = mean_of(F.softplus(critic(predicted.detach())), counted) + F.softplus(-real).mean()
    return apart + JITTER_WEIGHT * (real - shaken).square().mean()


def mean_of(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of (B, ...) values over the samples that (B,) `counted` is 1 for."""
    return (values.flatten(1).mean(dim=1) * counted).sum() / counted.sum().clamp(min=1.0)
