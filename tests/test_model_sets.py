"""How model sets are loaded: in which dtype, and compiled."""

from typing import Any

import PIL.Image
import pytest
import torch
from diffusers import UNet2DConditionModel
from skimage import data

from nullface_pipeline import StableDiffusionNullFacePipeline, model_sets
from nullface_pipeline.face_adapter import is_fused
from nullface_pipeline.model_sets import compile_unet, default_dtype, load_model_set
from nullface_pipeline.photo_options import PRESETS
from nullface_pipeline.unet_denoiser import (
    MAX_INVERSION_BATCH_SIZE,
    WORKING_VALUES,
    default_inversion_batch_size,
    inversion_batch_for_memory,
)

from .tiny_parts import generators, make_adapter, make_components, make_embeds, make_images, make_pipeline


@pytest.mark.parametrize(
    "instructions, dtype",
    [
        ({}, torch.float32),
        ({"amx_bf16": False, "avx512_bf16": False}, torch.float32),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": True}, torch.bfloat16),
    ],
)
def test_bfloat16_where_the_processor_multiplies_it(monkeypatch, instructions, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions, raising=False)
    assert default_dtype("sd15", "cpu") == default_dtype("sdxl", "cpu") == dtype
    assert default_dtype("tiny", "cpu") == torch.float32
    assert default_dtype("tiny", "cuda") == default_dtype("sd15", "cuda") == torch.float16


def test_on_a_cpu_only_the_unet_and_the_text_are_bfloat16(monkeypatch, tmp_path):
    StableDiffusionNullFacePipeline(**make_components()).save_pretrained(tmp_path)
    for name in ("load_face_adapter", "load_face_models"):
        monkeypatch.setattr(StableDiffusionNullFacePipeline, name, lambda self, *args, **settings: None)
    monkeypatch.setattr(model_sets, "fetch_missing", lambda name: None)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True}, raising=False)
    pipe = load_model_set(str(tmp_path), device="cpu")
    assert pipe.unet.dtype == pipe.text_encoder.dtype == torch.bfloat16
    assert pipe.vae.dtype == torch.float32

    pipe.load_ip_adapter(make_adapter(pipe.unet), subfolder=None, weight_name="", image_encoder_folder=None)
    pipe.unet.encoder_hid_proj.has_lora_half = True
    image = make_images(1)
    result = pipe(image, make_embeds(1), num_inference_steps=10, generator=generators(1), output_type="pt").images
    assert result.dtype == torch.float32 and torch.isfinite(result).all()


def test_a_compiled_unet_has_the_lora_fused_for_good(monkeypatch):
    pipe, fused = make_pipeline(), []
    expected = run(pipe)
    monkeypatch.setattr(UNet2DConditionModel, "compile", lambda unet: fused.append(is_fused(unet)))
    compile_unet(pipe)
    assert fused == [True]
    torch.testing.assert_close(run(pipe), expected, atol=1e-4, rtol=1e-4)
    assert is_fused(pipe.unet)


@pytest.mark.parametrize("compiles", [False, True])
def test_compiling_is_opt_in(monkeypatch, compiles):
    compiled = []
    monkeypatch.setattr(model_sets, "load_nullface_tiny", lambda *arguments: make_pipeline())
    monkeypatch.setattr(model_sets, "compile_unet", compiled.append)
    load_model_set("tiny", compile=compiles)
    assert len(compiled) == compiles


def run(pipe: Any) -> torch.Tensor:
    return pipe(
        make_images(1), make_embeds(1), num_inference_steps=10, generator=generators(1), output_type="latent"
    ).images


def test_the_inversion_batch_follows_the_free_memory(monkeypatch):
    gigabyte, unet = 10**9, make_pipeline().unet
    assert inversion_batch_for_memory(24 * gigabyte, gigabyte // 5) == 60
    assert inversion_batch_for_memory(80 * gigabyte, gigabyte // 5) == MAX_INVERSION_BATCH_SIZE
    assert inversion_batch_for_memory(gigabyte // 10, gigabyte // 5) == 1
    assert default_inversion_batch_size(unet, torch.device("cpu"), (64, 64)) == 4

    sample_bytes = WORKING_VALUES * 8 * 64 * 64 * 4  # 8 channels, float32
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (15 * sample_bytes, 0))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 7 * sample_bytes)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 2 * sample_bytes)
    assert default_inversion_batch_size(unet, torch.device("cuda"), (64, 64)) == 10


def test_presets_come_with_the_model(tmp_path):
    presets = {"standard": {"num_inference_steps": 20, "skip": 0.5, "guidance_scale": 2.0}}
    assert StableDiffusionNullFacePipeline(**make_components()).presets == PRESETS
    StableDiffusionNullFacePipeline(**make_components(), presets=presets).save_pretrained(tmp_path)
    reloaded = StableDiffusionNullFacePipeline.from_pretrained(tmp_path)
    assert reloaded.presets == presets
    assert StableDiffusionNullFacePipeline.from_pipe(reloaded).presets == presets


@pytest.mark.parametrize("preset, kept_steps", [("standard", 4), ("strong", 4), ("fast", 4), ("preview", 3)])
def test_nullface_tiny_uses_its_own_presets(pipe, monkeypatch, preset, kept_steps):
    """Stable Diffusion's numbers take 30 steps here, and make another face."""
    calls: list[int] = []

    def predict_nothing(sample, *_, **__):
        calls.append(len(sample))
        return (torch.zeros_like(sample),)

    monkeypatch.setattr(pipe.unet, "forward", predict_nothing)
    pipe.anonymize(PIL.Image.fromarray(data.astronaut()), preset=preset, identity="opposite", seed=0, max_attempts=1)
    assert sum(calls) == 3 * kept_steps - 1
