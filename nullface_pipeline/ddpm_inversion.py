"""Edit-friendly DDPM inversion and masked identity guidance, as pure functions on tensors.

Equation and section numbers are those of the NullFace paper (arXiv 2503.08478). Its symbols and the
names used here:

| paper | here | |
| --- | --- | --- |
| x_0, x_t | `latents`, `trajectory[i]` | clean latents, and latents with the noise of timestep t |
| alpha-bar_t | `alphas_cumprod` | signal share at a step |
| alpha-bar_{t-1} | `alphas_cumprod_prev` | signal share at the next, less noisy step |
| epsilon | `noise_pred` | the UNet's noise prediction |
| z_t | `noise_maps[i]` | noise with which the sampler follows the trajectory |
| hat-x_0 | `clean` | the clean latents that a noise prediction implies |
| mu_t, sigma_t, eta | `posterior_mean`, `posterior_std`, `eta` | |
| lambda_cfg, M | `guidance_scale`, `mask` | |

All tensors are float32, in whatever dtype the UNet runs: noise maps are divided by sigma_t, which
is below the resolution of half precision at the last steps. `S` is the number of kept steps, `B`
the batch size, `(C, h, w)` the shape of one latent.

Few-step sampling uses the same equations with other timesteps. `solver_order` 1 is DDPM; 2 is
SDE-DPM-Solver++ 2M (arXiv 2211.01095), which extrapolates hat-x_0 from the last two steps.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler
from diffusers.utils.torch_utils import randn_tensor

from .protocols import Config, Settings


# T of the paper. With explicit timesteps, `skip` and `mask_start` are fractions of it.
FULL_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class InversionSettings:
    """Settings of an inversion, which its denoising shares.

    Attributes:
        num_inference_steps (`int` or `None`): T; None where timesteps are given.
        skip (`float` or `None`): T_skip / T in [0, 1); None where timesteps are given.
        timesteps (`tuple[int, ...]` or `None`): explicit timesteps, from noisy to clean.
        solver_order (`int`): 1 or 2.
        eta (`float`): share of noise in a step, in (0, 1].
        ip_adapter_scale (`float`): weight of the identity tokens.
    """

    num_inference_steps: int | None = FULL_STEPS
    skip: float | None = 0.7
    timesteps: tuple[int, ...] | None = None
    solver_order: int = 1
    eta: float = 1.0
    ip_adapter_scale: float = 1.0

    @classmethod
    def from_arguments(cls, arguments: Settings) -> "InversionSettings":
        """Settings by name, the others by default.

        Raises:
            ValueError: if `timesteps` are given together with what they replace.
        """
        if "timesteps" not in arguments:
            return cls(**arguments)
        excluded = sorted({"num_inference_steps", "skip"} & set(arguments))
        if excluded:
            raise ValueError(f"`timesteps` replaces `{'` and `'.join(excluded)}`. Leave one of them out.")
        return cls(**{"num_inference_steps": None, "skip": None, **arguments})

    def kept_steps(self, scheduler_config: Config) -> "NoiseSchedule":
        """The kept steps of a model with this scheduler."""
        if self.timesteps is not None:
            return NoiseSchedule.from_timesteps(scheduler_config, self.timesteps)
        num_steps, skip = self.num_inference_steps or FULL_STEPS, self.skip or 0.0
        return NoiseSchedule.from_scheduler_config(scheduler_config, num_steps).skip(whole_steps(num_steps, skip))


def given_settings(timesteps: Sequence[int] | None, strength: float | None, **settings: object) -> Settings:
    """The settings of an inversion that are not None, by name.

    Args:
        strength (`float`, *optional*): 1 - `skip`, as diffusers' image-to-image pipelines call it.

    Raises:
        ValueError: if both `strength` and `skip` are given.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if timesteps is not None:
        given["timesteps"] = tuple(timesteps)
    if strength is not None:
        if "skip" in given:
            raise ValueError("`strength` is 1 - `skip`. Give one of them.")
        given["skip"] = 1.0 - strength
    return given


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
    def from_scheduler_config(cls, config: Config, num_inference_steps: int) -> "NoiseSchedule":
        """DDIM-type schedule of Stable Diffusion, whichever sampler the repository ships.

        The overrides are Stable Diffusion's own values, spelled out because other samplers' configs
        lack them. With `set_alpha_to_one` the last step would have no variance, and its noise map
        no solution.
        """
        scheduler = DDIMScheduler.from_config(
            config, clip_sample=False, set_alpha_to_one=False, steps_offset=1, timestep_spacing="leading"
        )
        scheduler.set_timesteps(num_inference_steps)
        return cls.from_timesteps(config, scheduler.timesteps.tolist())

    @classmethod
    def from_timesteps(cls, config: Config, timesteps: Sequence[int]) -> "NoiseSchedule":
        """Descending timesteps of the same noise schedule; the last one leads to alpha-bar_0."""
        scheduler = DDIMScheduler.from_config(config, set_alpha_to_one=False)
        alphas_cumprod = scheduler.alphas_cumprod[list(timesteps)]
        alphas_cumprod_prev = torch.cat([alphas_cumprod[1:], scheduler.final_alpha_cumprod.view(1)])
        return cls(torch.tensor(timesteps), alphas_cumprod, alphas_cumprod_prev)

    def __len__(self) -> int:
        return len(self.timesteps)

    def extrapolation(self) -> torch.Tensor:
        """Weights of order 2, (S,) float32: (1 - e^{-2h}) h / (2 h_former).

        h is a step of log(alpha / sigma), h_former the previous step. The first weight is 0.
        """
        log_snr, log_snr_prev = (
            0.5 * torch.log(alphas / (1.0 - alphas)) for alphas in (self.alphas_cumprod, self.alphas_cumprod_prev)
        )
        steps = log_snr_prev - log_snr
        weights = -torch.expm1(-2.0 * steps[1:]) * steps[1:] / (2.0 * steps[:-1])
        return torch.cat([torch.zeros_like(steps[:1]), weights])

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


@dataclass(frozen=True, eq=False, kw_only=True)
class DDPMInversion:
    """Result of `invert` or `add_noise`, immutable: what `denoise` needs, for any number of edits.

    Attributes:
        latents (`torch.Tensor`): (B, C, h, w) float32, the images at the first kept timestep.
        noise_maps (`torch.Tensor`): (S, B, C, h, w) float32, z_t of each kept step.
        noise_pred (`torch.Tensor`): (B, C, h, w) float32, the unconditional prediction at
            `latents`.
        schedule (`NoiseSchedule`): the kept steps.
        settings (`InversionSettings`): the settings of `invert`.
        trajectory (`torch.Tensor` or `None`): (S + 1, B, C, h, w) float32, the images with the
            noise of each step, which `denoise` follows outside the mask; only from `add_noise`.
    """

    latents: torch.Tensor
    noise_maps: torch.Tensor
    noise_pred: torch.Tensor
    schedule: NoiseSchedule
    settings: InversionSettings
    trajectory: torch.Tensor | None = None

    def select(self, images: Sequence[int]) -> "DDPMInversion":
        """The inversion of some of the images, by index."""
        rows = list(images)
        return replace(
            self,
            latents=self.latents[rows],
            noise_maps=self.noise_maps[:, rows],
            noise_pred=self.noise_pred[rows],
            trajectory=None if self.trajectory is None else self.trajectory[:, rows],
        )

    def restore_outside(self, latents: torch.Tensor, mask: torch.Tensor | None, point: int) -> torch.Tensor:
        """Replace latents outside a mask by a point of the trajectory, if there is one."""
        if self.trajectory is None or mask is None:
            return latents
        return torch.lerp(self.trajectory[point], latents, mask)

    def to(self, device: torch.device) -> "DDPMInversion":
        """The same inversion on another device."""
        return replace(
            self,
            latents=self.latents.to(device),
            noise_maps=self.noise_maps.to(device),
            noise_pred=self.noise_pred.to(device),
            schedule=self.schedule.to(device),
            trajectory=None if self.trajectory is None else self.trajectory.to(device),
        )


@dataclass(frozen=True, eq=False)
class DenoisingState:
    """State after a step of `denoise`.

    Attributes:
        step (`int`): index of the step, from 0.
        timestep (`torch.Tensor`): (), int64.
        latents (`torch.Tensor`): (B, C, h, w) float32, after the step.
        noise_pred (`torch.Tensor`): (B, C, h, w) float32, the guided prediction of the step.
        identity_embeds (`torch.Tensor`): (B, D), for the next step.
        guidance_scale (`float`): for the next step.
        interrupt (`bool`): whether to stop.
    """

    step: int
    timestep: torch.Tensor
    latents: torch.Tensor
    noise_pred: torch.Tensor
    identity_embeds: torch.Tensor
    guidance_scale: float
    interrupt: bool = False


class Denoiser(Protocol):
    """A UNet with fixed text and other conditions, as a function of the three tensors below."""

    def __call__(self, latents: torch.Tensor, timesteps: torch.Tensor, identity_embeds: torch.Tensor) -> torch.Tensor:
        """Predict the noise in (N, C, h, w) latents at one timestep or (N,), for (N, D) identities.

        A zero embedding gives the unconditional prediction. In `denoise`, N is B, all conditional,
        or 2 B with the unconditional half first.

        Returns:
            `torch.Tensor`: (N, C, h, w) float32.
        """


def invert(
    denoiser: Denoiser,
    latents: torch.Tensor,
    schedule: NoiseSchedule,
    settings: InversionSettings,
    null_embeds: torch.Tensor,
    batch_size: int,
    generator: torch.Generator | list[torch.Generator] | None = None,
    progress_bar: Callable[[list], Iterable] = iter,
) -> DDPMInversion:
    """Edit-friendly DDPM inversion of clean latents (section 3.2).

    No prediction depends on another one, so all steps of all images form one long batch.

    Args:
        latents (`torch.Tensor`): (B, C, h, w), x_0.
        null_embeds (`torch.Tensor`): (1, D) zeros.
        batch_size (`int`): samples in one call of `denoiser`.
        generator: draws the noise; a list has one for each image.
        progress_bar: wraps the list of batches.
    """
    trajectory = sample_trajectory(latents, schedule, generator)
    samples = trajectory[:-1].flatten(0, 1)  # (S, B, C, h, w) -> (S * B, C, h, w)
    timesteps = schedule.timesteps.repeat_interleave(len(latents))
    batches = list(zip(samples.split(batch_size), timesteps.split(batch_size)))
    predictions = [denoiser(part, t, null_embeds.expand(len(part), -1)) for part, t in progress_bar(batches)]
    noise_preds = torch.cat(predictions).unflatten(0, (len(schedule), -1))  # (S, B, C, h, w)
    noise_maps = solve_noise_maps(trajectory, noise_preds, schedule, settings.eta, settings.solver_order)
    return DDPMInversion(
        latents=trajectory[0],
        noise_maps=noise_maps,
        noise_pred=noise_preds[0],
        schedule=schedule,
        settings=settings,
    )


def add_noise(
    denoiser: Denoiser,
    latents: torch.Tensor,
    schedule: NoiseSchedule,
    settings: InversionSettings,
    null_embeds: torch.Tensor,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> DDPMInversion:
    """Noise clean latents without inverting them, for new content inside a mask.

    The noise maps, which hold an image's detail after `invert`, are new noise, and `denoise`
    replaces the latents outside the mask after each step, as inpainting by RePaint does
    (arXiv 2201.09865). One evaluation an image instead of S. Arguments as of `invert`.
    """
    trajectory = sample_trajectory(latents, schedule, generator)
    shape, device = trajectory[0].shape, latents.device
    noise_maps = [
        randn_tensor(shape, generator=generator, device=device, dtype=torch.float32) for _ in range(len(schedule) - 1)
    ]
    return DDPMInversion(
        latents=trajectory[0],
        noise_maps=torch.stack([*noise_maps, torch.zeros(shape, device=device)]),  # the last as in `invert`
        noise_pred=denoiser(trajectory[0], schedule.timesteps[0], null_embeds.expand(len(latents), -1)),
        schedule=schedule,
        settings=settings,
        trajectory=trajectory,
    )


def predict_pair(
    denoiser: Denoiser, latents: torch.Tensor, timestep: torch.Tensor, identity_embeds: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Unconditional and identity-conditioned prediction, (B, C, h, w) each, as one batch."""
    pair = torch.cat([torch.zeros_like(identity_embeds), identity_embeds])
    noise_pred_uncond, noise_pred_identity = denoiser(torch.cat([latents] * 2), timestep, pair).chunk(2)
    return noise_pred_uncond, noise_pred_identity


def denoise(
    denoiser: Denoiser,
    inversion: DDPMInversion,
    identity_embeds: torch.Tensor,
    guidance_scale: float,
    mask: torch.Tensor | None = None,
    mask_timestep: int = 0,
    on_step: Callable[[DenoisingState], DenoisingState] | None = None,
) -> torch.Tensor:
    """Denoise an inversion towards (B, D) identities (Eq. 1, 3, 4); returns x_0, (B, C, h, w).

    Args:
        mask (`torch.Tensor`, *optional*): (B, 1, h, w) in [0, 1], 1 where the image may change.
        mask_timestep (`int`): first timestep with masked guidance; noisier ones have no mask.
        on_step: called after each step; returns the state that the next step starts from.
    """
    schedule, settings = inversion.schedule, inversion.settings
    latents, noise_pred_uncond, previous_clean = inversion.latents, inversion.noise_pred, None
    masks = [mask if t <= mask_timestep else None for t in schedule.timesteps.tolist()]
    # Regions kept inside a face return at the last step only. Until then the new face would be
    # drawn to match them, and resemble the person more.
    outer_mask = None if mask is None or inversion.trajectory is None else fill_holes(mask)
    extrapolation = schedule.extrapolation()
    for i, t in enumerate(schedule.timesteps):
        if i == 0:  # the inversion holds the unconditional prediction
            noise_pred_identity = denoiser(latents, t, identity_embeds)
        else:
            noise_pred_uncond, noise_pred_identity = predict_pair(denoiser, latents, t, identity_embeds)
        noise_pred = guide_noise(noise_pred_uncond, noise_pred_identity, guidance_scale, masks[i])
        alphas = schedule.alphas_cumprod[i], schedule.alphas_cumprod_prev[i]
        clean = target = predict_clean(latents, noise_pred, alphas[0])
        if settings.solver_order == 2 and previous_clean is not None:
            target = extrapolate_clean(clean, previous_clean, extrapolation[i])
        latents = denoising_step(target, noise_pred, inversion.noise_maps[i], *alphas, settings.eta)
        previous_clean = clean
        latents = inversion.restore_outside(latents, mask if i + 1 == len(schedule) else outer_mask, i + 1)
        if on_step is not None:
            state = on_step(DenoisingState(i, t, latents, noise_pred, identity_embeds, guidance_scale))
            latents, identity_embeds, guidance_scale = state.latents, state.identity_embeds, state.guidance_scale
            if state.interrupt:
                break
    return latents


def fill_holes(mask: torch.Tensor) -> torch.Tensor:
    """Set regions that a (B, 1, h, w) mask encloses to 1, by a flood from the border."""
    background = (mask <= 0.5).to(mask.dtype)
    reached = background.clone()
    reached[..., 1:-1, 1:-1] = 0.0
    for _ in range(mask.shape[-2] * mask.shape[-1]):
        grown = background * torch.maximum(
            F.max_pool2d(reached, (3, 1), 1, (1, 0)), F.max_pool2d(reached, (1, 3), 1, (0, 1))
        )
        if torch.equal(grown, reached):
            break
        reached = grown
    return torch.maximum(mask, background - reached)


def whole_steps(num_inference_steps: int, fraction: float) -> int:
    """A fraction of T in whole steps: T_skip for `skip`, the first masked step for `mask_start`."""
    return round(num_inference_steps * fraction)


def spaced_timestep(num_inference_steps: int, num_train_timesteps: int, step: int) -> int:
    """The timestep of a step of T, counted from the noisiest, in Stable Diffusion's own spacing."""
    return 1 + num_train_timesteps // num_inference_steps * (num_inference_steps - 1 - step)


def few_step_timesteps(num_steps: int = 7, skip: float = 0.7) -> list[int]:
    """Evenly spaced timesteps for few-step sampling, from where T = 100 would start down to 1.

    The first one decides how much of the photo may change. The last one is 1 because the last noise
    map is zeroed, which loses less of the image the less noise is left.

    Args:
        num_steps (`int`): S, at least 2; the UNet is evaluated 3 S - 1 times.
        skip (`float`): T_skip / T in [0, 1).

    Raises:
        ValueError: if there are fewer timesteps than `num_steps`.
    """
    start = spaced_timestep(FULL_STEPS, 1000, whole_steps(FULL_STEPS, skip))
    if not 2 <= num_steps <= start:
        raise ValueError(f"`num_steps` must be from 2 to {max(start, 2)} where `skip` is {skip}, got {num_steps}.")
    return [round(start - (start - 1) * i / (num_steps - 1)) for i in range(num_steps)]


# 20 evaluations of the UNet instead of 89, and 8: see docs/concepts/few-steps.md.
FAST_TIMESTEPS = tuple(few_step_timesteps(7))
PREVIEW_TIMESTEPS = tuple(few_step_timesteps(3))


def first_masked_timestep(mask_start: float, num_inference_steps: int | None, num_train_timesteps: int) -> int:
    """Timestep from which on the mask is applied: a fraction of T, or of 100 where T is None.

    With T = 100 and 0.8 it is 191. For a `mask_start` of 1 it lies below every timestep.
    """
    num_steps = num_inference_steps or FULL_STEPS
    return spaced_timestep(num_steps, num_train_timesteps, whole_steps(num_steps, mask_start))


def sample_trajectory(
    latents: torch.Tensor,
    schedule: NoiseSchedule,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> torch.Tensor:
    """Noise the clean latents to every kept step, each with noise of its own (section 3.2).

    The noise is drawn for the cleanest step first, as the published code does.

    Returns:
        `torch.Tensor`: (S + 1, B, C, h, w) float32; entry i belongs to `schedule.timesteps[i]`, the
            last is `latents`.
    """
    latents = latents.float()
    noise = [
        randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=torch.float32)
        for _ in range(len(schedule))
    ]
    alphas_cumprod = _per_step(schedule.alphas_cumprod)
    noised = alphas_cumprod.sqrt() * latents + (1.0 - alphas_cumprod).sqrt() * torch.stack(noise[::-1])
    return torch.cat([noised, latents[None]])  # (S + 1, B, C, h, w)


def predict_clean(latents: torch.Tensor, noise_pred: torch.Tensor, alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """hat-x_0, the clean latents that a noise prediction implies. The alphas broadcast."""
    return (latents - (1.0 - alphas_cumprod).sqrt() * noise_pred) / alphas_cumprod.sqrt()


def extrapolate_clean(clean: torch.Tensor, former_clean: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Order 2: hat-x_0 carried on in the direction in which it moved since the step before.

    Args:
        weight (`torch.Tensor`): of `NoiseSchedule.extrapolation`.
    """
    return clean + weight * (clean - former_clean)


def posterior_mean(
    clean: torch.Tensor,
    noise_pred: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    alphas_cumprod_prev: torch.Tensor,
    eta: float,
) -> torch.Tensor:
    """mu_t of Eq. 1, the mean of the next latents, with `clean` from `predict_clean`."""
    variance = _variance(alphas_cumprod, alphas_cumprod_prev)
    direction = (1.0 - alphas_cumprod_prev - eta * variance).sqrt() * noise_pred
    return alphas_cumprod_prev.sqrt() * clean + direction


def posterior_std(alphas_cumprod: torch.Tensor, alphas_cumprod_prev: torch.Tensor, eta: float) -> torch.Tensor:
    """sigma_t of Eq. 1, of the alphas' shape.

    For `eta` < 1 this follows the published code, where `eta` multiplies the variance in the mean
    and the standard deviation here. DDIM's formula has `eta` squared in the mean.
    """
    return eta * _variance(alphas_cumprod, alphas_cumprod_prev).sqrt()


def solve_noise_maps(
    trajectory: torch.Tensor, noise_preds: torch.Tensor, schedule: NoiseSchedule, eta: float, solver_order: int = 1
) -> torch.Tensor:
    """z_t of Eq. 1 for all steps at once: the noise that leads to the next trajectory point.

    Args:
        trajectory (`torch.Tensor`): (S + 1, B, C, h, w) float32, from `sample_trajectory`.
        noise_preds (`torch.Tensor`): (S, B, C, h, w), unconditional predictions at the first S
            points.

    Returns:
        `torch.Tensor`: (S, B, C, h, w) float32. The last map is zero, as in the published code.
    """
    alphas_cumprod, alphas_cumprod_prev = _per_step(schedule.alphas_cumprod), _per_step(schedule.alphas_cumprod_prev)
    clean = predict_clean(trajectory[:-1], noise_preds.float(), alphas_cumprod)
    if solver_order == 2:
        former_clean = torch.cat([clean[:1], clean[:-1]])
        clean = extrapolate_clean(clean, former_clean, _per_step(schedule.extrapolation()))
    mean = posterior_mean(clean, noise_preds.float(), alphas_cumprod, alphas_cumprod_prev, eta)
    noise_maps = (trajectory[1:] - mean) / posterior_std(alphas_cumprod, alphas_cumprod_prev, eta)
    noise_maps[-1] = 0.0
    return noise_maps


def guide_noise(
    noise_pred_uncond: torch.Tensor,
    noise_pred_identity: torch.Tensor,
    guidance_scale: float | torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Eq. 3, or Eq. 4 with a mask (B, 1, h, w) in [0, 1] that is 1 where the face is to change."""
    guidance = guidance_scale * (noise_pred_identity - noise_pred_uncond)
    return noise_pred_uncond + (guidance if mask is None else mask * guidance)


def denoising_step(
    clean: torch.Tensor,
    noise_pred: torch.Tensor,
    noise_map: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    alphas_cumprod_prev: torch.Tensor,
    eta: float,
) -> torch.Tensor:
    """x_{t-1} = mu_t + sigma_t z_t (Eq. 1), float32, with `clean` from `predict_clean`."""
    mean = posterior_mean(clean, noise_pred, alphas_cumprod, alphas_cumprod_prev, eta)
    return mean + posterior_std(alphas_cumprod, alphas_cumprod_prev, eta) * noise_map


def _variance(alphas_cumprod: torch.Tensor, alphas_cumprod_prev: torch.Tensor) -> torch.Tensor:
    return (1.0 - alphas_cumprod_prev) / (1.0 - alphas_cumprod) * (1.0 - alphas_cumprod / alphas_cumprod_prev)


def _per_step(values: torch.Tensor) -> torch.Tensor:
    return values.view(-1, 1, 1, 1, 1)  # (S,) -> (S, 1, 1, 1, 1)
