"""Loading FaceID: both halves, beside other adapters, and gone without a trace."""

from typing import Any

import diffusers
import pytest
import safetensors.torch
import torch
from diffusers import UNet2DConditionModel

from nullface_pipeline import StableDiffusionNullFacePipeline, StableDiffusionXLNullFacePipeline, face_adapter
from nullface_pipeline.face_adapter import (
    FACE_LORA_NAME,
    activate_loras,
    active_loras,
    adapter_scale,
    check_face_adapter,
    embedding_size,
    has_face_lora,
)
from nullface_pipeline.unet_denoiser import UNetDenoiser

from .tiny_parts import (
    generators,
    make_adapter,
    make_components,
    make_embeds,
    make_images,
    make_pipeline,
    make_xl_components,
)


def make_user_lora(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """Another LoRA, on the queries of every attention layer."""
    generator = torch.Generator().manual_seed(3)
    state_dict = {}
    for name in (name.removesuffix(".processor") for name in unet.attn_processors):
        to_q = unet.get_submodule(f"{name}.to_q")
        state_dict[f"unet.{name}.to_q.lora_A.weight"] = torch.randn(2, to_q.in_features, generator=generator)
        state_dict[f"unet.{name}.to_q.lora_B.weight"] = torch.randn(to_q.out_features, 2, generator=generator)
    return state_dict


def run(pipe: Any) -> torch.Tensor:
    return pipe(
        make_images(1), make_embeds(1), num_inference_steps=10, generator=generators(1), output_type="latent"
    ).images


def lora_scale(unet: UNet2DConditionModel, adapter: str) -> float:
    return unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.scaling[adapter]


def test_both_halves_are_loaded():
    pipe = make_pipeline()
    check_face_adapter(pipe.unet)
    adapter = make_adapter(pipe.unet)["ip_adapter"]
    processors = list(pipe.unet.attn_processors.values())
    assert torch.equal(processors[1].to_k_ip[0].weight, adapter["1.to_k_ip.weight"])
    layer = pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q
    assert torch.equal(layer.lora_A[FACE_LORA_NAME].weight, adapter["0.to_q_lora.down.weight"])
    assert layer.scaling[FACE_LORA_NAME] == 1.0
    assert embedding_size(pipe.unet) == 512


@pytest.fixture(scope="module")
def output() -> torch.Tensor:
    """The result of `make_pipeline()`."""
    return run(make_pipeline())


@pytest.mark.parametrize("form", ["safetensors", "bin", "folder", "dict"])
def test_sources_of_an_adapter(form, tmp_path, output):
    components = make_components()
    adapter = make_adapter(components["unet"])
    source, settings = adapter, {}
    if form in ("safetensors", "folder"):
        source = tmp_path / "adapter.safetensors"
        flat = {f"{part}.{key}": value for part, tensors in adapter.items() for key, value in tensors.items()}
        safetensors.torch.save_file(flat, source)
        if form == "folder":
            source, settings = tmp_path, {"weight_name": "adapter.safetensors"}
    elif form == "bin":
        source = tmp_path / "ip-adapter-faceid_sd15.bin"
        torch.save(adapter, source)
    pipe = StableDiffusionNullFacePipeline(**components)
    pipe.load_face_adapter(source, **settings)
    pipe.set_progress_bar_config(disable=True)
    assert torch.allclose(run(pipe), output, atol=1e-5)


def test_the_lora_half_matters(output):
    pipe = make_pipeline()
    pipe.disable_lora()
    with pytest.raises(RuntimeError, match="LoRA"):
        run(pipe)
    activate_loras(pipe.unet, [])
    without = make_adapter(pipe.unet)
    without["ip_adapter"] = {key: value for key, value in without["ip_adapter"].items() if "lora" not in key}
    pipe.load_face_adapter(without)
    assert not has_face_lora(pipe.unet)
    assert (run(pipe) - output).abs().max() > 1e-3


def test_missing_peft_is_an_error(monkeypatch):
    monkeypatch.setattr(face_adapter, "is_peft_available", lambda: False)
    pipe = StableDiffusionNullFacePipeline(**make_components())
    with pytest.raises(RuntimeError, match="peft"):
        pipe.load_face_adapter(make_adapter(pipe.unet))


def test_own_loras_stay_active_whichever_is_loaded_first(output):
    results = []
    for own_first in (True, False):
        pipe = StableDiffusionNullFacePipeline(**make_components())
        pipe.set_progress_bar_config(disable=True)
        adapter, own = make_adapter(pipe.unet), make_user_lora(pipe.unet)
        if own_first:
            pipe.load_lora_weights(own, adapter_name="own")
            pipe.set_adapters(["own"], [0.5])
        pipe.load_face_adapter(adapter)
        if not own_first:
            pipe.load_lora_weights(own, adapter_name="own")
            pipe.set_adapters(["own", FACE_LORA_NAME], [0.5, 1.0])
        assert set(active_loras(pipe.unet)) == {"own", FACE_LORA_NAME}
        assert lora_scale(pipe.unet, "own") == 0.5
        assert lora_scale(pipe.unet, FACE_LORA_NAME) == 1.0
        results.append(run(pipe))
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)
    assert (results[0] - output).abs().max() > 1e-3


# How the LoRAs that make few steps suffice are published: Hyper-SD's and LCM's in kohya's names,
# TCD's in peft's; older ones in diffusers' own. Beside the attention they change its projections,
# convolutions and the time embedding.
DIFFUSERS = tuple(map(int, diffusers.__version__.split(".")[:2]))
LORA_LAYOUTS = {
    "kohya": ("lora_unet_{}.lora_down.weight", "lora_unet_{}.lora_up.weight"),
    "peft": ("unet.{}.lora_A.weight", "unet.{}.lora_B.weight"),
    "diffusers": ("unet.{}.lora.down.weight", "unet.{}.lora.up.weight"),
}


def make_distilled_lora(unet: UNet2DConditionModel, layout: str, scale: float = 0.05) -> dict[str, torch.Tensor]:
    generator, state_dict = torch.Generator().manual_seed(4), {}
    endings = ("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "conv1", "conv_shortcut", "linear_1")
    for name, module in unet.named_modules():
        if name.endswith(endings):
            inner = module.weight.shape[1:]
            down = scale * torch.randn(2, *inner, generator=generator)
            up = scale * torch.randn(module.weight.shape[0], 2, *[1 for _ in inner[1:]], generator=generator)
            key = name.replace(".", "_") if layout == "kohya" else name
            for template, weight in zip(LORA_LAYOUTS[layout], (down, up)):
                state_dict[template.format(key)] = weight
            if layout == "kohya":
                state_dict[f"lora_unet_{key}.alpha"] = torch.tensor(2.0)
    return state_dict


@pytest.fixture(scope="module")
def merged_output() -> torch.Tensor:
    """The result with the distilled LoRA merged into the weights of the UNet."""
    merged = StableDiffusionNullFacePipeline(**make_components())
    merged.set_progress_bar_config(disable=True)
    state_dict = make_distilled_lora(merged.unet, "peft")
    with torch.no_grad():
        for key in [key for key in state_dict if "lora_A" in key]:
            down, up = state_dict[key], state_dict[key.replace("lora_A", "lora_B")]
            module = merged.unet.get_submodule(key.removeprefix("unet.").removesuffix(".lora_A.weight"))
            module.weight += (up.flatten(1) @ down.flatten(1)).view_as(module.weight)
    merged.load_face_adapter(make_adapter(merged.unet))
    return run(merged)


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(
            "kohya", marks=pytest.mark.skipif(DIFFUSERS < (0, 39), reason="diffusers drops the time embedding")
        ),
        "peft",
        "diffusers",
    ],
)
def test_a_distilled_lora_acts_beside_faceid(layout, output, merged_output):
    pipe = make_pipeline()
    pipe.load_lora_weights(make_distilled_lora(make_components()["unet"], layout), adapter_name="fast")
    assert set(active_loras(pipe.unet)) == {"fast", FACE_LORA_NAME}
    assert lora_scale(pipe.unet, "fast") == lora_scale(pipe.unet, FACE_LORA_NAME) == 1.0
    layers = [module for module in pipe.unet.modules() if "fast" in getattr(module, "lora_A", {})]
    assert len(layers) == len(make_distilled_lora(make_components()["unet"], "peft")) / 2
    both = run(pipe)
    assert (both - output).abs().max() > 1e-3
    # Both act as either does: the weights add up.
    torch.testing.assert_close(both, merged_output, atol=1e-4, rtol=1e-4)

    pipe.delete_adapters("fast")
    assert torch.equal(run(pipe), output)


def test_fusing_both_loras_changes_nothing():
    pipe = make_pipeline()
    pipe.load_lora_weights(make_distilled_lora(make_components()["unet"], "kohya"), adapter_name="fast")
    expected = run(pipe)
    pipe.fuse_lora(adapter_names=["fast", FACE_LORA_NAME])
    torch.testing.assert_close(run(pipe), expected, atol=1e-4, rtol=1e-4)


def test_an_inactive_faceid_lora_is_an_error():
    pipe = make_pipeline()
    pipe.load_lora_weights(make_user_lora(make_components()["unet"]), adapter_name="own")
    assert set(active_loras(pipe.unet)) == {"own", FACE_LORA_NAME}
    pipe.set_adapters(["own"])
    with pytest.raises(RuntimeError, match="set_adapters"):
        run(pipe)


def test_loading_twice_equals_loading_once(output):
    pipe = make_pipeline()
    pipe.load_face_adapter(make_adapter(make_components()["unet"], scale=0.6))
    assert (run(pipe) - output).abs().max() > 1e-3
    pipe.load_face_adapter(make_adapter(make_components()["unet"]))
    assert torch.equal(run(pipe), output)


def test_half_an_adapter_is_never_left():
    """One LoRA tensor of a wrong shape: the attention half is loaded before it is noticed."""
    pipe = StableDiffusionNullFacePipeline(**make_components())
    adapter = make_adapter(pipe.unet)
    adapter["ip_adapter"]["3.to_q_lora.up.weight"] = torch.randn(5, 2)
    with pytest.raises(RuntimeError, match="size mismatch"):
        pipe.load_face_adapter(adapter)
    with pytest.raises(RuntimeError, match="load_face_adapter"):
        run(pipe)


def plus(unet: UNet2DConditionModel) -> dict[str, dict[str, torch.Tensor]]:
    """The projection of ip-adapter-faceid-plusv2 in the published key names, in other sizes."""
    width, inner = unet.config.cross_attention_dim, 64
    image_proj = {
        "proj.0.weight": torch.randn(2 * 512, 512),
        "proj.0.bias": torch.randn(2 * 512),
        "proj.2.weight": torch.randn(4 * width, 2 * 512),
        "proj.2.bias": torch.randn(4 * width),
        "norm.weight": torch.randn(width),
        "norm.bias": torch.randn(width),
        "perceiver_resampler.proj_in.weight": torch.randn(width, 24),
        "perceiver_resampler.proj_in.bias": torch.randn(width),
        "perceiver_resampler.proj_out.weight": torch.randn(width, width),
        "perceiver_resampler.proj_out.bias": torch.randn(width),
        "perceiver_resampler.norm_out.weight": torch.randn(width),
        "perceiver_resampler.norm_out.bias": torch.randn(width),
    }
    for layer in range(4):
        prefix = f"perceiver_resampler.layers.{layer}"
        for norm in ("0.norm1", "0.norm2", "1.0"):
            image_proj[f"{prefix}.{norm}.weight"] = torch.randn(width)
            image_proj[f"{prefix}.{norm}.bias"] = torch.randn(width)
        image_proj[f"{prefix}.0.to_q.weight"] = torch.randn(inner, width)
        image_proj[f"{prefix}.0.to_kv.weight"] = torch.randn(2 * inner, width)
        image_proj[f"{prefix}.0.to_out.weight"] = torch.randn(width, inner)
        image_proj[f"{prefix}.1.1.weight"] = torch.randn(4 * width, width)
        image_proj[f"{prefix}.1.3.weight"] = torch.randn(width, 4 * width)
    return {"image_proj": image_proj, "ip_adapter": make_adapter(unet)["ip_adapter"]}


def portrait(unet: UNet2DConditionModel) -> dict[str, dict[str, torch.Tensor]]:
    """ip-adapter-faceid-portrait: sixteen tokens, and no LoRA."""
    adapter, width = make_adapter(unet), unet.config.cross_attention_dim
    adapter["image_proj"]["proj.2.weight"] = torch.randn(16 * width, 2 * 512)
    adapter["image_proj"]["proj.2.bias"] = torch.randn(16 * width)
    adapter["ip_adapter"] = {key: value for key, value in adapter["ip_adapter"].items() if "lora" not in key}
    return adapter


def ordinary(unet: UNet2DConditionModel) -> dict[str, dict[str, torch.Tensor]]:
    """An IP-Adapter of pictures."""
    adapter, width = portrait(unet), unet.config.cross_attention_dim
    adapter["image_proj"] = {
        "proj.weight": torch.randn(4 * width, 24),
        "proj.bias": torch.randn(4 * width),
        "norm.weight": torch.randn(width),
        "norm.bias": torch.randn(width),
    }
    return adapter


@pytest.mark.parametrize("make", [plus, portrait, ordinary])
@pytest.mark.parametrize(("model", "file"), [("sd15", "faceid_sd15.bin"), ("sdxl", "faceid_sdxl.bin")])
def test_other_kinds_of_adapters_are_refused(make, model, file):
    if model == "sd15":
        pipe = StableDiffusionNullFacePipeline(**make_components())
    else:
        pipe = StableDiffusionXLNullFacePipeline(**make_xl_components())
    with pytest.raises(ValueError, match=file):
        pipe.load_face_adapter(make(pipe.unet))
    assert pipe.unet.encoder_hid_proj is None and not has_face_lora(pipe.unet)


def test_an_adapter_loaded_past_the_checks_is_refused():
    pipe = StableDiffusionNullFacePipeline(**make_components())
    pipe.load_ip_adapter(make_adapter(pipe.unet), subfolder=None, weight_name="", image_encoder_folder=None)
    with pytest.raises(RuntimeError, match="load_face_adapter"):
        run(pipe)


def test_a_fused_adapter_is_unloaded_without_a_trace():
    pipe = make_pipeline()
    pipe.fuse_lora()
    pipe.unload_face_adapter()
    for name, parameter in make_components()["unet"].named_parameters():
        torch.testing.assert_close(pipe.unet.get_parameter(name), parameter, atol=1e-5, rtol=0)


def test_unloading_leaves_the_unet_as_it_was():
    pipe = make_pipeline()
    pipe.unload_face_adapter()
    pipe.unload_face_adapter()
    original = make_components()["unet"]
    assert [(n, type(m)) for n, m in pipe.unet.named_modules()] == [(n, type(m)) for n, m in original.named_modules()]
    processors = pipe.unet.attn_processors.values()
    assert [type(p) for p in processors] == [type(p) for p in original.attn_processors.values()]
    for name, parameter in original.named_parameters():
        assert torch.equal(pipe.unet.get_parameter(name), parameter)


def test_unloading_keeps_other_loras():
    pipe = make_pipeline()
    pipe.load_lora_weights(make_user_lora(make_components()["unet"]), adapter_name="own")
    pipe.unload_face_adapter()
    assert active_loras(pipe.unet) == ["own"]
    assert not has_face_lora(pipe.unet)


def test_saving_is_refused_until_the_adapter_is_unloaded(tmp_path):
    pipe = make_pipeline()
    with pytest.raises(RuntimeError, match="unload_face_adapter"):
        pipe.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    pipe.unload_face_adapter()
    pipe.save_pretrained(tmp_path / "model")
    reloaded = StableDiffusionNullFacePipeline.from_pretrained(tmp_path / "model")
    for name, parameter in make_components()["unet"].named_parameters():
        assert torch.equal(reloaded.unet.get_parameter(name), parameter)


def test_scale_is_restored_after_an_exception():
    unet = make_pipeline().unet
    scales = [getattr(processor, "scale", None) for processor in unet.attn_processors.values()]
    with pytest.raises(KeyboardInterrupt), adapter_scale(unet, 0.3):
        assert list(unet.attn_processors.values())[1].scale == [0.3]
        raise KeyboardInterrupt
    assert [getattr(processor, "scale", None) for processor in unet.attn_processors.values()] == scales


# The published config of stable-diffusion-v1-5's UNet.
STABLE_DIFFUSION_UNET = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
}


def test_full_size_unet_takes_the_published_adapter():
    """ip-adapter-faceid_sd15.bin by its published key names and shapes, on the meta device: no
    weights are needed.
    """
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(STABLE_DIFFUSION_UNET)
    adapter = make_adapter(unet, rank=128)
    shapes = {key: tuple(value.shape) for key, value in adapter["ip_adapter"].items()}
    assert len([key for key in shapes if "_ip." in key]) == 32
    assert len([key for key in shapes if "lora" in key]) == 256
    assert shapes["1.to_k_ip.weight"] == (320, 768) and shapes["31.to_v_ip.weight"] == (1280, 768)
    assert shapes["0.to_q_lora.down.weight"] == (128, 320) and shapes["31.to_k_lora.down.weight"] == (128, 768)
    assert {key: tuple(value.shape) for key, value in adapter["image_proj"].items()} == {
        "proj.0.weight": (1024, 512),
        "proj.0.bias": (1024,),
        "proj.2.weight": (3072, 1024),
        "proj.2.bias": (3072,),
        "norm.weight": (768,),
        "norm.bias": (768,),
    }

    pipe = StableDiffusionNullFacePipeline(**{**make_components(), "unet": unet})
    pipe.load_face_adapter(adapter)
    check_face_adapter(pipe.unet)
    layers = [module for module in unet.modules() if FACE_LORA_NAME in getattr(module, "lora_A", {})]
    assert len(layers) == 128, "to_q, to_k, to_v and to_out of 32 attention layers"
    latents = UNetDenoiser(unet, {"prompt_embeds": torch.empty(1, 77, 768, device="meta")})(
        torch.empty(2, 4, 64, 64, device="meta"),
        torch.empty(2, dtype=torch.int64, device="meta"),
        torch.empty(2, 512, device="meta"),
    )
    assert latents.shape == (2, 4, 64, 64)
