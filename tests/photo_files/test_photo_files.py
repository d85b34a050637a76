import dataclasses
import functools
import io
import os
import resource
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageCms
import PIL.PngImagePlugin
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nullface_pipeline.photo_files import (
    DIGITAL_SOURCE_TYPE,
    TEMPORARY_PATTERN,
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


def saved(image: PIL.Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **(FAITHFUL[kind] | options if kind in FAITHFUL else options))
    return file.getvalue()


def put(folder: Path, data: bytes, name: str = "photo") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def rewritten(folder: Path, data: bytes, **options) -> bytes:
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


def refusal(path: Path, **options) -> str:
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
    """The rows of (height, width, ...) as the filter "none" of a PNG wants them, 16 bits in network order."""
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
    """Little-endian EXIF: camera, date, a MakerNote holding the thumbnail, GPS, and the thumbnail's own directory."""
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


def grey_profile() -> bytes:
    """Told apart by its header alone."""
    return srgb()[:16] + b"GRAY" + srgb()[20:]


def cmyk_profile_with_red_cyan() -> bytes:
    """A printer whose cyan ink is red and whose other inks are invisible, as an 8-bit table to Lab."""
    white, red = bytes([255, 128, 128]), bytes([136, 208, 195])
    identity = b"".join(struct.pack(">i", 65536 * (index % 4 == 0)) for index in range(9))
    ramp = bytes(range(256))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + 4 * ramp + 8 * white + 8 * red + 3 * ramp
    white_point = struct.pack(">3i", 63190, 65536, 54061)
    tags = [(b"wtpt", b"XYZ " + bytes(4) + white_point), (b"A2B0", table)]
    start = 128 + 4 + 12 * len(tags)
    listing, body = struct.pack(">I", len(tags)), b""
    for name, content in tags:
        listing += struct.pack(">4sII", name, start + len(body), len(content))
        body += content
    header = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02400000, b"prtr", b"CMYK", b"Lab ")
    header += bytes(12) + b"acsp" + bytes(28) + white_point
    return header.ljust(128, b"\0") + listing + body


def digital_source_type(data: bytes) -> str:
    """The one property of the one XMP packet in a file."""
    assert data.count(b"<x:xmpmeta") == 1
    packet = data[data.index(b"<x:xmpmeta") : data.index(b"</x:xmpmeta>") + 12]
    [description] = ElementTree.fromstring(packet).iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    [entry] = description
    assert entry.tag == "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    return entry.text or ""


# What is read


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", HEIF])
def test_every_format_comes_back_as_it_was(tmp_path, kind):
    photo = read_photo(put(tmp_path, saved(picture(97, 63), kind)))
    assert (photo.format, photo.image.mode, photo.bits, photo.grey, photo.alpha) == (kind, "RGB", 8, False, None)
    assert difference(photo.image, picture(97, 63)) < 2
    write_photo(photo.image, tmp_path / "result", photo)
    result = read_photo(tmp_path / "result")
    assert result.format == kind
    assert difference(result.image, photo.image) < (2 if kind in ("JPEG", "HEIF") else 1e-9)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", HEIF])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_upright(tmp_path, kind, orientation):
    turns = PIL.Image.Transpose
    stored = picture()
    undo = [turns.FLIP_LEFT_RIGHT, turns.ROTATE_180, turns.FLIP_TOP_BOTTOM, turns.TRANSPOSE, turns.ROTATE_90]
    undo += [turns.TRANSVERSE, turns.ROTATE_270]
    if orientation > 1:
        stored = stored.transpose(undo[orientation - 2])
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = orientation
    data = saved(stored, kind, exif=exif.tobytes())
    photo = read_photo(put(tmp_path, data))
    assert difference(photo.image, picture()) < 3
    result = opened(rewritten(tmp_path, data, keep_metadata=True))
    assert result.getexif().get(PIL.ExifTags.Base.Orientation, 1) == 1
    assert difference(result, picture()) < 3


def soft_edge():
    """(64, 96) uint8 opacity: opaque but for a few columns."""
    columns = np.concatenate([np.full(40, 255), np.linspace(20, 240, 8), np.full(48, 255)])
    return np.tile(columns.astype(np.uint8), (64, 1))


def test_transparency_is_turned_along(tmp_path):
    image = picture()
    alpha = PIL.Image.fromarray(soft_edge())
    image.putalpha(alpha)
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    photo = read_photo(put(tmp_path, saved(image, "PNG", exif=exif, dpi=(100, 200))))
    assert photo.image.size == photo.alpha.size == (64, 96)
    assert np.array_equal(photo.alpha, np.asarray(alpha.transpose(PIL.Image.Transpose.ROTATE_270)))
    assert photo.dpi == pytest.approx((200, 100), rel=1e-3)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_goes_through_its_profile(tmp_path, kind):
    image = PIL.Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    photo = read_photo(put(tmp_path, saved(image, kind, icc_profile=cmyk_profile_with_red_cyan())))
    red, green, blue = photo.image.getpixel((16, 16))
    assert red > 200 and green < 60 and blue < 60
    assert photo.icc_profile is None, "it no longer describes the pixels"
    write_photo(photo.image, tmp_path / "result", photo)
    assert opened((tmp_path / "result").read_bytes()).mode == "RGB"


@pytest.mark.parametrize("profile", [None, b"no profile at all", srgb(), cmyk_profile_with_red_cyan()[:200]])
def test_cmyk_without_a_usable_profile(tmp_path, profile):
    image = PIL.Image.new("CMYK", (32, 32), (255, 0, 0, 0))
    photo = read_photo(put(tmp_path, saved(image, "JPEG", icc_profile=profile)))
    red, green, blue = photo.image.getpixel((16, 16))
    assert red < 60 and green > 150 and blue > 150
    assert photo.icc_profile is None


def test_grey_stays_grey(tmp_path):
    image = picture().convert("L")
    for kind in ("JPEG", "PNG", "TIFF"):
        photo = read_photo(put(tmp_path, saved(image, kind, icc_profile=grey_profile())))
        assert photo.grey and photo.image.mode == "RGB" and photo.icc_profile == grey_profile()
        # A face that was generated in colour.
        photo.image.paste((200, 30, 30), (10, 10, 30, 30))
        write_photo(photo.image, tmp_path / "result", photo)
        result = opened((tmp_path / "result").read_bytes())
        assert result.mode == "L" and result.info["icc_profile"] == grey_profile()


def test_sixteen_bit_grey(tmp_path):
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).round().astype(np.uint16)
    for kind in ("PNG", "TIFF"):
        photo = read_photo(put(tmp_path, saved(PIL.Image.fromarray(values), kind)))
        assert photo.bits == 16 and photo.grey
        assert np.array_equal(np.asarray(photo.image)[..., 1], (values / 257).round())
        write_photo(photo.image, tmp_path / "result", photo)
        assert opened((tmp_path / "result").read_bytes()).mode == "L"


def test_sixteen_bit_grey_with_a_transparent_value(tmp_path):
    values = np.full((20, 20), 40_000, dtype=np.uint16)
    values[5:10] = 40_001
    photo = read_photo(put(tmp_path, png(20, 20, 16, 0, png_rows(values), (b"tRNS", struct.pack(">H", 40_001)))))
    assert np.array_equal(np.asarray(photo.alpha) == 0, values == 40_001)


def test_white_is_zero(tmp_path):
    """X-rays come like this."""
    values = np.linspace(0, 65535, 32 * 32).reshape(32, 32).round().astype(np.uint16)
    data = saved(PIL.Image.fromarray(values), "TIFF", tiffinfo={262: 0})
    assert PIL.Image.open(io.BytesIO(data)).tag_v2[262] == 0
    photo = read_photo(put(tmp_path, data))
    assert np.array_equal(np.asarray(photo.image)[..., 0], 255 - (values / 257).round())


@pytest.mark.parametrize("channels, colour_type", [(2, 4), (3, 2), (4, 6)])
def test_sixteen_bits_in_several_channels(tmp_path, channels, colour_type):
    rows, columns = np.mgrid[:24, :24].astype(np.uint16)
    values = np.stack(
        [2000 * columns, 1500 * rows, 900 * (rows + columns), (65535 * (rows > 9)).astype(np.uint16)], axis=-1
    )
    values = values[..., [0, 3]] if channels == 2 else values[..., :channels]
    photo = read_photo(put(tmp_path, png(24, 24, 16, colour_type, png_rows(values))))
    assert photo.bits == 16 and photo.grey == (channels == 2)
    assert np.abs(np.asarray(photo.image)[..., 0] - values[..., 0] / 257).max() <= 1
    assert (photo.alpha is not None) == (channels in (2, 4))
    write_photo(photo.image, tmp_path / "result", photo)
    result = opened((tmp_path / "result").read_bytes())
    assert result.mode == {2: "LA", 3: "RGB", 4: "RGBA"}[channels]


@needs_heif
def test_ten_bit_heic(tmp_path):
    values = np.asarray(picture(64, 64)).astype(np.uint16) * 257
    file = io.BytesIO()
    pillow_heif.encode("RGB;16", (64, 64), values.tobytes(), file, quality=95, chroma=444)
    photo = read_photo(put(tmp_path, file.getvalue()))
    assert photo.bits == 10 and difference(photo.image, picture(64, 64)) < 2


def test_palettes(tmp_path):
    image = picture().quantize(64)
    photo = read_photo(put(tmp_path, saved(image, "PNG", transparency=bytes([0, 128]))))
    assert difference(photo.image, image) == 0
    expected = np.select([np.asarray(image) == 0, np.asarray(image) == 1], [0, 128], 255)
    assert np.array_equal(photo.alpha, expected)
    write_photo(photo.image, tmp_path / "result", photo)
    assert np.array_equal(opened((tmp_path / "result").read_bytes()).getchannel("A"), expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", HEIF])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_kept(tmp_path, kind, mode):
    image = picture().convert(mode)
    alpha = soft_edge()
    image.putalpha(PIL.Image.fromarray(alpha))
    data = saved(image, kind)
    photo = read_photo(put(tmp_path, data))
    assert np.abs(np.asarray(photo.alpha).astype(int) - alpha).max() <= 6
    result = opened(rewritten(tmp_path, data))
    assert np.abs(np.asarray(result.getchannel("A")).astype(int) - alpha).max() <= 12
    assert difference(result, image) < 2


def test_transparency_that_could_be_a_picture_is_refused(tmp_path):
    picture = PIL.Image.new("RGB", (100, 100), "grey")
    picture.putalpha(PIL.Image.linear_gradient("L").resize((100, 100)))
    picture.save(tmp_path / "photo.png")
    with pytest.raises(PhotoFileError, match="transparency could be a picture"):
        read_photo(tmp_path / "photo.png")


def test_a_transparent_colour(tmp_path):
    image = PIL.Image.new("RGB", (20, 20), (1, 2, 3))
    image.paste((9, 9, 9), (0, 0, 10, 20))
    photo = read_photo(put(tmp_path, saved(image, "PNG", transparency=(9, 9, 9))))
    assert np.array_equal(np.asarray(photo.alpha)[0], [0] * 10 + [255] * 10)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", HEIF])
def test_colour_profile_is_kept(tmp_path, kind):
    profile = srgb()[:-4] + b"mine"
    assert opened(rewritten(tmp_path, saved(picture(), kind, icc_profile=profile))).info["icc_profile"] == profile


def test_profile_of_another_colour_space_is_dropped(tmp_path):
    for profile in (grey_profile(), cmyk_profile_with_red_cyan(), b"hello"):
        assert read_photo(put(tmp_path, saved(picture(), "JPEG", icc_profile=profile))).icc_profile is None


def test_colour_chunks_of_a_png_are_kept(tmp_path):
    chunks = (b"gAMA", struct.pack(">I", 100_000)), (b"cICP", bytes([9, 16, 0, 1])), (b"tEXt", b"Author\0Erika")
    data = png(20, 20, 8, 0, png_rows(np.full((20, 20), 77, dtype=np.uint8)), *chunks)
    written = png_chunks(rewritten(tmp_path, data))
    assert set(written) == {b"IHDR", b"gAMA", b"cICP", b"iTXt", b"IDAT", b"IEND"}
    assert written[b"gAMA"] == chunks[0][1] and written[b"cICP"] == chunks[1][1]


@needs_heif
def test_colour_space_of_a_heic_is_kept(tmp_path):
    bt2020 = {"color_primaries": 9, "transfer_characteristics": 16, "matrix_coefficients": 9, "full_range_flag": 1}
    data = saved(picture(), "HEIF", **bt2020)
    result = opened(rewritten(tmp_path, data))
    profile = result.info["nclx_profile"]
    assert (profile["color_primaries"], profile["transfer_characteristics"]) == (9, 16)
    assert difference(result, picture()) < 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_resolution_is_kept(tmp_path, kind):
    result = opened(rewritten(tmp_path, saved(picture(), kind, dpi=(300, 300))))
    assert [float(value) for value in result.info["dpi"]] == pytest.approx([300, 300], rel=1e-3)


@pytest.mark.parametrize("subsampling", [0, 1, 2])
def test_subsampling_of_a_jpeg_is_its_own(tmp_path, subsampling):
    result = opened(rewritten(tmp_path, saved(picture(), "JPEG", quality=40, subsampling=subsampling)))
    assert PIL.JpegImagePlugin.get_sampling(result) == subsampling
    assert max(result.quantization[0]) <= 12, "quality 95"


def test_lossless_webp_stays_lossless(tmp_path):
    data = saved(picture(), "WEBP", icc_profile=srgb())
    assert difference(opened(rewritten(tmp_path, data)), picture()) == 0
    assert b"VP8L" in rewritten(tmp_path, data)
    assert b"VP8L" not in rewritten(tmp_path, saved(picture(), "WEBP", lossless=False))


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg"])
def test_tiff_is_written_without_loss(tmp_path, compression):
    data = saved(picture(), "TIFF", compression=compression)
    result = opened(rewritten(tmp_path, data))
    assert difference(result, opened(data)) == 0
    assert result.info["compression"] == (compression if compression != "jpeg" else "tiff_adobe_deflate")


def test_content_decides_and_the_name_stays(tmp_path):
    photo = read_photo(put(tmp_path, saved(picture(), "PNG"), "really-a-png.jpg"))
    assert photo.format == "PNG"
    write_photo(photo.image, tmp_path / "result.jpg", photo)
    assert opened((tmp_path / "result.jpg").read_bytes()).format == "PNG"


def test_previews_behind_a_jpeg_are_left_out(tmp_path):
    preview = PIL.Image.new("RGB", (50, 40), "red")
    data = saved(picture(), "MPO", save_all=True, append_images=[preview])
    assert data.count(b"\xff\xd8\xff") == 2 and b"MPF\0" in data
    assert read_photo(put(tmp_path, data)).format == "JPEG"
    result = rewritten(tmp_path, data)
    assert result.count(b"\xff\xd8\xff") == 1 and b"MPF\0" not in result


# What is refused


def test_stereo_photos_are_refused(tmp_path):
    data = saved(picture(), "MPO", save_all=True, append_images=[picture()])
    first = data.index(b"MPF\0") + 4 + 50
    for entry in (first, first + 16):
        data = data[:entry] + struct.pack("<I", 0x020002) + data[entry + 4 :]
    assert "several pictures" in refusal(put(tmp_path, data))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", HEIF])
def test_several_pictures_in_a_file_are_refused(tmp_path, kind):
    second = picture().transpose(PIL.Image.Transpose.ROTATE_180)
    data = saved(picture(), kind, save_all=True, append_images=[second])
    assert "several pictures" in refusal(put(tmp_path, data))


def test_gif_is_refused(tmp_path):
    for others in ([], [picture().transpose(PIL.Image.Transpose.ROTATE_180)]):
        data = saved(picture(), "GIF", save_all=True, append_images=others)
        assert "not a JPEG" in refusal(put(tmp_path, data, "photo.jpg"))


def test_raw_photos_are_refused(tmp_path):
    for tags in ({254: 1}, {50706: b"\1\4\0\0"}):
        assert "raw photo" in refusal(put(tmp_path, saved(picture(), "TIFF", tiffinfo=tags)))


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "empty"),
        (b"Dear colleague,\n" * 100, "not a JPEG"),
        (b"\xff\xd8\xff", "not a JPEG"),
        (b"\x89PNG\r\n\x1a\n", "not a JPEG"),
        (bytes(10_000), "not a JPEG"),
    ],
    ids=["empty", "text", "only a JPEG's magic", "only a PNG's magic", "zeros"],
)
def test_what_is_no_photo(tmp_path, data, message):
    assert message in refusal(put(tmp_path, data, "photo.jpg"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", HEIF])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(tmp_path, kind, part):
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    data = saved(PIL.Image.fromarray(noise), kind)
    refusal(put(tmp_path, data[: int(part * len(data))]))


def test_chunks_without_a_name_are_refused(tmp_path):
    """Pillow raises a `SyntaxError` here; photos have no syntax."""
    pixels = np.random.default_rng(0).integers(0, 255, (50, 50), dtype=np.uint8)
    data = png(50, 50, 8, 0, b"", (b"IDAT", zlib.compress(png_rows(pixels))[:1000]))
    name = data.rindex(b"IDAT")
    data = data[:name] + bytes(4) + data[name + 4 :]
    with pytest.raises(SyntaxError):
        opened(data)
    assert "damaged" in refusal(put(tmp_path, data))


@pytest.mark.parametrize("size", [(1, 1), (200, 1), (15, 400)])
def test_pictures_too_small_for_a_face_are_refused(tmp_path, size):
    assert "too few" in refusal(put(tmp_path, saved(PIL.Image.new("RGB", size), "PNG")))


def bombs() -> dict[str, bytes]:
    """Files of a few hundred bytes that claim 60000 x 60000 pixels."""
    side = 60_000
    tiff_tags = [(256, 4, side), (257, 4, side), (258, 3, 8), (259, 3, 5), (262, 3, 1), (273, 4, 150), (277, 3, 1)]
    tiff_tags += [(278, 4, side), (279, 4, 100)]
    tiff = b"II*\0" + struct.pack("<IH", 8, len(tiff_tags))
    tiff += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tiff_tags) + bytes(200)
    bmp = b"BM" + struct.pack("<IIIIiiHHIIiiII", 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(200)
    jpeg = saved(picture(), "JPEG")
    start = jpeg.index(b"\xff\xc0") + 5
    return {
        "png": png(side, side, 8, 2, bytes(1000)),
        "tiff": tiff,
        "bmp": bmp,
        "jpeg": jpeg[:start] + struct.pack(">HH", side, side) + jpeg[start + 4 :],
    }


@pytest.mark.parametrize("name", ["png", "tiff", "bmp", "jpeg"])
def test_bombs_are_refused_before_they_are_decoded(tmp_path, name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "178,956,970 pixels" in refusal(put(tmp_path, bombs()[name]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes"


def test_limit_can_be_lowered(tmp_path):
    path = put(tmp_path, saved(picture(100, 100), "JPEG"))
    assert "9,999 pixels" in refusal(path, max_pixels=9_999)
    assert read_photo(path, max_pixels=10_000).image.size == (100, 100)


def test_what_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert "not a file" in refusal(tmp_path / "pipe")
    assert "not a file" in refusal(tmp_path)
    assert "No such file" in refusal(tmp_path / "nothing")
    assert "cannot be opened" in refusal(tmp_path / "nu\0ll")


def test_pixels_beyond_16_bits_are_refused(tmp_path):
    for values in (np.ones((20, 20), dtype=np.float32), np.ones((20, 20), dtype=np.int32)):
        assert "not supported" in refusal(put(tmp_path, saved(PIL.Image.fromarray(values), "TIFF")))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_unreadable_exif_is_no_obstacle(tmp_path):
    for exif in (b"Exif\0\0rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"):
        photo = read_photo(put(tmp_path, saved(picture(), "JPEG", exif=exif)))
        assert photo.exif is None and difference(photo.image, picture()) < 3


READ_WITHOUT_PILLOW_HEIF = """
import sys
sys.modules["pillow_heif"] = None
from nullface_pipeline.photo_files import PhotoFileError, read_photo
try:
    read_photo(sys.argv[1])
except PhotoFileError as error:
    print(error)
"""


def test_heic_without_pillow_heif(tmp_path):
    path = put(tmp_path, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    arguments = [sys.executable, "-c", READ_WITHOUT_PILLOW_HEIF, path]
    output = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert output == "Reading HEIC needs pillow-heif: `pip install pillow-heif`.\n"


# What is written


def test_metadata_is_dropped(tmp_path):
    data, thumbnail = talkative_jpeg()
    latitude = [struct.pack(order + "II", *LATITUDE[2]) for order in "<>"]
    secrets = [
        thumbnail,
        thumbnail[20:200],
        b"Camera Works",
        b"2024:05:06",
        b"Erika",
        b"Mustermann",
        b"8BIM",
        b"motion",
    ]
    assert all(secret in data for secret in [*secrets, latitude[0]])
    result = rewritten(tmp_path, data)
    assert not any(secret in result for secret in secrets + latitude)
    segments = jpeg_segments(result)
    assert [content for marker, content in segments if 0xE0 <= marker <= 0xFE] == [b"JFIF\0\1", b"http:/", b"ICC_PR"]
    assert result.endswith(b"\xff\xd9")


def test_notes_are_kept_when_asked_for_and_thumbnails_never(tmp_path):
    data, thumbnail = talkative_jpeg()
    result = rewritten(tmp_path, data, keep_metadata=True)
    for secret in (thumbnail, thumbnail[20:200], b"PREVIEW", b"Erika", b"8BIM", b"motion"):
        assert secret not in result
    exif = opened(result).getexif()
    assert exif[PIL.ExifTags.Base.Make] == "Camera Works"
    assert exif[PIL.ExifTags.Base.Orientation] == 1
    assert exif.get_ifd(PIL.ExifTags.IFD.IFD1) == {}
    exposure = exif.get_ifd(PIL.ExifTags.IFD.Exif)
    assert exposure[PIL.ExifTags.Base.DateTimeOriginal] == "2024:05:06 07:08:09"
    assert PIL.ExifTags.Base.MakerNote not in exposure
    assert (exposure[0xA002], exposure[0xA003]) == picture().size
    latitude = exif.get_ifd(PIL.ExifTags.IFD.GPSInfo)[PIL.ExifTags.GPS.GPSLatitude]
    assert [float(value) for value in latitude] == pytest.approx([a / b for a, b in LATITUDE])


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", HEIF])
@pytest.mark.parametrize("keep", [False, True])
def test_notes_in_other_formats(tmp_path, kind, keep):
    thumbnail = saved(picture(40, 30), "JPEG", quality=60)
    extras = {"xmp": b"<x:xmpmeta xmlns:x='adobe:ns:meta/'>Erika</x:xmpmeta>"} if kind in ("WEBP", "HEIF") else {}
    data = saved(picture(), kind, exif=exif_block(thumbnail), **extras)
    assert b"Camera Works" in data and thumbnail[20:200] in data
    result = rewritten(tmp_path, data, keep_metadata=keep)
    assert thumbnail[20:200] not in result and b"Erika" not in result
    exif = opened(result).getexif()
    assert exif.get(PIL.ExifTags.Base.Make) == ("Camera Works" if keep else None)
    assert exif.get_ifd(PIL.ExifTags.IFD.Exif).get(0x9003) == ("2024:05:06 07:08:09" if keep else None)
    assert (PIL.ExifTags.GPS.GPSLatitude in exif.get_ifd(PIL.ExifTags.IFD.GPSInfo)) == keep
    assert (b"2024:05:06" in result) == keep


def test_long_values_are_no_notes(tmp_path):
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.ImageDescription] = "a thumbnail in disguise " * 100
    exif[PIL.ExifTags.Base.Artist] = "Erika"
    photo = read_photo(put(tmp_path, saved(picture(), "JPEG", exif=exif)))
    assert b"disguise" not in photo.exif and b"Erika" in photo.exif


def test_what_the_result_carries_along_is_not_written(tmp_path):
    """The pipeline could hand back an image that still knows the original's metadata."""
    for kind in ("JPEG", "PNG", "WEBP", "TIFF") + (("HEIF",) if HAS_HEIF else ()):
        photo = read_photo(put(tmp_path, saved(picture(), kind)))
        result = opened(talkative_jpeg()[0])
        assert {"exif", "comment", "xmp"} <= set(result.info)
        write_photo(result, tmp_path / "result", photo)
        written = (tmp_path / "result").read_bytes()
        assert b"Erika" not in written and b"Camera Works" not in written


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", HEIF])
@pytest.mark.parametrize("keep", [False, True])
def test_output_is_marked_as_edited_by_ai(tmp_path, kind, keep):
    result = rewritten(tmp_path, saved(picture(), kind), keep_metadata=keep)
    assert digital_source_type(result) == DIGITAL_SOURCE_TYPE
    assert DIGITAL_SOURCE_TYPE.endswith("/digitalsourcetype/compositeWithTrainedAlgorithmicMedia")
    info = opened(result).info
    xmp = info.get("xmp") or info["XML:com.adobe.xmp"].encode()
    assert DIGITAL_SOURCE_TYPE.encode() in xmp


def test_originals_are_not_replaced(tmp_path):
    data = saved(picture(), "JPEG")
    photo = read_photo(put(tmp_path, data, "original.jpg"))
    (tmp_path / "link.jpg").symlink_to("original.jpg")
    (tmp_path / "twin.jpg").hardlink_to(tmp_path / "original.jpg")
    for name in ("original.jpg", "link.jpg", "twin.jpg", "../" + tmp_path.name + "/original.jpg"):
        with pytest.raises(PhotoFileError, match="replace the original"):
            write_photo(photo.image, tmp_path / name, photo)
    assert (tmp_path / "original.jpg").read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == ["link.jpg", "original.jpg", "twin.jpg"]


def test_a_result_of_another_size_is_a_mistake(tmp_path):
    photo = read_photo(put(tmp_path, saved(picture(), "JPEG")))
    with pytest.raises(ValueError, match="size"):
        write_photo(photo.image.resize((20, 20)), tmp_path / "result", photo)


def test_written_files_have_ordinary_permissions_and_may_have_long_names(tmp_path):
    photo = read_photo(put(tmp_path, saved(picture(), "JPEG")))
    path = tmp_path / ("n" * 251 + ".jpg")
    write_photo(photo.image, path, photo)
    assert path.stat().st_mode == (tmp_path / "photo").stat().st_mode


@pytest.mark.parametrize("keep_old", [False, True])
def test_a_full_disk_leaves_nothing_behind(tmp_path, keep_old):
    noise = np.random.default_rng(0).integers(0, 255, (200, 200, 3), dtype=np.uint8)
    photo = read_photo(put(tmp_path, saved(PIL.Image.fromarray(noise), "PNG")))
    if keep_old:
        put(tmp_path, b"yesterday's result", "result")
    names = sorted(os.listdir(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(PhotoFileError, match="cannot be written"):
            write_photo(photo.image, tmp_path / "result", photo)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(os.listdir(tmp_path)) == names
    if keep_old:
        assert (tmp_path / "result").read_bytes() == b"yesterday's result"


def test_bad_places_to_write_to(tmp_path):
    photo = read_photo(put(tmp_path, saved(picture(), "PNG")))
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "nowhere" / "result", tmp_path / "photo" / "result", tmp_path / "folder"):
        with pytest.raises(PhotoFileError, match="cannot be written"):
            write_photo(photo.image, path, photo)
    assert sorted(os.listdir(tmp_path)) == ["folder", "photo"] and not os.listdir(tmp_path / "folder")


def test_an_encoder_that_fails_leaves_nothing_behind(tmp_path):
    wide = PIL.Image.new("RGB", (65_501, 16))
    photo = dataclasses.replace(read_photo(put(tmp_path, saved(wide, "PNG"))), format="JPEG", encoding={})
    with pytest.raises(PhotoFileError, match="cannot be encoded as JPEG"):
        write_photo(wide, tmp_path / "result", photo)
    assert os.listdir(tmp_path) == ["photo"]


WRITE_FOR_EVER = """
import sys
from nullface_pipeline.photo_files import read_photo, write_photo
photo = read_photo(sys.argv[1])
while True:
    write_photo(photo.image, sys.argv[2], photo)
"""


def test_no_partial_file_is_ever_visible(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8)
    source, result = put(tmp_path, saved(PIL.Image.fromarray(noise), "TIFF")), tmp_path / "result"
    writer = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, source, result])
    try:
        seen, started = set(), time.monotonic()
        while len(seen) < 20 and time.monotonic() - started < 20:
            if result.exists():
                seen.add(result.stat().st_mtime_ns)
                assert len(result.read_bytes()) > noise.size
    finally:
        writer.kill()
        writer.wait()
    assert len(seen) > 1
    assert np.array_equal(opened(result.read_bytes()), noise)
    left = {path.name for path in tmp_path.iterdir()} - {"photo", "result"}
    assert len(left) <= 1 and all(Path(name).match(TEMPORARY_PATTERN) and name.startswith(".") for name in left)


# What nobody thought of


def damaged_samples() -> list[bytes]:
    image = picture(48, 32)
    alpha = image.convert("RGBA")
    alpha.putalpha(image.convert("L"))
    exif = exif_block(saved(image, "JPEG", quality=30), orientation=6)
    samples = [
        saved(image, "JPEG", exif=exif, icc_profile=srgb()),
        saved(image.convert("CMYK"), "JPEG", icc_profile=cmyk_profile_with_red_cyan()),
        saved(image, "MPO", save_all=True, append_images=[image]),
        saved(alpha, "PNG", exif=exif),
        saved(image.quantize(16), "PNG", transparency=3),
        saved(alpha, "WEBP", exif=exif),
        saved(image, "WEBP", lossless=False),
        saved(image, "TIFF", exif=exif),
        saved(image, "TIFF", compression="tiff_lzw"),
        saved(image.quantize(16), "BMP"),
        saved(image, "BMP"),
    ]
    return samples + ([saved(image, "HEIF", exif=exif, icc_profile=srgb())] if HAS_HEIF else [])


SAMPLES = damaged_samples()
MAGIC = [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"RIFF\x20\0\0\0WEBPVP8X", b"II*\0", b"MM\0+", b"BM"]
MAGIC.append(b"\0\0\0\x18ftypheic")


@st.composite
def damaged_files(draw):
    data = bytearray(draw(st.sampled_from(SAMPLES)))
    # Headers are where damage does most.
    places = st.one_of(st.integers(0, min(400, len(data) - 1)), st.integers(0, len(data) - 1))
    for place, value in draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        data[place] = value
    if draw(st.booleans()):
        del data[draw(places) :]
    return bytes(data)


@given(data=st.one_of(damaged_files(), st.tuples(st.sampled_from(MAGIC), st.binary(max_size=200)).map(b"".join)))
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore")
def test_no_file_raises_anything_else(tmp_path, data):
    result = tmp_path / "result"
    result.unlink(missing_ok=True)
    try:
        photo = read_photo(put(tmp_path, data), max_pixels=1_000_000)
        assert photo.image.mode == "RGB" and min(photo.image.size) >= 16
        assert photo.alpha is None or (photo.alpha.mode, photo.alpha.size) == ("L", photo.image.size)
        write_photo(photo.image, result, photo, keep_metadata=True)
    except PhotoFileError as error:
        assert str(error).isprintable()
        assert not result.exists()
    else:
        assert opened(result.read_bytes()).size == photo.image.size
