"""Transparency: what may be kept, and the views in which it could show a face.

Cut-outs keep their transparency: figures with sharp or soft edges. What is half transparent at large or dithered is
refused, because it could be a picture of its own. Whatever else may hide in the transparency, a face in a few greys
or in black and white, is to be looked for by whoever has a detector, in `alpha_views` and `composed_views`.
"""

from collections.abc import Iterator
from dataclasses import replace

import PIL.Image
import PIL.ImageFilter
import PIL.ImageOps

from nullface_pipeline.photo_files.photo_file import PhotoFile, PhotoFileError


# Share of pixels that are neither opaque nor clear: the soft edge of a figure, not a picture in grey.
MAX_HALF_TRANSPARENT = 0.1

# Levels this near to clear and opaque look like them; a picture in them would be seen by whoever stretches them.
NEARLY = 8

# Side of the squares in which steps are counted, about the smallest dithered face that is recognizable, and
# the share of neighbours that may differ in one: edges have a few in a hundred, dots of two pixels 0.37 and more.
SQUARE, MAX_STEPS, STEP = 32, 0.33, 24

# Pixels over which dots become grey.
SMOOTHINGS = (0, 2, 4)


def settled(alpha: PIL.Image.Image) -> PIL.Image.Image | None:
    """Clean alpha channel, with nearly clear and nearly opaque levels rounded; `None` if all is
    opaque then.

    Raises:
        `PhotoFileError`: if it could be a picture of its own.
    """
    alpha = alpha.point([0 if level < NEARLY else 255 if level > 255 - NEARLY else level for level in range(256)])
    counts = alpha.histogram()
    if counts[255] == sum(counts):
        return None
    if sum(counts[1:255]) > MAX_HALF_TRANSPARENT * sum(counts) or _is_dithered(alpha):
        raise PhotoFileError("Its transparency could be a picture of its own: save it without transparency first.")
    return alpha


def alpha_views(photo: PhotoFile) -> list[PIL.Image.Image]:
    """Pictures of the transparency alone. Any face in them refuses the photo.

    Args:
        photo (`PhotoFile`): what `read_photo` returned.

    Returns:
        `list[PIL.Image.Image]`: RGB pictures of the photo's size, none without transparency: the opacity as grey, as
        it is and negative, each also smoothed over 2 and 4 pixels, so that dots become grey. If one of them shows a
        face, the photo is to be refused, or `flatten`ed before it is anonymized.
    """
    if photo.alpha is None:
        return []
    stretched = PIL.ImageOps.autocontrast(photo.alpha)
    return [
        view.convert("RGB")
        for grey in (stretched, PIL.ImageOps.invert(stretched))
        for view in _smoothed(grey, SMOOTHINGS)
    ]


def composed_views(photo: PhotoFile, image: PIL.Image.Image) -> list[PIL.Image.Image]:
    """The photo over black and over white. A face that the photo does not have refuses the photo.

    Args:
        photo (`PhotoFile`): what `read_photo` returned.
        image (`PIL.Image.Image`): the anonymized picture that will be written, of the photo's size.

    Returns:
        `list[PIL.Image.Image]`: RGB pictures of the photo's size, none without transparency: before black and before
        white, each also smoothed over 4 pixels.
    """
    if photo.alpha is None:
        return []
    return [
        smoothed
        for background in ("black", "white")
        for smoothed in _smoothed(_over(image, photo.alpha, background), (0, 4))
    ]


def flatten(photo: PhotoFile, background: str | tuple[int, int, int] = "white") -> PhotoFile:
    """Composite the photo over one colour, before faces are searched.

    Args:
        background (`str` or `tuple[int, int, int]`): a colour that Pillow knows, or RGB from 0 to 255.
    """
    if photo.alpha is None:
        return photo
    return replace(photo, image=_over(photo.image, photo.alpha, background), alpha=None)


def with_alpha(image: PIL.Image.Image, alpha: PIL.Image.Image) -> PIL.Image.Image:
    """Copy of an "L" or "RGB" picture with this opacity, and black where it is clear."""
    picture = PIL.Image.new(image.mode, image.size)
    picture.paste(image, mask=alpha.point(lambda level: 255 * (level > 0)))
    picture.putalpha(alpha)
    return picture


def _over(image: PIL.Image.Image, alpha: PIL.Image.Image, background: str | tuple[int, int, int]) -> PIL.Image.Image:
    return PIL.Image.composite(image, PIL.Image.new("RGB", image.size, background), alpha)


def _smoothed(picture: PIL.Image.Image, sizes: tuple[int, ...]) -> Iterator[PIL.Image.Image]:
    for size in sizes:
        yield picture.filter(PIL.ImageFilter.BoxBlur(size / 2)) if size else picture


def _is_dithered(alpha: PIL.Image.Image) -> bool:
    """Whether neighbouring levels differ as often in some square as in a dither pattern."""
    import numpy as np

    levels = np.asarray(alpha).astype(np.int16)
    steps = np.zeros(levels.shape, dtype=np.uint8)
    steps[:, 1:] += np.abs(np.diff(levels, axis=1)) >= STEP
    steps[1:] += np.abs(np.diff(levels, axis=0)) >= STEP
    side = min(SQUARE, *levels.shape)
    sums = np.zeros((levels.shape[0] + 1, levels.shape[1] + 1), dtype=np.int64)
    sums[1:, 1:] = steps.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    counts = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return bool(counts.max() > MAX_STEPS * 2 * side * side)
