import dataclasses
import os

import PIL.Image
import pytest

from nullface_pipeline.photo_files import PhotoFileError, read_photo, write_photo, write_picture
from nullface_pipeline.runs.atomic_files import write_whole

from .samples import difference, opened, picture, put, rewritten, saved, srgb


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


def test_originals_are_not_replaced(tmp_path):
    data = saved(picture(), "JPEG")
    photo = read_photo(put(tmp_path, data, "original.jpg"))
    (tmp_path / "link.jpg").symlink_to("original.jpg")
    (tmp_path / "twin.jpg").hardlink_to(tmp_path / "original.jpg")
    for name in ("original.jpg", "link.jpg", "twin.jpg", "../" + tmp_path.name + "/original.jpg"):
        with pytest.raises(PhotoFileError):
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


def test_bad_places_to_write_to(tmp_path):
    photo = read_photo(put(tmp_path, saved(picture(), "PNG")))
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "nowhere" / "result", tmp_path / "photo" / "result", tmp_path / "folder"):
        with pytest.raises(PhotoFileError):
            write_photo(photo.image, path, photo)
    assert sorted(os.listdir(tmp_path)) == ["folder", "photo"] and not os.listdir(tmp_path / "folder")


def test_an_encoder_that_fails_leaves_nothing_behind(tmp_path):
    wide = PIL.Image.new("RGB", (65_501, 16))
    photo = dataclasses.replace(read_photo(put(tmp_path, saved(wide, "PNG"))), format="JPEG", encoding={})
    with pytest.raises(PhotoFileError):
        write_photo(wide, tmp_path / "result", photo)
    assert os.listdir(tmp_path) == ["photo"]


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
@pytest.mark.parametrize(("source_mode", "expected"), [(0o600, 0o600), (0o644, 0o644), (0o400, 0o600)])
def test_nobody_can_read_a_result_who_cannot_read_its_source(tmp_path, source_mode, expected):
    source = tmp_path / "source"
    source.write_bytes(b"")
    source.chmod(source_mode)
    previous = os.umask(0o022)
    try:
        write_whole(tmp_path / "result", b"1", source)
        write_picture(PIL.Image.new("RGB", (2, 2)), tmp_path / "preview.png", source)
    finally:
        os.umask(previous)
    for name in ("result", "preview.png"):
        assert (tmp_path / name).stat().st_mode & 0o777 == expected
