from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler

from nullface_pipeline.ddpm_inversion import (
    FAST_TIMESTEPS,
    PREVIEW_TIMESTEPS,
    DDPMInversion,
    InversionSettings,
    NoiseSchedule,
    add_noise,
    denoise,
    denoising_step,
    extrapolate_clean,
    few_step_timesteps,
    fill_holes,
    first_masked_timestep,
    guide_noise,
    invert,
    posterior_mean,
    posterior_std,
    predict_clean,
    sample_trajectory,
    solve_noise_maps,
    whole_steps,
)

from .tiny_parts import generators, make_scheduler


def make_schedule(steps: int = 20, skip: float = 0.5) -> NoiseSchedule:
    return NoiseSchedule.from_scheduler_config(make_scheduler().config, steps).skip(whole_steps(steps, skip))


def inversion_of(
    schedule: NoiseSchedule, start: torch.Tensor, noise_maps: torch.Tensor, eta: float = 1.0, solver_order: int = 1
) -> DDPMInversion:
    settings = InversionSettings(eta=eta, solver_order=solver_order)
    return DDPMInversion(
        latents=start, noise_maps=noise_maps, noise_pred=torch.zeros_like(start), schedule=schedule, settings=settings
    )


def sampled(
    schedule: NoiseSchedule,
    start: torch.Tensor,
    noise_preds: Iterable[torch.Tensor],
    noise_maps: torch.Tensor,
    eta: float = 1.0,
    solver_order: int = 1,
) -> list[torch.Tensor]:
    """All points that `denoise` comes to, with given identity-conditioned predictions and a
    guidance of 1.
    """
    conditional, points = iter(noise_preds), []

    def denoiser(latents: torch.Tensor, timesteps: torch.Tensor, identity_embeds: torch.Tensor) -> torch.Tensor:
        noise_pred = next(conditional)
        return torch.cat([torch.zeros_like(noise_pred), noise_pred])[-len(latents) :]

    def on_step(state: Any) -> Any:
        points.append(state.latents)
        return state

    inversion = inversion_of(schedule, start, noise_maps, eta, solver_order)
    latents = denoise(denoiser, inversion, torch.ones(len(start), 1), 1.0, on_step=on_step)
    assert torch.equal(latents, points[-1])
    return points


def test_schedule_of_stable_diffusion():
    schedule = NoiseSchedule.from_scheduler_config(make_scheduler().config, 100)
    assert schedule.timesteps.tolist() == list(range(991, 0, -10))
    alphas_cumprod = make_scheduler().alphas_cumprod
    assert torch.equal(schedule.alphas_cumprod, alphas_cumprod[schedule.timesteps])
    assert torch.equal(schedule.alphas_cumprod_prev[:-1], alphas_cumprod[schedule.timesteps[:-1] - 10])
    assert schedule.alphas_cumprod_prev[-1] == alphas_cumprod[0], "the last step must keep a variance"


def test_skip_drops_the_noisiest_steps():
    schedule = make_schedule(100, 0.7)
    assert schedule.timesteps.tolist() == list(range(291, 0, -10))
    assert len(schedule.alphas_cumprod) == len(schedule.alphas_cumprod_prev) == len(schedule) == 30


@pytest.mark.parametrize(("steps", "fraction", "whole"), [(100, 0.7, 70), (20, 0.7, 14), (50, 0.3, 15), (10, 0.0, 0)])
def test_fractions_of_the_schedule(steps, fraction, whole):
    assert whole_steps(steps, fraction) == whole


def test_trajectory_draws_the_cleanest_step_first():
    latents, schedule = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5)), make_schedule()
    trajectory = sample_trajectory(latents, schedule, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    for i in reversed(range(len(schedule))):
        alpha = schedule.alphas_cumprod[i]
        noise = torch.randn(latents.shape, generator=generator)
        torch.testing.assert_close(trajectory[i], alpha.sqrt() * latents + (1 - alpha).sqrt() * noise)
    assert torch.equal(trajectory[-1], latents)


def test_trajectory_of_a_batch_equals_that_of_each_image():
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    together = sample_trajectory(latents, make_schedule(), generators(3))
    for i, generator in enumerate(generators(3)):
        assert torch.equal(together[:, i : i + 1], sample_trajectory(latents[i : i + 1], make_schedule(), generator))


@pytest.mark.parametrize("eta", [1.0, 0.5, 0.1])
def test_noise_maps_reproduce_the_trajectory(eta):
    schedule = make_schedule()
    trajectory = sample_trajectory(torch.randn(2, 4, 8, 8), schedule, generators(2))
    noise_preds = torch.randn(trajectory[:-1].shape, generator=torch.Generator().manual_seed(9))
    noise_maps = solve_noise_maps(trajectory, noise_preds, schedule, eta)
    assert not noise_maps[-1].any(), "the last noise map is set to zero"
    points = sampled(schedule, trajectory[0], noise_preds, noise_maps, eta)
    for point, expected in list(zip(points, trajectory[1:]))[:-1]:
        torch.testing.assert_close(point, expected, atol=2e-4, rtol=1e-4)


def test_step_is_the_schedulers_step():
    scheduler = DDIMScheduler.from_config(make_scheduler().config, clip_sample=False)
    scheduler.set_timesteps(20)
    schedule = NoiseSchedule.from_scheduler_config(make_scheduler().config, 20)
    x, eps, noise = torch.randn(3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).unbind()
    for i, t in enumerate(scheduler.timesteps):
        expected = scheduler.step(eps, t, x, eta=1.0, variance_noise=noise).prev_sample
        clean = predict_clean(x, eps, schedule.alphas_cumprod[i])
        step = denoising_step(clean, eps, noise, schedule.alphas_cumprod[i], schedule.alphas_cumprod_prev[i], 1.0)
        torch.testing.assert_close(step, expected)


def test_guidance_and_mask():
    uncond, identity = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    mask = torch.tensor([[1.0, 0.0], [0.5, 0.0]]).view(1, 1, 2, 2)
    assert torch.equal(guide_noise(uncond, identity, 10.0), 10.0 * identity)
    assert torch.equal(guide_noise(uncond, identity, 10.0, mask), (10.0 * mask).expand(1, 4, 2, 2))
    assert torch.equal(guide_noise(identity, uncond, 1.0), uncond)


def test_timesteps_of_few_steps():
    assert few_step_timesteps(7, 0.7) == [291, 243, 194, 146, 98, 49, 1] == list(FAST_TIMESTEPS)
    assert list(PREVIEW_TIMESTEPS) == [291, 146, 1]
    assert few_step_timesteps(2, 0.0) == [991, 1]
    assert few_step_timesteps(291) == list(range(291, 0, -1))
    for num_steps in range(2, 291):
        timesteps = few_step_timesteps(num_steps)
        assert len(timesteps) == num_steps and timesteps == sorted(set(timesteps), reverse=True)
    for num_steps in (1, 292):
        with pytest.raises(ValueError, match="num_steps"):
            few_step_timesteps(num_steps)


@pytest.mark.parametrize("steps", [3, 7, 10, 20, 23, 33, 50, 100, 333, 501, 999])
def test_a_schedule_is_its_timesteps(steps):
    config = make_scheduler().config
    schedule = NoiseSchedule.from_scheduler_config(config, steps)
    again = NoiseSchedule.from_timesteps(config, schedule.timesteps.tolist())
    scheduler = DDIMScheduler.from_config(config, clip_sample=False)
    scheduler.set_timesteps(steps)
    previous = scheduler.timesteps - 1000 // steps
    expected = torch.where(previous >= 0, scheduler.alphas_cumprod[previous.clamp(min=0)], scheduler.alphas_cumprod[0])
    for each in (schedule, again):
        assert torch.equal(each.timesteps, scheduler.timesteps)
        assert torch.equal(each.alphas_cumprod, scheduler.alphas_cumprod[scheduler.timesteps])
        assert torch.equal(each.alphas_cumprod_prev, expected)


@pytest.mark.parametrize("steps", [3, 10, 20, 23, 33, 50, 100, 333, 999])
@pytest.mark.parametrize("mask_start", [0.0, 0.2, 0.33, 0.5, 0.75, 0.79, 0.8, 0.81, 0.99, 1.0])
def test_the_mask_starts_at_that_fraction_of_the_steps(steps, mask_start):
    timesteps = NoiseSchedule.from_scheduler_config(make_scheduler().config, steps).timesteps.tolist()
    mask_timestep = first_masked_timestep(mask_start, steps, 1000)
    assert [t <= mask_timestep for t in timesteps] == [i >= round(steps * mask_start) for i in range(steps)]


def test_the_mask_of_chosen_timesteps_starts_where_the_papers_does():
    assert first_masked_timestep(0.8, None, 1000) == first_masked_timestep(0.8, 100, 1000) == 191
    assert [t for t in FAST_TIMESTEPS if t <= 191] == [146, 98, 49, 1]


@pytest.mark.parametrize("timesteps", [[291, 243, 194, 146, 98, 49, 1], [999, 749, 499, 249], [991, 500, 1]])
def test_the_second_order_is_the_schedulers(timesteps):
    """SDE-DPM-Solver++ 2M with given noise, but for the last step, which there leads to another
    end.
    """
    scheduler = DPMSolverMultistepScheduler.from_config(
        make_scheduler().config,
        algorithm_type="sde-dpmsolver++",
        solver_order=2,
        final_sigmas_type="sigma_min",
        lower_order_final=False,
        timestep_spacing="leading",
    )
    scheduler.set_timesteps(timesteps=timesteps)
    schedule = NoiseSchedule.from_timesteps(make_scheduler().config, timesteps)
    assert scheduler.timesteps.tolist() == timesteps
    count = len(timesteps)
    noise_preds, noise_maps = torch.randn(2, count, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).unbind()
    latents = start = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    points = sampled(schedule, start, noise_preds, noise_maps, solver_order=2)
    for i, t in enumerate(scheduler.timesteps):
        latents = scheduler.step(noise_preds[i], t, latents, variance_noise=noise_maps[i]).prev_sample
        assert (points[i] - latents).norm() / latents.norm() < 5e-6
    assert not torch.allclose(points[1], sampled(schedule, start, noise_preds, noise_maps)[1], atol=1e-2)


@pytest.mark.parametrize("timesteps", [FAST_TIMESTEPS, (291, 194, 98, 1), PREVIEW_TIMESTEPS])
@pytest.mark.parametrize("solver_order", [1, 2])
def test_nothing_is_lost_but_the_last_noise_map(timesteps, solver_order):
    schedule = NoiseSchedule.from_timesteps(make_scheduler().config, timesteps)
    clean = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    trajectory = sample_trajectory(clean, schedule, torch.Generator().manual_seed(1))
    noise_preds = torch.randn(trajectory[:-1].shape, generator=torch.Generator().manual_seed(2))
    noise_maps = solve_noise_maps(trajectory, noise_preds, schedule, 1.0, solver_order)
    without = sampled(schedule, trajectory[0], noise_preds, noise_maps, solver_order=solver_order)

    # The last map, from the trajectory and not from where the sampler came to.
    alphas = schedule.alphas_cumprod[-1], schedule.alphas_cumprod_prev[-1]
    target, former = (predict_clean(trajectory[i - 1], noise_preds[i], schedule.alphas_cumprod[i]) for i in (-1, -2))
    if solver_order == 2:
        target = extrapolate_clean(target, former, schedule.extrapolation()[-1])
    noise_maps[-1] = (clean - posterior_mean(target, noise_preds[-1], *alphas, 1.0)) / posterior_std(*alphas, 1.0)
    whole = sampled(schedule, trajectory[0], noise_preds, noise_maps, solver_order=solver_order)
    for point, expected in zip(whole, trajectory[1:]):
        assert (point - expected).square().mean().sqrt() < 2e-6
    assert (without[-1] - clean).square().mean().sqrt() > 1e-2


def test_order_one_is_what_it_was():
    """The mean of Eq. 1 and nothing else."""
    schedule = make_schedule(100, 0.7)
    points, noise_preds = torch.randn(2, 30, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).unbind()
    for i in range(30):
        a, a_prev = schedule.alphas_cumprod[i], schedule.alphas_cumprod_prev[i]
        clean = (points[i] - (1 - a).sqrt() * noise_preds[i]) / a.sqrt()
        variance = (1 - a_prev) / (1 - a) * (1 - a / a_prev)
        expected = a_prev.sqrt() * clean + (1 - a_prev - variance).sqrt() * noise_preds[i]
        mean = posterior_mean(predict_clean(points[i], noise_preds[i], a), noise_preds[i], a, a_prev, 1.0)
        assert torch.equal(mean, expected)


def test_settings_by_name():
    assert InversionSettings.from_arguments({}) == InversionSettings(num_inference_steps=100, skip=0.7)
    chosen = InversionSettings.from_arguments({"timesteps": (5, 1)})
    assert (chosen.num_inference_steps, chosen.skip) == (None, None)
    for name in ("num_inference_steps", "skip"):
        with pytest.raises(ValueError, match=name):
            InversionSettings.from_arguments({"timesteps": (5, 1), name: 0.5})


def small_inversion() -> DDPMInversion:
    generator = torch.Generator().manual_seed(0)
    schedule = NoiseSchedule.from_timesteps(make_scheduler().config, [291, 146, 1])
    latents = torch.randn(2, 4, 6, 6, generator=generator)
    noise_maps = 3.0 * torch.randn(3, 2, 4, 6, 6, generator=generator)
    noise_maps[-1] = 0.0
    return DDPMInversion(
        latents=latents, noise_maps=noise_maps, noise_pred=latents, schedule=schedule, settings=InversionSettings()
    )


def test_an_inversion_of_some_of_its_images():
    inversion = small_inversion()
    second = inversion.select([1])
    assert torch.equal(second.latents, inversion.latents[1:])
    assert torch.equal(second.noise_maps, inversion.noise_maps[:, 1:])


@pytest.mark.parametrize("solver_order", [1, 2])
def test_noised_images_change_only_inside_the_mask(solver_order):
    """One evaluation an image; outside the mask the image, inside another one by its seed."""
    latents, schedule, calls = torch.randn(2, 4, 6, 6), make_schedule(), []
    mask = torch.zeros(2, 1, 6, 6)
    mask[..., :3] = 1.0

    def denoiser(noisy, timesteps, identity_embeds):
        calls.append(len(noisy))
        return 0.1 * noisy + identity_embeds.mean(dim=-1).view(-1, 1, 1, 1)

    def result(seeds):
        calls.clear()
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        settings = InversionSettings(solver_order=solver_order)
        noised = add_noise(denoiser, latents, schedule, settings, torch.zeros(1, 8), generators)
        assert sum(calls) == 2
        result = denoise(denoiser, noised.select([0, 1]), torch.ones(2, 8), 2.0, mask)
        assert sum(calls) == 2 * 2 * len(schedule)
        return result

    first, again, other = result((1, 2)), result((1, 2)), result((1, 3))
    assert torch.equal(first[..., 3:], latents[..., 3:])
    assert (first - latents)[..., :3].abs().mean() > 0.1
    assert torch.equal(first, again)
    assert torch.equal(first[0], other[0]) and not torch.equal(first[1], other[1])


def test_a_region_kept_inside_the_mask_returns_at_the_last_step():
    """Until then the new face cannot be drawn to match it; everything else outside stays."""
    latents, schedule, seen = torch.randn(1, 4, 8, 8), make_schedule(), []
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 1:7, 1:7] = 1.0
    mask[..., 3:5, 3:5] = 0.0

    def denoiser(noisy, timesteps, identity_embeds):
        return 0.1 * noisy

    def on_step(state):
        seen.append(state.latents)
        return state

    noised = add_noise(denoiser, latents, schedule, InversionSettings(), torch.zeros(1, 8), generators(1))
    result = denoise(denoiser, noised, torch.ones(1, 8), 2.0, mask, on_step=on_step)
    assert torch.equal(result[..., 3:5, 3:5], latents[..., 3:5, 3:5])
    for step, state in enumerate(seen[:-1], start=1):
        differs = state != noised.trajectory[step]
        assert differs[..., 1:7, 1:7].all() and differs.sum() == 4 * 36


def test_holes_of_a_mask_are_filled_unless_they_reach_the_border():
    mask = torch.zeros(2, 1, 7, 7)
    mask[:, :, 1:6, 1:6] = 1.0
    mask[:, :, 3, 3] = 0.0
    filled = mask.clone()
    filled[:, :, 3, 3] = 1.0
    mask[1, :, 3:, 3] = filled[1, :, 3:, 3] = 0.0
    assert torch.equal(fill_holes(mask), filled)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_inversion_predicts_every_step_of_every_image_once(batch_size):
    latents, schedule, calls = torch.randn(2, 4, 6, 6), make_schedule(), []

    def denoiser(noisy, timesteps, identity_embeds):
        assert not identity_embeds.any()
        calls.append(len(noisy))
        return 0.1 * noisy + timesteps.view(-1, 1, 1, 1) / 1000

    inversion = invert(denoiser, latents, schedule, InversionSettings(), torch.zeros(1, 8), batch_size, generators(2))
    assert sum(calls) == 2 * len(schedule) and max(calls) <= batch_size
    trajectory = sample_trajectory(latents, schedule, generators(2))
    noise_preds = 0.1 * trajectory[:-1] + schedule.timesteps.view(-1, 1, 1, 1, 1) / 1000
    assert torch.equal(inversion.latents, trajectory[0]) and torch.equal(inversion.noise_pred, noise_preds[0])
    torch.testing.assert_close(inversion.noise_maps, solve_noise_maps(trajectory, noise_preds, schedule, 1.0))


def test_a_step_can_change_the_next_one_and_stop():
    inversion, scales = small_inversion(), []

    def denoiser(latents, timesteps, identity_embeds):
        return identity_embeds.view(-1, 1, 1, 1).expand_as(latents)

    def on_step(state):
        scales.append(state.guidance_scale)
        return replace(state, latents=0.0 * state.latents, guidance_scale=2.0, interrupt=state.step == 1)

    assert not denoise(denoiser, inversion, torch.ones(2, 1), 1.0, on_step=on_step).any()
    assert scales == [1.0, 2.0], "the third step is not taken"
