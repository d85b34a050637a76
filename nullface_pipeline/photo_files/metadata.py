"""Metadata of a result: AI marking, colour interpretation and resolution."""

import os
import struct
from collections.abc import Callable
from typing import BinaryIO

import PIL.ExifTags
import PIL.Image
import PIL.ImageFile
import PIL.PngImagePlugin


DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"

XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    f"<Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>"
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
).encode()

# Codes of primaries and of transfer functions in ITU-T H.273. Without linear and logarithmic ones,
# which would reveal faces that are nearly black to the detector.
PRIMARIES = frozenset({1, 4, 5, 6, 7, 8, 9, 10, 11, 12, 22})
TRANSFERS = frozenset({1, 4, 5, 6, 7, 11, 12, 13, 14, 15, 16, 17, 18})


def png_chunks(file: BinaryIO, has_profile: bool) -> PIL.PngImagePlugin.PngInfo:
    """PNG chunks of a result: the AI marking and, without a profile, plausible color chunks."""
    chunks = PIL.PngImagePlugin.PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", XMP)
    file.seek(8)
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"IDAT":
            break
        if kind in _COLOUR_CHUNKS and not has_profile:
            layout, is_plausible = _COLOUR_CHUNKS[kind]
            numbers = struct.unpack(layout, file.read(length)) if length == struct.calcsize(layout) else None
            if numbers is not None:
                length = 0
                if is_plausible(*numbers):
                    chunks.add(kind, struct.pack(layout, *numbers))
        file.seek(length + 4, os.SEEK_CUR)
    return chunks


def _are_chromaticities(*numbers: int) -> bool:
    """Whether x and y of white, red, green and blue, in 100,000ths, are plausible."""
    (white_x, white_y), *corners = [(numbers[index] / 1e5, numbers[index + 1] / 1e5) for index in range(0, 8, 2)]
    (x0, y0), (x1, y1), (x2, y2) = corners
    area = abs((x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)) / 2
    return area > 0.08 and max(numbers) <= 90_000 and 0.25 < white_x < 0.4 and 0.25 < white_y < 0.4


_COLOUR_CHUNKS: dict[bytes, tuple[str, Callable[..., bool]]] = {
    b"cHRM": (">8I", _are_chromaticities),
    b"cICP": (
        ">4B",
        lambda colours, curve, matrix, full: (
            (colours in PRIMARIES and curve in TRANSFERS, matrix, full) == (True, 0, 1)
        ),
    ),
    # 1 / gamma in 100,000ths, for a gamma of 1.6 to 3 as in colour_profile.py.
    b"gAMA": (">I", lambda gamma: 33_333 <= gamma <= 62_500),
    b"sRGB": (">B", lambda intent: intent <= 3),
}


def heif_colours(picture: PIL.ImageFile.ImageFile) -> dict[str, int]:
    """Encoder arguments for the colors of a HEIC file without a profile; pixels are BT.601."""
    nclx = picture.info.get("nclx_profile")
    if not nclx or picture.info.get("icc_profile"):
        return {}
    primaries, transfer = int(nclx["color_primaries"]), int(nclx["transfer_characteristics"])
    if primaries not in PRIMARIES or transfer not in TRANSFERS:
        return {}
    named = {"color_primaries": primaries, "transfer_characteristics": transfer}
    return named | {"matrix_coefficients": 6, "full_range_flag": 1}


def resolution(picture: PIL.Image.Image, turned: bool) -> tuple[float, float] | None:
    """Resolution in dots per inch, rounded to a hundredth; `None` if it is implausible."""
    try:
        across, down = (round(float(value), 2) for value in picture.info["dpi"])
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    if not (1 <= across <= 30_000 and 1 <= down <= 30_000):
        return None
    return (down, across) if turned else (across, down)


def tiff_tags(exif: bytes | None, predict: bool) -> PIL.Image.Exif:
    """TIFF tags of a result: EXIF, XMP and the predictor of its compression."""
    tags = PIL.Image.Exif()
    if exif is not None:
        tags.load(exif)
    tags[PIL.ExifTags.Base.XMLPacket] = XMP
    if predict:
        # Horizontal differencing, which improves compression.
        tags[PIL.ExifTags.Base.Predictor] = 2
    return tags
