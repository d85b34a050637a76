import io
import os
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nullface_pipeline.photo_files import (
    SUFFIXES,
    UNREAD_PICTURES,
    PhotoFileError,
    encode_photo,
    read_photo,
    write_photo,
)

from .samples import (
    HAS_HEIF,
    HEIF,
    cmyk_profile_with_red_cyan,
    difference,
    exif_block,
    grey_profile,
    in_srgb,
    needs_heif,
    opened,
    picture,
    png,
    png_rows,
    put,
    refusal,
    rewritten,
    saved,
    soft_edge,
    srgb,
)


if HAS_HEIF:
    import pillow_heif


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
        assert photo.grey and photo.image.mode == "RGB"
        # A face that was generated in colour.
        photo.image.paste((200, 30, 30), (10, 10, 30, 30))
        write_photo(photo.image, tmp_path / "result", photo)
        result = opened((tmp_path / "result").read_bytes())
        assert result.mode == "L" and result.info["icc_profile"] == photo.icc_profile
        assert difference(in_srgb(image, grey_profile()), in_srgb(image, photo.icc_profile)) < 0.5


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
    with pytest.raises(PhotoFileError, match="transparency"):
        read_photo(tmp_path / "photo.png")


def test_a_transparent_colour(tmp_path):
    image = PIL.Image.new("RGB", (20, 20), (1, 2, 3))
    image.paste((9, 9, 9), (0, 0, 10, 20))
    photo = read_photo(put(tmp_path, saved(image, "PNG", transparency=(9, 9, 9))))
    assert np.array_equal(np.asarray(photo.alpha)[0], [0] * 10 + [255] * 10)


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
    assert "178,956,970" in refusal(put(tmp_path, bombs()[name]))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "kilobytes"


def test_limit_can_be_lowered(tmp_path):
    path = put(tmp_path, saved(picture(100, 100), "JPEG"))
    assert "9,999" in refusal(path, max_pixels=9_999)
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
def damaged_files(draw: st.DrawFn) -> bytes:
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


# Photos without a path


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", HEIF])
def test_photos_from_open_files(tmp_path, kind):
    content = saved(picture(), kind)
    file = io.BytesIO(content)
    photo = read_photo(file)
    assert photo.path is None and not file.closed
    assert difference(photo.image, read_photo(put(tmp_path, content)).image) == 0
    write_photo(photo.image, tmp_path / "photo", photo)
    assert (tmp_path / "photo").read_bytes() == encode_photo(photo.image, photo)


def test_open_files_that_are_none():
    with pytest.raises(PhotoFileError):
        read_photo(io.BytesIO())
    with pytest.raises(PhotoFileError):
        read_photo(io.BytesIO(b"Dear colleague"))
    for wrong in (io.StringIO("text"), None, 3, b"bytes"):
        with pytest.raises(TypeError, match="source"):
            read_photo(wrong)


# What Pillow also opens: videos, tables of numbers and metadata without a picture.
NO_PICTURES = {".mpeg", ".mpg", ".bufr", ".grib", ".h5", ".hdf", ".iim"}


def test_every_picture_that_pillow_knows_is_read_or_reported():
    PIL.Image.init()
    known = {suffix for suffix, name in PIL.Image.registered_extensions().items() if name in PIL.Image.OPEN}
    assert known - SUFFIXES - NO_PICTURES <= UNREAD_PICTURES
    assert not SUFFIXES & UNREAD_PICTURES


@pytest.mark.parametrize(
    "suffix", [".dcm", ".dicom", ".heics", ".heifs", ".mpo", ".exr", ".nef", ".iiq", ".ppm", ".psb"]
)
def test_pictures_of_hospitals_phones_and_cameras_are_reported(suffix):
    assert suffix in UNREAD_PICTURES
