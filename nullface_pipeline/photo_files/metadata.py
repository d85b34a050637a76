"""What a result says besides its pixels: what the colours mean, the resolution, the AI mark and, if asked, notes."""

import os
import struct
from collections.abc import Container, Mapping
from typing import Any, BinaryIO

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

# The EXIF tags that `keep_metadata` keeps: the descriptive ones of the main directory (title, camera, date, author,
# rating) and those of the exposure. Named one by one, because what is left out can hold pictures: the thumbnail's
# directory, MakerNote, Photoshop's resources and layers, IPTC, XMP, nested directories.
_MAIN_TAGS = frozenset(
    {0x010D, 0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298, *range(0x9C9B, 0x9CA0)}
)

_EXPOSURE_TAGS = frozenset(
    {
        *range(0x829A, 0x829E),
        *range(0x8822, 0x8836),
        *range(0x9000, 0x9293),
        *range(0x9400, 0x9406),
        *range(0xA000, 0xA005),
        *range(0xA20B, 0xA501),
    }
    - {PIL.ExifTags.Base.MakerNote, PIL.ExifTags.IFD.GPSInfo}
)

# Longer values are no notes, and a thumbnail would fit.
_MAX_EXIF_VALUE = 2048

# One segment of a JPEG.
_MAX_EXIF = 65_000


def png_chunks(file: BinaryIO) -> PIL.PngImagePlugin.PngInfo:
    """The AI mark, and the chunks that say what the colours mean where no profile does: at most 32 bytes each."""
    chunks = PIL.PngImagePlugin.PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", XMP)
    file.seek(8)
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"IDAT":
            break
        if kind in (b"cHRM", b"cICP", b"gAMA", b"sRGB") and length <= 32:
            chunks.add(kind, file.read(length))
            length = 0
        file.seek(length + 4, os.SEEK_CUR)
    return chunks


def heif_colours(picture: PIL.ImageFile.ImageFile) -> dict[str, int]:
    """Primaries and transfer curve where no profile names them. The pixels themselves are written as BT.601."""
    nclx = picture.info.get("nclx_profile")
    if not nclx or picture.info.get("icc_profile"):
        return {}
    names = "color_primaries", "transfer_characteristics"
    return {name: int(nclx[name]) for name in names} | {"matrix_coefficients": 6, "full_range_flag": 1}


def output_profile(picture: PIL.Image.Image, grey: bool) -> bytes | None:
    if picture.mode == "CMYK":
        return None
    return matching_profile(picture.info.get("icc_profile"), b"GRAY" if grey else b"RGB ")


def matching_profile(profile: Any, colour_space: bytes) -> bytes | None:
    """The ICC profile, if it is one and describes pixels of this colour space: `b"RGB "`, `b"GRAY"` or `b"CMYK"`."""
    if isinstance(profile, bytes) and profile[36:40] == b"acsp" and profile[16:20] == colour_space:
        return profile
    return None


def resolution(picture: PIL.Image.Image, turned: bool) -> tuple[float, float] | None:
    """Dots per inch, if they are what a printer could mean."""
    try:
        across, down = (float(value) for value in picture.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if not (1 <= across <= 30_000 and 1 <= down <= 30_000):
        return None
    return (down, across) if turned else (across, down)


def read_exif(picture: PIL.Image.Image) -> PIL.Image.Exif:
    """The EXIF; empty where it cannot be read, which is no reason to refuse the photo."""
    try:
        return picture.getexif()
    except Exception:
        return PIL.Image.Exif()


def kept_exif(notes: PIL.Image.Exif, size: tuple[int, int]) -> bytes | None:
    """The notes of a photo as an EXIF block of their own: nothing is kept that is not named above."""
    kept = PIL.Image.Exif()
    try:
        kept.update(_short_values(notes, _MAIN_TAGS))
        exposure = _short_values(notes.get_ifd(PIL.ExifTags.IFD.Exif), _EXPOSURE_TAGS)
        for tag, length in zip((PIL.ExifTags.Base.ExifImageWidth, PIL.ExifTags.Base.ExifImageHeight), size):
            if tag in exposure:
                exposure[tag] = length
        position = _short_values(notes.get_ifd(PIL.ExifTags.IFD.GPSInfo), range(32))
        for directory, values in ((PIL.ExifTags.IFD.Exif, exposure), (PIL.ExifTags.IFD.GPSInfo, position)):
            if values:
                kept.get_ifd(directory).update(values)
        if not (len(kept) or exposure or position):
            return None
        kept[PIL.ExifTags.Base.Orientation] = 1
        block = kept.tobytes()
    # Values of the wrong type, offsets to nowhere: unreadable notes are no reason to refuse the photo.
    except Exception:
        return None
    return block if len(block) <= _MAX_EXIF else None


def _short_values(tags: Mapping[int, Any], names: Container[int]) -> dict[int, Any]:
    values = {tag: tags[tag] for tag in tags if tag in names}
    return {
        tag: value for tag, value in values.items() if not hasattr(value, "__len__") or len(value) <= _MAX_EXIF_VALUE
    }


def tiff_tags(exif: bytes | None, predict: bool) -> PIL.Image.Exif:
    """In a TIFF, notes and XMP are tags of the picture itself."""
    tags = PIL.Image.Exif()
    if exif is not None:
        tags.load(exif)
    tags[PIL.ExifTags.Base.XMLPacket] = XMP
    if predict:
        # Differences between neighbours compress far better than photos do.
        tags[PIL.ExifTags.Base.Predictor] = 2
    return tags
