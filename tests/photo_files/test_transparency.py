import struct
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFilter
import pytest
from skimage import data

from nullface_pipeline.face_search import search_faces
from nullface_pipeline.model_sets import load_detector
from nullface_pipeline.photo_files import (
    PhotoFileError,
    alpha_views,
    composed_views,
    encode_photo,
    flatten,
    read_photo,
)

from .samples import HEIF, opened, png, png_rows, put, refusal, saved


@pytest.fixture(scope="module")
def detector() -> Any:
    return load_detector("tiny")


def grey_face(side: int) -> PIL.Image.Image:
    return PIL.Image.fromarray(data.astronaut()[:300, 80:380]).convert("L").resize((side, side))


def ordered(face: PIL.Image.Image, dot: int) -> PIL.Image.Image:
    """Black and white in dots of so many pixels, in a regular pattern."""
    matrix = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]]) * 16 + 8
    limits = np.tile(np.kron(matrix, np.ones((dot, dot))), (face.height, face.width))[: face.height, : face.width]
    return PIL.Image.fromarray((255 * (np.asarray(face) > limits)).astype(np.uint8))


def in_alpha(face: PIL.Image.Image, side: int = 600, mode: str = "RGB", ground: int = 255) -> PIL.Image.Image:
    """A plain picture whose transparency shows something."""
    alpha = PIL.Image.new("L", (side, side), ground)
    alpha.paste(face, (40, 40))
    image = PIL.Image.new(mode, (side, side), 0 if mode == "L" else (20, 40, 60))
    image.putalpha(alpha)
    return image


def cut_out(side: int = 400) -> PIL.Image.Image:
    """A triangle with a soft edge, four times too large at first, and letters beside it."""
    alpha = PIL.Image.new("L", (4 * side, 4 * side))
    draw = PIL.ImageDraw.Draw(alpha)
    draw.polygon([(2 * side, side), (3 * side, 3 * side), (side, 3 * side)], 255)
    draw.text((100, 100), "NullFace", 255, font_size=200)
    alpha = alpha.resize((side, side), PIL.Image.Resampling.LANCZOS)
    image = PIL.Image.new("RGB", (side, side), (200, 100, 50))
    image.putalpha(alpha)
    return image


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    "face",
    [
        grey_face(200).convert("1").convert("L"),
        ordered(grey_face(200), 1),
        ordered(grey_face(200), 2),
        grey_face(150).convert("1").convert("L").point(lambda level: 200 if level else 255),
        grey_face(64).convert("1").convert("L"),
        PIL.Image.fromarray(np.random.default_rng(0).integers(0, 2, (64, 64), dtype=np.uint8) * 255),
    ],
    ids=["diffused", "ordered", "larger dots", "faint", "small", "noise"],
)
def test_dithered_transparency_is_refused(tmp_path, kind, face):
    assert "transparency could be a picture" in refusal(put(tmp_path, saved(in_alpha(face), kind)))


def test_dithered_transparency_in_other_modes(tmp_path):
    dots = ordered(grey_face(100), 1)
    grey = in_alpha(dots, 300, "L")
    indices = (np.asarray(grey.getchannel("A")) > 0).astype(np.uint8)
    palette = PIL.Image.fromarray(indices)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    wide = png_rows(np.where(indices, 1000, 40_000).astype(np.uint16))
    for number, content in enumerate(
        [
            saved(grey, "PNG"),
            saved(palette, "PNG", transparency=bytes([0, 255])),
            saved(palette, "PNG", transparency=0),
            png(300, 300, 16, 0, wide, (b"tRNS", (40_000).to_bytes(2))),
            saved(in_alpha(dots, 300), "BMP"),
        ]
    ):
        path = put(tmp_path, content, str(number))
        if number == 4 and opened(content).mode == "RGB":
            assert read_photo(path).alpha is None
        else:
            assert "transparency could be a picture" in refusal(path)


@pytest.mark.parametrize(
    "face",
    [
        grey_face(180),
        grey_face(180).point(lambda level: 255 * (level > 100)),
        grey_face(180).point(lambda level: level // 64 * 64),
        ordered(grey_face(240), 3),
        PIL.Image.eval(grey_face(180), lambda level: 255 - level),
        grey_face(180).rotate(90),
    ],
    ids=["grey", "black and white", "four greys", "large dots", "negative", "on its side"],
)
def test_a_face_in_the_transparency_is_refused_or_seen_in_a_view(tmp_path, detector, face):
    try:
        photo = read_photo(put(tmp_path, saved(in_alpha(face, 600), "PNG")))
    except PhotoFileError:
        return
    views = alpha_views(photo)
    assert all(view.mode == "RGB" and view.size == (600, 600) for view in views)
    assert any(search_faces(detector, np.asarray(view)) for view in views)


def test_a_grey_face_reaches_the_views(tmp_path, detector):
    """Below a tenth of the picture no structure tells it from a soft shadow."""
    smooth = grey_face(180).filter(PIL.ImageFilter.GaussianBlur(2))
    photo = read_photo(put(tmp_path, saved(in_alpha(smooth, 600), "PNG")))
    assert len(alpha_views(photo)) == 6
    assert any(search_faces(detector, np.asarray(view)) for view in alpha_views(photo))
    assert not search_faces(detector, np.asarray(photo.image))


def test_a_face_that_only_the_two_together_show_is_seen_before_a_background(tmp_path, detector):
    """Half of it in the colours, half in the transparency."""
    face = np.asarray(grey_face(180))
    checks = np.indices(face.shape).sum(axis=0) // 30 % 2 == 0
    image = in_alpha(PIL.Image.fromarray(np.where(checks, face, 255).astype(np.uint8)), 600)
    alpha, pixels = image.getchannel("A"), np.full((600, 600, 3), 255, dtype=np.uint8)
    pixels[40:220, 40:220] = np.where(checks, 255, face)[..., None]
    image = PIL.Image.fromarray(pixels)
    image.putalpha(alpha)
    photo = read_photo(put(tmp_path, saved(image, "PNG")))
    assert any(search_faces(detector, np.asarray(view)) for view in composed_views(photo, photo.image))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", HEIF])
def test_cut_outs_stay_transparent(tmp_path, kind):
    image = cut_out()
    photo = read_photo(put(tmp_path, saved(image, kind)))
    result = opened(encode_photo(photo.image, photo))
    levels = np.asarray(result.getchannel("A")).astype(int)
    assert np.abs(levels - np.asarray(image.getchannel("A"))).mean() < 3


def test_cut_outs_show_no_face(tmp_path, detector):
    photo = read_photo(put(tmp_path, saved(cut_out(), "PNG")))
    views = alpha_views(photo) + composed_views(photo, photo.image)
    assert len(views) == 10 and not any(search_faces(detector, np.asarray(view)) for view in views)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("opacity", [0, 5])
def test_nothing_is_left_under_transparency(tmp_path, kind, opacity):
    image = PIL.Image.fromarray(data.astronaut()[:300, 80:380])
    alpha = PIL.Image.new("L", image.size, 255)
    alpha.paste(opacity, (0, 0, 300, 200))
    image.putalpha(alpha)
    photo = read_photo(put(tmp_path, saved(image, kind, **({"exact": True} if kind == "WEBP" else {}))))
    assert np.asarray(photo.image)[:200].std() > 20, "what is searched for faces"
    result = np.asarray(opened(encode_photo(photo.image, photo)))
    assert not result[:190].any() and result[210:, :, :3].std() > 20


@pytest.mark.parametrize("level", [248, 252, 255])
def test_nearly_opaque_is_opaque(tmp_path, level):
    faint = grey_face(180).point([level + value * (255 - level) // 255 for value in range(256)])
    photo = read_photo(put(tmp_path, saved(in_alpha(faint, 600), "PNG")))
    assert photo.alpha is None and alpha_views(photo) == composed_views(photo, photo.image) == []
    assert opened(encode_photo(photo.image, photo)).mode == "RGB"


def test_premultiplied_colours(tmp_path):
    content = saved(cut_out(), "TIFF", compression="raw")
    # ExtraSamples: 2 stands for plain, 1 for premultiplied opacity.
    tag = struct.pack("<HHIHH", 338, 3, 1, 2, 0)
    assert content.count(tag) == 1
    content = content.replace(tag, struct.pack("<HHIHH", 338, 3, 1, 1, 0))
    photo = read_photo(put(tmp_path, content))
    assert photo.alpha is not None
    assert np.asarray(photo.image)[200, 200] == pytest.approx([200, 100, 50], abs=2)


def test_flattened_photos_are_opaque(tmp_path):
    photo = read_photo(put(tmp_path, saved(cut_out(), "PNG")))
    red = flatten(photo, (255, 0, 0))
    assert red.alpha is None and red.image.getpixel((1, 399)) == (255, 0, 0)
    assert red.image.getpixel((200, 200)) == (200, 100, 50)
    assert opened(encode_photo(red.image, red)).mode == "RGB"
    assert flatten(red) is red and replace(red, alpha=None) == red
