"""The UNet as a `Denoiser`: text conditions, one identity a sample, and the batch size."""

import math
from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel

from .face_adapter import identity_conditions


# Samples in one UNet call of the inversion. On a CPU larger batches gain nothing and cost memory.
INVERSION_BATCH_SIZE = 16
INVERSION_BATCH_SIZES = {"cpu": 4}
MAX_INVERSION_BATCH_SIZE = 64

# Values a UNet holds at a time, for each latent pixel and channel of its first block. Measured 37
# to 71 with Stable Diffusion 1.5 on a CPU.
WORKING_VALUES = 71

Conditions = dict[str, torch.Tensor]


class UNetDenoiser:
    """A UNet under fixed text conditions; see `Denoiser` of `ddpm_inversion.py`.

    Args:
        unet (`UNet2DConditionModel`): with a FaceID adapter.
        conditions (`dict[str, torch.Tensor]`): `prompt_embeds` (1, tokens, channels) of the empty
            prompt and the other entries of `added_cond_kwargs`, (1, channels) each.
        prompt_conditions (`dict[str, torch.Tensor]`, *optional*): conditions of one prompt, or of
            `batch_size` prompts, for the identity-conditioned predictions.
        batch_size (`int`): B. With `prompt_conditions`, a call has B conditional samples, or 2 B
            samples of which the first half is unconditional.
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        conditions: Conditions,
        prompt_conditions: Conditions | None = None,
        batch_size: int = 1,
    ) -> None:
        self.unet = unet
        self.conditional = conditions if prompt_conditions is None else prompt_conditions
        self.pair = conditions if prompt_conditions is None else stack_rows(conditions, prompt_conditions, batch_size)
        self.batch_size = batch_size

    def __call__(self, latents: torch.Tensor, timesteps: torch.Tensor, identity_embeds: torch.Tensor) -> torch.Tensor:
        """Predict the noise.

        Args:
            latents (`torch.Tensor`): (N, C, h, w).
            timesteps (`torch.Tensor`): one timestep, or (N,).
            identity_embeds (`torch.Tensor`): (N, D), one identity a sample; zeros for none.

        Returns:
            `torch.Tensor`: (N, C, h, w) float32.
        """
        count = len(latents)
        if len(identity_embeds) != count:
            raise ValueError(f"{len(identity_embeds)} identities were given for {count} samples.")
        conditions = dict(self.conditional if count == self.batch_size else self.pair)
        prompt_embeds = conditions.pop("prompt_embeds")
        added = {name: rows.expand(count, -1) for name, rows in conditions.items()}
        noise_pred = self.unet(
            latents.to(self.unet.dtype),
            timesteps,
            encoder_hidden_states=prompt_embeds.expand(count, -1, -1),
            added_cond_kwargs={**added, **identity_conditions(self.unet, identity_embeds)},
            return_dict=False,
        )[0]
        return noise_pred.float()


def stack_rows(first: Conditions, second: Conditions, count: int) -> Conditions:
    """Stack `count` rows of each of two conditions; each has one row or `count`."""
    return {
        name: torch.cat([rows.expand(count, *rows.shape[1:]) for rows in (first[name], second[name])])
        for name in first
    }


def inversion_batch_for_memory(free_bytes: int, sample_bytes: int) -> int:
    """Number of samples that fit into half of the free memory; the estimate leaves some out."""
    return max(1, min(MAX_INVERSION_BATCH_SIZE, free_bytes // 2 // sample_bytes))


def default_inversion_batch_size(unet: UNet2DConditionModel, device: torch.device, latent_size: Sequence[int]) -> int:
    """Samples in one UNet call of `invert`: as many as fit on CUDA, else a fixed number."""
    if device.type != "cuda":
        return INVERSION_BATCH_SIZES.get(device.type, INVERSION_BATCH_SIZE)
    # Memory that PyTorch holds for later tensors is free as well.
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free_bytes = torch.cuda.mem_get_info(device)[0] + cached
    values = WORKING_VALUES * unet.config.block_out_channels[0] * math.prod(latent_size)
    return inversion_batch_for_memory(free_bytes, values * unet.dtype.itemsize)
