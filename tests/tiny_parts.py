"""Tiny random parts in the published layouts: the same classes, key names and ranks as the real
weights, other sizes.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, PNDMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from nullface_pipeline import StableDiffusionNullFacePipeline, StableDiffusionXLNullFacePipeline


CROSS_ATTENTION_DIM = 16
EMBEDDING_SIZE = 512
IMAGE_SIZE = 32


def make_unet(sample_size: int = 16, in_channels: int = 4, **config: Any) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=in_channels,
        out_channels=4,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=CROSS_ATTENTION_DIM,
        attention_head_dim=2,
        norm_num_groups=4,
        **config,
    ).eval()


def make_vae(block_out_channels: tuple[int, ...] = (4, 8)) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=block_out_channels,
        down_block_types=("DownEncoderBlock2D",) * len(block_out_channels),
        up_block_types=("UpDecoderBlock2D",) * len(block_out_channels),
        norm_num_groups=4,
        sample_size=IMAGE_SIZE,
    ).eval()


def text_config(**config: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=3,
        intermediate_size=16,
        num_attention_heads=2,
        max_position_embeddings=8,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        **config,
    )


def make_text_encoder() -> CLIPTextModel:
    torch.manual_seed(0)
    return CLIPTextModel(text_config(hidden_size=CROSS_ATTENTION_DIM, num_hidden_layers=1)).eval()


def make_tokenizer() -> CLIPTokenizer:
    """Made from files, which transformers 4 requires."""
    with tempfile.TemporaryDirectory() as folder:
        vocab, merges = Path(folder, "vocab.json"), Path(folder, "merges.txt")
        vocab.write_text(json.dumps({"<|startoftext|>": 0, "<|endoftext|>": 1, "a</w>": 2}))
        merges.write_text("#version: 0.2\n")
        return CLIPTokenizer(str(vocab), str(merges), model_max_length=8)


def make_scheduler() -> PNDMScheduler:
    """Stable Diffusion 1.5's own scheduler, as its repository ships it."""
    return PNDMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        skip_prk_steps=True,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def make_components() -> dict[str, Any]:
    return {
        "vae": make_vae(),
        "text_encoder": make_text_encoder(),
        "tokenizer": make_tokenizer(),
        "unet": make_unet(),
        "scheduler": make_scheduler(),
    }


def make_xl_scheduler() -> EulerDiscreteScheduler:
    """Stable Diffusion XL's own scheduler, as its repository ships it."""
    return EulerDiscreteScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        timestep_spacing="leading",
        steps_offset=1,
    )


def make_xl_components() -> dict[str, Any]:
    """Two text encoders of different widths, and a UNet that wants the pooled text and the
    picture's size besides.
    """
    torch.manual_seed(1)
    text_encoder = CLIPTextModel(text_config(hidden_size=4, num_hidden_layers=2)).eval()
    text_encoder_2 = CLIPTextModelWithProjection(
        text_config(hidden_size=CROSS_ATTENTION_DIM - 4, num_hidden_layers=2, projection_dim=6, hidden_act="gelu")
    ).eval()
    unet = make_unet(
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 6,
        transformer_layers_per_block=(2, 1),
        use_linear_projection=True,
    )
    return {
        "vae": make_vae(),
        "text_encoder": text_encoder,
        "text_encoder_2": text_encoder_2,
        "tokenizer": make_tokenizer(),
        "tokenizer_2": make_tokenizer(),
        "unet": unet,
        "scheduler": make_xl_scheduler(),
    }


def attention_sizes(unet: UNet2DConditionModel) -> list[tuple[int, int]]:
    """(query width, key width) of each attention layer in the order in which IP-Adapter files
    number them.
    """
    modules = dict(unet.named_modules())
    layers = [modules[name.removesuffix(".processor")] for name in unet.attn_processors]
    return [(layer.to_q.in_features, layer.to_k.in_features) for layer in layers]


def make_adapter(unet: UNet2DConditionModel, rank: int = 2, scale: float = 0.3) -> dict[str, dict[str, torch.Tensor]]:
    """A state dict with the key names of the published FaceID files for this UNet, meta tensors on
    a meta UNet.
    """
    generator = torch.Generator().manual_seed(1)
    device = unet.device

    def randn(*shape: int) -> torch.Tensor:
        if device.type == "meta":
            return torch.empty(shape, device=device)
        return scale * torch.randn(shape, generator=generator)

    width = unet.config.cross_attention_dim
    image_proj = {
        "proj.0.weight": randn(2 * EMBEDDING_SIZE, EMBEDDING_SIZE),
        "proj.0.bias": randn(2 * EMBEDDING_SIZE),
        "proj.2.weight": randn(4 * width, 2 * EMBEDDING_SIZE),
        "proj.2.bias": randn(4 * width),
        "norm.weight": 1.0 + randn(width),
        "norm.bias": randn(width),
    }
    ip_adapter = {}
    for index, (queries, keys) in enumerate(attention_sizes(unet)):
        if index % 2 == 1:
            ip_adapter[f"{index}.to_k_ip.weight"] = randn(queries, width)
            ip_adapter[f"{index}.to_v_ip.weight"] = randn(queries, width)
        for name, inputs in (("q", queries), ("k", keys), ("v", keys), ("out", queries)):
            ip_adapter[f"{index}.to_{name}_lora.down.weight"] = randn(rank, inputs)
            ip_adapter[f"{index}.to_{name}_lora.up.weight"] = randn(queries, rank)
    return {"image_proj": image_proj, "ip_adapter": ip_adapter}


def make_pipeline() -> StableDiffusionNullFacePipeline:
    """A pipeline of random parts with the FaceID adapter loaded."""
    pipe = StableDiffusionNullFacePipeline(**make_components())
    pipe.set_progress_bar_config(disable=True)
    pipe.load_face_adapter(make_adapter(pipe.unet))
    return pipe


def make_xl_pipeline() -> StableDiffusionXLNullFacePipeline:
    """The same of Stable Diffusion XL's parts."""
    pipe = StableDiffusionXLNullFacePipeline(**make_xl_components())
    pipe.set_progress_bar_config(disable=True)
    pipe.load_face_adapter(make_adapter(pipe.unet))
    return pipe


def make_images(count: int, size: int = IMAGE_SIZE, seed: int = 0) -> torch.Tensor:
    """(count, 3, size, size) in [0, 1]."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def make_embeds(count: int, seed: int = 0) -> torch.Tensor:
    """(count, 512), unit norm."""
    embeds = torch.randn(count, EMBEDDING_SIZE, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(embeds, dim=-1)


def make_mask(size: int = IMAGE_SIZE) -> torch.Tensor:
    """(1, 1, size, size): the left half changes."""
    mask = torch.zeros(1, 1, size, size)
    mask[..., : size // 2] = 1.0
    return mask


def generators(count: int, first_seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first_seed + index) for index in range(count)]
