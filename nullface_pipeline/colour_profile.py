"""Colour profiles rebuilt from a few numbers, so that no byte of the original profile is written.

A profile of three primaries and three curves, such as Adobe RGB, Display P3 or ProPhoto, is
rebuilt: its primaries as numbers, its curves as a gamma or a standard's curve. Other profiles,
above all those with tables, could hide an image, or make one visible that is hidden in nearly equal
pixels. Photos with such a profile are converted to sRGB before faces are detected.
"""

import contextlib
import io
import struct
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms


D50 = (0.9642, 1.0, 0.8249)

# Curves of standards, as the parameters of ICC's parametric curve 3: (a x + b) ** g from d on, else
# c x.
NAMED_CURVES = {
    "sRGB": (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
    "BT.709": (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081),
    "L*": (3.0, 1 / 1.16, 0.16 / 1.16, 1 / 9.033, 0.08),
}
# Lower ones would show what detectors see as black; higher ones are not in use.
GAMMAS = (1.6, 3.0)

# Largest deviation of a curve from the one it is replaced by: a little more than one 8-bit level.
MAX_DEVIATION = 0.005

# Bytes. Printers' profiles have a few megabytes.
MAX_PROFILE = 16_000_000

_PARAMETERS = (1, 3, 4, 5, 7)


def is_profile(data: Any, colour_space: bytes) -> bool:
    """Whether `data` has the header of an ICC profile of `b"RGB "`, `b"GRAY"` or `b"CMYK"`."""
    return (
        isinstance(data, bytes)
        and 128 < len(data) <= MAX_PROFILE
        and data[36:40] == b"acsp"
        and data[16:20] == colour_space
    )


def rebuilt_profile(data: bytes, colour_space: bytes) -> bytes | None:
    """Rebuild a profile from its numbers; `None` if it has more than primaries and plain curves.

    Args:
        data (`bytes`): an ICC profile, or anything.
        colour_space (`bytes`): `b"RGB "` or `b"GRAY"`.

    Returns:
        `bytes`, *optional*: fewer than 1000, version 4.3, without the original's texts, dates and
            names.
    """
    try:
        tags = _tags(data)
        # Tables come before primaries and curves where a profile has both.
        if data[20:24] != b"XYZ " or any(name[:3] in (b"A2B", b"D2B") for name in tags):
            return None
        if colour_space == b"GRAY":
            return _profile(colour_space, {b"kTRC": _plain_curve(tags[b"kTRC"])})
        primaries = _primaries(tags)
        curves = {name: _plain_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")}
        return _profile(colour_space, primaries | curves)
    # Unusual values, missing tags, wrong offsets, curves that cannot be computed.
    except (ArithmeticError, LookupError, ValueError, struct.error):
        return None


def converted_to_srgb(picture: PIL.Image.Image, profile: bytes) -> PIL.Image.Image | None:
    """Convert an "RGB", "L" or "CMYK" image to sRGB; `None` if LittleCMS rejects the profile."""
    with contextlib.suppress(PIL.ImageCms.PyCMSError):
        return PIL.ImageCms.profileToProfile(
            picture,
            io.BytesIO(profile),
            PIL.ImageCms.createProfile("sRGB"),
            # As photo editors do: colours are kept, and black becomes black.
            renderingIntent=PIL.ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=PIL.ImageCms.Flags.BLACKPOINTCOMPENSATION,
            outputMode="RGB",
        )
    return None


def with_rebuilt_profile(
    picture: PIL.Image.Image, profile: Any, grey: bool = False
) -> tuple[PIL.Image.Image, bytes | None]:
    """Return an "RGB" image and the profile to write it with; `None` stands for sRGB.

    Args:
        profile (`bytes`, *optional*): the image's ICC profile, or anything.
        grey (`bool`): whether image and profile are greyscale.
    """
    colour_space = b"GRAY" if grey else b"RGB "
    if not is_profile(profile, colour_space):
        return picture, None
    rebuilt = rebuilt_profile(profile, colour_space)
    if rebuilt is not None:
        return picture, rebuilt
    converted = converted_to_srgb(picture.convert("L") if grey else picture, profile)
    if converted is not None:
        # LittleCMS attaches the target profile.
        converted.info = {}
    return picture if converted is None else converted, None


def _tags(data: bytes) -> dict[bytes, bytes]:
    [count] = struct.unpack_from(">I", data, 128)
    entries = [struct.unpack_from(">4sII", data, 132 + 12 * index) for index in range(min(count, 100))]
    return {name: data[offset : offset + size] for name, offset, size in entries}


def _primaries(tags: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """The three primaries as tags; ValueError if they do not add up to white or are impossible."""
    names = b"rXYZ", b"gXYZ", b"bXYZ"
    if any(tags[name][:4] != b"XYZ " for name in names):
        raise ValueError("no primaries")
    values = np.array([struct.unpack_from(">3i", tags[name], 8) for name in names]) / 65536
    # Large numbers that cancel out would amplify invisible differences.
    plausible = values.min() >= -0.2 and values.max() <= 1.2 and np.linalg.det(values) > 0.05
    if not plausible or np.abs(values.sum(axis=0) - D50).max() > 0.02:
        raise ValueError("implausible primaries")
    return {name: _xyz(*colour) for name, colour in zip(names, values)}


def _plain_curve(tag: bytes) -> bytes:
    """Rewrite a curve as a gamma or a named curve; ValueError if it is neither."""
    levels = np.arange(256) / 255
    with np.errstate(all="ignore"):
        wanted = _evaluate(tag, levels)
        if not np.isfinite(wanted).all():
            raise ValueError("not a curve")
        middle = slice(50, 200)
        gamma = float(np.median(np.log(wanted[middle].clip(1e-6, 0.999999)) / np.log(levels[middle])))
    candidates = list(NAMED_CURVES.values())
    if GAMMAS[0] <= gamma <= GAMMAS[1]:
        candidates.append((gamma, 1.0, 0.0, 0.0, 0.0))
    deviations = [np.abs(_as_seen(_parametric(levels, *each)) - _as_seen(wanted)).max() for each in candidates]
    best = int(np.argmin(deviations))
    if deviations[best] > MAX_DEVIATION:
        raise ValueError("an unusual curve")
    numbers = candidates[best] if best < len(NAMED_CURVES) else (gamma,)
    kind = 3 if len(numbers) == 5 else 0
    return b"para" + struct.pack(">IHH", 0, kind, 0) + b"".join(_fixed(number) for number in numbers)


def _evaluate(tag: bytes, levels: np.ndarray) -> np.ndarray:
    """Apply a "curv" or "para" tag to levels in [0, 1]."""
    if tag[:4] == b"curv":
        [count] = struct.unpack_from(">I", tag, 8)
        if count == 0:
            return levels
        table = np.frombuffer(tag, ">u2", count, 12)
        if count == 1:
            return levels ** (float(table[0]) / 256)
        return np.interp(levels, np.linspace(0, 1, count), table / 65535)
    if tag[:4] != b"para":
        raise ValueError("not a curve")
    [kind] = struct.unpack_from(">H", tag, 8)
    numbers = [value / 65536 for value in struct.unpack_from(f">{_PARAMETERS[kind]}i", tag, 12)]
    # Every kind is a special case of the last one.
    g, *rest = numbers
    a, b = rest[:2] if kind else (1.0, 0.0)
    c, d, e, f = 0.0, 0.0, 0.0, 0.0
    if kind in (1, 2):
        d, e = -b / a, rest[2] if kind == 2 else 0.0
        f = e
    elif kind >= 3:
        c, d = rest[2:4]
        e, f = rest[4:6] if kind == 4 else (0.0, 0.0)
    return np.where(levels >= d, (a * levels + b) ** g + e, c * levels + f)


def _parametric(levels: np.ndarray, g: float, a: float, b: float, c: float, d: float) -> np.ndarray:
    return np.where(levels >= d, (a * levels + b) ** g, c * levels)


def _as_seen(light: np.ndarray) -> np.ndarray:
    """Encode light as sRGB, which is perceptually even."""
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


def _profile(colour_space: bytes, colours: dict[bytes, bytes]) -> bytes:
    name = "Grey" if colour_space == b"GRAY" else "RGB"
    tags = {b"desc": _text(name), b"cprt": _text("No copyright"), b"wtpt": _xyz(*D50)} | colours
    start = 132 + 12 * len(tags)
    listing, body = struct.pack(">I", len(tags)), b""
    for tag, content in tags.items():
        listing += struct.pack(">4sII", tag, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    version, date = 0x04300000, (2000, 1, 1, 0, 0, 0)
    size = start + len(body)
    header = struct.pack(">I4xI4s4s4s6H4s", size, version, b"mntr", colour_space, b"XYZ ", *date, b"acsp")
    return (header.ljust(68, b"\0") + _xyz(*D50)[8:]).ljust(128, b"\0") + listing + body


def _xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ " + bytes(4) + _fixed(x) + _fixed(y) + _fixed(z)


def _fixed(number: float) -> bytes:
    return struct.pack(">i", round(number * 65536))


def _text(words: str) -> bytes:
    content = words.encode("utf-16-be")
    return b"mluc" + struct.pack(">III2s2sII", 0, 1, 12, b"en", b"US", len(content), 28) + content
