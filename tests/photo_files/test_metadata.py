import struct

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

from nullface_pipeline.photo_files import (
    DIGITAL_SOURCE_TYPE,
    read_photo,
    write_photo,
)

from .samples import (
    HAS_HEIF,
    HEIF,
    LATITUDE,
    cmyk_profile_with_red_cyan,
    difference,
    digital_source_type,
    exif_block,
    grey_profile,
    jpeg_segments,
    needs_heif,
    opened,
    picture,
    png,
    png_chunks,
    png_rows,
    put,
    rewritten,
    saved,
    talkative_jpeg,
)


def test_profile_of_another_colour_space_is_dropped(tmp_path):
    for profile in (grey_profile(), cmyk_profile_with_red_cyan(), b"hello"):
        assert read_photo(put(tmp_path, saved(picture(), "JPEG", icc_profile=profile))).icc_profile is None


def test_colour_chunks_of_a_png_are_kept(tmp_path):
    chunks = (b"gAMA", struct.pack(">I", 45_455)), (b"cICP", bytes([9, 16, 0, 1])), (b"tEXt", b"Author\0Erika")
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
