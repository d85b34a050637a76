"""Training samples of the denoiser: portraits and swapped faces, identities and targets."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.denoiser_export import LATENT_SIZE
from training.diffusion import Batch, GuidedBatch
from training.face_swaps import SwapCache
from training.latent_cache import LatentCache


KINDS = {  # shares of samples by input, identity and target
    "true": 0.26,  # portrait, its own identity, unchanged
    "restored": 0.3,  # swapped face, the portrait's identity, the portrait
    "given": 0.18,  # portrait, the partner's identity, the swapped face
    "left": 0.12,  # swapped face, the partner's identity, unchanged
    "sharpened": 0.14,  # blurred portrait, its own identity, the portrait: faces being replaced start as blurred means
}
TRUE, RESTORED, GIVEN, LEFT, SHARPENED = range(5)
CHANGED_TIMESTEPS = (60, 600)  # at lower timesteps, the change would be many times the noise
SHARPENED_TIMESTEPS = (40, 400)
# First timesteps and guidance scales of guided steps: as by default, and in a wide range.
DEFAULT_FIRST, ANY_FIRST = (80, 130), (60, 310)
DEFAULT_GUIDANCE, ANY_GUIDANCE = (3.0, 4.5), (2.0, 10.0)
DEFAULT_SHARE = 0.7
MAX_ANGLE = 0.5 * math.pi  # rotation of the opposite identity towards a random one
BLUR = (0.6, 1.8)  # standard deviation in latent pixels
NULL_IDENTITY_SHARE = 0.15  # of the samples whose image does not change
# Maximum norm of the noise added to an embedding, relative to it. Opposite identities are off the
# distribution of real embeddings, and the denoiser must not memorize the training people.
MAX_IDENTITY_NOISE = 0.8
AVERAGED_SHARE = 0.3  # share of samples with the average of a person's embeddings
# Low, high, share: the method's timesteps (skip 0.7: up to 300), those that decide identity, rest.
TIMESTEP_RANGES = ((0, 350, 0.6), (350, 600, 0.28), (600, 1000, 0.12))


class Sampler:
    """Draws training samples from pairs of latents: a portrait, and the same with a swapped face.

    All tensors are on one device, so that a GPU does not wait for the next batch.

    Args:
        latents (`Tensor`): (P, 4, 32, 32) float16 latents of the portraits.
        swapped (`Tensor`): (P, 4, 32, 32) float16 latents of the swapped faces.
        rows (`Tensor`): (P,) int64, people of the portraits, as rows of `identities`.
        partners (`Tensor`): (P,) int64, people of the swapped faces.
        weights (`Tensor`): (P,) float64, sampling weights of the pairs.
        identities (`Tensor`): (N, V, 512) float32, several embeddings of each person.
    """

    def __init__(
        self, latents: Tensor, swapped: Tensor, rows: Tensor, partners: Tensor, weights: Tensor, identities: Tensor
    ) -> None:
        self.latents, self.swapped, self.rows, self.partners = latents, swapped, rows, partners
        self.weights, self.identities = weights, identities
        self.averages = F.normalize(identities.mean(dim=1), dim=-1)

    @classmethod
    def cached(
        cls,
        cache: LatentCache,
        swaps: SwapCache,
        weights: np.ndarray,
        identities: np.ndarray,
        device: torch.device | str = "cpu",
    ) -> "Sampler":
        """Sampler of all variants of all cached portraits, by (N,) weights of the portraits."""
        people, variants = cache.latents.shape[:2]
        columns = (
            cache.latents.reshape(-1, *cache.latents.shape[2:]),
            swaps.latents.reshape(-1, *swaps.latents.shape[2:]),
            np.arange(people).repeat(variants),
            swaps.partners.ravel(),
            weights.repeat(variants).astype(np.float64),
            identities,
        )
        return cls(*(torch.from_numpy(np.ascontiguousarray(column)).to(device) for column in columns))

    @classmethod
    def empty(cls, pairs: int, identities: np.ndarray, device: torch.device | str) -> "Sampler":
        """Sampler with room for a number of pairs, which `put` adds."""
        latents, swapped = torch.zeros(2, pairs, 4, LATENT_SIZE, LATENT_SIZE, dtype=torch.float16, device=device)
        rows, partners = torch.zeros(2, pairs, dtype=torch.int64, device=device)
        weights = torch.zeros(pairs, dtype=torch.float64, device=device)
        return cls(latents, swapped, rows, partners, weights, torch.from_numpy(identities).to(device))

    def put(self, where: Tensor, latents: Tensor, swapped: Tensor, rows: Tensor, partners: Tensor) -> None:
        """Store pairs with equal weights at the (B,) int64 rows `where`."""
        self.latents[where], self.swapped[where] = latents.half(), swapped.half()
        self.rows[where], self.partners[where], self.weights[where] = rows, partners, 1.0

    def draw(self, batch_size: int, window: int, generator: torch.Generator) -> Batch:
        """Draw a batch of windows of `window` latent pixels near the middle of the crops."""
        pairs = torch.multinomial(self.weights, batch_size, replacement=True, generator=generator)
        shares = torch.tensor(list(KINDS.values()), device=pairs.device)
        kinds = torch.multinomial(shares, batch_size, replacement=True, generator=generator)
        from_swap, to_swap = (kinds == RESTORED) | (kinds == LEFT), (kinds == GIVEN) | (kinds == LEFT)
        rows_and_columns = cut_out(self.latents.shape[-1], window, generator)
        own, swapped = (source[pairs].float()[:, :, *rows_and_columns] for source in (self.latents, self.swapped))
        start, targets = (torch.where(chosen.view(-1, 1, 1, 1), swapped, own) for chosen in (from_swap, to_swap))
        is_changed, is_sharpened = from_swap != to_swap, kinds == SHARPENED
        remaining = self._uniform(batch_size, generator)
        remaining = torch.where(self._uniform(batch_size, generator) < 0.4, 1.0, remaining)
        remaining = torch.where(is_sharpened, 0.0, remaining).view(-1, 1, 1, 1)
        # Inputs imitate intermediate steps: the old face fades into a blurred target.
        blurred = blur(targets, BLUR[0] + (BLUR[1] - BLUR[0]) * self._uniform(batch_size, generator))
        mixed = blurred + remaining * (start - blurred)
        start = torch.where((is_changed | is_sharpened).view(-1, 1, 1, 1), mixed, start)
        identities = self._draw_identities(torch.where(to_swap, self.partners[pairs], self.rows[pairs]), generator)
        is_conditioned = is_changed | (self._uniform(batch_size, generator) >= NULL_IDENTITY_SHARE)
        timesteps = random_timesteps(batch_size, generator)
        for which, limits in ((is_changed, CHANGED_TIMESTEPS), (is_sharpened, SHARPENED_TIMESTEPS)):
            timesteps = torch.where(which, self._integers(*limits, batch_size, generator), timesteps)
        noise = torch.randn(start.shape, generator=generator, device=start.device)
        return Batch(start, targets, (identities * is_conditioned[:, None])[:, None], timesteps, noise)

    def draw_guided(self, batch_size: int, guided: int, generator: torch.Generator) -> GuidedBatch:
        """Draw a batch of full-size latents, and `guided` portraits for guided steps."""
        pairs, others = torch.multinomial(self.weights, 2 * guided, replacement=True, generator=generator).chunk(2)
        first_view = self.identities[:, 0]
        person, random = first_view[self.rows[pairs]], self._draw_identities(self.rows[others], generator)
        angles = self._uniform(guided, generator)[:, None] * MAX_ANGLE
        is_default = self._uniform(guided, generator) < DEFAULT_SHARE
        first, any_first = (self._integers(*limits, guided, generator) for limits in (DEFAULT_FIRST, ANY_FIRST))
        scale, any_scale = (
            low + (high - low) * self._uniform(guided, generator) for low, high in (DEFAULT_GUIDANCE, ANY_GUIDANCE)
        )
        return GuidedBatch(
            **vars(self.draw(batch_size, self.latents.shape[-1], generator)),
            portraits=self.latents[pairs].float(),
            guided_identities=(angles.sin() * random - angles.cos() * person)[:, None],
            first_timesteps=torch.where(is_default, first, any_first),
            guidance_scales=torch.where(is_default, scale, any_scale),
        )

    def _draw_identities(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 512) float32: one of the person's embeddings, or their average, with noise."""
        single = self.identities[rows, self._integers(0, self.identities.shape[1], len(rows), generator)]
        is_average = self._uniform(len(rows), generator) < AVERAGED_SHARE
        embeds = torch.where(is_average[:, None], self.averages[rows], single)
        noise = torch.randn(embeds.shape, generator=generator, device=embeds.device) / embeds.shape[1] ** 0.5
        strength = self._uniform(len(rows), generator)[:, None] * MAX_IDENTITY_NOISE
        return embeds + strength * embeds.norm(dim=1, keepdim=True) * noise

    def _uniform(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, generator=generator, device=self.weights.device)

    def _integers(self, low: int, high: int, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(low, high, (count,), generator=generator, device=self.weights.device)


def cut_out(size: int, window: int, generator: torch.Generator) -> tuple[slice, slice]:
    """Rows and columns of a random window near the middle of a square."""
    margin = size - window
    if margin == 0:
        return slice(0, size), slice(0, size)
    low, high = margin // 4, margin - margin // 4 + 1
    y, x = torch.randint(low, high, (2,), generator=generator, device=generator.device).tolist()
    return slice(y, y + window), slice(x, x + window)


def blur(images: Tensor, deviations: Tensor) -> Tensor:
    """Blur (B, C, S, S) images by (B,) standard deviations in px, with mirrored borders."""
    size = images.shape[-1]
    to, source = (torch.arange(size, device=images.device).view(shape) for shape in ((1, -1, 1), (1, 1, -1)))
    # (3, B, S, S): distances to each pixel and to its mirror images at both borders.
    distances = torch.cat([to - source, to + 1 + source, to - (2 * size - 1 - source)])[:, None]
    weights = torch.exp(-0.5 * (distances / deviations.view(-1, 1, 1)).square()).sum(dim=0)
    weights = (weights / weights.sum(dim=2, keepdim=True))[:, None]
    return weights @ images @ weights.mT


def random_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """Draw (count,) int64 timesteps, uniformly within each of `TIMESTEP_RANGES`."""
    low, high, share = torch.tensor(TIMESTEP_RANGES, device=generator.device).T
    chosen = torch.multinomial(share, count, replacement=True, generator=generator)
    within = torch.rand(count, generator=generator, device=generator.device)
    return (low[chosen] + within * (high - low)[chosen]).long()
