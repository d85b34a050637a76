"""Photos to read and write, and looks into what came out."""

import functools
import io
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest

from nullface_pipeline.photo_files import (
    PhotoFileError,
    read_photo,
    write_photo,
)


try:
    import pillow_heif
except ImportError:
    HAS_HEIF = False
else:
    pillow_heif.register_heif_opener()
    HAS_HEIF = True

needs_heif = pytest.mark.skipif(not HAS_HEIF, reason="needs pillow-heif")
HEIF = pytest.param("HEIF", marks=needs_heif)

# Such that a file is decoded to very nearly what was saved.
FAITHFUL = {
    "JPEG": {"quality": 98, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "BMP": {},
    "HEIF": {"quality": 95, "chroma": 444, "enc_params": {"preset": "ultrafast"}},
}

# A latitude that no other byte sequence of a file resembles.
LATITUDE = [(48, 1), (7, 1), (314_159_265, 10_000_019)]


def picture(width: int = 96, height: int = 64) -> PIL.Image.Image:
    """Smooth, coloured and different from all of its mirror images."""
    y, x = np.mgrid[:height, :width]
    channels = [255 * x / width, 255 * y / height, 127 + 120 * np.sin(x / 20 + y / 40)]
    return PIL.Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def saved(image: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **(FAITHFUL[kind] | options if kind in FAITHFUL else options))
    return file.getvalue()


def put(folder: Path, data: bytes, name: str = "photo") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def rewritten(folder: Path, data: bytes, **options: Any) -> bytes:
    """What comes out of a photo in which no pixel was changed."""
    photo = read_photo(put(folder, data))
    write_photo(photo.image, folder / "result", photo, **options)
    return (folder / "result").read_bytes()


def opened(data: bytes) -> PIL.Image.Image:
    image = PIL.Image.open(io.BytesIO(data))
    image.load()
    return image


def difference(first: PIL.Image.Image, second: PIL.Image.Image) -> float:
    assert first.size == second.size
    pixels = [np.asarray(image.convert("RGB")).astype(int) for image in (first, second)]
    return float(np.abs(pixels[0] - pixels[1]).mean())


def refusal(path: Path, **options: Any) -> str:
    with pytest.raises(PhotoFileError) as caught:
        read_photo(path, **options)
    message = str(caught.value)
    assert "\n" not in message and message.isprintable() and str(path.parent) not in message
    return message


def png(width: int, height: int, depth: int, colour: int, pixels: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG put together by hand; `chunks` come before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(pixels)), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data


def png_chunks(data: bytes) -> dict[bytes, bytes]:
    chunks, position = {}, 8
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        chunks[kind] = data[position + 8 : position + 8 + length]
        position += 12 + length
    return chunks


def png_rows(pixels: np.ndarray) -> bytes:
    """The rows of (height, width, ...) as the filter "none" of a PNG wants them, 16 bits in network
    order.
    """
    rows = pixels.reshape(len(pixels), -1)
    return b"".join(b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in rows)


def jpeg_segments(data: bytes) -> list[tuple[int, bytes]]:
    """Marker and beginning of each segment up to the pixels."""
    segments, position = [], 2
    while data[position + 1] != 0xDA:
        length = struct.unpack_from(">H", data, position + 2)[0]
        segments.append((data[position + 1], data[position + 4 : position + 10]))
        position += 2 + length
    return segments


def exif_block(thumbnail: bytes, orientation: int = 1) -> bytes:
    """Little-endian EXIF: camera, date, a MakerNote holding the thumbnail, GPS, and the thumbnail's
    own directory.
    """
    ascii_type, short, long, rational, undefined = 2, 3, 4, 5, 7
    sizes = {ascii_type: 1, short: 2, long: 4, rational: 8, undefined: 1}

    def directory(start: int, entries: list, following: int = 0) -> bytes:
        table, values = struct.pack("<H", len(entries)), b""
        values_at = start + 2 + 12 * len(entries) + 4
        for tag, kind, value in sorted(entries):
            if kind == short:
                value = struct.pack("<H", value)
            elif kind == long:
                value = struct.pack("<I", value)
            table += struct.pack("<HHI", tag, kind, len(value) // sizes[kind])
            if len(value) <= 4:
                table += value.ljust(4, b"\0")
            else:
                table += struct.pack("<I", values_at + len(values))
                values += value + b"\0" * (len(value) % 2)
        return table + struct.pack("<I", following) + values

    exposure_at, position_at, thumbnail_at = 200, 400 + 2 * len(thumbnail), 800 + 2 * len(thumbnail)
    main = [
        (0x010F, ascii_type, b"Camera Works\0"),
        (0x0112, short, orientation),
        (0x8769, long, exposure_at),
        (0x8825, long, position_at),
    ]
    exposure = [
        (0x9003, ascii_type, b"2024:05:06 07:08:09\0"),
        (0x927C, undefined, b"PREVIEW " + thumbnail),
        (0xA002, short, 1),
        (0xA003, short, 2),
    ]
    latitude = b"".join(struct.pack("<II", *value) for value in LATITUDE)
    position = [(1, ascii_type, b"N\0"), (2, rational, latitude)]
    preview = [(0x0103, short, 6), (0x0201, long, thumbnail_at + 100), (0x0202, long, len(thumbnail))]
    block = b"II*\0" + struct.pack("<I", 8)
    for start, entries, following in (
        (8, main, thumbnail_at),
        (exposure_at, exposure, 0),
        (position_at, position, 0),
        (thumbnail_at, preview, 0),
    ):
        assert len(block) <= start
        block = block.ljust(start, b"\0") + directory(start, entries, following)
    return b"Exif\0\0" + block.ljust(thumbnail_at + 100, b"\0") + thumbnail


def talkative_jpeg() -> tuple[bytes, bytes]:
    """A JPEG with everything in it that gives people away, and its thumbnail."""
    thumbnail = saved(picture(40, 30), "JPEG", quality=60)
    photoshop = b"Photoshop 3.0\x008BIM\x04\x0c\0\0" + struct.pack(">I", 28 + len(thumbnail)) + bytes(28) + thumbnail
    data = saved(
        picture(),
        "JPEG",
        exif=exif_block(thumbnail, orientation=3),
        xmp=b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>person in image: Erika Mustermann</x:xmpmeta>",
        comment=b"taken at home by Erika",
        icc_profile=srgb(),
        dpi=(300, 300),
    )
    segment = b"\xff\xed" + struct.pack(">H", 2 + len(photoshop)) + photoshop
    trailer = b"motion clip: " + thumbnail
    return data[:2] + segment + data[2:] + trailer, thumbnail


@functools.cache
def srgb() -> bytes:
    """Made once: the time it was made is part of it."""
    return PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()


def curve(*values: int) -> bytes:
    """One value is a gamma in 256ths, more are a table of 16 bits."""
    return b"curv" + struct.pack(">II", 0, len(values)) + struct.pack(f">{len(values)}H", *values)


def colour(*xyz: float) -> bytes:
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(value * 65536) for value in xyz))


def profile(colour_space: bytes, *tags: tuple[bytes, bytes], connection: bytes = b"XYZ ") -> bytes:
    """An ICC profile put together by hand."""
    start = 128 + 4 + 12 * len(tags)
    listing, body = struct.pack(">I", len(tags)), b""
    for name, content in tags:
        listing += struct.pack(">4sII", name, start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02400000, b"mntr", colour_space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return header.ljust(128, b"\0") + listing + body


ADOBE_PRIMARIES = (
    (b"wtpt", colour(0.9642, 1, 0.8249)),
    (b"rXYZ", colour(0.6097, 0.3111, 0.0195)),
    (b"gXYZ", colour(0.2053, 0.6257, 0.0609)),
    (b"bXYZ", colour(0.1492, 0.0632, 0.7446)),
)


def adobe_rgb(*tags: tuple[bytes, bytes], curve: bytes = curve(563)) -> bytes:
    return profile(b"RGB ", *ADOBE_PRIMARIES, *((name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")), *tags)


def grey_profile(curve: bytes = curve(461), *tags: tuple[bytes, bytes]) -> bytes:
    return profile(b"GRAY", (b"wtpt", colour(0.9642, 1, 0.8249)), (b"kTRC", curve), *tags)


def in_srgb(image: PIL.Image.Image, icc_profile: bytes | None) -> PIL.Image.Image:
    """What a viewer shows that minds the profile."""
    if icc_profile is None:
        return image.convert("RGB")
    target = PIL.ImageCms.createProfile("sRGB")
    return PIL.ImageCms.profileToProfile(image, io.BytesIO(icc_profile), target, outputMode="RGB")


def cmyk_profile_with_red_cyan() -> bytes:
    """A printer with red cyan ink and other inks invisible, as an 8-bit table to Lab."""
    white, red = bytes([255, 128, 128]), bytes([136, 208, 195])
    identity = b"".join(struct.pack(">i", 65536 * (index % 4 == 0)) for index in range(9))
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + 4 * ramp + 8 * white + 8 * red + 3 * ramp
    return profile(b"CMYK", (b"wtpt", colour(0.9642, 1, 0.8249)), (b"A2B0", table), connection=b"Lab ")


def digital_source_type(data: bytes) -> str:
    """The one property of the one XMP packet in a file."""
    assert data.count(b"<x:xmpmeta") == 1
    packet = data[data.index(b"<x:xmpmeta") : data.index(b"</x:xmpmeta>") + 12]
    [description] = ElementTree.fromstring(packet).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    [entry] = description
    assert entry.tag == "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    return entry.text or ""


def soft_edge() -> np.ndarray:
    """(64, 96) uint8 opacity: opaque but for a few columns."""
    columns = np.concatenate([np.full(40, 255), np.linspace(20, 240, 8), np.full(48, 255)])
    return np.tile(columns.astype(np.uint8), (64, 1))
