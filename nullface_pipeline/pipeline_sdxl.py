# Copyright 2026 The NullFace pipeline authors. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Optional, Union

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import IPAdapterMixin, StableDiffusionXLLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import replace_example_docstring
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

# diffusers copies the modules that this file imports, but not their imports, so all are listed
# here.
from .colour_profile import with_rebuilt_profile  # noqa: F401
from .ddpm_inversion import DDPMInversion  # noqa: F401
from .face_adapter import FACEID_REPOSITORY  # noqa: F401
from .face_covers import cover_faces  # noqa: F401
from .face_crops import FaceCrop  # noqa: F401
from .face_edit import hide_faces  # noqa: F401
from .face_identity import detect_faces  # noqa: F401
from .face_masks import face_masks  # noqa: F401
from .face_parsing import FaceParser  # noqa: F401
from .face_regions import REGIONS  # noqa: F401
from .face_search import search_faces  # noqa: F401
from .face_target import FaceTarget  # noqa: F401
from .identity_choices import IDENTITY_CHOICES  # noqa: F401
from .identity_prior import IdentityPrior  # noqa: F401
from .image_inputs import to_uint8  # noqa: F401
from .input_checks import check_inversion_inputs  # noqa: F401
from .photo import anonymize_photo  # noqa: F401
from .photo_options import PhotoOptions  # noqa: F401
from .photo_records import AnonymizedPhoto  # noqa: F401
from .pipeline_mixin import NullFaceMixin
from .pipeline_output import NullFacePipelineOutput  # noqa: F401
from .prompt_tokens import tokenize
from .protocols import Settings
from .unet_denoiser import UNetDenoiser  # noqa: F401


FACEID_SDXL_WEIGHTS = "ip-adapter-faceid_sdxl.bin"

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> import torch
        >>> from diffusers import DiffusionPipeline
        >>> from diffusers.utils import load_image

        >>> pipe = DiffusionPipeline.from_pretrained(
        ...     "stabilityai/stable-diffusion-xl-base-1.0",
        ...     custom_pipeline="nullface/nullface-xl",
        ...     trust_remote_code=True,
        ...     dtype=torch.float16,
        ...     variant="fp16",
        ... ).to("cuda")
        >>> pipe.load_face_adapter()  # h94/IP-Adapter-FaceID
        >>> pipe.load_face_models()  # InsightFace buffalo_l and facexlib's BiSeNet

        >>> photo = load_image("family.jpg")
        >>> result = pipe.anonymize(photo, keep=("eyes", "mouth"))
        >>> result.image.save("family-anonymized.png")

        >>> # An aligned 1024 x 1024 portrait
        >>> portrait = load_image("portrait.png")
        >>> image = pipe(portrait, generator=torch.Generator("cuda").manual_seed(0)).images[0]
        ```
"""


class StableDiffusionXLNullFacePipeline(
    NullFaceMixin, DiffusionPipeline, StableDiffusionMixin, StableDiffusionXLLoraLoaderMixin, IPAdapterMixin
):
    r"""
    Pipeline for training-free, localized face anonymization with Stable Diffusion XL, after
    [NullFace](https://huggingface.co/papers/2503.08478).

    An aligned face is inverted with edit-friendly DDPM inversion and denoised again under
    IP-Adapter FaceID, which is given the negated identity embedding of the person. A face-parsing
    mask leaves chosen regions as they were.

    This model inherits from [`DiffusionPipeline`]. Check the superclass documentation for the
    generic methods implemented for all pipelines (downloading, saving, running on a particular
    device, etc.).

    The pipeline also inherits the following loading methods:
        - [`~loaders.StableDiffusionXLLoraLoaderMixin.load_lora_weights`] for loading LoRA weights
        - [`~loaders.IPAdapterMixin.load_ip_adapter`], which [`load_face_adapter`] calls

    The face models of [`load_face_models`] are plain attributes, not components: they are not saved
    with the pipeline.

    Args:
        vae ([`AutoencoderKL`] or [`AutoencoderTiny`]):
            Variational Auto-Encoder (VAE) model to encode and decode images to and from latent
            representations. Stable Diffusion XL's own overflows in half precision and is used in
            float32; `madebyollin/sdxl-vae-fp16-fix` does not.
        text_encoder ([`~transformers.CLIPTextModel`]):
            First frozen text-encoder.
        text_encoder_2 ([`~transformers.CLIPTextModelWithProjection`]):
            Second frozen text-encoder.
        tokenizer ([`~transformers.CLIPTokenizer`]):
            Tokenizer of the first text-encoder.
        tokenizer_2 ([`~transformers.CLIPTokenizer`]):
            Tokenizer of the second text-encoder.
        unet ([`UNet2DConditionModel`]):
            A `UNet2DConditionModel` to denoise the encoded image latents.
        scheduler ([`SchedulerMixin`]):
            Any of Stable Diffusion's schedulers: its noise schedule is used, its sampler is not.
        force_zeros_for_empty_prompt (`bool`, *optional*, defaults to `True`):
            For the model's other pipelines; without effect here. With zeros for one prediction and
            the empty prompt for the other, guidance would amplify their difference.
        presets (`dict[str, dict]`, *optional*):
            Settings of each preset of [`anonymize`] for these weights; Stable Diffusion's by
            default.
    """

    model_cpu_offload_seq = "text_encoder->text_encoder_2->unet->vae"
    face_adapter_name = FACEID_SDXL_WEIGHTS

    def __init__(
        self,
        vae: Union[AutoencoderKL, AutoencoderTiny],  # diffusers before 0.37 cannot read A | B
        text_encoder: CLIPTextModel,
        text_encoder_2: CLIPTextModelWithProjection,
        tokenizer: CLIPTokenizer,
        tokenizer_2: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        force_zeros_for_empty_prompt: bool = True,
        presets: Optional[dict[str, Settings]] = None,
    ):
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            text_encoder_2=text_encoder_2,
            tokenizer=tokenizer,
            tokenizer_2=tokenizer_2,
            unet=unet,
            scheduler=scheduler,
        )
        self.register_to_config(force_zeros_for_empty_prompt=force_zeros_for_empty_prompt, presets=presets)
        self._prepare()

    @replace_example_docstring(EXAMPLE_DOC_STRING)
    @wraps(NullFaceMixin.__call__)
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)

    def prompt_conditions(self, prompt: str | list[str], height: int, width: int) -> dict[str, torch.Tensor]:
        r"""
        See [`NullFaceMixin.prompt_conditions`]: besides `prompt_embeds`, both encoders' penultimate
        layers side by side, `text_embeds` (N, channels) of the second one and `time_ids` (1, 6), a
        picture that was not cropped.
        """
        penultimate = []
        for tokenizer, text_encoder in ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)):
            tokens = tokenize(tokenizer, prompt).to(self._execution_device)
            output = text_encoder(tokens, output_hidden_states=True)
            penultimate.append(output.hidden_states[-2])
        return {
            "prompt_embeds": torch.cat(penultimate, dim=-1).to(self.unet.dtype),
            "text_embeds": output.text_embeds.to(self.unet.dtype),
            "time_ids": torch.tensor([[height, width, 0, 0, height, width]], device=self._execution_device),
        }

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        r"""See [`NullFaceMixin.encode_image`]; in float32 if the VAE requires it."""
        with float32_where_it_overflows(self.vae):
            return super().encode_image(pixels)

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        r"""See [`NullFaceMixin.decode_latents`]; in float32 if the VAE requires it."""
        with float32_where_it_overflows(self.vae):
            return super().decode_latents(latents)


@contextmanager
def float32_where_it_overflows(vae: AutoencoderKL | AutoencoderTiny) -> Iterator[None]:
    """Run a half-precision VAE with `force_upcast` in float32, then restore its weights."""
    dtype = vae.dtype
    if dtype == torch.float32 or not vae.config.force_upcast:
        yield
        return
    vae.to(dtype=torch.float32)
    try:
        yield
    finally:
        vae.to(dtype=dtype)
