"""Stable Diffusion XL: the same method, told the same text twice, with a VAE that overflows in half
precision.
"""

import inspect
import json

import pytest
import torch
from diffusers import StableDiffusionXLPipeline, UNet2DConditionModel

from nullface_pipeline import StableDiffusionNullFacePipeline, StableDiffusionXLNullFacePipeline
from nullface_pipeline.ddpm_inversion import FAST_TIMESTEPS, PREVIEW_TIMESTEPS
from nullface_pipeline.face_adapter import FACE_LORA_NAME, active_loras, check_face_adapter
from nullface_pipeline.model_sets import DTYPE, pipeline_class
from nullface_pipeline.unet_denoiser import UNetDenoiser

from .sequential_reference import SequentialNullFaceXL
from .test_contract import OFFLOADS, assert_same_weights, models, ready, relative_difference, run
from .test_face_adapter import make_distilled_lora
from .test_pipeline import (
    CountedUNet,
    assert_same_latents,
    check_that_only_the_identity_is_conditioned_on_the_prompt,
    latent_mask,
    reference_latents,
)
from .tiny_parts import (
    generators,
    make_adapter,
    make_components,
    make_embeds,
    make_images,
    make_mask,
    make_xl_components,
    make_xl_pipeline,
)


@pytest.fixture(scope="module")
def shared() -> StableDiffusionXLNullFacePipeline:
    """For tests that leave it as it was."""
    return make_xl_pipeline()


@pytest.fixture(scope="module")
def base_pipe_output(shared: StableDiffusionXLNullFacePipeline) -> torch.Tensor:
    return run(shared)


@pytest.fixture(scope="module")
def base_pipe_images(shared: StableDiffusionXLNullFacePipeline) -> torch.Tensor:
    return run(shared, output_type="pt")


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 5, "skip": 0.2, "mask_start": 0.5},
        {"steps": 10, "eta": 0.5, "mask": None},
        {"timesteps": list(FAST_TIMESTEPS)},
        {"timesteps": list(PREVIEW_TIMESTEPS), "solver_order": 2},
    ],
    ids=["a schedule", "less noise", "fast", "preview"],
)
def test_equals_the_sequential_method(shared, settings):
    settings = {"mask": latent_mask(shared), **settings}
    expected = reference_latents(shared, 2, SequentialNullFaceXL, **settings)
    if settings.pop("mask") is not None:
        settings["mask_image"] = make_mask()
    settings = {"num_inference_steps" if key == "steps" else key: value for key, value in settings.items()}
    actual = shared(make_images(2), make_embeds(2), generator=generators(2), output_type="latent", **settings).images
    assert_same_latents(actual, expected)


@pytest.mark.parametrize(
    ("settings", "evaluations"),
    [({"timesteps": FAST_TIMESTEPS}, 20), ({"timesteps": PREVIEW_TIMESTEPS}, 8)],
)
def test_unet_work(shared, settings, evaluations):
    with CountedUNet(shared.unet) as batches:
        shared(make_images(1), make_embeds(1), **settings)
    assert sum(batches) == evaluations


def test_a_batch_equals_each_image_alone(shared):
    images, embeds = make_images(3), make_embeds(3)
    masks = torch.cat([make_mask(), 1 - make_mask(), torch.ones_like(make_mask())])
    settings = {"num_inference_steps": 10, "mask_start": 0.0, "output_type": "latent", "identity_angle": 60.0}
    together = shared(images, embeds, mask_image=masks, generator=generators(3), **settings).images
    for i, generator in enumerate(generators(3)):
        each = slice(i, i + 1)
        alone = shared(images[each], embeds[each], mask_image=masks[each], generator=generator, **settings).images
        assert_same_latents(together[each], alone)


def test_both_predictions_are_told_the_same_text(shared):
    """Not zeros on one side, as Stable Diffusion XL's own pipelines do: guidance would amplify the
    difference.
    """
    seen = []

    def note(_, args, kwargs):
        seen.append({"text": kwargs["encoder_hidden_states"], **kwargs["added_cond_kwargs"]})

    hook = shared.unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        shared(make_images(2, size=48), make_embeds(2), num_inference_steps=10)
    finally:
        hook.remove()
    conditions = shared.prompt_conditions("", 48, 48)
    for call in seen:
        for rows, expected in (
            (call["text"], conditions["prompt_embeds"]),
            (call["text_embeds"], conditions["text_embeds"]),
            (call["time_ids"], torch.tensor([[48, 48, 0, 0, 48, 48]])),
        ):
            assert rows.any() and torch.equal(rows, expected.expand_as(rows))
    assert {call["text"].shape[0] for call in seen} == {2, 4}


def test_only_the_identity_is_conditioned_on_the_prompt(shared):
    check_that_only_the_identity_is_conditioned_on_the_prompt(shared)


def test_the_text_is_that_of_diffusers(shared):
    expected, _, pooled, _ = StableDiffusionXLPipeline(**shared.components, add_watermarker=False).encode_prompt(
        "a", do_classifier_free_guidance=False
    )
    conditions = shared.prompt_conditions("a", 8, 8)
    assert torch.equal(conditions["prompt_embeds"], expected) and torch.equal(conditions["text_embeds"], pooled)
    assert not torch.allclose(conditions["prompt_embeds"], shared.prompt_conditions("", 8, 8)["prompt_embeds"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("upcast", [True, False])
def test_the_vae_is_used_in_float32_where_it_overflows(dtype, upcast, base_pipe_images):
    pipe = make_xl_pipeline().to(dtype)
    pipe.vae.register_to_config(force_upcast=upcast)
    weights = {key: value.clone() for key, value in pipe.vae.state_dict().items()}
    seen = []
    for part in (pipe.vae.encoder, pipe.vae.decoder):
        part.register_forward_pre_hook(lambda module, args: seen.append((args[0].dtype, module.conv_in.weight.dtype)))
    images = run(pipe, output_type="pt")
    used = torch.float32 if upcast else dtype
    assert seen == [(used, used)] * 2
    assert torch.isfinite(images).all() and (images - base_pipe_images).abs().mean() < 0.05
    assert all(torch.equal(value, weights[key]) for key, value in pipe.vae.state_dict().items())
    assert pipe.vae.dtype == dtype


def test_the_vae_comes_back_after_an_error():
    pipe = make_xl_pipeline().to(torch.float16)

    def fail(*_):
        raise KeyboardInterrupt

    pipe.vae.decoder.register_forward_pre_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        run(pipe, output_type="pt")
    assert pipe.vae.dtype == torch.float16


# The published config of stable-diffusion-xl-base-1.0's UNet.
STABLE_DIFFUSION_XL_UNET = {
    "act_fn": "silu",
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "attention_head_dim": [5, 10, 20],
    "block_out_channels": [320, 640, 1280],
    "cross_attention_dim": 2048,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_type": "UNetMidBlock2DCrossAttn",
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "projection_class_embeddings_input_dim": 2816,
    "sample_size": 128,
    "transformer_layers_per_block": [1, 2, 10],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}


@pytest.mark.slow
def test_full_size_unet_takes_the_published_adapter():
    """ip-adapter-faceid_sdxl.bin by its published key names and shapes, on the meta device."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(STABLE_DIFFUSION_XL_UNET)
    assert len(unet.attn_processors) == 140
    adapter = make_adapter(unet, rank=128)
    shapes = {key: tuple(value.shape) for key, value in adapter["ip_adapter"].items()}
    assert len([key for key in shapes if "_ip." in key]) == 2 * 70
    assert len([key for key in shapes if "lora" in key]) == 8 * 140
    assert shapes["1.to_k_ip.weight"] == (640, 2048) and shapes["139.to_v_ip.weight"] == (1280, 2048)
    assert shapes["0.to_q_lora.down.weight"] == (128, 640) and shapes["139.to_k_lora.down.weight"] == (128, 2048)
    assert {key: tuple(value.shape) for key, value in adapter["image_proj"].items()} == {
        "proj.0.weight": (1024, 512),
        "proj.0.bias": (1024,),
        "proj.2.weight": (8192, 1024),
        "proj.2.bias": (8192,),
        "norm.weight": (2048,),
        "norm.bias": (2048,),
    }

    pipe = StableDiffusionXLNullFacePipeline(**{**make_xl_components(), "unet": unet})
    pipe.load_face_adapter(adapter)
    check_face_adapter(pipe.unet)
    layers = [module for module in unet.modules() if FACE_LORA_NAME in getattr(module, "lora_A", {})]
    assert len(layers) == 4 * 140, "to_q, to_k, to_v and to_out of 140 attention layers"
    conditions = {
        "prompt_embeds": torch.empty(1, 77, 2048, device="meta"),
        "text_embeds": torch.empty(1, 1280, device="meta"),
        "time_ids": torch.empty(1, 6, device="meta"),
    }
    latents = UNetDenoiser(unet, conditions)(
        torch.empty(2, 4, 128, 128, device="meta"),
        torch.empty(2, dtype=torch.int64, device="meta"),
        torch.empty(2, 512, device="meta"),
    )
    assert latents.shape == (2, 4, 128, 128)


# The contract, where it is not the shared code's own


def test_save_load_local(tmp_path, base_pipe_output):
    pipe = make_xl_pipeline()
    with pytest.raises(RuntimeError, match="unload_face_adapter"):
        pipe.save_pretrained(tmp_path)
    pipe.unload_face_adapter()
    pipe.save_pretrained(tmp_path)
    loaded = StableDiffusionXLNullFacePipeline.from_pretrained(tmp_path)
    assert_same_weights(StableDiffusionXLNullFacePipeline(**make_xl_components()), loaded)
    assert json.loads((tmp_path / "model_index.json").read_text())["force_zeros_for_empty_prompt"] is True
    assert torch.allclose(run(ready(loaded)), base_pipe_output, atol=1e-5)


def test_the_class_of_a_model(tmp_path):
    for each in (StableDiffusionNullFacePipeline(**make_components()), make_xl_pipeline()):
        each.unload_face_adapter()
        each.save_pretrained(tmp_path / type(each).__name__)
        assert pipeline_class(str(tmp_path / type(each).__name__)) is type(each)


def test_signature_is_that_of_stable_diffusion():
    for name in ("invert", "anonymize", "load_face_adapter"):
        assert getattr(StableDiffusionXLNullFacePipeline, name) is getattr(StableDiffusionNullFacePipeline, name)
    call, of_sd = StableDiffusionXLNullFacePipeline.__call__, StableDiffusionNullFacePipeline.__call__
    # Each has an example of its own in the documentation of one method.
    assert inspect.unwrap(call) is inspect.unwrap(of_sd) and inspect.signature(call) == inspect.signature(of_sd)
    assert 'custom_pipeline="nullface/nullface-xl"' in call.__doc__
    assert 'custom_pipeline="nullface/nullface"' in of_sd.__doc__


def test_components_function(shared):
    assert shared.components.keys() == make_xl_components().keys()
    assert shared._optional_components == []
    assert set(shared.model_cpu_offload_seq.split("->")) == models(shared).keys()


@pytest.mark.parametrize("zeros", [True, False])
def test_zeros_for_the_empty_prompt_are_without_effect(base_pipe_output, zeros):
    pipe = StableDiffusionXLNullFacePipeline(**make_xl_components(), force_zeros_for_empty_prompt=zeros)
    assert pipe.config.force_zeros_for_empty_prompt is zeros
    assert torch.equal(run(ready(pipe)), base_pipe_output)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_pipe_shares_components(dtype):
    original = StableDiffusionXLPipeline(**make_xl_components(), add_watermarker=False).to(dtype)
    pipe = StableDiffusionXLNullFacePipeline.from_pipe(original, **{DTYPE: dtype})
    for name in make_xl_components():
        assert getattr(pipe, name) is getattr(original, name)
    back = StableDiffusionXLPipeline.from_pipe(pipe, add_watermarker=False, **{DTYPE: dtype})
    for name, value in original.config.items():
        assert back.config[name] == value


@pytest.mark.parametrize("offload", OFFLOADS)
def test_cpu_offload_forward_pass_twice(base_pipe_output, offload):
    pipe = make_xl_pipeline()
    offload(pipe)
    for _ in range(2):
        assert torch.equal(run(pipe), base_pipe_output)


def test_unloading_leaves_the_unet_as_it_was():
    pipe = make_xl_pipeline()
    pipe.unload_face_adapter()
    for name, parameter in make_xl_components()["unet"].named_parameters():
        assert torch.equal(pipe.unet.get_parameter(name), parameter)


def test_a_distilled_lora_acts_beside_faceid(base_pipe_output):
    """In one of the layouts of test_face_adapter.py."""
    pipe = make_xl_pipeline()
    pipe.load_lora_weights(make_distilled_lora(make_xl_components()["unet"], "kohya"), adapter_name="fast")
    assert set(active_loras(pipe.unet)) == {"fast", FACE_LORA_NAME}
    assert relative_difference(run(pipe), base_pipe_output) > 1e-2
    pipe.delete_adapters("fast")
    assert torch.equal(run(pipe), base_pipe_output)


def test_a_lora_of_a_text_encoder_stays_active():
    pipe = StableDiffusionXLNullFacePipeline(**make_xl_components())
    layer = "text_model.encoder.layers.0.self_attn.q_proj"
    state_dict = make_distilled_lora(pipe.unet, "peft")
    for prefix in ("text_encoder", "text_encoder_2"):
        width = getattr(pipe, prefix).config.hidden_size
        state_dict[f"{prefix}.{layer}.lora_A.weight"] = torch.randn(2, width)
        state_dict[f"{prefix}.{layer}.lora_B.weight"] = torch.randn(width, 2)
    pipe.load_lora_weights(state_dict, adapter_name="own")
    pipe.load_face_adapter(make_adapter(make_xl_components()["unet"]))
    assert set(active_loras(pipe.unet)) == {"own", FACE_LORA_NAME}
    assert active_loras(pipe.text_encoder) == active_loras(pipe.text_encoder_2) == ["own"]
