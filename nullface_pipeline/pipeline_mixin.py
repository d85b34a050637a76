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

"""What the pipelines share: all but their components, text encoders and adapter file."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import PIL.Image
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from diffusers.configuration_utils import FrozenDict
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from diffusers.schedulers import KarrasDiffusionSchedulers
from diffusers.utils import logging

from .ddpm_inversion import (
    DDPMInversion,
    Denoiser,
    DenoisingState,
    InversionSettings,
    add_noise,
    denoise,
    first_masked_timestep,
    given_settings,
    invert,
)
from .face_adapter import FaceAdapterMixin, adapter_scale, check_face_adapter, embedding_size
from .face_identity import opposite_identity
from .face_parsing import face_part_masks
from .image_inputs import IMAGE_PROCESSOR, count_images, image_to_tensor, mask_to_tensor, to_uint8
from .input_checks import (
    Generators,
    check_callback_inputs,
    check_edit_inputs,
    check_identity_inputs,
    check_inversion_inputs,
    check_mask_inputs,
    check_reused_inversion,
)
from .photo import anonymize_photo
from .photo_options import PRESETS, PhotoOptions, with_named_options
from .photo_records import AnonymizedPhoto
from .pipeline_output import NullFacePipelineOutput
from .protocols import Settings
from .unet_denoiser import UNetDenoiser, default_inversion_batch_size


logger = logging.get_logger(__name__)  # pylint: disable=invalid-name


class NullFaceMixin(FaceAdapterMixin):
    r"""
    The method, for a [`DiffusionPipeline`] with a VAE, a UNet and a scheduler as components.

    Not a `DiffusionPipeline` itself, because diffusers would take it for a second pipeline of the
    file. A pipeline has it before its other bases, calls `_prepare` at the end of `__init__`, and
    sets `face_adapter_name`.
    """

    _callback_tensor_inputs = ["latents", "noise_pred", "identity_embeds"]

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    scheduler: KarrasDiffusionSchedulers

    # Of DiffusionPipeline
    _execution_device: torch.device
    progress_bar: Callable
    maybe_free_model_hooks: Callable
    config: FrozenDict

    def _prepare(self):
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1) if getattr(self, "vae", None) else 8
        self.image_processor = IMAGE_PROCESSOR
        self._own_scheduler = type(self.scheduler)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs):
        r"""See [`DiffusionPipeline.from_pipe`]. Keeps the face models, too."""
        new = super().from_pipe(pipeline, **kwargs)  # type: ignore[misc]
        for name in ("face_analyser", "face_parser"):
            setattr(new, name, getattr(pipeline, name, None))
        return new

    def prompt_conditions(self, prompt: str | list[str], height: int, width: int) -> dict[str, torch.Tensor]:
        r"""
        The text conditions of the UNet for images of a size in pixels.

        Returns:
            `dict[str, torch.Tensor]`: `prompt_embeds` (N, tokens, channels) for N prompts, and the
                UNet's
            `added_cond_kwargs` of shape (N, channels) or (1, channels).
        """
        raise NotImplementedError

    def prepare_image(self, image: PipelineImageInput) -> torch.Tensor:
        r"""Convert images to (B, 3, H, W) float32 in [-1, 1]; raises ValueError on a wrong size."""
        return image_to_tensor(image, max(8, self.vae_scale_factor))

    def prepare_mask(
        self, mask_image: PipelineImageInput | None, keep: Sequence[str] | None, pixels: torch.Tensor
    ) -> torch.Tensor | None:
        r"""
        Mask of what changes on the latent grid, (B, 1, h, w) float32 in [0, 1]; `None` for
        everything.

        Args:
            mask_image, keep: as for [`__call__`].
            pixels: (B, 3, H, W) in [-1, 1].
        """
        if mask_image is not None:
            mask = mask_to_tensor(mask_image, (pixels.shape[0], 1, pixels.shape[-2], pixels.shape[-1]))
        elif keep is not None:
            mask = torch.from_numpy(face_part_masks(self.face_parser, to_uint8(pixels), keep))[:, None]
        else:
            return None
        return F.interpolate(mask, size=self._latent_size(pixels), mode="area").to(self._execution_device)

    def _latent_size(self, pixels: torch.Tensor) -> tuple[int, int]:
        return pixels.shape[-2] // self.vae_scale_factor, pixels.shape[-1] // self.vae_scale_factor

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        r"""x_0: the mode of the VAE's posterior, scaled; (B, C, h, w) float32."""
        encoded = self.vae.encode(pixels.to(self._execution_device, self.vae.dtype))
        return retrieve_latents(encoded, sample_mode="argmax").float() * self.vae.config.scaling_factor

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        r"""Pixels (B, 3, H, W) float32, nominally in [-1, 1]."""
        return self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample.float()

    @torch.no_grad()
    def invert(
        self,
        image: PipelineImageInput,
        num_inference_steps: int | None = None,
        skip: float | None = None,
        timesteps: Sequence[int] | None = None,
        solver_order: int | None = None,
        eta: float | None = None,
        ip_adapter_scale: float | None = None,
        inversion_batch_size: int | None = None,
        generator: Generators = None,
        strength: float | None = None,
        fresh_noise: bool = False,
    ) -> DDPMInversion:
        r"""
        Invert images once for many edits of them (section 3.2).

        Args:
            image, num_inference_steps, skip, timesteps, solver_order, eta, ip_adapter_scale,
                inversion_batch_size, generator, strength: As for [`__call__`].
            fresh_noise (`bool`, *optional*, defaults to `False`):
                Draw new noise maps instead, see [`add_noise`]. Inside the mask of [`__call__`] the
                content is new, outside it stays.

        Returns:
            [`DDPMInversion`]: to pass to [`__call__`] as `inversion`, any number of times.
        """
        settings = InversionSettings.from_arguments(
            given_settings(
                timesteps,
                strength,
                num_inference_steps=num_inference_steps,
                skip=skip,
                solver_order=solver_order,
                eta=eta,
                ip_adapter_scale=ip_adapter_scale,
            )
        )
        self._check_model()
        check_inversion_inputs(image, settings, self.scheduler.config, inversion_batch_size, generator)
        pixels = self.prepare_image(image)
        denoiser = UNetDenoiser(self.unet, self.prompt_conditions("", *pixels.shape[-2:]))
        inversion = self._invert(denoiser, pixels, settings, inversion_batch_size, generator, fresh_noise)
        self.maybe_free_model_hooks()
        return inversion

    def _check_model(self) -> None:
        check_face_adapter(self.unet)
        if type(self.scheduler) is not self._own_scheduler:
            logger.warning(
                f"The sampler of {type(self.scheduler).__name__} is not used: the method has its own. Only the noise "
                "schedule of a scheduler counts."
            )
            self._own_scheduler = type(self.scheduler)

    def _invert(
        self,
        denoiser: Denoiser,
        pixels: torch.Tensor,
        settings: InversionSettings,
        inversion_batch_size: int | None,
        generator: Generators,
        fresh_noise: bool = False,
    ) -> DDPMInversion:
        device = self._execution_device
        latents = self.encode_image(pixels)
        schedule = settings.kept_steps(self.scheduler.config).to(device)
        null_embeds = torch.zeros(1, embedding_size(self.unet), device=device)
        with adapter_scale(self.unet, settings.ip_adapter_scale):
            if fresh_noise:
                return add_noise(denoiser, latents, schedule, settings, null_embeds, generator)
            batch_size = inversion_batch_size or default_inversion_batch_size(self.unet, device, latents.shape[-2:])
            return invert(denoiser, latents, schedule, settings, null_embeds, batch_size, generator, self.progress_bar)

    def _denoise(
        self,
        denoiser: Denoiser,
        inversion: DDPMInversion,
        identity_embeds: torch.Tensor,
        mask: torch.Tensor | None,
        mask_start: float,
        callback: Callable[..., dict] | None,
        tensor_inputs: list[str],
    ) -> torch.Tensor:
        settings = inversion.settings
        mask_timestep = first_masked_timestep(
            mask_start, settings.num_inference_steps, self.scheduler.config.num_train_timesteps
        )
        self._num_timesteps = len(inversion.schedule)
        with adapter_scale(self.unet, settings.ip_adapter_scale), self.progress_bar(total=self._num_timesteps) as bar:

            def on_step(state: DenoisingState) -> DenoisingState:
                bar.update()
                if callback is None:
                    return state
                outputs = callback(self, state.step, state.timestep, {k: getattr(state, k) for k in tensor_inputs})
                changed = {k: outputs[k] for k in ("latents", "identity_embeds") if k in outputs}
                # The callback may have changed the properties of the pipeline.
                return replace(state, guidance_scale=self.guidance_scale, interrupt=self.interrupt, **changed)

            return denoise(denoiser, inversion, identity_embeds, self.guidance_scale, mask, mask_timestep, on_step)

    @property
    def presets(self) -> Mapping[str, Settings]:
        r"""Settings of each preset of [`anonymize`]: the model's own or the paper's."""
        return self.config.presets or PRESETS

    @property
    def guidance_scale(self):
        return self._guidance_scale

    @property
    def num_timesteps(self):
        return self._num_timesteps

    @property
    def interrupt(self):
        return self._interrupt

    @torch.no_grad()
    def __call__(
        self,
        image: PipelineImageInput,
        identity_embeds: torch.Tensor | None = None,
        mask_image: PipelineImageInput | None = None,
        keep: Sequence[str] | None = None,
        num_inference_steps: int | None = None,
        skip: float | None = None,
        guidance_scale: float = 10.0,
        identity_scale: float = 1.0,
        identity_angle: float = 0.0,
        mask_start: float = 0.8,
        eta: float | None = None,
        ip_adapter_scale: float | None = None,
        face_index: int | None = None,
        inversion: DDPMInversion | None = None,
        inversion_batch_size: int | None = None,
        generator: Generators = None,
        identity_generator: Generators = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict] | None = None,
        callback_on_step_end_tensor_inputs: list[str] = ["latents"],
        timesteps: Sequence[int] | None = None,
        solver_order: int | None = None,
        prompt: str | list[str] = "",
        strength: float | None = None,
    ):
        r"""
        Anonymize aligned faces. For whole photos, see [`anonymize`].

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of these):
                One or more images of one aligned face each, all of one size whose sides are
                multiples of 8. Arrays `([B,] H, W, 3)` and tensors `([B,] 3, H, W)` have values in
                [0, 1].
            identity_embeds (`torch.Tensor` or `np.ndarray`, *optional*):
                ArcFace embeddings of the people shown, `(B, 512)`. By default those of
                [`embed_faces`].
            mask_image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of these,
                *optional*):
                One mask, or one for each image: white is anonymized, black is kept. Takes
                precedence over `keep`.
            keep (`tuple[str]` or `list[str]`, *optional*):
                Regions of the face to keep, such as `("eyes", "mouth")`; the rest of the face
                changes, the background is kept. With neither `keep` nor `mask_image` the whole
                image may change.
            num_inference_steps (`int`, *optional*):
                T, the number of steps of the full schedule; 100 by default.
            skip (`float`, *optional*):
                T_skip / T in [0, 1): share of the noisiest steps left out, 0.7 by default. Higher
                values stay closer to the input.
            guidance_scale (`float`, *optional*, defaults to 10.0):
                lambda_cfg of Eq. 3, how strongly the result is pushed towards the new identity.
            identity_scale (`float`, *optional*, defaults to 1.0):
                lambda_id, the norm of the negated embedding. Negative values push towards the
                person instead.
            identity_angle (`float`, *optional*, defaults to 0.0):
                Largest random rotation of the negated embedding, in degrees from 0 to 180.
            mask_start (`float`, *optional*, defaults to 0.8):
                Fraction of T (of 100 with `timesteps`) from which on the mask is applied (Eq. 4);
                lower keeps more.
            eta (`float`, *optional*): Share of noise in a step, in (0, 1]; 1 by default, which is
                DDPM.
            ip_adapter_scale (`float`, *optional*):
                Weight of the identity tokens in the UNet's cross-attention, 1 by default.
                [`set_ip_adapter_scale`] has no effect on this method.
            face_index (`int`, *optional*):
                Index of the face whose identity is taken, 0 being the largest. By default there
                must be one face.
            inversion ([`DDPMInversion`], *optional*):
                Result of [`invert`] for the same images, with its settings; passing other settings
                is an error.
            inversion_batch_size (`int`, *optional*):
                Samples in one UNet call of the inversion; by default 4 on a CPU, and what fits with
                CUDA.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*):
                Generator of the noise maps; a list has one for each image.
            identity_generator (`torch.Generator` or `list[torch.Generator]`, *optional*):
                Separate randomness for `identity_angle`; `generator` by default.
            output_type (`str`, *optional*, defaults to `"pil"`): `"pil"`, `"np"`, `"pt"` or
                `"latent"`.
            return_dict (`bool`, *optional*, defaults to `True`): or return a plain tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called after each step as `callback_on_step_end(pipe, step, timestep,
                callback_kwargs)`. It returns a dictionary, whose `latents` and `identity_embeds`
                replace the pipeline's own.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*, defaults to `["latents"]`):
                Which of `latents`, `noise_pred` and `identity_embeds` to put into
                `callback_kwargs`.
            timesteps (`list[int]`, *optional*):
                Steps to take instead of those of `num_inference_steps` and `skip`: strictly
                decreasing integers from 999 to 1, e.g. by [`few_step_timesteps`]. S of them take 3
                S - 1 evaluations of the UNet.
            solver_order (`int`, *optional*):
                1 (default) is DDPM; 2 is SDE-DPM-Solver++ 2M, which needs `eta=1`.
            prompt (`str` or `list[str]`, *optional*, defaults to `""`):
                Description of the new face, one or one for each image. Its effect grows with
                `guidance_scale`.
            strength (`float`, *optional*):
                1 - `skip`, as diffusers' image-to-image pipelines call it.

        Examples:

        Returns:
            [`NullFacePipelineOutput`] or `tuple`: the images, of the size of the input.

        Raises:
            ValueError: if an argument has a wrong value, shape or size, or not exactly one face is
                found.
            RuntimeError: if the FaceID adapter, or a face model that is needed, is not loaded.
        """
        # 1. Check inputs
        given = given_settings(
            timesteps,
            strength,
            num_inference_steps=num_inference_steps,
            skip=skip,
            solver_order=solver_order,
            eta=eta,
            ip_adapter_scale=ip_adapter_scale,
        )
        settings = InversionSettings.from_arguments(given) if inversion is None else inversion.settings
        batch_size = count_images(image)
        self._check_model()
        check_inversion_inputs(image, settings, self.scheduler.config, inversion_batch_size, generator)
        check_edit_inputs(
            batch_size, guidance_scale, identity_scale, identity_angle, mask_start, identity_generator, prompt
        )
        check_mask_inputs(mask_image, keep, has_parser=self.face_parser is not None)
        check_identity_inputs(
            identity_embeds, (batch_size, embedding_size(self.unet)), has_analyser=self.face_analyser is not None
        )
        check_callback_inputs(callback_on_step_end_tensor_inputs, self._callback_tensor_inputs)
        self._guidance_scale = guidance_scale
        self._interrupt = False

        # 2. Prepare image, identity and mask
        pixels = self.prepare_image(image)
        if inversion is not None:
            check_reused_inversion(inversion, given, batch_size, self._latent_size(pixels))
        identity_embeds = (
            self.embed_faces(image, face_index) if identity_embeds is None else torch.as_tensor(identity_embeds)
        )
        mask = self.prepare_mask(mask_image, keep, pixels)

        # 3. Invert
        conditions = self.prompt_conditions("", *pixels.shape[-2:])
        if inversion is None:
            denoiser = UNetDenoiser(self.unet, conditions)
            inversion = self._invert(denoiser, pixels, settings, inversion_batch_size, generator)
        inversion = inversion.to(self._execution_device)

        # 4. Denoise under the opposite identity
        prompt_conditions = self.prompt_conditions(prompt, *pixels.shape[-2:]) if any(prompt) else None
        identity_embeds = opposite_identity(
            identity_embeds.to(self._execution_device), identity_scale, identity_angle, identity_generator or generator
        )
        latents = self._denoise(
            UNetDenoiser(self.unet, conditions, prompt_conditions, batch_size),
            inversion,
            identity_embeds,
            mask,
            mask_start,
            callback_on_step_end,
            callback_on_step_end_tensor_inputs,
        )

        # 5. Decode
        if output_type == "latent":
            images = latents
        else:
            images = self.image_processor.postprocess(self.decode_latents(latents), output_type=output_type)

        # Offload all models
        self.maybe_free_model_hooks()

        if not return_dict:
            return (images,)

        return NullFacePipelineOutput(images=images)

    @with_named_options
    def anonymize(
        self,
        photo: PIL.Image.Image | str | os.PathLike[str],
        options: PhotoOptions | None = None,
        **arguments: object,
    ) -> AnonymizedPhoto:
        r"""
        Anonymize every face that is found in a photo of any size, and check that it worked.

        Each face is aligned, anonymized at the model's resolution and pasted back. A result that
        still matches the person is retried with stronger settings and finally covered, and so is a
        face that is found only afterwards.

        Args:
            photo (`PIL.Image.Image`, `str` or `os.PathLike`):
                The photo or its path. EXIF orientation is applied; of the metadata only the color
                profile is kept.
            options ([`PhotoOptions`], *optional*): The options.
            arguments: Options by name, such as `keep=("eyes", "mouth")`. They take precedence over
                `options`.

        Returns:
            [`AnonymizedPhoto`]: the photo as a new image of the same size, and a record of each
                face.

        Raises:
            PhotoRefusedError: if this photo cannot be anonymized, for example `NoFaceFoundError`.
            TypeError, ValueError: if an option is of a wrong type or out of range, or the photo
                cannot be read.
            RuntimeError: if the FaceID adapter or the face models are not loaded.
        """
        return anonymize_photo(self, photo, PhotoOptions.from_arguments(arguments, options))
