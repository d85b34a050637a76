"""Pipeline of Stable Diffusion 1.5's size with random weights, for measuring time and memory."""

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from nullface_pipeline import StableDiffusionNullFacePipeline
from tests.test_face_adapter import STABLE_DIFFUSION_UNET
from tests.tiny_parts import make_adapter, make_scheduler, make_tokenizer


FACEID_RANK = 128


def make_full_size_pipeline() -> StableDiffusionNullFacePipeline:
    """Float32 pipeline on the CPU, with a FaceID adapter of the published keys and shapes."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_config(STABLE_DIFFUSION_UNET).eval()
    # With a small scale, activations stay in the range of a trained model's.
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
    """VAE of Stable Diffusion 1.5's size."""
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    ).eval()


def make_full_size_text_encoder() -> CLIPTextModel:
    """Text encoder of Stable Diffusion 1.5's size, except for the vocabulary."""
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
