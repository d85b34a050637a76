"""Allowlist of EXIF tags, with a check of the values of each.

A value is kept if it has the type, length and range of its tag in the standard, and is encoded
anew. Everything else is dropped because it can contain pictures: thumbnails, MakerNote, Photoshop
data, IPTC, XMP and nested directories. Long or encoded-looking texts are dropped for the same
reason.
"""

import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction

import PIL.ExifTags
import PIL.Image
from PIL.TiffImagePlugin import IFDRational


# Highest number of characters of a name, of a title or comment, and of a word.
MAX_NAME, MAX_TEXT, MAX_WORD = 64, 200, 40

# Highest number of bytes, which fit into one segment of a JPEG.
MAX_EXIF = 65_000

# Returns the value to write, or `None` if it is implausible.
Check = Callable[[object], object]

_CHARSETS = {b"ASCII\0\0\0": "ascii", b"UNICODE\0": "utf-16", bytes(8): "ascii"}


def _prose(text: object, limit: int) -> str | None:
    """Normalize text to one line; `None` if it is too long or looks encoded."""
    if not isinstance(text, str):
        return None
    text = " ".join(text.strip(" \0").split())
    if not text or len(text) > limit or not text.isprintable():
        return None
    return None if any(looks_encoded(word) for word in text.split()) else text


def looks_encoded(word: str) -> bool:
    """Whether a word looks like encoded data, such as base64."""
    mixed = all(any(kind(letter) for letter in word) for kind in (str.isupper, str.islower, str.isdigit))
    return len(word) > MAX_WORD or (len(word) > 16 and mixed)


def _text(limit: int) -> Check:
    return lambda value: _prose(value, limit)


def _matching(pattern: str) -> Check:
    """Check that a text matches a pattern."""

    def check(value: object) -> str | None:
        text = value.rstrip("\0 ") if isinstance(value, str) else ""
        return text if re.fullmatch(pattern, text, re.ASCII) else None

    return check


def _exactly(pattern: bytes) -> Check:
    """Check that bytes match a pattern."""
    return lambda value: value if isinstance(value, bytes) and re.fullmatch(pattern, value, re.DOTALL) else None


def _integers(most: int = 65_535, counts: tuple[int, ...] = (1,)) -> Check:
    """Check for integers from 0 to `most`; `counts` lists the allowed lengths."""

    def check(value: object) -> object:
        numbers = value if isinstance(value, tuple) else (value,)
        plausible = len(numbers) in counts and all(type(number) is int and 0 <= number <= most for number in numbers)
        return value if plausible else None

    return check


def _rationals(least: float, most: float, counts: tuple[int, ...] = (1,)) -> Check:
    """Check for rationals from `least` to `most`, and round them."""

    def check(value: object) -> object:
        numbers = value if isinstance(value, tuple) else (value,)
        if len(numbers) not in counts or not all(isinstance(number, (int, IFDRational)) for number in numbers):
            return None
        # 0/0 stands for "unknown".
        if not all(math.isfinite(float(number)) and least <= float(number) <= most for number in numbers):
            return None
        short = [Fraction(float(number)).limit_denominator(1_000_000) for number in numbers]
        rationals = tuple(IFDRational(number.numerator, number.denominator) for number in short)
        return rationals if isinstance(value, tuple) else rationals[0]

    return check


def _comment(limit: int) -> Check:
    """Check for text with the eight-byte prefix that names its character set."""

    def check(value: object) -> bytes | None:
        if not isinstance(value, bytes) or (charset := _CHARSETS.get(value[:8])) is None:
            return None
        text = _prose(_decoded(value[8:], charset), limit)
        if text is None:
            return None
        return b"ASCII\0\0\0" + text.encode() if text.isascii() else b"UNICODE\0" + text.encode("utf-16")

    return check


def _windows_text(value: object) -> bytes | None:
    text = _prose(_decoded(bytes(value), "utf-16-le"), MAX_TEXT) if isinstance(value, (bytes, tuple)) else None
    return None if text is None else (text + "\0").encode("utf-16-le")


def _decoded(data: bytes, charset: str) -> str | None:
    try:
        return data.decode(charset)
    except UnicodeError:
        return None


_NAME, _TITLE, _CODE = _text(MAX_NAME), _text(MAX_TEXT), _integers()
_DATE, _DAY = _matching(r"\d{4}:\d\d:\d\d \d\d:\d\d:\d\d"), _matching(r"\d{4}:\d\d:\d\d")
_OFFSET, _FRACTION, _VERSION = _matching(r"[+-]\d\d:\d\d"), _matching(r"\d{1,9}"), _exactly(rb"\d{4}")
_POSITIVE, _SIGNED, _COUNT = _rationals(0, 1e6), _rationals(-1e4, 1e4), _integers(2**32 - 1)

# Title, camera, date, author and rating.
MAIN_TAGS: dict[int, Check] = {
    **dict.fromkeys((0x010F, 0x0110, 0x0131, 0x013C), _NAME),
    **dict.fromkeys((0x010D, 0x010E, 0x013B, 0x8298), _TITLE),
    0x0132: _DATE,
    **dict.fromkeys((0x4746, 0x4749), _integers(100)),
    **dict.fromkeys(range(0x9C9B, 0x9CA0), _windows_text),
}

EXPOSURE_TAGS: dict[int, Check] = {
    **dict.fromkeys((0x829A, 0x829D, 0x9102, 0x9202, 0x9205, 0x9206, 0x920A), _POSITIVE),
    **dict.fromkeys((0xA20B, 0xA20E, 0xA20F, 0xA215, 0xA404, 0xA500, 0x9401, 0x9402, 0x9404), _POSITIVE),
    **dict.fromkeys((0x9201, 0x9203, 0x9204, 0x9400, 0x9403, 0x9405), _SIGNED),
    **dict.fromkeys((0x8822, 0x8830, 0x9207, 0x9208, 0x9209, 0xA001, 0xA210, 0xA217), _CODE),
    **dict.fromkeys((0xA401, 0xA402, 0xA403, 0xA405, *range(0xA406, 0xA40B), 0xA40C, 0xA460), _CODE),
    0x8827: _integers(65_535, (1, 2, 3)),
    **dict.fromkeys(range(0x8831, 0x8836), _COUNT),
    **dict.fromkeys((0xA002, 0xA003), _COUNT),
    **dict.fromkeys((0x9000, 0xA000), _VERSION),
    **dict.fromkeys((0x9003, 0x9004), _DATE),
    **dict.fromkeys((0x9010, 0x9011, 0x9012), _OFFSET),
    **dict.fromkeys((0x9290, 0x9291, 0x9292), _FRACTION),
    0x9101: _exactly(rb"[\0-\6]{4}"),
    0x9286: _comment(MAX_TEXT),
    0x9214: _integers(65_535, (2, 3, 4)),
    0xA214: _integers(65_535, (2,)),
    0xA300: _exactly(rb"[\1-\3]"),
    0xA301: _exactly(rb"[\1]"),
    0xA420: _matching(r"[0-9A-Fa-f]{1,32}"),
    **dict.fromkeys((0xA430, 0xA431, 0xA433, 0xA434, 0xA435), _NAME),
    0xA432: _rationals(0, 1e6, (4,)),
}

POSITION_TAGS: dict[int, Check] = {
    0: _exactly(rb"[\0-\11]{4}"),
    **dict.fromkeys((1, 19), _matching("[NS]")),
    **dict.fromkeys((3, 21), _matching("[EW]")),
    **dict.fromkeys((2, 20), _rationals(0, 90, (1, 2, 3))),
    **dict.fromkeys((4, 22), _rationals(0, 180, (1, 2, 3))),
    5: _exactly(rb"[\0\1]"),
    7: _rationals(0, 60, (3,)),
    9: _matching("[AV]"),
    10: _matching("[23]"),
    **dict.fromkeys((6, 11, 13, 15, 17, 24, 26, 31), _POSITIVE),
    **dict.fromkeys((12, 25), _matching("[KMN]")),
    **dict.fromkeys((14, 16, 23), _matching("[TM]")),
    18: _text(32),
    **dict.fromkeys((27, 28), _comment(MAX_NAME)),
    29: _DAY,
    30: _integers(1),
}


def read_exif(picture: PIL.Image.Image) -> PIL.Image.Exif:
    """Read the EXIF block; empty if it is damaged."""
    try:
        return picture.getexif()
    except Exception:
        return PIL.Image.Exif()


def kept_exif(exif: PIL.Image.Exif, size: tuple[int, int]) -> bytes | None:
    """Rebuild an EXIF block from the plausible tags of a photo; `None` if there are none.

    Args:
        exif (`PIL.Image.Exif`): EXIF block of the file.
        size (`tuple[int, int]`): width and height of the upright photo.
    """
    kept = PIL.Image.Exif()
    try:
        kept.update(_plausible(exif, MAIN_TAGS))
        exposure = _plausible(exif.get_ifd(PIL.ExifTags.IFD.Exif), EXPOSURE_TAGS)
        for tag, length in zip((PIL.ExifTags.Base.ExifImageWidth, PIL.ExifTags.Base.ExifImageHeight), size):
            if tag in exposure:
                exposure[tag] = length
        position = _plausible(exif.get_ifd(PIL.ExifTags.IFD.GPSInfo), POSITION_TAGS)
        for directory, values in ((PIL.ExifTags.IFD.Exif, exposure), (PIL.ExifTags.IFD.GPSInfo, position)):
            if values:
                kept.get_ifd(directory).update(values)
        if not (len(kept) or exposure or position):
            return None
        kept[PIL.ExifTags.Base.Orientation] = 1
        block = kept.tobytes()
    # Damaged EXIF data do not refuse the photo.
    except Exception:
        return None
    return block if len(block) <= MAX_EXIF else None


def _plausible(tags: Mapping[int, object], checks: Mapping[int, Check]) -> dict[int, object]:
    values = {tag: checks[tag](tags[tag]) for tag in tags if tag in checks}
    return {tag: value for tag, value in values.items() if value is not None}
