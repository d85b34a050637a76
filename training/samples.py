"""What the denoiser is trained on: portraits and swapped faces, what it is told of them, and what is to come out."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from training.denoiser_export import LATENT_SIZE
from training.diffusion import Batch, GuidedBatch
from training.face_swaps import SwapCache
from training.latent_cache import LatentCache


# A portrait told its own identity; a swapped face told the portrait's, which has to come back; a portrait told another
# person's, which the swapped face is; a swapped face told whose it is; and a blurred portrait, which has to become sharp:
# a face that is being replaced starts as the mean of the faces that it could become.
KINDS = {"true": 0.26, "restored": 0.3, "given": 0.18, "left": 0.12, "sharpened": 0.14}
TRUE, RESTORED, GIVEN, LEFT, SHARPENED = range(5)
CHANGED_TIMESTEPS = (60, 600)  # below it the change would be many times the noise
SHARPENED_TIMESTEPS = (40, 400)
# Where few guided steps begin and how they are guided: by the default settings, and in any way.
DEFAULT_FIRST, ANY_FIRST = (80, 130), (60, 310)
DEFAULT_GUIDANCE, ANY_GUIDANCE = (3.0, 4.5), (2.0, 10.0)
DEFAULT_SHARE = 0.7
LARGEST_ANGLE = 0.5 * math.pi  # from the opposite of a person towards a stranger
BLUR = (0.6, 1.8)  # of a latent pixel, the standard deviation
ZERO_IDENTITY_SHARE = 0.15  # of those where nothing is to change
# How long the noise is that is added to an embedding, at most, relative to it: the opposite of a person is nobody's
# embedding, and the denoiser must not know the people of the data by heart.
LARGEST_NOISE = 0.8
AVERAGED_SHARE = 0.3  # of the samples are told the average of a person's embeddings, the purest word on who it is
# Where the method works (skip 0.7 begins at timestep 300), where the identity shows most in the error, and the rest.
TIMESTEP_RANGES = ((0, 350, 0.6), (350, 600, 0.28), (600, 1000, 0.12))


class Sampler:
    """Draws training samples from pairs of latents: a portrait, and the same with another person's face.

    All on one device, so that a GPU does not wait for the next batch.

    Args:
        latents (`Tensor`): (P, 4, 32, 32) float16 of the portraits.
        swapped (`Tensor`): (P, 4, 32, 32) float16 with the other faces.
        rows (`Tensor`): (P,) int64, whose portraits they are, as rows of `identities`.
        partners (`Tensor`): (P,) int64, whose faces were put in.
        weights (`Tensor`): (P,) float64, how often each pair is drawn.
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
        """All variants of all portraits of the caches, by (N,) weights of the portraits."""
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
        """Without pairs as yet, but with room for so many."""
        latents, swapped = torch.zeros(2, pairs, 4, LATENT_SIZE, LATENT_SIZE, dtype=torch.float16, device=device)
        rows, partners = torch.zeros(2, pairs, dtype=torch.int64, device=device)
        weights = torch.zeros(pairs, dtype=torch.float64, device=device)
        return cls(latents, swapped, rows, partners, weights, torch.from_numpy(identities).to(device))

    def put(self, where: Tensor, latents: Tensor, swapped: Tensor, rows: Tensor, partners: Tensor) -> None:
        """Put pairs in the (B,) int64 places `where`, to be drawn as often as each other."""
        self.latents[where], self.swapped[where] = latents.half(), swapped.half()
        self.rows[where], self.partners[where], self.weights[where] = rows, partners, 1.0

    def draw(self, batch_size: int, window: int, generator: torch.Generator) -> Batch:
        """A batch on the sampler's device, of windows of `window` latent pixels about the middle."""
        pairs = torch.multinomial(self.weights, batch_size, replacement=True, generator=generator)
        shares = torch.tensor(list(KINDS.values()), device=pairs.device)
        kinds = torch.multinomial(shares, batch_size, replacement=True, generator=generator)
        from_swap, to_swap = (kinds == RESTORED) | (kinds == LEFT), (kinds == GIVEN) | (kinds == LEFT)
        rows_and_columns = cut_out(self.latents.shape[-1], window, generator)
        own, swapped = (source[pairs].float()[:, :, *rows_and_columns] for source in (self.latents, self.swapped))
        start, wanted = (torch.where(chosen.view(-1, 1, 1, 1), swapped, own) for chosen in (from_swap, to_swap))
        is_changed, is_sharpened = from_swap != to_swap, kinds == SHARPENED
        left = self._uniform(batch_size, generator)
        left = torch.where(self._uniform(batch_size, generator) < 0.4, 1.0, left)
        left = torch.where(is_sharpened, 0.0, left).view(-1, 1, 1, 1)
        # The way from one person to the other is shown as the steps go it: what is seen of the one fades, and what comes
        # instead is at first the blurred mean of all that the other could look like.
        blurred = blur(wanted, BLUR[0] + (BLUR[1] - BLUR[0]) * self._uniform(batch_size, generator))
        start = torch.where((is_changed | is_sharpened).view(-1, 1, 1, 1), blurred + left * (start - blurred), start)
        told = self._told(torch.where(to_swap, self.partners[pairs], self.rows[pairs]), generator)
        is_told = is_changed | (self._uniform(batch_size, generator) >= ZERO_IDENTITY_SHARE)
        timesteps = random_timesteps(batch_size, generator)
        for which, limits in ((is_changed, CHANGED_TIMESTEPS), (is_sharpened, SHARPENED_TIMESTEPS)):
            timesteps = torch.where(which, self._integers(*limits, batch_size, generator), timesteps)
        noise = torch.randn(start.shape, generator=generator, device=start.device)
        return Batch(start, wanted, (told * is_told[:, None])[:, None], timesteps, noise)

    def draw_guided(self, batch_size: int, guided: int, generator: torch.Generator) -> GuidedBatch:
        """The same at full size, and as many portraits as `guided` says that are to become other people."""
        pairs, others = torch.multinomial(self.weights, 2 * guided, replacement=True, generator=generator).chunk(2)
        first_view = self.identities[:, 0]
        person, stranger = first_view[self.rows[pairs]], self._told(self.rows[others], generator)
        angles = self._uniform(guided, generator)[:, None] * LARGEST_ANGLE
        is_default = self._uniform(guided, generator) < DEFAULT_SHARE
        first, any_first = (self._integers(*limits, guided, generator) for limits in (DEFAULT_FIRST, ANY_FIRST))
        scale, any_scale = (
            low + (high - low) * self._uniform(guided, generator) for low, high in (DEFAULT_GUIDANCE, ANY_GUIDANCE)
        )
        return GuidedBatch(
            **vars(self.draw(batch_size, self.latents.shape[-1], generator)),
            portraits=self.latents[pairs].float(),
            told=(angles.sin() * stranger - angles.cos() * person)[:, None],
            first_timesteps=torch.where(is_default, first, any_first),
            guidance_scales=torch.where(is_default, scale, any_scale),
        )

    def _told(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """(B, 512) float32: one embedding of each portrait, or the average of all that it has."""
        single = self.identities[rows, self._integers(0, self.identities.shape[1], len(rows), generator)]
        is_average = self._uniform(len(rows), generator) < AVERAGED_SHARE
        told = torch.where(is_average[:, None], self.averages[rows], single)
        noise = torch.randn(told.shape, generator=generator, device=told.device) / told.shape[1] ** 0.5
        strength = self._uniform(len(rows), generator)[:, None] * LARGEST_NOISE
        return told + strength * told.norm(dim=1, keepdim=True) * noise

    def _uniform(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, generator=generator, device=self.weights.device)

    def _integers(self, low: int, high: int, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(low, high, (count,), generator=generator, device=self.weights.device)


def cut_out(size: int, window: int, generator: torch.Generator) -> tuple[slice, slice]:
    """Rows and columns of a window about the middle."""
    margin = size - window
    if margin == 0:
        return slice(0, size), slice(0, size)
    low, high = margin // 4, margin - margin // 4 + 1
    y, x = torch.randint(low, high, (2,), generator=generator, device=generator.device).tolist()
    return slice(y, y + window), slice(x, x + window)


def blur(pictures: Tensor, deviations: Tensor) -> Tensor:
    """Blur square (B, C, S, S) pictures by Gaussians of (B,) standard deviations in px, mirrored at the borders."""
    size = pictures.shape[-1]
    to, source = (torch.arange(size, device=pictures.device).view(shape) for shape in ((1, -1, 1), (1, 1, -1)))
    # (3, B, S, S): each pixel, and its images in the first border and in the last.
    distances = torch.cat([to - source, to + 1 + source, to - (2 * size - 1 - source)])[:, None]
    weights = torch.exp(-0.5 * (distances / deviations.view(-1, 1, 1)).square()).sum(dim=0)
    weights = (weights / weights.sum(dim=2, keepdim=True))[:, None]
    return weights @ pictures @ weights.mT


def random_timesteps(count: int, generator: torch.Generator) -> Tensor:
    """(count,) int64 timesteps, evenly drawn within each of `TIMESTEP_RANGES`."""
    low, high, share = torch.tensor(TIMESTEP_RANGES, device=generator.device).T
    chosen = torch.multinomial(share, count, replacement=True, generator=generator)
    within = torch.rand(count, generator=generator, device=generator.device)
    return (low[chosen] + within * (high - low)[chosen]).long()
