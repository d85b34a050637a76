"""The FaceID adapter inside the UNet: is it there, how strongly does it act, and one identity for each sample.

FaceID attends to identity tokens beside the text tokens (decoupled cross-attention, Eq. 2) and has a second half, a LoRA
on every attention layer. Loading both is diffusers' work (`load_ip_adapter`); what diffusers leaves to chance is here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import (
    IPAdapterAttnProcessor,
    IPAdapterAttnProcessor2_0,
    IPAdapterXFormersAttnProcessor,
)
from diffusers.models.embeddings import IPAdapterFaceIDImageProjection, MultiIPAdapterImageProjection


# The name under which `load_ip_adapter` registers the LoRA half of the first adapter.
FACE_LORA_NAME = "faceid_0"

IP_ADAPTER_PROCESSORS = (IPAdapterAttnProcessor, IPAdapterAttnProcessor2_0, IPAdapterXFormersAttnProcessor)


def check_face_adapter(unet: UNet2DConditionModel) -> None:
    """Raise unless exactly one complete and active FaceID adapter is loaded.

    Raises:
        RuntimeError: with the remedy, if the adapter is missing, of another kind, or one of its halves is off.
    """
    projection = getattr(unet, "encoder_hid_proj", None)
    if not isinstance(projection, MultiIPAdapterImageProjection):
        raise RuntimeError("No FaceID adapter is loaded. Call `pipe.load_face_adapter()` first.")
    layers = projection.image_projection_layers
    if len(layers) != 1 or not isinstance(layers[0], IPAdapterFaceIDImageProjection):
        raise RuntimeError(
            "The loaded IP-Adapter is not a single FaceID adapter. Call `pipe.unload_ip_adapter()` and then "
            "`pipe.load_face_adapter()`."
        )
    if not any(isinstance(processor, IP_ADAPTER_PROCESSORS) for processor in unet.attn_processors.values()):
        raise RuntimeError(
            "The UNet's attention processors were replaced after the FaceID adapter was loaded, which removed it. "
            "Call `pipe.load_face_adapter()` again, and do not use fused projections or attention slicing."
        )
    if not hasattr(projection, "has_lora_half"):
        raise RuntimeError(
            "The FaceID adapter was not loaded completely. Call `pipe.load_face_adapter()`, which loads both its "
            "halves or none."
        )
    if projection.has_lora_half and not has_face_lora(unet):
        raise RuntimeError(
            "The LoRA half of the FaceID adapter was unloaded. Call `pipe.load_face_adapter()` again; to remove only "
            "your own LoRAs, call `pipe.delete_adapters(...)` with their names."
        )
    if has_face_lora(unet) and FACE_LORA_NAME not in active_loras(unet):
        raise RuntimeError(
            f"The LoRA half of the FaceID adapter is not active. Name it beside your own adapters: "
            f"`pipe.set_adapters([..., {FACE_LORA_NAME!r}])`."
        )


def has_face_lora(unet: UNet2DConditionModel) -> bool:
    """Whether the LoRA half of a FaceID adapter is attached to the UNet, active or not."""
    return FACE_LORA_NAME in getattr(unet, "peft_config", {})


def is_fused(model: torch.nn.Module) -> bool:
    """Whether LoRA adapters are merged into a model's weights."""
    return any(layer.merged for layer in _lora_layers(model))


def active_loras(model: torch.nn.Module) -> list[str]:
    """Names of the LoRA adapters that act in a model."""
    for layer in _lora_layers(model):
        return [] if layer.disable_adapters else list(layer.active_adapters)
    return []


def activate_loras(model: torch.nn.Module, names: list[str]) -> None:
    """Let exactly these LoRA adapters act in a model; unlike `set_adapters`, their weights stay as they are."""
    for layer in _lora_layers(model):
        layer.set_adapter(names)


def embedding_size(unet: UNet2DConditionModel) -> int:
    """Length of the identity embeddings that the loaded adapter takes: 512 for ArcFace."""
    return unet.encoder_hid_proj.image_projection_layers[0].ff.net[0].proj.in_features


def identity_conditions(unet: UNet2DConditionModel, identity_embeds: torch.Tensor) -> dict[str, list[torch.Tensor]]:
    """The UNet's `added_cond_kwargs` for one identity a sample.

    diffusers' own preparation repeats the embeddings by the whole batch, and its attention takes what is too much as
    further tokens of the same sample, so that identities mix without an error (huggingface/diffusers issue 9813).
    Here row i of the UNet's batch gets row i of `identity_embeds` and nothing else.

    Args:
        identity_embeds (`torch.Tensor`): (N, D), N being the batch that the UNet is called with.
    """
    return {"image_embeds": [identity_embeds[:, None].to(unet.dtype)]}  # (N, 1, D): one face for each sample


@contextmanager
def adapter_scale(unet: UNet2DConditionModel, scale: float) -> Iterator[None]:
    """Let the identity tokens act with `scale` inside the block, and as before after it."""
    processors = [p for p in unet.attn_processors.values() if isinstance(p, IP_ADAPTER_PROCESSORS)]
    scales = [processor.scale for processor in processors]
    for processor in processors:
        processor.scale = [scale] * len(processor.scale)
    try:
        yield
    finally:
        for processor, previous in zip(processors, scales):
            processor.scale = previous


def _lora_layers(model: torch.nn.Module) -> list[Any]:
    return [module for module in model.modules() if hasattr(module, "base_layer") and hasattr(module, "set_adapter")]
