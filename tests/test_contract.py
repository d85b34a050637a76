"""The contract of a diffusers pipeline, under the test names of diffusers' own mixins
(test_diffusers_mixins.py).

What the tests of the method, the adapter and loading show is not repeated; test_gpu.py has what
needs a GPU.
"""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline
from peft import LoraConfig

from nullface_pipeline import NullFacePipelineOutput, StableDiffusionNullFacePipeline
from nullface_pipeline.model_sets import DTYPE

from .tiny_parts import (
    generators,
    make_adapter,
    make_components,
    make_embeds,
    make_images,
    make_mask,
    make_pipeline,
)


def run(pipe: Any, count: int = 1, **settings: Any) -> torch.Tensor:
    settings = {"num_inference_steps": 10, "output_type": "latent", **settings}
    return pipe(
        make_images(count), make_embeds(count), mask_image=make_mask(), generator=generators(count), **settings
    ).images


def ready(pipe: Any) -> Any:
    pipe.set_progress_bar_config(disable=True)
    pipe.load_face_adapter(make_adapter(pipe.unet))
    return pipe


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def models(pipe: Any) -> dict[str, torch.nn.Module]:
    return {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}


def assert_same_weights(pipe: Any, other: Any) -> None:
    for name, model in models(pipe).items():
        expected, actual = model.state_dict(), models(other)[name].state_dict()
        assert actual.keys() == expected.keys()
        assert all(torch.equal(actual[key], expected[key]) for key in expected)


@pytest.fixture(scope="module")
def base_pipe_output(shared_pipe: StableDiffusionNullFacePipeline) -> torch.Tensor:
    return run(shared_pipe)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    StableDiffusionNullFacePipeline(**make_components()).save_pretrained(folder)
    return folder


# Saving and loading


def test_save_load_local(tmp_path, base_pipe_output):
    pipe = make_pipeline()
    pipe.unload_face_adapter()
    pipe.save_pretrained(tmp_path)
    loaded = StableDiffusionNullFacePipeline.from_pretrained(tmp_path)
    assert type(loaded) is StableDiffusionNullFacePipeline
    assert {name for name in pipe.load_config(tmp_path) if not name.startswith("_")} == {*pipe.components, "presets"}
    assert_same_weights(StableDiffusionNullFacePipeline(**make_components()), loaded)
    # Not bit by bit: weights read from a file lie elsewhere in memory, and some processors then add
    # up in another order.
    assert torch.allclose(run(ready(loaded)), base_pipe_output, atol=1e-5)


def test_save_pretrained_refuses_any_lora(tmp_path):
    pipe = StableDiffusionNullFacePipeline(**make_components())
    pipe.unet.add_adapter(LoraConfig(target_modules=["to_q"]), "style")
    with pytest.raises(RuntimeError, match="unload_lora_weights"):
        pipe.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "saved")
    assert_same_weights(pipe, StableDiffusionNullFacePipeline.from_pretrained(tmp_path / "saved"))


def test_loading_with_variants(tmp_path):
    pipe = StableDiffusionNullFacePipeline(**make_components())
    pipe.save_pretrained(tmp_path, variant="fp16")
    for name in models(pipe):
        assert all(".fp16." in file.name for file in (tmp_path / name).glob("*.safetensors"))
    assert_same_weights(pipe, StableDiffusionNullFacePipeline.from_pretrained(tmp_path, variant="fp16"))
    with pytest.raises(ValueError, match="variant=bf16"):
        StableDiffusionNullFacePipeline.from_pretrained(tmp_path, variant="bf16")


@pytest.mark.parametrize(
    "dtypes",
    [
        pytest.param({"default": torch.float16}, id="float16"),
        pytest.param({"unet": torch.bfloat16, "default": torch.float32}, id="mixed"),
    ],
)
def test_torch_dtype_dict(saved, base_pipe_output, dtypes):
    """The adapter follows the UNet's dtype, and parts of different dtypes work together."""
    pipe = ready(StableDiffusionNullFacePipeline.from_pretrained(saved, **{DTYPE: dtypes}))
    for name, model in models(pipe).items():
        assert {parameter.dtype for parameter in model.parameters()} == {dtypes.get(name, dtypes["default"])}
    assert relative_difference(run(pipe), base_pipe_output) < 0.1


# Signature and components


def test_pipeline_call_signature():
    parameters = dict(inspect.signature(StableDiffusionNullFacePipeline.__call__).parameters)
    del parameters["self"]
    assert [name for name, parameter in parameters.items() if parameter.default is parameter.empty] == ["image"]
    assert {"num_inference_steps", "guidance_scale", "generator", "output_type", "return_dict"} <= parameters.keys()
    documentation = StableDiffusionNullFacePipeline.__call__.__doc__
    assert ">>> pipe = DiffusionPipeline.from_pretrained(" in documentation
    assert [name for name in parameters if f"    {name} (" not in documentation] == []


def test_invert_has_the_defaults_of_a_call():
    of_call = inspect.signature(StableDiffusionNullFacePipeline.__call__).parameters
    for name, parameter in inspect.signature(StableDiffusionNullFacePipeline.invert).parameters.items():
        if name != "fresh_noise":  # not of the paper's method
            assert parameter.default == of_call[name].default


def test_components_function(base_pipe_output):
    pipe = make_pipeline()
    assert pipe.components.keys() == make_components().keys()
    assert pipe._optional_components == []
    # The adapter lives in the UNet, so a pipeline of the same parts needs no other.
    twin = StableDiffusionNullFacePipeline(**pipe.components)
    twin.set_progress_bar_config(disable=True)
    assert torch.equal(run(twin), base_pipe_output)


def test_face_models_are_not_components(tmp_path):
    pipe = StableDiffusionNullFacePipeline(**make_components())
    pipe.load_face_models(face_analyser=object(), face_parser=None)
    assert pipe.components.keys() == make_components().keys()
    pipe.save_pretrained(tmp_path)
    assert StableDiffusionNullFacePipeline.from_pretrained(tmp_path).face_analyser is None


def test_every_model_has_its_turn_in_offloading(shared_pipe):
    assert set(shared_pipe.model_cpu_offload_seq.split("->")) == models(shared_pipe).keys()


def test_dict_tuple_outputs_equivalent(shared_pipe, base_pipe_output):
    call = {"identity_embeds": make_embeds(1), "mask_image": make_mask(), "num_inference_steps": 10}
    call["output_type"] = "latent"
    output = shared_pipe(make_images(1), generator=generators(1), **call)
    assert isinstance(output, NullFacePipelineOutput)
    as_tuple = shared_pipe(make_images(1), generator=generators(1), return_dict=False, **call)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == 1
    for images in (output[0], output.images, output["images"], as_tuple[0]):
        assert torch.equal(images, base_pipe_output)


def test_inference_batch_consistent(shared_pipe):
    """One generator for a batch gives each image noise of its own."""
    first, second = shared_pipe(
        make_images(1).repeat(2, 1, 1, 1),
        make_embeds(1).repeat(2, 1),
        num_inference_steps=10,
        generator=torch.Generator().manual_seed(0),
        output_type="latent",
    ).images
    assert relative_difference(first, second) > 1e-2


# Callbacks


def test_callback_inputs(shared_pipe, base_pipe_output):
    """A callback may replace the identity; the one that the caller passed in stays as it was."""

    def forget_identity(pipe, step, timestep, tensors):
        return {"identity_embeds": torch.zeros_like(tensors["identity_embeds"])}

    embeds = make_embeds(1)
    latents = shared_pipe(
        make_images(1),
        embeds,
        mask_image=make_mask(),
        num_inference_steps=10,
        generator=generators(1),
        output_type="latent",
        callback_on_step_end=forget_identity,
        callback_on_step_end_tensor_inputs=["identity_embeds"],
    ).images
    assert relative_difference(latents, base_pipe_output) > 1e-2
    assert torch.equal(embeds, make_embeds(1))


def test_callback_cfg(shared_pipe):
    def increase_guidance(pipe, step, timestep, tensors):
        pipe._guidance_scale += 1.0
        return tensors

    run(shared_pipe, guidance_scale=2.0, callback_on_step_end=increase_guidance)
    assert shared_pipe.guidance_scale == 2.0 + shared_pipe.num_timesteps


def test_callback_cfg_changes_the_result(shared_pipe, base_pipe_output):
    def stop_guidance(pipe, step, timestep, tensors):
        pipe._guidance_scale = 0.0
        return tensors

    assert relative_difference(run(shared_pipe, callback_on_step_end=stop_guidance), base_pipe_output) > 1e-2


def test_interrupt(shared_pipe, base_pipe_output):
    seen = []

    def interrupt(pipe, step, timestep, tensors):
        seen.append(tensors["latents"])
        pipe._interrupt = step == 1
        return tensors

    latents = run(shared_pipe, callback_on_step_end=interrupt)
    assert len(seen) == 2 < shared_pipe.num_timesteps
    assert torch.equal(latents, seen[-1])
    assert torch.equal(run(shared_pipe), base_pipe_output), "the next call must not be interrupted"


# Devices and memory


def test_to_dtype():
    pipe = make_pipeline()
    for dtype in (torch.float16, torch.float32):
        pipe.to(dtype=dtype)
        assert pipe.dtype == dtype
        for model in models(pipe).values():
            assert {parameter.dtype for parameter in model.parameters()} == {dtype}


# Given its device, offloading runs on a CPU as well; only accelerate's sequential kind cannot.


def model_offload(pipe: StableDiffusionNullFacePipeline) -> None:
    pipe.enable_model_cpu_offload(device="cpu")


def group_offload(pipe: StableDiffusionNullFacePipeline) -> None:
    pipe.enable_group_offload(onload_device="cpu", offload_device="cpu", offload_type="leaf_level")


def block_offload(pipe: StableDiffusionNullFacePipeline) -> None:
    pipe.unet.enable_group_offload(torch.device("cpu"), offload_type="block_level", num_blocks_per_group=1)


# A pipeline offers group offload since diffusers 0.36; its models did before.
OFFLOADS = [model_offload, block_offload]
if hasattr(DiffusionPipeline, "enable_group_offload"):
    OFFLOADS.append(group_offload)


@pytest.mark.parametrize("offload", OFFLOADS)
def test_cpu_offload_forward_pass_twice(base_pipe_output, offload):
    pipe = make_pipeline()
    offload(pipe)
    for _ in range(2):
        assert torch.equal(run(pipe), base_pipe_output)
    inversion = pipe.invert(make_images(1), num_inference_steps=10, generator=generators(1))
    assert torch.equal(run(pipe, inversion=inversion), base_pipe_output)


def test_layerwise_casting_inference():
    pipe = make_pipeline().to(torch.bfloat16)
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    assert torch.isfinite(run(pipe)).all()
    assert torch.float8_e4m3fn in {parameter.dtype for parameter in pipe.unet.parameters()}


@pytest.mark.parametrize(("method", "tolerance"), [("enable_slicing", 1e-4), ("enable_tiling", 0.2)])
def test_vae_slicing_and_tiling(method, tolerance):
    """Tiles overlap and blend, so that their result is only similar."""
    pipe = make_pipeline()
    call = {"identity_embeds": make_embeds(2), "num_inference_steps": 10, "output_type": "pt"}
    images = make_images(2, size=64)
    whole = pipe(images, generator=generators(2), **call).images
    getattr(pipe.vae, method)()
    assert relative_difference(pipe(images, generator=generators(2), **call).images, whole) < tolerance


def test_freeu(base_pipe_output):
    pipe = make_pipeline()
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    assert relative_difference(run(pipe), base_pipe_output) > 1e-2
    pipe.disable_freeu()
    assert torch.equal(run(pipe), base_pipe_output)


@pytest.mark.parametrize("method", ["fuse_qkv_projections", "enable_attention_slicing"])
def test_methods_that_remove_the_adapter(method):
    pipe = make_pipeline()
    getattr(pipe, method)()
    with pytest.raises(RuntimeError, match="attention processors"):
        run(pipe)


def test_unload_lora_weights():
    pipe = make_pipeline()
    pipe.unload_lora_weights()
    with pytest.raises(RuntimeError, match="LoRA"):
        run(pipe)


# Sharing parts with other pipelines


def make_stable_diffusion() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline(
        **make_components(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def text_to_image(pipe: StableDiffusionPipeline) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return pipe("a", num_inference_steps=2, generator=generator, output_type="latent").images


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_pipe_shares_components(dtype):
    original = make_stable_diffusion().to(dtype)
    pipe = StableDiffusionNullFacePipeline.from_pipe(original, **{DTYPE: dtype})
    for name in make_components():
        assert getattr(pipe, name) is getattr(original, name)
    assert {model.dtype for model in models(pipe).values()} == {dtype}
    assert pipe.vae_scale_factor == original.vae_scale_factor


def test_from_pipe_keeps_the_face_models():
    first = StableDiffusionNullFacePipeline(**make_components())
    first.face_analyser, first.face_parser = object(), object()
    second = StableDiffusionNullFacePipeline.from_pipe(first)
    assert second.face_analyser is first.face_analyser and second.face_parser is first.face_parser
    assert StableDiffusionNullFacePipeline.from_pipe(make_stable_diffusion()).face_analyser is None


def test_from_pipe_consistent_config():
    original = make_stable_diffusion()
    pipe = StableDiffusionNullFacePipeline.from_pipe(original)
    back = StableDiffusionPipeline.from_pipe(pipe, safety_checker=None, feature_extractor=None)
    for name, value in original.config.items():
        assert back.config[name] == value


def test_from_pipe_consistent_forward_pass(base_pipe_output):
    """The result is that of a pipeline made by itself, and the original pipeline is as before once
    FaceID is gone.
    """
    original = make_stable_diffusion()
    before = text_to_image(original)
    pipe = ready(StableDiffusionNullFacePipeline.from_pipe(original))
    assert torch.equal(run(pipe), base_pipe_output)
    pipe.unload_face_adapter()
    assert torch.equal(text_to_image(original), before)
    assert_same_weights(make_stable_diffusion(), original)
