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

"""What the NullFace pipelines share: everything but their components, their text and the file of their adapter."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from diffusers.image_processor import PipelineImageInput
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from diffusers.utils import BaseOutput, logging

from .ddpm_inversion import (
    DDPMInversion,
    Denoiser,
    DenoisingState,
    InversionSettings,
    denoise,
    first_masked_timestep,
    given_settings,
    invert,
)
from .face_adapter import FaceAdapterMixin, adapter_scale, check_face_adapter, embedding_size
from .face_identity import choose_face, detect_faces, opposite_identity
from .face_parsing import face_part_masks
from .image_inputs import IMAGE_PROCESSOR, count_images, image_to_tensor, mask_to_tensor, to_uint8
from .input_checks import (
    check_edit_inputs,
    check_identity_embeds,
    check_inversion_inputs,
    check_mask_inputs,
    check_reused_inversion,
)
from .photo import anonymize_photo
from .photo_options import PRESETS, PhotoOptions, with_named_options
from .photo_records import AnonymizedPhoto
from .unet_denoiser import UNetDenoiser, default_inversion_batch_size


logger = logging.get_logger(__name__)  # pylint: disable=invalid-name


@dataclass
class NullFacePipelineOutput(BaseOutput):
    """
    Output class for NullFace pipelines.

    Args:
        images (`list[PIL.Image.Image]`, `np.ndarray` or `torch.Tensor`)
            The anonymized images: a list of `B` PIL images, an array of shape `(B, H, W, 3)` or a tensor of shape
            `(B, 3, H, W)`, values in [0, 1]; latents of shape `(B, C, h, w)` for `output_type="latent"`.
    """

    images: list[PIL.Image.Image] | np.ndarray | torch.Tensor


class NullFaceMixin(FaceAdapterMixin):
    r"""
    The method, for a [`DiffusionPipeline`] with a VAE, a UNet and a scheduler as components.

    A plain mixin, because diffusers takes any `DiffusionPipeline` that a custom pipeline's file imports for another
    pipeline. A class has it before its other bases, calls `_prepare` at the end of its `__init__`, names the published
    file of its adapter in `face_adapter_name`, and encodes text in `prompt_conditions`.
    """

    _callback_tensor_inputs = ["latents", "noise_pred", "identity_embeds"]

    vae: Any
    unet: Any
    scheduler: Any

    # Of DiffusionPipeline
    _execution_device: Any
    progress_bar: Any
    maybe_free_model_hooks: Any
    config: Any

    def _prepare(self):
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1) if getattr(self, "vae", None) else 8
        self.image_processor = IMAGE_PROCESSOR
        self._own_scheduler = type(self.scheduler)

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any):
        r"""See [`DiffusionPipeline.from_pipe`]. The face models, which are not components, are kept too."""
        new = super().from_pipe(pipeline, **kwargs)  # type: ignore[misc]
        for name in ("face_analyser", "face_parser"):
            setattr(new, name, getattr(pipeline, name, None))
        return new

    def prompt_conditions(self, prompt: str | list[str], height: int, width: int) -> dict[str, torch.Tensor]:
        r"""
        The text conditions of the UNet.

        Args:
            prompt (`str` or `list[str]`): one text, or N.
            height, width (`int`): of the images, in pixels.

        Returns:
            `dict[str, torch.Tensor]`: `prompt_embeds` (N, tokens, channels), and whatever else the UNet's
            `added_cond_kwargs` hold, (N, channels) or (1, channels) by name; N is 1 for one text.
        """
        raise NotImplementedError

    def tokenize(self, tokenizer: Any, prompt: str | list[str]) -> torch.Tensor:
        r"""(N, tokens) int64, of the length that the text encoder takes."""
        longest = tokenizer(prompt, padding="longest", return_tensors="pt").input_ids.shape[-1]
        if longest > tokenizer.model_max_length:
            logger.warning(
                f"A prompt has {longest} tokens; the text encoder takes {tokenizer.model_max_length} and does not see the "
                "rest."
            )
        return tokenizer(
            prompt,
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        ).input_ids

    def embed_faces(self, image: PipelineImageInput, face_index: int | None = None) -> torch.Tensor:
        r"""
        Recognize the face in each image.

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of these):
                One or more images, as for [`__call__`].
            face_index (`int`, *optional*):
                Which face to take where there are several, 0 being the largest. By default there must be exactly one.

        Returns:
            `torch.Tensor`: (B, 512) float32 embeddings of unit norm.

        Raises:
            ValueError: if an image shows no face, or several and none was chosen.
        """
        if self.face_analyser is None:
            raise RuntimeError("No face models are loaded. Call `pipe.load_face_models()` first.")
        embeds = [
            choose_face(detect_faces(self.face_analyser, pixels), face_index).embedding
            for pixels in to_uint8(self.prepare_image(image))
        ]
        return torch.from_numpy(np.stack(embeds))

    def prepare_image(self, image: PipelineImageInput) -> torch.Tensor:
        r"""Bring images of any accepted form to (B, 3, H, W) float32 in [-1, 1]; raises ValueError on a wrong size."""
        return image_to_tensor(image, max(8, self.vae_scale_factor))

    def prepare_mask(
        self, mask_image: PipelineImageInput | None, keep: Sequence[str] | None, pixels: torch.Tensor
    ) -> torch.Tensor | None:
        r"""
        The mask of what changes, on the latent grid: (B, 1, h, w) float32 in [0, 1], or `None` for everything.

        Args:
            mask_image: One mask, or one for each image; white is anonymized. Takes precedence over `keep`.
            keep: Names of regions to keep; the face around them is anonymized.
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
        generator: torch.Generator | list[torch.Generator] | None = None,
        strength: float | None = None,
    ) -> DDPMInversion:
        r"""
        Invert images once for many edits of them (section 3.2).

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of these):
                One or more images of one size, as for [`__call__`].
            num_inference_steps, skip, timesteps, solver_order, eta, ip_adapter_scale, inversion_batch_size, generator,
                strength: As for [`__call__`].

        Returns:
            [`DDPMInversion`]: a frozen record to pass to [`__call__`] as `inversion`, any number of times.
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
        inversion = self._invert(denoiser, pixels, settings, inversion_batch_size, generator)
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
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> DDPMInversion:
        device = self._execution_device
        latents = self.encode_image(pixels)
        batch_size = inversion_batch_size or default_inversion_batch_size(self.unet, device, latents.shape[-2:])
        with adapter_scale(self.unet, settings.ip_adapter_scale):
            return invert(
                denoiser,
                latents,
                settings.kept_steps(self.scheduler.config).to(device),
                settings,
                torch.zeros(1, embedding_size(self.unet), device=device),
                batch_size,
                generator,
                self.progress_bar,
            )

    def _denoise(
        self,
        denoiser: Denoiser,
        inversion: DDPMInversion,
        identity_embeds: torch.Tensor,
        mask: torch.Tensor | None,
        mask_start: float,
        callback: Callable[..., dict[str, Any]] | None,
        tensor_inputs: list[str],
    ) -> torch.Tensor:
        settings = inversion.settings
        first_masked = first_masked_timestep(
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

            return denoise(denoiser, inversion, identity_embeds, self.guidance_scale, mask, first_masked, on_step)

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        r"""The numbers of each preset of [`anonymize`]: those in the model's `model_index.json`, else the paper's."""
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
        generator: torch.Generator | list[torch.Generator] | None = None,
        identity_generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str | None = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, int, dict], dict] | None = None,
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
                One or more images of one aligned face each, all of one size whose sides are multiples of 8. Arrays of
                shape `(H, W, 3)` or `(B, H, W, 3)` and tensors of shape `(3, H, W)` or `(B, 3, H, W)` have values in
                [0, 1].
            identity_embeds (`torch.Tensor` or `np.ndarray`, *optional*):
                ArcFace embeddings of the people shown, of shape `(B, 512)` and any norm. By default they are computed
                by the models of [`load_face_models`].
            mask_image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of these, *optional*):
                One mask, or one for each image, of the images' size: white is anonymized, black is left alone. Takes
                precedence over `keep`.
            keep (`tuple[str]` or `list[str]`, *optional*):
                Regions of the face to leave as they are, such as `("eyes", "mouth")`; the rest of the face changes and
                the background is held. `()` keeps nothing of the face. With neither `keep` nor `mask_image` the whole
                image is free to change.
            num_inference_steps (`int`, *optional*):
                T, the number of steps of the full schedule; 100 by default.
            skip (`float`, *optional*):
                T_skip as a fraction of T in [0, 1): how many of the noisiest steps are left out; 0.7 by default. Higher
                values stay closer to the input.
            guidance_scale (`float`, *optional*, defaults to 10.0):
                lambda_cfg of Eq. 3, how strongly the result is pushed towards the new identity.
            identity_scale (`float`, *optional*, defaults to 1.0):
                lambda_id, the norm of the negated embedding. Negative values push towards the person instead.
            identity_angle (`float`, *optional*, defaults to 0.0):
                Degrees in [0, 180]. The negated embedding is turned by a random angle up to this one, so that the same
                person can be given different faces.
            mask_start (`float`, *optional*, defaults to 0.8):
                Fraction of T from which on the mask is applied (Eq. 4). Earlier steps change the whole image; lower
                values keep more. With `timesteps` it is a fraction of T = 100: 0.8 masks from timestep 191 on.
            eta (`float`, *optional*):
                Share of noise in a step, in (0, 1]; 1 by default, which is DDPM.
            ip_adapter_scale (`float`, *optional*):
                Weight of the identity tokens in the UNet's cross-attention, for this call, 1 by default; what
                [`set_ip_adapter_scale`] set is ignored and left as it is.
            face_index (`int`, *optional*):
                Which face's identity to take where an image shows several, 0 being the largest. By default there must
                be exactly one.
            inversion ([`DDPMInversion`], *optional*):
                What [`invert`] returned for the same images. Its `num_inference_steps`, `skip`, `timesteps`,
                `solver_order`, `eta` and `ip_adapter_scale` are used; passing others is an error. It stands where other
                pipelines take `latents`.
            inversion_batch_size (`int`, *optional*):
                Samples in one UNet call of the inversion; by default 4 on a CPU, and what fits with CUDA.
            generator (`torch.Generator` or `list[torch.Generator]`, *optional*):
                Makes the result deterministic; a list has one generator for each image.
            identity_generator (`torch.Generator` or `list[torch.Generator]`, *optional*):
                Separate randomness for `identity_angle`; `generator` by default.
            output_type (`str`, *optional*, defaults to `"pil"`):
                `"pil"`, `"np"`, `"pt"` or `"latent"`.
            return_dict (`bool`, *optional*, defaults to `True`):
                Whether to return a [`NullFacePipelineOutput`] instead of a plain tuple.
            callback_on_step_end (`Callable`, *optional*):
                Called after each denoising step as `callback_on_step_end(pipe, step, timestep, callback_kwargs)`;
                `latents` and `identity_embeds` in the dictionary it returns replace the pipeline's own.
            callback_on_step_end_tensor_inputs (`list[str]`, *optional*, defaults to `["latents"]`):
                Which of `latents`, `noise_pred` and `identity_embeds` to put into `callback_kwargs`.
            timesteps (`list[int]`, *optional*):
                The steps to take, in place of `num_inference_steps` and `skip`: strictly decreasing integers from 999
                to 1, such as those of [`few_step_timesteps`]. S of them take 3 S - 1 evaluations of the UNet.
            solver_order (`int`, *optional*):
                1, the default, is DDPM. 2 is SDE-DPM-Solver++ 2M, which makes use of the step before; it takes an `eta`
                of 1.
            prompt (`str` or `list[str]`, *optional*, defaults to `""`):
                Description of the new face, `"an old man with a beard"`; one text, or one for each image. It conditions
                the identity prediction only, so that it acts with `guidance_scale`.
            strength (`float`, *optional*):
                1 - `skip`, as diffusers' image-to-image pipelines call it.

        Examples:

        Returns:
            [`NullFacePipelineOutput`] or `tuple`:
                The images, of the size of the input.

        Raises:
            ValueError: if an argument has a wrong value, shape or size, or no face, or more than one, is found.
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
        if identity_embeds is not None:
            identity_embeds = torch.as_tensor(identity_embeds)
            check_identity_embeds(identity_embeds, (batch_size, embedding_size(self.unet)))
        elif self.face_analyser is None:
            raise RuntimeError(
                "No face models are loaded. Call `pipe.load_face_models()` first, or pass `identity_embeds`."
            )
        unknown = sorted(set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs))
        if unknown:
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` has to be in {self._callback_tensor_inputs}, but found {unknown}."
            )
        self._guidance_scale = guidance_scale
        self._interrupt = False

        # 2. Prepare image, identity and mask
        pixels = self.prepare_image(image)
        if inversion is not None:
            check_reused_inversion(inversion, given, batch_size, self._latent_size(pixels))
        if identity_embeds is None:
            identity_embeds = self.embed_faces(image, face_index)
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
        **arguments: Any,
    ) -> AnonymizedPhoto:
        r"""
        Anonymize every face that is found in a photo of any size, and check that it worked.

        Each face is aligned, anonymized at the resolution of the model and pasted back through the inverse transform
        with a soft edge. Then it is detected and embedded again. While it still matches the person it is retried with
        stronger settings, and in the end covered. A face that the detector finds only in the finished picture is
        covered too.

        Args:
            photo (`PIL.Image.Image`, `str` or `os.PathLike`):
                The photo, or the path of its file. Its EXIF orientation is applied. Of its metadata only the colour
                profile is carried over.
            options ([`PhotoOptions`], *optional*):
                Options that were checked before.
            arguments:
                Attributes of [`PhotoOptions`] by name: `keep=("eyes", "mouth")`, `seed=0`. They take precedence over
                `options`.

        Returns:
            [`AnonymizedPhoto`]: the photo as a new image of the same size, and a record of each face.

        Raises:
            PhotoRefusedError: if this photo cannot be anonymized; nothing of it is returned. `NoFaceFoundError` and
                `TooManyFacesError` are `ValueError`s too, `FaceNotHiddenError` is a `RuntimeError`.
            TypeError, ValueError: if an option is of a wrong type or out of range, or the photo cannot be read.
            RuntimeError: if the FaceID adapter or the face models are not loaded.
        """
        return anonymize_photo(self, photo, PhotoOptions.from_arguments(arguments, options))
