"""Stable Diffusion 1.5 by its published sizes, with random weights: for what depends on size, not on what was learned."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from nullface_pipeline import StableDiffusionNullFacePipeline
from tests.test_face_adapter import STABLE_DIFFUSION_UNET
from tests.tiny_parts import make_adapter, make_scheduler, make_tokenizer


FACEID_RANK = 128


def make_full_size_pipeline() -> StableDiffusionNullFacePipeline:
    """A float32 pipeline on the CPU with a FaceID adapter of the published keys and shapes; text is one of two tokens."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(STABLE_DIFFUSION_UNET).eval()
    # A small scale, so that activations stay in the range of trained weights.
    adapter = make_adapter(unet, rank=FACEID_RANK, scale=0.01)
    pipe = StableDiffusionNullFacePipeline(
        vae=make_full_size_vae(),
        text_encoder=make_full_size_text_encoder(),
        tokenizer=make_tokenizer(),
        unet=unet,
        scheduler=make_scheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.load_face_adapter(adapter)
    return pipe


def make_full_size_vae() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    ).eval()


def make_full_size_text_encoder() -> CLIPTextModel:
    """With the tests' vocabulary: its size costs no time."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=3,
            hidden_size=768,
            intermediate_size=3072,
            num_hidden_layers=12,
            num_attention_heads=12,
            max_position_embeddings=77,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    ).eval()
