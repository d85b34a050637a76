"""Checks of the arguments of `__call__` and `invert`, before anything is computed."""

import math
import numbers
from collections.abc import Sequence

import torch
from diffusers.image_processor import PipelineImageInput

from .ddpm_inversion import DDPMInversion, InversionSettings, whole_steps
from .face_regions import check_kept_regions
from .image_inputs import check_image_values, count_images
from .protocols import Config, Settings


Generators = torch.Generator | list[torch.Generator] | None


def check_inversion_inputs(
    image: PipelineImageInput,
    settings: InversionSettings,
    scheduler_config: Config,
    inversion_batch_size: int | None,
    generator: Generators,
) -> None:
    """Check the arguments of `invert`.

    Raises:
        ValueError: if an argument, which is named, is out of range or has a wrong shape.
    """
    prediction_type = scheduler_config.get("prediction_type", "epsilon")
    if prediction_type != "epsilon":
        raise ValueError(f"The model predicts {prediction_type!r}. Use one that predicts the noise ('epsilon').")
    _check_steps(settings, scheduler_config["num_train_timesteps"] - 1)
    if not 0.0 < settings.eta <= 1.0:
        raise ValueError(f"`eta` must be in (0, 1], got {settings.eta}.")
    if settings.solver_order not in (1, 2):
        raise ValueError(f"`solver_order` must be 1 or 2, got {settings.solver_order}.")
    if settings.solver_order == 2 and settings.eta != 1.0:
        raise ValueError(f"`solver_order`=2 is defined for `eta`=1 only, got {settings.eta}.")
    _check_finite("ip_adapter_scale", settings.ip_adapter_scale)
    if inversion_batch_size is not None and inversion_batch_size < 1:
        raise ValueError(f"`inversion_batch_size` must be at least 1, got {inversion_batch_size}.")
    check_image_values(image, "image")
    _check_generators(generator, count_images(image))


def check_edit_inputs(
    batch_size: int,
    guidance_scale: float,
    identity_scale: float,
    identity_angle: float,
    mask_start: float,
    identity_generator: Generators,
    prompt: str | list[str],
) -> None:
    """Check the arguments of `__call__` that `invert` does not have.

    Raises:
        ValueError: if an argument, which is named, is out of range or not one for each image.
    """
    _check_finite("guidance_scale", guidance_scale)
    _check_finite("identity_scale", identity_scale)
    if not 0.0 <= identity_angle <= 180.0:
        raise ValueError(f"`identity_angle` must be in [0, 180] degrees, got {identity_angle}.")
    if not 0.0 <= mask_start <= 1.0:
        raise ValueError(f"`mask_start` is a fraction of the steps in [0, 1], got {mask_start}.")
    _check_generators(identity_generator, batch_size)
    if not isinstance(prompt, (str, list)) or not all(isinstance(text, str) for text in prompt):
        raise ValueError(f"`prompt` must be a string or a list of strings, got {type(prompt)}.")
    if isinstance(prompt, list) and len(prompt) != batch_size:
        raise ValueError(f"{len(prompt)} prompts were given for {batch_size} image(s).")


def check_identity_inputs(identity_embeds: object, shape: tuple[int, int], has_analyser: bool) -> None:
    """Check the embeddings, or that they can be computed.

    Raises:
        ValueError: if they do not have the shape (B, D), or one is zero or not finite.
        RuntimeError: if neither embeddings nor face models are given.
    """
    if identity_embeds is None:
        if not has_analyser:
            raise RuntimeError(
                "No face models are loaded. Call `pipe.load_face_models()` first, or pass `identity_embeds`."
            )
        return
    identity_embeds = torch.as_tensor(identity_embeds)
    if tuple(identity_embeds.shape) != shape:
        raise ValueError(f"`identity_embeds` must have the shape {shape}, got {tuple(identity_embeds.shape)}.")
    if not torch.isfinite(identity_embeds).all() or not identity_embeds.any(dim=-1).all():
        raise ValueError("`identity_embeds` must be finite and not zero. A zero embedding has no opposite.")


def check_mask_inputs(mask_image: PipelineImageInput | None, keep: Sequence[str] | None, has_parser: bool) -> None:
    """Check the mask and the regions to keep.

    Raises:
        ValueError: if the mask or a region name is not valid.
        RuntimeError: if `keep` is used without a face parser.
    """
    if mask_image is not None:
        check_image_values(mask_image, "mask_image")
    elif keep is not None:
        check_kept_regions(keep)
        if not has_parser:
            raise RuntimeError(
                "`keep` needs a face parser. Call `pipe.load_face_models()` first, or pass `mask_image`."
            )


def check_callback_inputs(names: Sequence[str], known: Sequence[str]) -> None:
    """Raise ValueError if a callback asks for a tensor that the pipeline does not offer."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"`callback_on_step_end_tensor_inputs` has to be in {known}, but found {unknown}.")


def check_reused_inversion(
    inversion: DDPMInversion, given: Settings, batch_size: int, latent_size: tuple[int, int]
) -> None:
    """Raise ValueError if an inversion is of other images, or a setting contradicts its own."""
    for name, value in given.items():
        own = getattr(inversion.settings, name)
        if value != own:
            raise ValueError(
                f"`{name}` is {value}, but `inversion` was made with {own}. Leave it out, or invert again."
            )
    if len(inversion.latents) != batch_size:
        raise ValueError(f"`inversion` is of {len(inversion.latents)} image(s), `image` of {batch_size}.")
    if tuple(inversion.latents.shape[-2:]) != latent_size:
        raise ValueError("`inversion` was made from images of another size.")


def _check_steps(settings: InversionSettings, last: int) -> None:
    num_steps, skip, timesteps = settings.num_inference_steps, settings.skip, settings.timesteps
    if timesteps is not None:
        valid = all(isinstance(t, numbers.Integral) and 1 <= t <= last for t in timesteps)
        if not timesteps or not valid or any(t <= next_t for t, next_t in zip(timesteps, timesteps[1:])):
            raise ValueError(f"`timesteps` must be strictly decreasing integers from {last} to 1, got {timesteps}.")
        return
    if not isinstance(num_steps, int) or not 1 <= num_steps <= last:
        raise ValueError(f"`num_inference_steps` must be an integer from 1 to {last}, got {num_steps}.")
    if skip is None or not 0.0 <= skip < 1.0:
        raise ValueError(f"`skip` is a fraction of the steps in [0, 1), got {skip}.")
    if whole_steps(num_steps, skip) >= num_steps:
        raise ValueError(f"`skip`={skip} leaves none of {num_steps} steps. Lower it, or raise `num_inference_steps`.")


def _check_finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number, got {value}.")


def _check_generators(generator: Generators, batch_size: int) -> None:
    if isinstance(generator, list) and len(generator) != batch_size:
        raise ValueError(f"{len(generator)} generators were given for {batch_size} image(s).")
