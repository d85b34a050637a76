"""Transparency: which is kept, and the views in which it could show a face.

Cut-outs with sharp or soft edges keep their transparency. Large partial or dithered transparency is
refused, because it could be a picture. Run face detection on `alpha_views` and `composed_views`.
"""

from collections.abc import Iterator
from dataclasses import replace

import PIL.Image
import PIL.ImageFilter
import PIL.ImageOps

from nullface_pipeline.photo_files.photo_file import PhotoFile, PhotoFileError


# Highest share of partially transparent pixels, as in the soft edge of a cut-out.
MAX_HALF_TRANSPARENT = 0.1

# Distance from 0 and 255 below which levels are rounded: stretched, they could show a picture.
LEVEL_TOLERANCE = 8

# Detection of dither patterns: side of the window, about the smallest recognizable dithered face;
# highest share of neighbouring levels in it that differ (edges: a few percent, dots of two pixels:
# 0.37 and more); lowest difference that counts.
WINDOW, MAX_STEPS, STEP = 32, 0.33, 24

# Sizes of the box blur in pixels, which turns dots into gray; 0 for none.
BLUR_SIZES = (0, 2, 4)


def clean_alpha(alpha: PIL.Image.Image) -> PIL.Image.Image | None:
    """Round nearly clear and nearly opaque levels; `None` if all pixels are opaque then.

    Raises:
        PhotoFileError: if the transparency could be a picture.
    """
    alpha = alpha.point(
        [0 if level < LEVEL_TOLERANCE else 255 if level > 255 - LEVEL_TOLERANCE else level for level in range(256)]
    )
    counts = alpha.histogram()
    if counts[255] == sum(counts):
        return None
    if sum(counts[1:255]) > MAX_HALF_TRANSPARENT * sum(counts) or _is_dithered(alpha):
        raise PhotoFileError("Its transparency could be a picture: save the photo without transparency first.")
    return alpha


def alpha_views(photo: PhotoFile) -> list[PIL.Image.Image]:
    """Pictures of the transparency alone. If one shows a face, refuse or `flatten` the photo.

    Args:
        photo (`PhotoFile`): output of `read_photo`.

    Returns:
        `list[PIL.Image.Image]`: RGB pictures of the photo's size: the opacity in gray and its
            negative,
        each also blurred over 2 and 4 pixels. Empty without transparency.
    """
    if photo.alpha is None:
        return []
    stretched = PIL.ImageOps.autocontrast(photo.alpha)
    return [
        view.convert("RGB")
        for grey in (stretched, PIL.ImageOps.invert(stretched))
        for view in _blurred(grey, BLUR_SIZES)
    ]


def composed_views(photo: PhotoFile, image: PIL.Image.Image) -> list[PIL.Image.Image]:
    """The result over black and white. Refuse the photo if they show a face that `image` does not.

    Args:
        photo (`PhotoFile`): output of `read_photo`.
        image (`PIL.Image.Image`): anonymized photo of the same size.

    Returns:
        `list[PIL.Image.Image]`: RGB pictures of the photo's size, each also blurred over 4 pixels.
        Empty without transparency.
    """
    if photo.alpha is None:
        return []
    return [
        blurred
        for background in ("black", "white")
        for blurred in _blurred(_composite(image, photo.alpha, background), (0, 4))
    ]


def flatten(photo: PhotoFile, background: str | tuple[int, int, int] = "white") -> PhotoFile:
    """Composite the photo over one color, before face detection.

    Args:
        background (`str` or `tuple[int, int, int]`): color name of Pillow, or RGB from 0 to 255.
    """
    if photo.alpha is None:
        return photo
    return replace(photo, image=_composite(photo.image, photo.alpha, background), alpha=None)


def with_alpha(image: PIL.Image.Image, alpha: PIL.Image.Image) -> PIL.Image.Image:
    """Add an opacity to an "L" or "RGB" picture; fully transparent pixels become black."""
    picture = PIL.Image.new(image.mode, image.size)
    picture.paste(image, mask=alpha.point(lambda level: 255 * (level > 0)))
    picture.putalpha(alpha)
    return picture


def _composite(
    image: PIL.Image.Image, alpha: PIL.Image.Image, background: str | tuple[int, int, int]
) -> PIL.Image.Image:
    return PIL.Image.composite(image, PIL.Image.new("RGB", image.size, background), alpha)


def _blurred(picture: PIL.Image.Image, sizes: tuple[int, ...]) -> Iterator[PIL.Image.Image]:
    for size in sizes:
        yield picture.filter(PIL.ImageFilter.BoxBlur(size / 2)) if size else picture


def _is_dithered(alpha: PIL.Image.Image) -> bool:
    """Whether neighbouring levels in any window differ as often as in a dither pattern."""
    import numpy as np

    levels = np.asarray(alpha).astype(np.int16)
    steps = np.zeros(levels.shape, dtype=np.uint8)
    steps[:, 1:] += np.abs(np.diff(levels, axis=1)) >= STEP
    steps[1:] += np.abs(np.diff(levels, axis=0)) >= STEP
    side = min(WINDOW, *levels.shape)
    sums = np.zeros((levels.shape[0] + 1, levels.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = steps.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    counts = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return bool(counts.max() > MAX_STEPS * 2 * side * side)
