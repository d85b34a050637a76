"""The pipeline against the method: equal to a plain sequential computation, at little more than
half of its work.
"""

import dataclasses
import inspect
import itertools
import logging
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import DDIMScheduler
from torch.nn.functional import normalize

from nullface_pipeline import pipeline_mixin
from nullface_pipeline.ddpm_inversion import FAST_TIMESTEPS, PREVIEW_TIMESTEPS, NoiseSchedule
from nullface_pipeline.face_regions import REGIONS
from nullface_pipeline.photo_options import PhotoOptions

from .sequential_reference import SequentialNullFace
from .tiny_parts import (
    IMAGE_SIZE,
    generators,
    make_adapter,
    make_components,
    make_embeds,
    make_images,
    make_mask,
    make_pipeline,
)


def latent_mask(pipe: Any) -> torch.Tensor:
    return torch.nn.functional.interpolate(make_mask(), scale_factor=1 / pipe.vae_scale_factor, mode="area")


def reference_latents(
    pipe: Any, count: int, reference_class: type[SequentialNullFace] = SequentialNullFace, **settings: Any
) -> torch.Tensor:
    reference = reference_class(pipe)
    images, embeds = make_images(count), normalize(make_embeds(count).to(pipe.unet.dtype), dim=-1)
    results = [
        reference(pipe.encode_image(2 * images[i : i + 1] - 1), embeds[i : i + 1], generator, **settings)
        for i, generator in enumerate(generators(count))
    ]
    return torch.cat(results)


def assert_same_latents(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert actual.dtype == expected.dtype
    assert (actual - expected).norm() / expected.norm() < (1e-11 if actual.dtype == torch.float64 else 1e-4)


@pytest.fixture
def float64_pipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`shared_pipe` in float64, wherever it otherwise computes in float32."""

    def to(schedule: NoiseSchedule, device: torch.device) -> NoiseSchedule:
        alphas = schedule.alphas_cumprod.double(), schedule.alphas_cumprod_prev.double()
        return NoiseSchedule(schedule.timesteps, *alphas)

    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(NoiseSchedule, "to", to)
    return make_pipeline().to(torch.float64)


STEPS, COUNTS = (4, 5, 10), (1, 2)
OPTIONS = ((0.0, 0.3, 0.7), (0.0, 5.0, 10.0), (None, 0.8, 0.2), (1.0, 0.5))  # skip, guidance, mask_start, eta


def pairwise(*values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Few combinations in which every pair of values of any two settings occurs."""

    def pairs(combination: tuple[Any, ...]) -> set[tuple[Any, ...]]:
        return set(itertools.combinations(enumerate(combination), 2))

    every = list(itertools.product(*values))
    missing, chosen = set().union(*map(pairs, every)), []
    while missing:
        chosen.append(max(every, key=lambda combination: len(missing & pairs(combination))))
        missing -= pairs(chosen[-1])
    return chosen


def check_against_reference(
    pipe: Any, steps: int, skip: float, guidance: float, mask_start: float | None, eta: float, count: int
) -> None:
    masked = mask_start is not None
    expected = reference_latents(
        pipe,
        count,
        steps=steps,
        skip=skip,
        guidance=guidance,
        eta=eta,
        mask=latent_mask(pipe) if masked else None,
        mask_start=mask_start,
    )
    actual = pipe(
        make_images(count),
        identity_embeds=make_embeds(count),
        mask_image=make_mask() if masked else None,
        num_inference_steps=steps,
        skip=skip,
        guidance_scale=guidance,
        mask_start=mask_start if masked else 0.8,
        eta=eta,
        generator=generators(count),
        output_type="latent",
    ).images
    assert_same_latents(actual, expected)


NAMES = ("steps", "skip", "guidance", "mask_start", "eta", "count")


@pytest.mark.parametrize(NAMES, pairwise(STEPS, *OPTIONS, COUNTS))
def test_equals_the_sequential_method(shared_pipe, steps, skip, guidance, mask_start, eta, count):
    check_against_reference(shared_pipe, steps, skip, guidance, mask_start, eta, count)


def test_equals_the_sequential_method_in_float64(float64_pipe):
    check_against_reference(float64_pipe, 5, skip=0.0, guidance=10.0, mask_start=0.2, eta=0.5, count=2)


@pytest.mark.slow
@pytest.mark.parametrize(NAMES, itertools.product((20,), *OPTIONS, (1,)))
def test_equals_the_sequential_method_everywhere(shared_pipe, steps, skip, guidance, mask_start, eta, count):
    check_against_reference(shared_pipe, steps, skip, guidance, mask_start, eta, count)


# In float64: in 50 steps from pure noise, float32 rounding adds up to 2e-4 of a result without
# guidance. It adds as much to one with guidance, which is hundreds of times as large.
@pytest.mark.slow
@pytest.mark.parametrize(NAMES, [*pairwise((50, 100), *OPTIONS, (1, 3)), (100, 0.0, 0.0, None, 1.0, 1)])
def test_equals_the_sequential_method_in_many_steps(float64_pipe, steps, skip, guidance, mask_start, eta, count):
    check_against_reference(float64_pipe, steps, skip, guidance, mask_start, eta, count)


@pytest.fixture(scope="module")
def ten_steps(shared_pipe: Any) -> torch.Tensor:
    """The reference's results of two images in ten steps, of which it skips two."""
    return reference_latents(shared_pipe, 2, steps=10, skip=0.2, guidance=10.0, eta=1.0)


@pytest.mark.parametrize("inversion_batch_size", [1, 7, 1000])
def test_inversion_batch_size_does_not_matter(shared_pipe, ten_steps, inversion_batch_size):
    settings = {"num_inference_steps": 10, "skip": 0.2}
    actual = shared_pipe(
        make_images(2),
        identity_embeds=make_embeds(2),
        inversion_batch_size=inversion_batch_size,
        generator=generators(2),
        output_type="latent",
        **settings,
    ).images
    assert_same_latents(actual, ten_steps)


class CountedUNet:
    """Counts calls and samples of a UNet while the block runs."""

    def __init__(self, unet: torch.nn.Module):
        self.unet, self.batches = unet, []

    def __enter__(self) -> list[int]:
        self.hook = self.unet.register_forward_pre_hook(lambda _, args: self.batches.append(args[0].shape[0]))
        return self.batches

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def test_unet_work_at_the_papers_settings(shared_pipe):
    """The published code evaluates the UNet 100 times to invert and 60 times to denoise."""
    with CountedUNet(shared_pipe.unet) as inverting:
        inversion = shared_pipe.invert(make_images(1), generator=generators(1))
    with CountedUNet(shared_pipe.unet) as denoising:
        shared_pipe(make_images(1), identity_embeds=make_embeds(1), inversion=inversion)
    assert sum(inverting) == 30
    assert len(denoising) == 30, "each denoising pair is one call"
    assert sum(denoising) == 59, "the first unconditional prediction comes from the inversion"


@pytest.mark.parametrize(
    ("settings", "evaluations"),
    [({}, 89), ({"timesteps": FAST_TIMESTEPS}, 20), ({"timesteps": PREVIEW_TIMESTEPS, "solver_order": 2}, 8)],
)
def test_unet_work_of_few_steps(shared_pipe, settings, evaluations):
    with CountedUNet(shared_pipe.unet) as batches:
        shared_pipe(make_images(1), make_embeds(1), **settings)
    assert sum(batches) == evaluations


@pytest.mark.parametrize(
    ("timesteps", "masked", "solver_order"),
    [
        (FAST_TIMESTEPS, True, 1),
        (FAST_TIMESTEPS, False, 2),
        (PREVIEW_TIMESTEPS, False, 1),
        (PREVIEW_TIMESTEPS, True, 2),
        ((999, 749, 499, 249), True, 1),
        ((999, 749, 499, 249), False, 2),
    ],
)
def test_few_steps_equal_the_sequential_method(shared_pipe, timesteps, masked, solver_order):
    # Few large steps from pure noise amplify rounding, order 2 more so.
    settings = {"timesteps": list(timesteps), "solver_order": solver_order}
    expected = reference_latents(shared_pipe, 2, mask=latent_mask(shared_pipe) if masked else None, **settings)
    actual = shared_pipe(
        make_images(2),
        make_embeds(2),
        mask_image=make_mask() if masked else None,
        generator=generators(2),
        output_type="latent",
        **settings,
    ).images
    assert_same_latents(actual, expected)


def test_the_second_order_of_a_full_schedule(shared_pipe):
    settings = {"skip": 0.5, "solver_order": 2}
    expected = reference_latents(shared_pipe, 1, steps=10, **settings)
    call = {"num_inference_steps": 10, "generator": generators(1), "output_type": "latent", **settings}
    actual = shared_pipe(make_images(1), make_embeds(1), **call).images
    assert_same_latents(actual, expected)
    first = shared_pipe(make_images(1), make_embeds(1), **{**call, "generator": generators(1), "solver_order": 1})
    assert (first.images - actual).norm() / actual.norm() > 1e-3


def test_the_timesteps_of_a_schedule_are_that_schedule(shared_pipe):
    settings = {"mask_image": make_mask(), "output_type": "latent", "num_inference_steps": 20}
    expected = shared_pipe(make_images(1), make_embeds(1), generator=generators(1), **settings).images
    settings = {**settings, "num_inference_steps": None, "timesteps": list(range(251, 0, -50))}
    assert torch.equal(
        shared_pipe(make_images(1), make_embeds(1), generator=generators(1), **settings).images, expected
    )


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"guidance_scale": 0.0}, id="no guidance"),
        pytest.param({"mask_image": torch.zeros(1, 1, IMAGE_SIZE, IMAGE_SIZE), "mask_start": 0.0}, id="black mask"),
        pytest.param({"identity_scale": 0.0}, id="the same identity on both paths"),
    ],
)
def test_without_an_edit_the_image_is_reconstructed(shared_pipe, settings):
    """Up to the last step, whose noise map is zero, the sampler retraces the trajectory exactly."""
    images = make_images(2)
    x0 = shared_pipe.encode_image(2 * images - 1)
    before_last = []

    def keep_latents(pipe, step, timestep, tensors):
        before_last.append(tensors["latents"])
        return {}

    inversion = shared_pipe.invert(images, num_inference_steps=20, generator=generators(2))
    latents = shared_pipe(
        images,
        identity_embeds=make_embeds(2),
        inversion=inversion,
        output_type="latent",
        callback_on_step_end=keep_latents,
        **settings,
    ).images

    alpha, alpha_prev = inversion.schedule.alphas_cumprod[-1], inversion.schedule.alphas_cumprod_prev[-1]
    lost = latents - x0
    variance = (1 - alpha_prev) / (1 - alpha) * (1 - alpha / alpha_prev)
    # What the zeroed map leaves out: noise of the last step's small variance and the model's error
    # in one small step.
    assert lost.std() < 6.0 * variance.sqrt()
    reference = reference_latents(shared_pipe, 2, steps=20, skip=0.7, guidance=0.0, eta=1.0)
    assert_same_latents(latents, reference)
    assert len(before_last) == len(inversion.schedule)


def test_retraces_the_trajectory_up_to_the_last_step(shared_pipe):
    from nullface_pipeline.ddpm_inversion import sample_trajectory

    images, points = make_images(2), []

    def keep_latents(pipe, step, timestep, tensors):
        points.append(tensors["latents"])
        return {}

    inversion = shared_pipe.invert(images, num_inference_steps=20, generator=generators(2))
    shared_pipe(
        images,
        identity_embeds=make_embeds(2),
        inversion=inversion,
        guidance_scale=0.0,
        callback_on_step_end=keep_latents,
    )
    trajectory = sample_trajectory(shared_pipe.encode_image(2 * images - 1), inversion.schedule, generators(2))
    for i, latents in enumerate(points[:-1]):
        torch.testing.assert_close(latents, trajectory[i + 1], atol=1e-4, rtol=1e-4)


def test_a_batch_equals_each_image_alone(shared_pipe):
    images, embeds = make_images(3), make_embeds(3)
    masks = torch.cat([make_mask(), 1 - make_mask(), torch.ones_like(make_mask())])
    settings = {"num_inference_steps": 10, "mask_start": 0.0, "output_type": "latent", "identity_angle": 60.0}
    together = shared_pipe(
        images, identity_embeds=embeds, mask_image=masks, generator=generators(3), **settings
    ).images
    for i, generator in enumerate(generators(3)):
        alone = shared_pipe(
            images[i : i + 1],
            identity_embeds=embeds[i : i + 1],
            mask_image=masks[i : i + 1],
            generator=generator,
            **settings,
        ).images
        assert_same_latents(together[i : i + 1], alone)


def test_the_identity_changes_the_result(shared_pipe):
    """What the other tests compare would also be equal if the adapter were deaf."""
    settings = {"num_inference_steps": 10, "output_type": "latent"}
    first, second, none = (
        shared_pipe(
            make_images(1),
            identity_embeds=make_embeds(1, seed),
            guidance_scale=guidance_scale,
            generator=generators(1),
            **settings,
        ).images
        for seed, guidance_scale in ((1, 10.0), (2, 10.0), (1, 0.0))
    )
    assert (first - none).norm() / none.norm() > 1e-2
    assert (first - second).norm() / none.norm() > 1e-2


def test_identities_of_a_batch_do_not_mix(shared_pipe):
    settings = {"num_inference_steps": 10, "output_type": "latent"}
    images = make_images(1).repeat(2, 1, 1, 1)
    embeds = make_embeds(2)
    pair = shared_pipe(images, identity_embeds=embeds, generator=generators(2), **settings).images
    changed = torch.stack([embeds[0], -embeds[1]])
    other_neighbour = shared_pipe(images, identity_embeds=changed, generator=generators(2), **settings).images
    assert_same_latents(other_neighbour[0], pair[0])
    assert (other_neighbour[1] - pair[1]).norm() / pair[1].norm() > 1e-2


def test_an_inversion_serves_many_edits(shared_pipe):
    images, embeds = make_images(1), make_embeds(1)
    inversion = shared_pipe.invert(images, num_inference_steps=20, skip=0.5, generator=generators(1))
    copy = [tensor.clone() for tensor in (inversion.latents, inversion.noise_maps, inversion.noise_pred)]
    results = [
        shared_pipe(images, identity_embeds=embeds, inversion=inversion, guidance_scale=g, output_type="latent").images
        for g in (10.0, 2.0, 10.0)
    ]
    assert torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[1])
    for before, after in zip(copy, (inversion.latents, inversion.noise_maps, inversion.noise_pred)):
        assert torch.equal(before, after)
    direct = shared_pipe(
        images,
        identity_embeds=embeds,
        num_inference_steps=20,
        skip=0.5,
        generator=generators(1),
        output_type="latent",
    ).images
    assert torch.equal(direct, results[0])
    with pytest.raises(AttributeError):
        inversion.settings.skip = 0.1


def test_an_inversion_of_another_size_is_refused(shared_pipe):
    inversion = shared_pipe.invert(make_images(1), num_inference_steps=10)
    with pytest.raises(ValueError, match="inversion"):
        shared_pipe(make_images(1, size=40), make_embeds(1), inversion=inversion)
    with pytest.raises(ValueError, match="inversion"):
        shared_pipe(make_images(2), make_embeds(2), inversion=inversion)


def test_embeddings_of_insightface_are_taken_as_they_are(shared_pipe):
    settings = {"num_inference_steps": 10, "output_type": "latent"}
    as_tensor = shared_pipe(make_images(1), make_embeds(1), generator=generators(1), **settings).images
    as_array = shared_pipe(make_images(1), make_embeds(1).numpy(), generator=generators(1), **settings).images
    assert torch.equal(as_tensor, as_array)


CONTRADICTIONS = {
    "num_inference_steps": (30, 100),
    "skip": (0.2, 0.7),
    "timesteps": ([291, 1], [951, 1]),
    "solver_order": (2, 2),
    "eta": (0.9, 1.0),
    "ip_adapter_scale": (0.2, 1.0),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_an_inversions_settings_cannot_be_contradicted(shared_pipe, name):
    """Not by the default either, if it is asked for."""
    settings = {"num_inference_steps": 20, "skip": 0.5, "eta": 0.5, "ip_adapter_scale": 0.5}
    inversion = shared_pipe.invert(make_images(1), **settings)
    for value in CONTRADICTIONS[name]:
        with pytest.raises(ValueError, match=name):
            shared_pipe(make_images(1), identity_embeds=make_embeds(1), inversion=inversion, **{name: value})
    shared_pipe(make_images(1), make_embeds(1), inversion=inversion, **settings)


def test_an_inversion_records_its_timesteps(shared_pipe):
    inversion = shared_pipe.invert(make_images(1), timesteps=[291, 98, 1], solver_order=2, generator=generators(1))
    assert (inversion.settings.timesteps, inversion.settings.solver_order) == ((291, 98, 1), 2)
    assert inversion.schedule.timesteps.tolist() == [291, 98, 1]
    assert (inversion.settings.num_inference_steps, inversion.settings.skip) == (None, None)
    call = {"image": make_images(1), "identity_embeds": make_embeds(1), "output_type": "latent"}
    edited = shared_pipe(inversion=inversion, timesteps=[291, 98, 1], **call).images
    direct = shared_pipe(timesteps=[291, 98, 1], solver_order=2, generator=generators(1), **call).images
    assert torch.equal(edited, direct)
    with pytest.raises(ValueError, match="skip"):
        shared_pipe(inversion=inversion, skip=0.7, **call)


def test_an_empty_prompt_is_none(shared_pipe):
    call = {"image": make_images(2), "identity_embeds": make_embeds(2), "num_inference_steps": 10}
    call["output_type"] = "latent"
    expected = shared_pipe(generator=generators(2), **call).images
    for prompt in ("", ["", ""]):
        assert torch.equal(shared_pipe(generator=generators(2), prompt=prompt, **call).images, expected)
    inversion = shared_pipe.invert(make_images(2), num_inference_steps=10, generator=generators(2))
    with CountedUNet(shared_pipe.unet) as batches:
        changed = shared_pipe(
            make_images(2), make_embeds(2), inversion=inversion, prompt="a", output_type="latent"
        ).images
    assert batches == [2, 4, 4], "a prompt costs no further evaluations"
    assert (changed - expected).norm() / expected.norm() > 1e-2
    unguided = {**call, "generator": generators(2), "guidance_scale": 0.0}
    expected = shared_pipe(**unguided).images
    assert torch.equal(shared_pipe(**{**unguided, "generator": generators(2)}, prompt="a").images, expected)


def check_that_only_the_identity_is_conditioned_on_the_prompt(pipe: Any) -> None:
    calls = []

    def note(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append({"text": kwargs["encoder_hidden_states"], **kwargs["added_cond_kwargs"]})

    inversion = pipe.invert(make_images(2), num_inference_steps=10)
    hook = pipe.unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        pipe(make_images(2), make_embeds(2), inversion=inversion, prompt=["a", ""])
    finally:
        hook.remove()
    empty, prompted = (pipe.prompt_conditions(prompt, IMAGE_SIZE, IMAGE_SIZE) for prompt in ("", "a"))
    rows = {"text": "prompt_embeds"} | {name: name for name in prompted if name != "prompt_embeds"}
    for name, condition in rows.items():
        first, *pairs = [call[name] for call in calls]
        assert torch.allclose(first, torch.cat([prompted[condition], empty[condition]]), atol=1e-6)
        for pair in pairs:
            expected = torch.cat([empty[condition], empty[condition], prompted[condition], empty[condition]])
            assert torch.allclose(pair, expected, atol=1e-6)
    assert not torch.allclose(prompted["prompt_embeds"], empty["prompt_embeds"], atol=1e-3)


def test_only_the_identity_is_conditioned_on_the_prompt(shared_pipe):
    check_that_only_the_identity_is_conditioned_on_the_prompt(shared_pipe)


def test_each_image_has_a_prompt_of_its_own(shared_pipe):
    settings = {"num_inference_steps": 10, "output_type": "latent"}
    prompts = ["a", ""]
    together = shared_pipe(make_images(2), make_embeds(2), prompt=prompts, generator=generators(2), **settings).images
    for i, generator in enumerate(generators(2)):
        each = slice(i, i + 1)
        alone = shared_pipe(
            make_images(2)[each], make_embeds(2)[each], prompt=prompts[i], generator=generator, **settings
        ).images
        assert_same_latents(together[each], alone)


def test_a_prompt_that_is_too_long_is_noted(shared_pipe, caplog):
    logger = logging.getLogger("nullface_pipeline.pipeline_mixin")
    logger.addHandler(caplog.handler)
    try:
        shared_pipe.prompt_conditions("a " * 20, 8, 8)
    finally:
        logger.removeHandler(caplog.handler)
    assert "22 tokens" in caplog.text


def test_the_persons_own_embedding_at_negative_guidance(shared_pipe):
    """As reverse-personalization has it: away from the person, rather than towards the opposite."""
    call = {"image": make_images(1), "identity_embeds": make_embeds(1), "output_type": "latent", "skip": 0.8}
    call["num_inference_steps"] = 20
    expected = reference_latents(shared_pipe, 1, steps=20, skip=0.8, guidance=-10.0, identity_scale=-1.0)
    actual = shared_pipe(identity_scale=-1.0, guidance_scale=-10.0, generator=generators(1), **call).images
    assert_same_latents(actual, expected)
    assert (shared_pipe(generator=generators(1), **call).images - actual).norm() / actual.norm() > 1e-3


def pipeline_state(pipe: Any) -> tuple[Any, ...]:
    processors = {name: (type(p), getattr(p, "scale", None)) for name, p in pipe.unet.attn_processors.items()}
    parameters = {name: (parameter.dtype, parameter.device) for name, parameter in pipe.unet.named_parameters()}
    return processors, parameters, dict(pipe.scheduler.config), dict(pipe.config), pipe.unet.training


def test_a_call_leaves_the_pipeline_as_it_was():
    pipe = make_pipeline()
    pipe.set_ip_adapter_scale(0.4)
    before = repr(pipeline_state(pipe))
    pipe(make_images(1), identity_embeds=make_embeds(1), num_inference_steps=10, ip_adapter_scale=0.7)
    assert repr(pipeline_state(pipe)) == before

    def fail(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe(
            make_images(1),
            identity_embeds=make_embeds(1),
            num_inference_steps=10,
            ip_adapter_scale=0.7,
            callback_on_step_end=fail,
        )
    assert repr(pipeline_state(pipe)) == before


def test_adapter_scale_is_used(shared_pipe):
    settings = {"num_inference_steps": 10, "output_type": "latent", "identity_embeds": make_embeds(1)}
    full = shared_pipe(make_images(1), generator=generators(1), **settings).images
    half = shared_pipe(make_images(1), generator=generators(1), ip_adapter_scale=0.5, **settings).images
    off = shared_pipe(make_images(1), generator=generators(1), ip_adapter_scale=0.0, **settings).images
    unguided = shared_pipe(
        make_images(1), generator=generators(1), ip_adapter_scale=0.0, guidance_scale=0.0, **settings
    ).images
    assert (full - half).abs().max() > 1e-3
    assert_same_latents(off, unguided)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_with_float32_embeddings(dtype):
    pipe = make_pipeline()
    settings = {"identity_embeds": make_embeds(1), "num_inference_steps": 10, "output_type": "latent"}
    full = pipe(make_images(1), generator=generators(1), **settings).images
    half = pipe.to(dtype=dtype)(make_images(1), generator=generators(1), **settings).images
    assert half.dtype == torch.float32
    assert torch.isfinite(half).all()
    assert (half - full).norm() / full.norm() < 0.1


def test_the_generator_reaches_all_randomness(shared_pipe):
    settings = {
        "identity_embeds": make_embeds(1),
        "num_inference_steps": 10,
        "identity_angle": 90.0,
        "output_type": "latent",
    }
    state = torch.random.get_rng_state()
    first, again, other = (
        shared_pipe(make_images(1), generator=torch.Generator().manual_seed(seed), **settings).images
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator must not be touched"
    turned = shared_pipe(
        make_images(1),
        generator=torch.Generator().manual_seed(0),
        identity_generator=torch.Generator().manual_seed(7),
        **settings,
    ).images
    assert not torch.equal(first, turned)


def test_images_in_and_out(shared_pipe):
    tensor = (make_images(2) * 255).round() / 255
    array = tensor.permute(0, 2, 3, 1).numpy()
    pil = [PIL.Image.fromarray((image * 255).round().astype(np.uint8)) for image in array]
    settings = {"identity_embeds": make_embeds(2), "num_inference_steps": 5}
    expected = shared_pipe(tensor, generator=generators(2), output_type="pt", **settings).images
    assert expected.shape == (2, 3, IMAGE_SIZE, IMAGE_SIZE)
    for image in (array, pil, list(tensor), list(array)):
        actual = shared_pipe(image, generator=generators(2), output_type="pt", **settings).images
        torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)
    as_array = shared_pipe(tensor, generator=generators(2), output_type="np", **settings).images
    torch.testing.assert_close(torch.from_numpy(as_array).permute(0, 3, 1, 2), expected)
    (as_pil,) = shared_pipe(tensor, generator=generators(2), return_dict=False, **settings)
    assert [image.size for image in as_pil] == [(IMAGE_SIZE, IMAGE_SIZE)] * 2
    assert np.abs(np.asarray(as_pil[0]) / 255 - as_array[0]).max() < 1 / 255


@pytest.mark.parametrize("size", [(24, 40), (40, 16), (8, 8)])
def test_any_size_that_is_a_multiple_of_8(shared_pipe, size):
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    out = shared_pipe(image, identity_embeds=make_embeds(1), num_inference_steps=10, output_type="pt").images
    assert out.shape == image.shape


def test_callback_sees_and_replaces_named_tensors(shared_pipe):
    seen = []

    def zero_at_the_end(pipe, step, timestep, tensors):
        seen.append((step, int(timestep), sorted(tensors)))
        if step == pipe.num_timesteps - 1:
            tensors["latents"] = torch.zeros_like(tensors["latents"])
        return tensors

    names = ["identity_embeds", "latents", "noise_pred"]
    latents = shared_pipe(
        make_images(1),
        identity_embeds=make_embeds(1),
        num_inference_steps=10,
        output_type="latent",
        callback_on_step_end=zero_at_the_end,
        callback_on_step_end_tensor_inputs=names,
    ).images
    assert not latents.any()
    assert seen == [(0, 201, names), (1, 101, names), (2, 1, names)]
    with pytest.raises(ValueError, match="callback_on_step_end_tensor_inputs"):
        shared_pipe(make_images(1), make_embeds(1), callback_on_step_end_tensor_inputs=["prompt_embeds"])


def test_progress_bars_count_unet_calls(shared_pipe, capsys):
    shared_pipe.set_progress_bar_config(disable=False)
    try:
        shared_pipe(make_images(1), make_embeds(1), num_inference_steps=20, inversion_batch_size=4)
    finally:
        shared_pipe.set_progress_bar_config(disable=True)
    printed = capsys.readouterr().err
    assert "2/2" in printed and "6/6" in printed


BAD_CALLS = {
    "size": ({"image": torch.rand(1, 3, 30, 32)}, ValueError, "image"),
    "channels": ({"image": torch.rand(1, 4, 32, 32)}, ValueError, "image"),
    "values": ({"image": 255 * torch.rand(1, 3, 32, 32)}, ValueError, "image"),
    "integers": ({"image": np.zeros((32, 32, 3), dtype=np.uint8)}, ValueError, "image"),
    "not an image": ({"image": "photo.png"}, ValueError, "image"),
    "mixed sizes": ({"image": [PIL.Image.new("RGB", s) for s in ((32, 32), (16, 16))]}, ValueError, "image"),
    "embedding width": ({"identity_embeds": torch.randn(1, 256)}, ValueError, "identity_embeds"),
    "embedding rank": ({"identity_embeds": torch.randn(512)}, ValueError, "identity_embeds"),
    "embedding count": ({"identity_embeds": torch.randn(2, 512)}, ValueError, "identity_embeds"),
    "null embedding": ({"identity_embeds": torch.zeros(1, 512)}, ValueError, "identity_embeds"),
    "embedding not finite": ({"identity_embeds": torch.full((1, 512), torch.nan)}, ValueError, "identity_embeds"),
    "identity generators": ({"identity_generator": generators(2)}, ValueError, "generators"),
    "mask channels": ({"mask_image": torch.ones(1, 4, 32, 32)}, ValueError, "mask_image"),
    "every step of training": ({"num_inference_steps": 1000}, ValueError, "num_inference_steps"),
    "keep everything": ({"keep": list(REGIONS)}, ValueError, "keep"),
    "mask size": ({"mask_image": torch.zeros(1, 1, 16, 16)}, ValueError, "mask_image"),
    "mask count": ({"mask_image": torch.zeros(2, 1, 32, 32)}, ValueError, "mask_image"),
    "skip of 1": ({"skip": 1.0}, ValueError, "skip"),
    "negative skip": ({"skip": -0.1}, ValueError, "skip"),
    "skip of every step": ({"skip": 0.9, "num_inference_steps": 3}, ValueError, "skip"),
    "steps": ({"num_inference_steps": 0}, ValueError, "num_inference_steps"),
    "eta": ({"eta": 0.0}, ValueError, "eta"),
    "prompts": ({"prompt": ["a", "a"]}, ValueError, "prompts"),
    "prompt is no text": ({"prompt": 7}, ValueError, "prompt"),
    "solver order": ({"solver_order": 3}, ValueError, "solver_order"),
    "order 2 of less noise": ({"solver_order": 2, "eta": 0.5}, ValueError, "solver_order"),
    "no timesteps": ({"timesteps": [], "num_inference_steps": None}, ValueError, "timesteps"),
    "timesteps rise": ({"timesteps": [1, 2], "num_inference_steps": None}, ValueError, "timesteps"),
    "timesteps repeat": ({"timesteps": [2, 2], "num_inference_steps": None}, ValueError, "timesteps"),
    "timestep 0": ({"timesteps": [5, 0], "num_inference_steps": None}, ValueError, "timesteps"),
    "timestep 1000": ({"timesteps": [1000, 5], "num_inference_steps": None}, ValueError, "timesteps"),
    "timesteps in fractions": ({"timesteps": [5.0, 1.0], "num_inference_steps": None}, ValueError, "timesteps"),
    "timesteps and steps": ({"timesteps": [5, 1]}, ValueError, "num_inference_steps"),
    "mask_start": ({"mask_start": 1.5}, ValueError, "mask_start"),
    "angle": ({"identity_angle": 200.0}, ValueError, "identity_angle"),
    "guidance": ({"guidance_scale": float("nan")}, ValueError, "guidance_scale"),
    "inversion batch": ({"inversion_batch_size": 0}, ValueError, "inversion_batch_size"),
    "generators": ({"generator": generators(2)}, ValueError, "generators"),
    "keep without a parser": ({"keep": ("eyes",)}, RuntimeError, "load_face_models"),
    "unknown region": ({"keep": ("beard",)}, ValueError, "keep"),
    "keep as text": ({"keep": "eyes"}, ValueError, "keep"),
    "no face models": ({"identity_embeds": None}, RuntimeError, "load_face_models"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_input_is_named(shared_pipe, name):
    bad, error, argument = BAD_CALLS[name]
    call = {"image": make_images(1), "identity_embeds": make_embeds(1), "num_inference_steps": 10, **bad}
    with pytest.raises(error, match=rf"\b{argument}\b"):
        shared_pipe(**call)


def test_adapter_not_loaded():
    from nullface_pipeline import StableDiffusionNullFacePipeline

    pipe = StableDiffusionNullFacePipeline(**make_components())
    with pytest.raises(RuntimeError, match="load_face_adapter"):
        pipe(make_images(1), make_embeds(1))
    pipe.load_face_adapter(make_adapter(pipe.unet))
    pipe.unet.set_default_attn_processor()
    with pytest.raises(RuntimeError, match="attention processors"):
        pipe(make_images(1), make_embeds(1))


def test_photo_without_face_models(shared_pipe):
    with pytest.raises(RuntimeError, match="load_face_models"):
        shared_pipe.anonymize(PIL.Image.new("RGB", (64, 64)))


def test_names_types_and_defaults_for_completion(shared_pipe):
    call = inspect.signature(shared_pipe.__call__).parameters
    assert call["guidance_scale"].default == 10.0
    assert "pipe.anonymize" in shared_pipe.__call__.__doc__ and "Examples:" in shared_pipe.__call__.__doc__
    anonymize = inspect.signature(shared_pipe.anonymize).parameters
    assert list(anonymize) == ["photo", "options", *(field.name for field in dataclasses.fields(PhotoOptions))]
    assert anonymize["preset"].default == "standard" and anonymize["seed"].annotation == int | None


def test_strength_is_the_share_of_steps_that_is_taken(shared_pipe):
    call = {"image": make_images(1), "identity_embeds": make_embeds(1), "num_inference_steps": 10}
    call["output_type"] = "latent"
    by_strength = shared_pipe(strength=0.5, generator=generators(1), **call).images
    assert torch.equal(by_strength, shared_pipe(skip=0.5, generator=generators(1), **call).images)
    with pytest.raises(ValueError, match="strength"):
        shared_pipe(strength=0.5, skip=0.5, **call)
    with pytest.raises(TypeError, match="skip"):
        PhotoOptions.from_arguments({"strength": 0.5})


def test_another_sampler_is_reported_once(monkeypatch):
    warnings: list[str] = []
    monkeypatch.setattr(pipeline_mixin.logger, "warning", warnings.append)
    pipe = make_pipeline()
    for swapped, reports in ((False, 0), (True, 1), (False, 1)):
        if swapped:
            pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
        pipe.invert(make_images(1), num_inference_steps=5)
        assert len(warnings) == reports
