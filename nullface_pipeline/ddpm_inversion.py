"""Edit-friendly DDPM inversion and masked identity guidance, as pure functions on tensors.

Equation and section numbers are those of the NullFace paper (arXiv 2503.08478). Its symbols and the names used here:

| paper | here | |
| --- | --- | --- |
| x_0, x_t | `latents`, `trajectory[i]` | clean latents, and latents with the noise of timestep t |
| alpha-bar_t, alpha-bar_{t-1} | `alphas_cumprod`, `alphas_cumprod_prev` | signal share at a step and at the next, less noisy one |
| epsilon | `noise_pred` | the UNet's noise prediction |
| z_t | `noise_maps[i]` | the noise that makes the sampler walk along the trajectory |
| mu_t, sigma_t, eta | `posterior_mean`, `posterior_std`, `eta` | |
| lambda_cfg, M | `guidance_scale`, `mask` | |

Everything here is float32, whatever dtype the UNet runs in: sigma_t of the last steps is far below half precision's
resolution and the noise maps are divided by it. `S` is the number of kept steps, `B` the batch, `(C, h, w)` a latent.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The steps of one sampling run, from noisy to clean.

    Attributes:
        timesteps (`torch.Tensor`): (S,) int64, descending.
        alphas_cumprod (`torch.Tensor`): (S,) float32, alpha-bar at each timestep.
        alphas_cumprod_prev (`torch.Tensor`): (S,) float32, alpha-bar at the step that follows.
    """

    timesteps: torch.Tensor
    alphas_cumprod: torch.Tensor
    alphas_cumprod_prev: torch.Tensor

    @classmethod
    def from_scheduler_config(cls, config: dict[str, Any], num_inference_steps: int) -> "NoiseSchedule":
        """The DDIM-type schedule of a Stable Diffusion scheduler, whichever sampler the repository ships.

        The overrides are Stable Diffusion's own values, spelled out because other samplers' configs lack them. With
        `set_alpha_to_one` the last step would have no variance, and its noise map no solution.
        """
        scheduler = DDIMScheduler.from_config(
            config, clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading"
        )
        scheduler.set_timesteps(num_inference_steps)
        timesteps = scheduler.timesteps
        previous = timesteps - scheduler.config.num_train_timesteps // num_inference_steps
        alphas_cumprod_prev = torch.where(
            previous >= 0, scheduler.alphas_cumprod[previous.clamp(min=0)], scheduler.final_alpha_cumprod
        )
        return cls(timesteps, scheduler.alphas_cumprod[timesteps], alphas_cumprod_prev)

    def __len__(self) -> int:
        return len(self.timesteps)

    def to(self, device: torch.device) -> "NoiseSchedule":
        """The same schedule on another device."""
        return NoiseSchedule(
            self.timesteps.to(device), self.alphas_cumprod.to(device), self.alphas_cumprod_prev.to(device)
        )

    def skip(self, num_steps: int) -> "NoiseSchedule":
        """Leave out the `num_steps` noisiest steps (T_skip)."""
        return replace(
            self,
            timesteps=self.timesteps[num_steps:],
            alphas_cumprod=self.alphas_cumprod[num_steps:],
            alphas_cumprod_prev=self.alphas_cumprod_prev[num_steps:],
        )


@dataclass(frozen=True, eq=False)
class DDPMInversion:
    """Everything needed to denoise the same images again, any number of times; nothing in it is changed by use.

    Attributes:
        latents (`torch.Tensor`): (B, C, h, w) float32, the images at the first kept timestep.
        noise_maps (`torch.Tensor`): (S, B, C, h, w) float32.
        noise_pred (`torch.Tensor`): (B, C, h, w) float32, the unconditional prediction at `latents`, which denoising
            would otherwise have to compute again.
        schedule (`NoiseSchedule`): the kept steps.
        num_inference_steps, skip, eta, ip_adapter_scale: the settings it was made with.
    """

    latents: torch.Tensor
    noise_maps: torch.Tensor
    noise_pred: torch.Tensor
    schedule: NoiseSchedule
    num_inference_steps: int
    skip: float
    eta: float
    ip_adapter_scale: float

    def to(self, device: torch.device) -> "DDPMInversion":
        """The same inversion on another device."""
        return replace(
            self,
            latents=self.latents.to(device),
            noise_maps=self.noise_maps.to(device),
            noise_pred=self.noise_pred.to(device),
            schedule=self.schedule.to(device),
        )


def whole_steps(num_inference_steps: int, fraction: float) -> int:
    """A fraction of T in whole steps: T_skip for `skip`, the first masked step for `mask_start`."""
    return round(num_inference_steps * fraction)


def sample_trajectory(
    latents: torch.Tensor,
    schedule: NoiseSchedule,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> torch.Tensor:
    """Noise the clean latents to every kept step, each with noise of its own (section 3.2).

    The noise is drawn for the cleanest step first, as the published code does.

    Returns:
        `torch.Tensor`: (S + 1, B, C, h, w) float32; entry i belongs to `schedule.timesteps[i]`, the last is `latents`.
    """
    latents = latents.float()
    noise = [
        randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=torch.float32)
        for _ in range(len(schedule))
    ]
    alphas_cumprod = _per_step(schedule.alphas_cumprod)
    noised = alphas_cumprod.sqrt() * latents + (1.0 - alphas_cumprod).sqrt() * torch.stack(noise[::-1])
    return torch.cat([noised, latents[None]])  # (S + 1, B, C, h, w)


def posterior_mean(
    latents: torch.Tensor,
    noise_pred: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    alphas_cumprod_prev: torch.Tensor,
    eta: float,
) -> torch.Tensor:
    """mu_t of Eq. 1: where the sampler goes from `latents` before noise is added. The alphas broadcast."""
    clean = (latents - (1.0 - alphas_cumprod).sqrt() * noise_pred) / alphas_cumprod.sqrt()
    variance = _variance(alphas_cumprod, alphas_cumprod_prev)
    direction = (1.0 - alphas_cumprod_prev - eta * variance).sqrt() * noise_pred
    return alphas_cumprod_prev.sqrt() * clean + direction


def posterior_std(alphas_cumprod: torch.Tensor, alphas_cumprod_prev: torch.Tensor, eta: float) -> torch.Tensor:
    """sigma_t of Eq. 1, of the alphas' shape."""
    return eta * _variance(alphas_cumprod, alphas_cumprod_prev).sqrt()


def solve_noise_maps(
    trajectory: torch.Tensor, noise_preds: torch.Tensor, schedule: NoiseSchedule, eta: float
) -> torch.Tensor:
    """z_t of Eq. 1 for all steps at once: what the sampler must add to reach the next point of the trajectory.

    Args:
        trajectory (`torch.Tensor`): (S + 1, B, C, h, w) float32, from `sample_trajectory`.
        noise_preds (`torch.Tensor`): (S, B, C, h, w), unconditional predictions at the first S points.

    Returns:
        `torch.Tensor`: (S, B, C, h, w) float32. The last map is zero, as in the published code.
    """
    alphas_cumprod, alphas_cumprod_prev = _per_step(schedule.alphas_cumprod), _per_step(schedule.alphas_cumprod_prev)
    mean = posterior_mean(trajectory[:-1], noise_preds.float(), alphas_cumprod, alphas_cumprod_prev, eta)
    noise_maps = (trajectory[1:] - mean) / posterior_std(alphas_cumprod, alphas_cumprod_prev, eta)
    noise_maps[-1] = 0.0
    return noise_maps


def guide_noise(
    noise_pred_uncond: torch.Tensor,
    noise_pred_identity: torch.Tensor,
    guidance_scale: float,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Eq. 3, or Eq. 4 with a mask (B, 1, h, w) in [0, 1] that is 1 where the face is to change."""
    guidance = guidance_scale * (noise_pred_identity - noise_pred_uncond)
    return noise_pred_uncond + (guidance if mask is None else mask * guidance)


def denoising_step(
    latents: torch.Tensor,
    noise_pred: torch.Tensor,
    noise_map: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    alphas_cumprod_prev: torch.Tensor,
    eta: float,
) -> torch.Tensor:
    """x_{t-1} = mu_t + sigma_t z_t (Eq. 1), float32."""
    mean = posterior_mean(latents, noise_pred, alphas_cumprod, alphas_cumprod_prev, eta)
    return mean + posterior_std(alphas_cumprod, alphas_cumprod_prev, eta) * noise_map


def _variance(alphas_cumprod: torch.Tensor, alphas_cumprod_prev: torch.Tensor) -> torch.Tensor:
    return (1.0 - alphas_cumprod_prev) / (1.0 - alphas_cumprod) * (1.0 - alphas_cumprod / alphas_cumprod_prev)


def _per_step(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1, 1)  # (S,) -> (S, 1, 1, 1, 1)
