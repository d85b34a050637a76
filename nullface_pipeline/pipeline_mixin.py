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

import math
import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from diffusers.utils import BaseOutput, logging

from .ddpm_inversion import (
    DDPMInversion,
    InversionSettings,
    denoising_step,
    extrapolate_clean,
    first_masked_timestep,
    guide_noise,
    predict_clean,
    sample_trajectory,
    solve_noise_maps,
    whole_steps,
)
from .face_adapter import (
    FaceAdapterMixin,
    adapter_scale,
    check_face_adapter,
    embedding_size,
    identity_conditions,
)
from .face_identity import DETECTION_THRESHOLD, choose_face, detect_faces, load_face_analyser, opposite_identity
from .face_parsing import anonymization_mask, load_face_parser
from .face_regions import check_kept_regions
from .image_inputs import check_image_values, count_images, to_uint8
from .photo import anonymize_photo
from .photo_records import PRESETS, AnonymizedPhoto, PhotoOptions


logger = logging.get_logger(__name__)  # pylint: disable=invalid-name

# Samples in one UNet call of the inversion. On a CPU larger batches gain nothing and cost memory.
INVERSION_BATCH_SIZE = 16
INVERSION_BATCH_SIZES = {"cpu": 4}
MAX_INVERSION_BATCH_SIZE = 64

# What a UNet holds at a time, in values for each latent pixel and each channel of its first block: 37 to 71, as measured
# on a CPU with Stable Diffusion 1.5's.
WORKING_VALUES = 71


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


def asked_settings(num_inference_steps, skip, timesteps, solver_order, eta, ip_adapter_scale) -> dict[str, Any]:
    """The settings of an inversion that were asked for, by name; the others are None."""
    asked = {
        "num_inference_steps": num_inference_steps,
        "skip": skip,
        "timesteps": None if timesteps is None else tuple(timesteps),
        "solver_order": solver_order,
        "eta": eta,
        "ip_adapter_scale": ip_adapter_scale,
    }
    return {name: value for name, value in asked.items() if value is not None}


def stack_rows(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    """`count` rows of the first conditions over as many of the second, each of which has one row or `count`."""
    return {
        name: torch.cat([rows.expand(count, *rows.shape[1:]) for rows in (first[name], second[name])])
        for name in first
    }


def inversion_batch_for_memory(free_bytes: int, sample_bytes: int) -> int:
    """How many samples half of the free memory suffices for; the other half is for what the estimate does not know."""
    return max(1, min(MAX_INVERSION_BATCH_SIZE, free_bytes // 2 // sample_bytes))


def default_inversion_batch_size(unet: Any, device: torch.device, latent_size: Sequence[int]) -> int:
    """Samples in one UNet call of the inversion: as many as fit on a CUDA device, elsewhere a fixed number."""
    if device.type != "cuda":
        return INVERSION_BATCH_SIZES.get(device.type, INVERSION_BATCH_SIZE)
    # What PyTorch holds for tensors to come is free as well.
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free_bytes = torch.cuda.mem_get_info(device)[0] + cached
    values = WORKING_VALUES * unet.config.block_out_channels[0] * math.prod(latent_size)
    return inversion_batch_for_memory(free_bytes, values * unet.dtype.itemsize)


class NullFaceMixin(FaceAdapterMixin):
    r"""
    The method, for a [`DiffusionPipeline`] with a VAE, a UNet and a scheduler as components.

    A plain mixin: diffusers takes any `DiffusionPipeline` that a custom pipeline's file imports for another pipeline.
    A class has it before its other bases, calls `_prepare` at the end of its `__init__`, names the published
    file of its adapter in `face_adapter_name`, and says in `prompt_conditions` what the UNet is told of a text.
    """

    _callback_tensor_inputs = ["latents", "noise_pred", "identity_embeds"]

    vae: Any
    unet: Any
    scheduler: Any
    face_analyser: Any = None
    face_parser: Any = None

    # Of DiffusionPipeline
    _execution_device: Any
    progress_bar: Any
    maybe_free_model_hooks: Any
    config: Any

    def _prepare(self):
        self.vae_scale_factor = 2 ** (len(self.vae.config.block_out_channels) - 1) if getattr(self, "vae", None) else 8
        self.image_processor = VaeImageProcessor(do_resize=False, do_convert_rgb=True)
        self.mask_processor = VaeImageProcessor(do_resize=False, do_normalize=False, do_convert_grayscale=True)

    @classmethod
    def from_pipe(cls, pipeline: Any, **kwargs: Any):
        r"""See [`DiffusionPipeline.from_pipe`]. The face models, which are not components, are kept too."""
        new = super().from_pipe(pipeline, **kwargs)  # type: ignore[misc]
        for name in ("face_analyser", "face_parser"):
            setattr(new, name, getattr(pipeline, name, None))
        return new

    def prompt_conditions(self, prompt: str | list[str], height: int, width: int) -> dict[str, torch.Tensor]:
        r"""
        What the UNet is told beside the identity, for [`predict_noise`].

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

    def load_face_models(
        self,
        face_analyser: str | Path | Any = "buffalo_l",
        face_parser: str | Path | Any | None = "bisenet",
        providers: list[str] | None = None,
        detection_threshold: float = DETECTION_THRESHOLD,
        detection_size: tuple[int, int] | None = None,
    ):
        r"""
        Load the models that find, recognize and parse faces.

        Args:
            face_analyser (`str`, `Path` or `insightface.app.FaceAnalysis`, *optional*, defaults to `"buffalo_l"`):
                An InsightFace pack by name, a folder of its ONNX files, or a prepared object. The published FaceID
                adapters were trained on the recognizer of `buffalo_l`.
            face_parser (`str`, `Path`, callable or `None`, *optional*, defaults to `"bisenet"`):
                facexlib's BiSeNet, a file of its weights, a folder or Hub name of a transformers segmentation model
                with CelebAMask-HQ labels, an object that works like `FaceParser`, or `None` to go without.
            providers (`list[str]`, *optional*):
                ONNX Runtime providers; CUDA where it is installed, else CPU.
            detection_threshold (`float`, *optional*, defaults to 0.3):
                Lowest detection score that counts as a face.
            detection_size (`tuple[int, int]`, *optional*):
                Width and height that a photo is scaled to for detection; InsightFace's default if not given.
        """
        self.face_analyser = load_face_analyser(face_analyser, providers, detection_threshold, detection_size)
        self.face_parser = None if face_parser is None else load_face_parser(face_parser, self._execution_device)
        self._warn_of_other_recognizer()

    def check_inputs(self, image, settings, inversion_batch_size, generator):
        check_face_adapter(self.unet)
        prediction_type = self.scheduler.config.get("prediction_type", "epsilon")
        if prediction_type != "epsilon":
            raise ValueError(
                f"The model predicts {prediction_type!r}; this pipeline needs one that predicts the noise ('epsilon')."
            )
        self.check_steps(settings.num_inference_steps, settings.skip, settings.timesteps)
        if not 0.0 < settings.eta <= 1.0:
            raise ValueError(
                f"`eta` must be in (0, 1], got {settings.eta}; without noise there are no noise maps to solve for."
            )
        if settings.solver_order not in (1, 2):
            raise ValueError(f"`solver_order` must be 1 or 2, got {settings.solver_order}.")
        if settings.solver_order == 2 and settings.eta != 1.0:
            raise ValueError(f"`solver_order`=2 is defined for `eta`=1 only, got {settings.eta}.")
        if not math.isfinite(settings.ip_adapter_scale):
            raise ValueError(f"`ip_adapter_scale` must be a finite number, got {settings.ip_adapter_scale}.")
        if inversion_batch_size is not None and inversion_batch_size < 1:
            raise ValueError(f"`inversion_batch_size` must be at least 1, got {inversion_batch_size}.")
        check_image_values(image, "image")
        self.check_generators(generator, count_images(image))

    def check_steps(self, num_inference_steps, skip, timesteps):
        last = self.scheduler.config.num_train_timesteps - 1
        if timesteps is not None:
            whole = all(isinstance(t, numbers.Integral) and 1 <= t <= last for t in timesteps)
            if not timesteps or not whole or any(t <= next_t for t, next_t in zip(timesteps, timesteps[1:])):
                raise ValueError(
                    f"`timesteps` must be strictly decreasing integers from {last} to 1, got {timesteps}."
                )
            return
        if not isinstance(num_inference_steps, int) or not 1 <= num_inference_steps <= last:
            raise ValueError(f"`num_inference_steps` must be an integer from 1 to {last}, got {num_inference_steps}.")
        if not 0.0 <= skip < 1.0:
            raise ValueError(f"`skip` is a fraction of the steps in [0, 1), got {skip}.")
        if whole_steps(num_inference_steps, skip) >= num_inference_steps:
            raise ValueError(
                f"`skip`={skip} leaves none of {num_inference_steps} steps; lower it or raise `num_inference_steps`."
            )

    def check_edit_inputs(
        self,
        image,
        identity_embeds,
        mask_image,
        keep,
        guidance_scale,
        identity_scale,
        identity_angle,
        mask_start,
        inversion,
        identity_generator,
        callback_on_step_end_tensor_inputs,
        prompt,
    ):
        for name, value in (("guidance_scale", guidance_scale), ("identity_scale", identity_scale)):
            if not math.isfinite(value):
                raise ValueError(f"`{name}` must be a finite number, got {value}.")
        if not 0.0 <= identity_angle <= 180.0:
            raise ValueError(f"`identity_angle` must be in [0, 180] degrees, got {identity_angle}.")
        if not 0.0 <= mask_start <= 1.0:
            raise ValueError(f"`mask_start` is a fraction of the steps in [0, 1], got {mask_start}.")
        batch_size = count_images(image)
        self.check_generators(identity_generator, batch_size)
        if not isinstance(prompt, (str, list)) or not all(isinstance(text, str) for text in prompt):
            raise ValueError(f"`prompt` must be a string or a list of strings, got {type(prompt)}.")
        if isinstance(prompt, list) and len(prompt) != batch_size:
            raise ValueError(f"{len(prompt)} prompts were given for {batch_size} image(s).")
        if identity_embeds is None and self.face_analyser is None:
            raise RuntimeError(
                "No face models are loaded. Call `pipe.load_face_models()` first, or pass `identity_embeds`."
            )
        if identity_embeds is not None:
            shape = (batch_size, embedding_size(self.unet))
            if tuple(identity_embeds.shape) != shape:
                raise ValueError(f"`identity_embeds` must have the shape {shape}, got {tuple(identity_embeds.shape)}.")
            if not torch.isfinite(identity_embeds).all() or not identity_embeds.any(dim=-1).all():
                raise ValueError("`identity_embeds` must be finite and not zero; away from nobody, nothing changes.")
        if mask_image is not None:
            check_image_values(mask_image, "mask_image")
        elif keep is not None:
            check_kept_regions(keep)
            if self.face_parser is None:
                raise RuntimeError(
                    "`keep` needs a face parser. Call `pipe.load_face_models()` first, or pass `mask_image`."
                )
        if inversion is not None and inversion.latents.shape[0] != batch_size:
            raise ValueError(f"`inversion` is of {inversion.latents.shape[0]} image(s), `image` of {batch_size}.")
        unknown = set(callback_on_step_end_tensor_inputs) - set(self._callback_tensor_inputs)
        if unknown:
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` has to be in {self._callback_tensor_inputs}, but found "
                f"{sorted(unknown)}."
            )

    def check_generators(self, generator, batch_size):
        if isinstance(generator, list) and len(generator) != batch_size:
            raise ValueError(f"{len(generator)} generators were given for {batch_size} image(s).")

    def check_inversion_settings(self, inversion, asked):
        # An inversion brings its own settings along; one that was asked for besides must not be ignored silently.
        for name, value in asked.items():
            if value != getattr(inversion, name):
                raise ValueError(
                    f"`{name}` is {value}, but `inversion` was made with {getattr(inversion, name)}. Leave it out, or "
                    "invert again."
                )

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
        pixels = self.image_processor.preprocess(image).float()
        multiple = max(8, self.vae_scale_factor)
        height, width = pixels.shape[-2:]
        if pixels.ndim != 4 or pixels.shape[1] != 3:
            raise ValueError(f"`image` must have three colour channels, got the shape {tuple(pixels.shape)}.")
        if height % multiple or width % multiple:
            raise ValueError(
                f"Image sides must be multiples of {multiple}, got {width} x {height}. Resize or crop the image to "
                f"{max(1, round(width / multiple)) * multiple} x {max(1, round(height / multiple)) * multiple}, or use "
                "`pipe.anonymize`, which takes photos of any size."
            )
        return pixels

    def prepare_mask(
        self, mask_image: PipelineImageInput | None, keep: Sequence[str] | None, pixels: torch.Tensor
    ) -> torch.Tensor | None:
        r"""
        The mask of what is to change, on the latent grid: (B, 1, h, w) float32 in [0, 1], or `None` for everything.

        Args:
            mask_image: One mask, or one for each image; white is anonymized. Takes precedence over `keep`.
            keep: Names of regions to leave as they are; the face around them is anonymized.
            pixels: (B, 3, H, W) in [-1, 1].
        """
        if mask_image is not None:
            mask = self.mask_processor.preprocess(mask_image).float()
            shape = (pixels.shape[0], 1, *pixels.shape[-2:])
            if tuple(mask.shape) not in (shape, (1, *shape[1:])):
                raise ValueError(
                    f"`mask_image` must be one grey mask, or one for each image, of the images' size: {shape}, got "
                    f"{tuple(mask.shape)}."
                )
        elif keep is not None:
            masks = [
                anonymization_mask(self.face_parser(face), self.face_parser.labels, keep) for face in to_uint8(pixels)
            ]
            for number, face_mask in enumerate(masks):
                if face_mask.max() < 0.5:
                    raise ValueError(
                        f"The face parser finds nothing to change in image {number}. Use an aligned face, keep fewer "
                        "regions, or pass `mask_image`."
                    )
            mask = torch.from_numpy(np.stack(masks))[:, None]
        else:
            return None
        size = (pixels.shape[-2] // self.vae_scale_factor, pixels.shape[-1] // self.vae_scale_factor)
        return F.interpolate(mask, size=size, mode="area").to(self._execution_device)

    def encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        r"""x_0: the mode of the VAE's posterior, scaled; (B, C, h, w) float32."""
        encoded = self.vae.encode(pixels.to(self._execution_device, self.vae.dtype))
        return retrieve_latents(encoded, sample_mode="argmax").float() * self.vae.config.scaling_factor

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        r"""Pixels (B, 3, H, W) float32, nominally in [-1, 1]."""
        return self.vae.decode((latents / self.vae.config.scaling_factor).to(self.vae.dtype)).sample.float()

    def predict_noise(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        identity_embeds: torch.Tensor,
        prompt_embeds: torch.Tensor,
        **added_conditions: torch.Tensor,
    ) -> torch.Tensor:
        r"""
        One call of the UNet.

        Args:
            latents (`torch.Tensor`): (N, C, h, w).
            timesteps (`torch.Tensor`): one timestep, or (N,).
            identity_embeds (`torch.Tensor`): (N, D), one identity a sample; zeros for none.
            prompt_embeds (`torch.Tensor`): (1, tokens, channels), or (N, tokens, channels).
            added_conditions (`torch.Tensor`): the rest of [`prompt_conditions`], (1, channels) or (N, channels) each.

        Returns:
            `torch.Tensor`: (N, C, h, w) float32.
        """
        if identity_embeds.shape[0] != latents.shape[0]:
            raise ValueError(f"{identity_embeds.shape[0]} identities were given for {latents.shape[0]} samples.")
        count = latents.shape[0]
        added_cond_kwargs = {name: rows.expand(count, -1) for name, rows in added_conditions.items()}
        noise_pred = self.unet(
            latents.to(self.unet.dtype),
            timesteps,
            encoder_hidden_states=prompt_embeds.expand(count, -1, -1),
            added_cond_kwargs={**added_cond_kwargs, **identity_conditions(self.unet, identity_embeds)},
            return_dict=False,
        )[0]
        return noise_pred.float()

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
    ) -> DDPMInversion:
        r"""
        Find the noise that makes the sampler reproduce the images, once for many edits of them (section 3.2).

        Args:
            image (`PIL.Image.Image`, `np.ndarray`, `torch.Tensor` or a list of these):
                One or more images of one size, as for [`__call__`].
            num_inference_steps, skip, timesteps, solver_order, eta, ip_adapter_scale, inversion_batch_size, generator:
                As for [`__call__`].

        Returns:
            [`DDPMInversion`]: a frozen record to pass to [`__call__`] as `inversion`, any number of times.
        """
        asked = asked_settings(num_inference_steps, skip, timesteps, solver_order, eta, ip_adapter_scale)
        settings = InversionSettings.from_arguments(asked)
        self.check_inputs(image, settings, inversion_batch_size, generator)
        pixels = self.prepare_image(image)
        conditions = self.prompt_conditions("", *pixels.shape[-2:])
        inversion = self._invert_pixels(pixels, conditions, settings, inversion_batch_size, generator)
        self.maybe_free_model_hooks()
        return inversion

    def _invert_pixels(
        self,
        pixels: torch.Tensor,
        conditions: dict[str, torch.Tensor],
        settings: InversionSettings,
        inversion_batch_size: int | None,
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> DDPMInversion:
        device = self._execution_device
        schedule = settings.kept_steps(self.scheduler.config).to(device)
        trajectory = sample_trajectory(self.encode_image(pixels), schedule, generator)

        # No prediction depends on another, so steps and images make up one long batch.
        samples = trajectory[:-1].flatten(0, 1)  # (S, B, C, h, w) -> (S * B, C, h, w)
        timesteps = schedule.timesteps.repeat_interleave(pixels.shape[0])
        identity_embeds = torch.zeros(len(samples), embedding_size(self.unet), device=device)
        batch_size = inversion_batch_size or default_inversion_batch_size(self.unet, device, samples.shape[-2:])
        batches = list(zip(samples.split(batch_size), timesteps.split(batch_size), identity_embeds.split(batch_size)))
        predictions = []
        with adapter_scale(self.unet, settings.ip_adapter_scale):
            for latents, t, nobody in self.progress_bar(batches):
                predictions.append(self.predict_noise(latents, t, nobody, **conditions))
        noise_preds = torch.cat(predictions).unflatten(0, (len(schedule), -1))  # (S, B, C, h, w)

        return DDPMInversion(
            latents=trajectory[0],
            noise_maps=solve_noise_maps(trajectory, noise_preds, schedule, settings.eta, settings.solver_order),
            noise_pred=noise_preds[0],
            schedule=schedule,
            **vars(settings),
        )

    def denoise(
        self,
        inversion: DDPMInversion,
        identity_embeds: torch.Tensor,
        conditions: dict[str, torch.Tensor],
        prompted: dict[str, torch.Tensor],
        mask: torch.Tensor | None,
        mask_start: float,
        callback_on_step_end: Callable[[Any, int, int, dict], dict] | None,
        callback_on_step_end_tensor_inputs: list[str],
    ) -> torch.Tensor:
        r"""
        Walk from the inversion's latents to clean ones, towards the identities (Eq. 1, 3 and 4).

        Args:
            identity_embeds (`torch.Tensor`): (B, D) float32, as the adapter is to see them.
            conditions, prompted (`dict[str, torch.Tensor]`): [`prompt_conditions`] of the empty prompt, for the
                prediction without an identity, and of the prompts, for that with it.
            mask (`torch.Tensor` or `None`): (B, 1, h, w) in [0, 1], what is to change.
            mask_start (`float`): fraction of T from which on it is applied.

        Returns:
            `torch.Tensor`: (B, C, h, w) float32.
        """
        schedule, latents, former_clean = inversion.schedule, inversion.latents, None
        first_masked = first_masked_timestep(
            mask_start, inversion.num_inference_steps, self.scheduler.config.num_train_timesteps
        )
        masks = [mask if t <= first_masked else None for t in schedule.timesteps.tolist()]
        extrapolation = schedule.extrapolation()
        text_of_pair = conditions if prompted is conditions else stack_rows(conditions, prompted, len(latents))
        self._num_timesteps = len(schedule)
        with adapter_scale(self.unet, inversion.ip_adapter_scale), self.progress_bar(total=len(schedule)) as progress:
            for i, t in enumerate(schedule.timesteps):
                if self.interrupt:
                    continue

                if i == 0:
                    noise_pred_uncond = inversion.noise_pred
                    noise_pred_identity = self.predict_noise(latents, t, identity_embeds, **prompted)
                else:
                    pair = torch.cat([torch.zeros_like(identity_embeds), identity_embeds])
                    noise_preds = self.predict_noise(torch.cat([latents] * 2), t, pair, **text_of_pair)
                    noise_pred_uncond, noise_pred_identity = noise_preds.chunk(2)
                # The property, because a callback may have changed it.
                noise_pred = guide_noise(noise_pred_uncond, noise_pred_identity, self.guidance_scale, masks[i])
                alphas = schedule.alphas_cumprod[i], schedule.alphas_cumprod_prev[i]
                clean = target = predict_clean(latents, noise_pred, alphas[0])
                if inversion.solver_order == 2 and former_clean is not None:
                    target = extrapolate_clean(clean, former_clean, extrapolation[i])
                latents = denoising_step(target, noise_pred, inversion.noise_maps[i], *alphas, inversion.eta)
                former_clean = clean

                if callback_on_step_end is not None:
                    tensors = {"latents": latents, "noise_pred": noise_pred, "identity_embeds": identity_embeds}
                    callback_kwargs = {k: tensors[k] for k in callback_on_step_end_tensor_inputs}
                    callback_outputs = callback_on_step_end(self, i, t, callback_kwargs)

                    latents = callback_outputs.pop("latents", latents)
                    identity_embeds = callback_outputs.pop("identity_embeds", identity_embeds)

                progress.update()
        return latents

    @property
    def presets(self) -> Mapping[str, Mapping[str, Any]]:
        r"""The numbers of each preset of [`anonymize`]: those in the model's `model_index.json`, else the paper's."""
        return self.config.presets or PRESETS

    @property
    def guidance_scale(self):
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self):
        r"""Whether the person's opposite is heard at all. Both predictions are made in any case (Eq. 3)."""
        return self._guidance_scale != 0.0

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
                What the new face is to be like, `"an old man with a beard"`; one text, or one for each image. Only the
                prediction under the identity is told it, so that it acts with `guidance_scale`.

        Returns:
            [`NullFacePipelineOutput`] or `tuple`:
                The images, of the size of the input.

        Raises:
            ValueError: if an argument has a wrong value, shape or size, or no face, or more than one, is found.
            RuntimeError: if the FaceID adapter, or a face model that is needed, is not loaded.
        """
        # 1. Check inputs
        if identity_embeds is not None:
            identity_embeds = torch.as_tensor(identity_embeds)
        asked = asked_settings(num_inference_steps, skip, timesteps, solver_order, eta, ip_adapter_scale)
        settings = InversionSettings.from_arguments(asked) if inversion is None else inversion
        self.check_inputs(image, settings, inversion_batch_size, generator)
        self.check_edit_inputs(
            image,
            identity_embeds,
            mask_image,
            keep,
            guidance_scale,
            identity_scale,
            identity_angle,
            mask_start,
            inversion,
            identity_generator,
            callback_on_step_end_tensor_inputs,
            prompt,
        )
        if inversion is not None:
            self.check_inversion_settings(inversion, asked)
        self._guidance_scale = guidance_scale
        self._interrupt = False
        device = self._execution_device

        # 2. Prepare image, identity and mask
        pixels = self.prepare_image(image)
        if identity_embeds is None:
            identity_embeds = self.embed_faces(image, face_index)
        mask = self.prepare_mask(mask_image, keep, pixels)
        size = (pixels.shape[-2] // self.vae_scale_factor, pixels.shape[-1] // self.vae_scale_factor)
        if inversion is not None and inversion.latents.shape[-2:] != size:
            raise ValueError("`inversion` was made from images of another size.")

        # 3. Invert
        conditions = self.prompt_conditions("", *pixels.shape[-2:])
        prompted = self.prompt_conditions(prompt, *pixels.shape[-2:]) if any(prompt) else conditions
        if inversion is None:
            inversion = self._invert_pixels(pixels, conditions, settings, inversion_batch_size, generator)
        inversion = inversion.to(device)

        # 4. Denoise under the opposite identity
        identity_embeds = opposite_identity(
            identity_embeds.to(device), identity_scale, identity_angle, identity_generator or generator
        )
        latents = self.denoise(
            inversion,
            identity_embeds,
            conditions,
            prompted,
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

    def anonymize(
        self,
        photo: PIL.Image.Image | str | os.PathLike[str],
        options: PhotoOptions | None = None,
        **arguments: Any,
    ) -> AnonymizedPhoto:
        r"""
        Anonymize every face that is found in a photo of any size, and check that it worked.

        Each face is aligned, anonymized at the resolution of the model and pasted back through the inverse transform
        with a soft edge. Then it is detected and embedded again; while it still resembles the person it is tried again
        with stronger settings, and in the end covered. What the detector finds only at a second look,
        at the finished picture, is covered too.

        Args:
            photo (`PIL.Image.Image`, `str` or `os.PathLike`):
                The photo, or the path of its file. Its EXIF orientation is applied; of its metadata only the colour profile is carried over.
            options ([`PhotoOptions`], *optional*):
                What is asked, checked already.
            arguments:
                Any of the attributes of [`PhotoOptions`] by name: `keep=("eyes", "mouth")`, `seed=0`. They take
                precedence over `options`.

        Returns:
            [`AnonymizedPhoto`]: the photo as a new image of the same size, and a record of each face.

        Raises:
            PhotoRefusedError: if this photo cannot be anonymized; nothing of it is returned. `NoFaceFoundError` and
                `TooManyFacesError` are `ValueError`s too, `FaceNotHiddenError` is a `RuntimeError`.
            TypeError, ValueError: if an option is of a wrong type or out of range, or the photo cannot be read.
            RuntimeError: if the FaceID adapter or the face models are not loaded.
        """
        return anonymize_photo(self, photo, PhotoOptions.from_arguments(arguments, options))
