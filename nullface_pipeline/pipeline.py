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

from functools import wraps
from typing import Optional, Union

import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import IPAdapterMixin, StableDiffusionLoraLoaderMixin
from diffusers.pipelines.pipeline_utils import StableDiffusionMixin
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import replace_example_docstring
from transformers import CLIPTextModel, CLIPTokenizer

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


FACEID_WEIGHTS = "ip-adapter-faceid_sd15.bin"

EXAMPLE_DOC_STRING = """
    Examples:
        ```py
        >>> import torch
        >>> from diffusers import DiffusionPipeline
        >>> from diffusers.utils import load_image

        >>> pipe = DiffusionPipeline.from_pretrained(
        ...     "stable-diffusion-v1-5/stable-diffusion-v1-5",
        ...     custom_pipeline="nullface/nullface",
        ...     trust_remote_code=True,
        ...     dtype=torch.float16,
        ... ).to("cuda")
        >>> pipe.load_face_adapter()  # h94/IP-Adapter-FaceID
        >>> pipe.load_face_models()  # InsightFace buffalo_l and facexlib's BiSeNet

        >>> photo = load_image("family.jpg")
        >>> result = pipe.anonymize(photo, keep=("eyes", "mouth"))
        >>> result.image.save("family-anonymized.png")

        >>> # An aligned 512 x 512 portrait, with the paper's settings
        >>> portrait = load_image("portrait.png")
        >>> image = pipe(portrait, generator=torch.Generator("cuda").manual_seed(0)).images[0]
        ```
"""


class StableDiffusionNullFacePipeline(
    NullFaceMixin, DiffusionPipeline, StableDiffusionMixin, StableDiffusionLoraLoaderMixin, IPAdapterMixin
):
    r"""
    Pipeline for training-free, localized face anonymization with Stable Diffusion, after
    [NullFace](https://huggingface.co/papers/2503.08478).

    An aligned face is inverted with edit-friendly DDPM inversion and denoised again under
    IP-Adapter FaceID, which is given the negated identity embedding of the person. A face-parsing
    mask leaves chosen regions as they were.

    This model inherits from [`DiffusionPipeline`]. Check the superclass documentation for the
    generic methods implemented for all pipelines (downloading, saving, running on a particular
    device, etc.).

    The pipeline also inherits the following loading methods:
        - [`~loaders.StableDiffusionLoraLoaderMixin.load_lora_weights`] for loading LoRA weights
        - [`~loaders.IPAdapterMixin.load_ip_adapter`], which [`load_face_adapter`] calls

    The face models of [`load_face_models`] are plain attributes, not components: they are not saved
    with the pipeline.

    Args:
        vae ([`AutoencoderKL`] or [`AutoencoderTiny`]):
            Variational Auto-Encoder (VAE) model to encode and decode images to and from latent
            representations.
        text_encoder ([`~transformers.CLIPTextModel`]):
            Frozen text-encoder.
        tokenizer ([`~transformers.CLIPTokenizer`]):
            A `CLIPTokenizer` to tokenize text.
        unet ([`UNet2DConditionModel`]):
            A `UNet2DConditionModel` to denoise the encoded image latents.
        scheduler ([`SchedulerMixin`]):
            Any of Stable Diffusion's schedulers: its noise schedule is used, its sampler is not.
        presets (`dict[str, dict]`, *optional*):
            Settings of each preset of [`anonymize`] for these weights; Stable Diffusion's by
            default.
    """

    model_cpu_offload_seq = "text_encoder->unet->vae"
    face_adapter_name = FACEID_WEIGHTS

    def __init__(
        self,
        vae: Union[AutoencoderKL, AutoencoderTiny],  # diffusers before 0.37 cannot read A | B
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: KarrasDiffusionSchedulers,
        presets: Optional[dict[str, Settings]] = None,
    ):
        super().__init__()
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        self.register_to_config(presets=presets)
        self._prepare()

    @replace_example_docstring(EXAMPLE_DOC_STRING)
    @wraps(NullFaceMixin.__call__)
    def __call__(self, *args, **kwargs):
        return super().__call__(*args, **kwargs)

    def prompt_conditions(self, prompt: str | list[str], height: int, width: int) -> dict[str, torch.Tensor]:
        r"""See [`NullFaceMixin.prompt_conditions`]: `prompt_embeds` only, for any size."""
        tokens = tokenize(self.tokenizer, prompt).to(self._execution_device)
        prompt_embeds = self.text_encoder(tokens)[0]
        return {"prompt_embeds": prompt_embeds.to(self.unet.dtype)}
