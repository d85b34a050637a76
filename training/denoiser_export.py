"""Export a trained denoiser as a Stable Diffusion folder and an IP-Adapter FaceID file.

The published FaceID adapter has three parts: the identity projection, the keys and values of the
decoupled attention, and a LoRA of all attention layers that is active whenever the adapter is.
Training from scratch needs no LoRA. The export therefore moves the strongest directions of the
trained attention matrices from the UNet to the adapter's LoRA. Only both together are the trained
model.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer


LATENT_SIZE = 32
EMBEDDING_SIZE = 512
PROJECTION_SIZE = 1024
IDENTITY_TOKENS = 4
CROSS_DIM = 96
LORA_RANK = 4
ADAPTER_NAME = "face_adapter.safetensors"

PROJECTIONS = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}
PROJECTION_KEYS = {"ff.net.0.proj": "proj.0", "ff.net.2": "proj.2", "norm": "norm"}

logger = logging.getLogger("training.denoiser")


def build_unet() -> UNet2DConditionModel:
    """Untrained UNet without adapter; cross-attention at the two lower of three resolutions."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        block_out_channels=(48, 120, 216),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=CROSS_DIM,
        attention_head_dim=6,  # the number of heads, despite its name
        norm_num_groups=24,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1.5's noise schedule."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="leading",
        prediction_type="epsilon",
    )


def attach_fresh_adapter(unet: UNet2DConditionModel) -> None:
    """Attach an untrained FaceID adapter, made of diffusers' own modules, to a UNet."""
    image_proj = {
        "proj.0.weight": torch.empty(PROJECTION_SIZE, EMBEDDING_SIZE),
        "proj.0.bias": torch.zeros(PROJECTION_SIZE),
        "proj.2.weight": torch.empty(IDENTITY_TOKENS * CROSS_DIM, PROJECTION_SIZE),
        "proj.2.bias": torch.zeros(IDENTITY_TOKENS * CROSS_DIM),
        "norm.weight": torch.ones(CROSS_DIM),
        "norm.bias": torch.zeros(CROSS_DIM),
    }
    # The components of a unit-norm embedding are about 1/sqrt(512). Unit variance after the first
    # layer and distinct tokens for the null embedding need a wider initialization than a linear
    # layer's default.
    torch.nn.init.normal_(image_proj["proj.0.weight"], std=1.0)
    torch.nn.init.normal_(image_proj["proj.0.bias"], std=0.3)
    torch.nn.init.normal_(image_proj["proj.2.weight"], std=PROJECTION_SIZE**-0.5)
    ip_adapter = {}
    for key_id, (_, attention) in enumerate(attention_layers(unet)):
        if attention.is_cross_attention:
            ip_adapter[f"{key_id}.to_k_ip.weight"] = attention.to_k.weight.detach().clone()
            ip_adapter[f"{key_id}.to_v_ip.weight"] = attention.to_v.weight.detach().clone()
    unet._load_ip_adapter_weights([{"image_proj": image_proj, "ip_adapter": ip_adapter}], low_cpu_mem_usage=False)


def attention_layers(unet: UNet2DConditionModel) -> list[tuple[str, Any]]:
    """All attention layers and their names, in the adapter file's order: down, up, mid."""
    names = [name.removesuffix(".processor") for name in unet.attn_processors]
    return [(name, unet.get_submodule(name)) for name in names]


def split_lora(weight: torch.Tensor, rank: int = LORA_RANK) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Move the strongest directions of a matrix into a LoRA.

    Args:
        weight (`torch.Tensor`): (out, in) float32.
        rank (`int`): number of directions to move.

    Returns:
        `tuple`: the remaining (out, in) float32 matrix, and the LoRA's `up` (out, rank) and
        `down` (rank, in) in float16.
    """
    u, s, vh = torch.linalg.svd(weight, full_matrices=False)
    root = s[:rank].sqrt()
    up, down = (u[:, :rank] * root).half(), (root[:, None] * vh[:rank]).half()
    return weight - up.float() @ down.float(), up, down


@torch.no_grad()
def split_model(
    unet: UNet2DConditionModel, projection: torch.Tensor
) -> tuple[UNet2DConditionModel, dict[str, torch.Tensor]]:
    """Split a trained UNet with adapter into a plain UNet and the tensors of the adapter file.

    Args:
        unet (`UNet2DConditionModel`): float32, with adapter.
        projection (`torch.Tensor`): (512, 512), folded into the adapter's first layer, which then
            takes unprojected embeddings.

    Returns:
        `tuple`: the float32 UNet without the LoRA's share, and float16 tensors by name.
    """
    adapter = {}
    for name, tensor in unet.encoder_hid_proj.image_projection_layers[0].state_dict().items():
        layer, kind = name.rsplit(".", 1)
        adapter[f"image_proj.{PROJECTION_KEYS[layer]}.{kind}"] = tensor.half()
    first_layer = unet.encoder_hid_proj.image_projection_layers[0].ff.net[0].proj
    adapter["image_proj.proj.0.weight"] = (first_layer.weight @ projection.T.to(first_layer.weight)).half()
    plain = build_unet()
    plain.load_state_dict({k: v for k, v in unet.state_dict().items() if k in plain.state_dict()})
    for key_id, (name, attention) in enumerate(attention_layers(unet)):
        if attention.is_cross_attention:
            adapter[f"ip_adapter.{key_id}.to_k_ip.weight"] = attention.processor.to_k_ip[0].weight.half()
            adapter[f"ip_adapter.{key_id}.to_v_ip.weight"] = attention.processor.to_v_ip[0].weight.half()
        for short, path in PROJECTIONS.items():
            weight = plain.get_submodule(f"{name}.{path}").weight
            rest, up, down = split_lora(weight)
            weight.copy_(rest)
            adapter[f"ip_adapter.{key_id}.{short}_lora.up.weight"] = up
            adapter[f"ip_adapter.{key_id}.{short}_lora.down.weight"] = down
    return plain, {name: tensor.cpu().contiguous() for name, tensor in adapter.items()}


@torch.no_grad()
def load_trained(unet: UNet2DConditionModel, folder: Path) -> None:
    """Load a model set into a UNet with a fresh adapter: the inverse of `split_model`, in place."""
    state = load_file(folder / "model" / "unet" / "diffusion_pytorch_model.safetensors")
    adapter = {name: tensor.float() for name, tensor in load_file(folder / ADAPTER_NAME).items()}
    unet.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    for key_id, (name, attention) in enumerate(attention_layers(unet)):
        if attention.is_cross_attention:
            attention.processor.to_k_ip[0].weight.copy_(adapter[f"ip_adapter.{key_id}.to_k_ip.weight"])
            attention.processor.to_v_ip[0].weight.copy_(adapter[f"ip_adapter.{key_id}.to_v_ip.weight"])
        for short, path in PROJECTIONS.items():
            up, down = (adapter[f"ip_adapter.{key_id}.{short}_lora.{half}.weight"] for half in ("up", "down"))
            unet.get_submodule(f"{name}.{path}").weight.add_(up @ down)
    projection = unet.encoder_hid_proj.image_projection_layers[0]
    keys = {name: name.rsplit(".", 1) for name in projection.state_dict()}
    projection.load_state_dict(
        {name: adapter[f"image_proj.{PROJECTION_KEYS[layer]}.{kind}"] for name, (layer, kind) in keys.items()}
    )


def build_text_encoder(folder: Path) -> tuple[CLIPTextModel, CLIPTokenizer]:
    """Tiny untrained CLIP text encoder and its tokenizer, used for the empty prompt only.

    Args:
        folder (`Path`): where the tokenizer's files are written.
    """
    tokenizer = build_tokenizer(folder)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=CROSS_DIM,
        intermediate_size=2 * CROSS_DIM,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=77,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text_encoder = CLIPTextModel(config)
    return text_encoder.eval(), tokenizer


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP tokenizer without merges: one token per byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + i for i in range(256 - len(printable))]
    letters = [chr(code) for code in [*printable, *others]]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=77)


@torch.no_grad()
def empty_prompt(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> torch.Tensor:
    """(1, 77, cross_dim) float32 embedding of the empty prompt."""
    tokens = tokenizer("", padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt")
    return text_encoder(tokens.input_ids)[0]


def export(unet: UNet2DConditionModel, projection: torch.Tensor, autoencoder: Path, output: Path, runs: Path) -> None:
    """Write `model/` and the adapter file to `output` after checking them against the trained UNet.

    Args:
        unet (`UNet2DConditionModel`): trained, with adapter, on any device.
        projection (`torch.Tensor`): (512, 512) projection of embeddings, folded into the adapter.
        autoencoder (`Path`): folder of the trained `AutoencoderTiny`.
        output (`Path`): folder of the model set.
        runs (`Path`): folder that holds the export until it is verified.

    Raises:
        RuntimeError: If the exported model's relative error is above 0.01.
    """
    scratch = runs / "export"
    shutil.rmtree(scratch, ignore_errors=True)
    text_encoder, tokenizer = build_text_encoder(scratch / "tokenizer")
    plain, adapter = split_model(unet.float(), projection)
    pipe = StableDiffusionPipeline(
        vae=AutoencoderTiny.from_pretrained(autoencoder),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=plain,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    # The text encoder stays float32: transformers loads the stored dtype, diffusers loads float32.
    for part in (pipe.unet, pipe.vae):
        part.half()
    pipe.save_pretrained(scratch / "model")
    clean_config(scratch / "model" / "vae" / "config.json")
    add_transformers_4_files(scratch / "model", scratch / "tokenizer")
    save_file(adapter, scratch / ADAPTER_NAME, metadata={"format": "pt"})
    error, without_lora = verify(unet, projection, scratch)
    logger.info("relative RMS error of the export: %.2g, without its LoRA: %.2g", error, without_lora)
    if error > 0.01:
        raise RuntimeError(f"The export differs from the trained model by {error:.2g} (relative RMS). See {scratch}.")
    for source in [scratch / ADAPTER_NAME, *(path for path in (scratch / "model").rglob("*") if path.is_file())]:
        target = output / source.relative_to(scratch)
        target.parent.mkdir(parents=True, exist_ok=True)
        source.chmod(0o644)  # safetensors creates files that only the owner can read
        os.replace(source, target)


def add_transformers_4_files(model: Path, tokenizer: Path) -> None:
    """Rename the text encoder's tensors and copy the vocabulary, so that transformers 4 reads both.

    Transformers 5 reads either layout.

    Args:
        model (`Path`): folder of the saved pipeline.
        tokenizer (`Path`): folder that `build_tokenizer` wrote to.
    """
    weights = model / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{name.removeprefix('text_model.')}": each for name, each in load_file(weights).items()}
    save_file(tensors, weights, metadata={"format": "pt"})
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(tokenizer / name, model / "tokenizer" / name)


def clean_config(config: Path) -> None:
    """Remove the local path and a setting that `AutoencoderTiny` warns about from a config."""
    settings = json.loads(config.read_text())
    for name in ("block_out_channels", "_name_or_path"):
        settings.pop(name, None)
    config.write_text(json.dumps(settings, indent=2) + "\n")


@torch.no_grad()
def verify(unet: UNet2DConditionModel, projection: torch.Tensor, folder: Path) -> tuple[float, float]:
    """Relative RMS error of the exported model, with the adapter's LoRA and without it."""
    pipe = StableDiffusionPipeline.from_pretrained(folder / "model", low_cpu_mem_usage=False)
    prompt = empty_prompt(pipe.text_encoder, pipe.tokenizer)
    pipe.load_ip_adapter(str(folder), subfolder="", weight_name=ADAPTER_NAME, image_encoder_folder=None)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 4, LATENT_SIZE, LATENT_SIZE, generator=generator)
    embeds = torch.nn.functional.normalize(torch.randn(4, 1, EMBEDDING_SIZE, generator=generator), dim=-1)

    def predict(model: UNet2DConditionModel, identities: torch.Tensor) -> torch.Tensor:
        device = next(model.parameters()).device
        timesteps = torch.tensor([50, 200, 400, 800], device=device)
        condition = {"image_embeds": [identities.to(device)]}
        states = prompt.expand(4, -1, -1).to(device)
        return model(latents.to(device), timesteps, states, added_cond_kwargs=condition).sample.float().cpu()

    expected = predict(unet, embeds @ projection)
    exported = predict(pipe.unet, embeds)
    pipe.disable_lora()
    without_lora = predict(pipe.unet, embeds)

    def relative_error(output: torch.Tensor) -> float:
        return ((output - expected).square().mean() / expected.square().mean()).sqrt().item()

    return relative_error(exported), relative_error(without_lora)
