import pytest
import torch
from diffusers import DDIMScheduler

from nullface_pipeline.ddpm_inversion import (
    NoiseSchedule,
    denoising_step,
    guide_noise,
    sample_trajectory,
    solve_noise_maps,
    whole_steps,
)

from .tiny_parts import generators, make_scheduler


def make_schedule(steps: int = 20, skip: float = 0.5) -> NoiseSchedule:
    return NoiseSchedule.from_scheduler_config(make_scheduler().config, steps).skip(whole_steps(steps, skip))


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
    latents = trajectory[0]
    for i in range(len(schedule) - 1):
        latents = denoising_step(
            latents, noise_preds[i], noise_maps[i], schedule.alphas_cumprod[i], schedule.alphas_cumprod_prev[i], eta
        )
        torch.testing.assert_close(latents, trajectory[i + 1], atol=2e-4, rtol=1e-4)


def test_step_is_the_schedulers_step():
    scheduler = DDIMScheduler.from_config(make_scheduler().config, clip_sample=False)
    scheduler.set_timesteps(20)
    schedule = NoiseSchedule.from_scheduler_config(make_scheduler().config, 20)
    x, eps, noise = torch.randn(3, 1, 4, 8, 8, generator=torch.Generator().manual_seed(1)).unbind()
    for i, t in enumerate(scheduler.timesteps):
        expected = scheduler.step(eps, t, x, eta=1.0, variance_noise=noise).prev_sample
        step = denoising_step(x, eps, noise, schedule.alphas_cumprod[i], schedule.alphas_cumprod_prev[i], 1.0)
        torch.testing.assert_close(step, expected)


def test_guidance_and_mask():
    uncond, identity = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    mask = torch.tensor([[1.0, 0.0], [0.5, 0.0]]).view(1, 1, 2, 2)
    assert torch.equal(guide_noise(uncond, identity, 10.0), 10.0 * identity)
    assert torch.equal(guide_noise(uncond, identity, 10.0, mask), (10.0 * mask).expand(1, 4, 2, 2))
    assert torch.equal(guide_noise(identity, uncond, 1.0), uncond)
