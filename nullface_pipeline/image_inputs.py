"""Images and masks of every form that diffusers takes, checked and brought to tensors."""

import numpy as np
import PIL.Image
import torch
from diffusers.image_processor import PipelineImageInput, VaeImageProcessor, is_valid_image_imagelist


IMAGE_PROCESSOR = VaeImageProcessor(do_resize=False, do_convert_rgb=True)
MASK_PROCESSOR = VaeImageProcessor(do_resize=False, do_normalize=False, do_convert_grayscale=True)


def count_images(image: PipelineImageInput) -> int:
    """Number of images in one, a batch, or a list of either."""
    if isinstance(image, (list, tuple)):
        return sum(count_images(item) for item in image)
    return image.shape[0] if getattr(image, "ndim", 3) == 4 else 1


def check_image_values(image: PipelineImageInput, name: str) -> None:
    """Raise ValueError unless `image` is an image or a batch of one size with valid values.

    diffusers would scale 0 ... 255 arrays as if they were 0 ... 1, and stack images of different
    sizes with an error that names neither.
    """
    if not is_valid_image_imagelist(image):
        raise ValueError(
            f"`{name}` must be a PIL image, a numpy array or a torch tensor, or a list of these, got {type(image)}."
        )
    items = image if isinstance(image, list) else [image]
    sizes = {item.size if isinstance(item, PIL.Image.Image) else tuple(item.shape[-3:]) for item in items}
    if len(sizes) > 1:
        raise ValueError(f"All images in `{name}` must have one size, got {sorted(sizes)}; call once for each size.")
    for item in items:
        if isinstance(item, PIL.Image.Image):
            continue
        if not (np.issubdtype(item.dtype, np.floating) if isinstance(item, np.ndarray) else item.is_floating_point()):
            raise ValueError(f"`{name}` must have floating-point values in [0, 1], got {item.dtype}. Divide by 255.")
        if not 0.0 <= float(item.min()) <= float(item.max()) <= 1.0:
            raise ValueError(
                f"`{name}` must hold values in [0, 1], got {float(item.min()):.3g} to {float(item.max()):.3g}."
            )


def to_uint8(pixels: torch.Tensor) -> list[np.ndarray]:
    """(B, 3, H, W) in [-1, 1] as B arrays of (H, W, 3) uint8 RGB, as the face models take them."""
    scaled = (pixels.float().clamp(-1.0, 1.0) * 127.5 + 127.5).round().to(torch.uint8)
    return list(scaled.permute(0, 2, 3, 1).cpu().numpy())


def image_to_tensor(image: PipelineImageInput, multiple: int) -> torch.Tensor:
    """Bring images of any accepted form to (B, 3, H, W) float32 in [-1, 1].

    Args:
        multiple (`int`): of which both sides have to be multiples.

    Raises:
        ValueError: if an image has another number of channels or another size.
    """
    pixels = IMAGE_PROCESSOR.preprocess(image).float()
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


def mask_to_tensor(mask_image: PipelineImageInput, shape: tuple[int, int, int, int]) -> torch.Tensor:
    """Bring one mask, or one for each image, to (B or 1, 1, H, W) float32 in [0, 1].

    Args:
        shape: (B, 1, H, W), of the images.

    Raises:
        ValueError: if the mask has another shape.
    """
    mask = MASK_PROCESSOR.preprocess(mask_image).float()
    if tuple(mask.shape) not in (shape, (1, *shape[1:])):
        raise ValueError(
            f"`mask_image` must be one grey mask, or one for each image, of the images' size: {shape}, got "
            f"{tuple(mask.shape)}."
        )
    return mask
