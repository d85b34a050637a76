"""What diffusers' image processor lets pass and this pipeline must not: pictures that would be misread silently."""

import numpy as np
import PIL.Image
import torch
from diffusers.image_processor import PipelineImageInput, is_valid_image_imagelist


def count_images(image: PipelineImageInput) -> int:
    """Number of images in one, a batch, or a list of either."""
    if isinstance(image, (list, tuple)):
        return sum(count_images(item) for item in image)
    return image.shape[0] if getattr(image, "ndim", 3) == 4 else 1


def check_image_values(image: PipelineImageInput, name: str) -> None:
    """Raise ValueError unless `image` is one image or a batch, of one size, with values in [0, 1] or PIL's own.

    diffusers would scale 0 ... 255 arrays as if they were 0 ... 1, and stack images of different sizes with an error
    that names neither.
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
            raise ValueError(
                f"`{name}` must hold floating-point values in [0, 1], got {item.dtype}; convert it (and divide by 255)."
            )
        if not 0.0 <= float(item.min()) <= float(item.max()) <= 1.0:
            raise ValueError(
                f"`{name}` must hold values in [0, 1], got {float(item.min()):.3g} to {float(item.max()):.3g}."
            )


def to_uint8(pixels: torch.Tensor) -> list[np.ndarray]:
    """(B, 3, H, W) in [-1, 1] as B arrays of (H, W, 3) uint8 RGB, as the face models take them."""
    scaled = (pixels.float().clamp(-1.0, 1.0) * 127.5 + 127.5).round().to(torch.uint8)
    return list(scaled.permute(0, 2, 3, 1).cpu().numpy())
