"""Photo in memory, and the error of reading and writing."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import PIL.Image


class PhotoFileError(Exception):
    """A photo that cannot be read or written. The message is one line: what is wrong, and what to do."""


@dataclass(frozen=True)
class PhotoFile:
    """Decoded photo, with everything needed to write the result as the same kind of file.

    Attributes:
        path (`Path`, *optional*): where it was read; `None` for an open file.
        image (`PIL.Image.Image`): upright RGB, 8 bits a channel, without metadata. Transparent pixels have the
            colours that the file gives them.
        alpha (`PIL.Image.Image`, *optional*): 8-bit opacity of the same size, mode "L"; `None` if all is opaque.
        format (`str`): "JPEG", "PNG", "WEBP", "TIFF", "BMP" or "HEIF", by content.
        grey (`bool`): whether the file has a single channel of colour.
        bits (`int`): bits a channel in the file. Output has 8.
        icc_profile (`bytes`, *optional*): the profile of `image`, made anew; `None` means sRGB.
        dpi (`tuple[float, float]`, *optional*): horizontal and vertical resolution.
        exif (`bytes`, *optional*): the notes that `keep_metadata` keeps, made anew, orientation 1.
        encoding (`dict[str, Any]`): settings of Pillow's encoder for this kind of file, the AI mark included.
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


def bare(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Remove Pillow's `info` in place: several encoders write what they find there."""
    picture.info = {}
    return picture
