"""Decoded photo, and the error of reading and writing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image


class PhotoFileError(Exception):
    """Photo that cannot be read or written. The message states the problem and the remedy."""


@dataclass(frozen=True)
class PhotoFile:
    """Decoded photo, with everything needed to write the result as the same kind of file.

    Attributes:
        path (`Path`, *optional*): path of the file; `None` for an open file.
        image (`PIL.Image.Image`): upright RGB, 8 bits per channel, without metadata. Transparent
            pixels have the colors of the file.
        alpha (`PIL.Image.Image`, *optional*): opacity in mode "L"; `None` if all pixels are opaque.
        format (`str`): "JPEG", "PNG", "WEBP", "TIFF", "BMP" or "HEIF", by content.
        grey (`bool`): whether the file is grayscale.
        bits (`int`): bits per channel of the file. The output has 8.
        icc_profile (`bytes`, *optional*): rebuilt profile of `image`; `None` means sRGB.
        dpi (`tuple[float, float]`, *optional*): horizontal and vertical resolution in dots per
            inch.
        exif (`bytes`, *optional*): rebuilt EXIF block for `keep_metadata`, with orientation 1.
        encoding (`dict[str, Any]`): arguments of Pillow's encoder, including the AI marking.
    """

    path: Path | None
    image: PIL.Image.Image
    alpha: PIL.Image.Image | None
    format: str
    grey: bool
    bits: int
    icc_profile: bytes | None = field(repr=False)
    dpi: tuple[float, float] | None
    exif: bytes | None = field(repr=False)
    encoding: dict[str, Any] = field(repr=False)


def strip_info(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Clear Pillow's `info` in place, because several encoders write it; return the picture."""
    picture.info = {}
    return picture
