"""Baseline of table 2: Stable Diffusion Inpainting with the same identity, without inversion."""

from pathlib import Path

import PIL.Image
import torch
from diffusers import StableDiffusionInpaintPipeline, UNet2DConditionModel

from nullface_pipeline.face_adapter import FACEID_REPOSITORY, FaceAdapterMixin, adapter_scale, check_face_adapter
from nullface_pipeline.face_identity import opposite_identity
from nullface_pipeline.pipeline import FACEID_WEIGHTS, StableDiffusionNullFacePipeline


INPAINTING_MODEL = "stable-diffusion-v1-5/stable-diffusion-inpainting"


class FaceInpaintPipeline(FaceAdapterMixin, StableDiffusionInpaintPipeline):
    """[`StableDiffusionInpaintPipeline`] with the FaceID adapter and the negated identity.

    The masked face is generated from pure noise, conditioned on the negated embedding (section
    3.3). A UNet of nine channels makes this Stable Diffusion Inpainting. For one of four channels,
    diffusers restores the noised photo around the mask after every step: "inpainting by blending".
    """

    face_adapter_name = FACEID_WEIGHTS

    def inpaint(
        self,
        images: list[PIL.Image.Image],
        masks: list[PIL.Image.Image],
        identity_embeds: torch.Tensor,
        num_inference_steps: int = 100,
        guidance_scale: float = 10.0,
        generator: list[torch.Generator] | None = None,
    ) -> list[PIL.Image.Image]:
        """Inpaint faces.

        Args:
            images (`list[PIL.Image.Image]`): B aligned faces of one size.
            masks (`list[PIL.Image.Image]`): B of the same size; white is inpainted.
            identity_embeds (`torch.Tensor`): (B, 512) embeddings of the people shown.
            guidance_scale (`float`): lambda_cfg of Eq. 3, above 1.
            generator (`list[torch.Generator]`, *optional*): one for each image.

        Raises:
            RuntimeError: if the FaceID adapter is not loaded.
        """
        check_face_adapter(self.unet)
        opposite = opposite_identity(identity_embeds)
        null_and_opposite = torch.cat([torch.zeros_like(opposite), opposite])[:, None]  # (2 B, 1, 512)
        with adapter_scale(self.unet, 1.0):
            return self(
                prompt=[""] * len(images),
                image=images,
                mask_image=masks,
                ip_adapter_image_embeds=[null_and_opposite],
                width=images[0].width,
                height=images[0].height,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                generator=generator,
            ).images

    def prepare_ip_adapter_image_embeds(
        self, ip_adapter_image, ip_adapter_image_embeds, device, num_images_per_prompt, do_classifier_free_guidance
    ):
        """Return one row a sample; diffusers would repeat all rows for each sample."""
        return [embeds.to(device, self.unet.dtype) for embeds in ip_adapter_image_embeds]


def load_inpainter(
    pipe: StableDiffusionNullFacePipeline, model: str | Path | None = INPAINTING_MODEL
) -> FaceInpaintPipeline:
    """Load an inpainting pipeline that shares all components but the UNet with `pipe`.

    Args:
        pipe ([`StableDiffusionNullFacePipeline`]): with its adapter loaded.
        model (`str` or `Path`, *optional*): folder or Hub name of a model with a UNet of nine
            channels; None uses the pipeline's own UNet with its adapter, and blends.
    """
    parts = {name: pipe.components[name] for name in ("vae", "text_encoder", "tokenizer", "scheduler", "unet")}
    if model is not None:
        unet = UNet2DConditionModel.from_pretrained(model, subfolder="unet")
        parts["unet"] = unet.to(pipe.device, pipe.unet.dtype)
    inpainter = FaceInpaintPipeline(
        **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    if model is not None:
        inpainter.load_face_adapter(FACEID_REPOSITORY)
    inpainter.set_progress_bar_config(disable=True)
    return inpainter


def is_blending(inpainter: FaceInpaintPipeline) -> bool:
    """Whether the UNet has no mask input."""
    return inpainter.unet.config.in_channels != 9
