import io

import numpy as np
import PIL.Image
import PIL.ImageCms
import pytest

from nullface_pipeline.colour_profile import rebuilt_profile
from nullface_pipeline.photo_files import read_photo

from .photo_files.samples import (
    ADOBE_PRIMARIES,
    HEIF,
    adobe_rgb,
    colour,
    curve,
    difference,
    grey_profile,
    in_srgb,
    opened,
    picture,
    profile,
    put,
    rewritten,
    saved,
    srgb,
)


PAYLOAD = np.random.default_rng(5).bytes(64)
RAMP = np.arange(1024) / 1023
SRGB_TABLE = np.where(RAMP <= 0.04045, RAMP / 12.92, ((RAMP + 0.055) / 1.055) ** 2.4)
GAMMA = (b"rTRC", curve(563)), (b"gTRC", curve(563)), (b"bTRC", curve(563))


def table(values: np.ndarray) -> bytes:
    return curve(*(int(value) for value in (values * 65535).round()))


def inverting_table() -> bytes:
    """A table that shows negatives: what detectors see is not what people see."""
    ramps = bytes(range(255, -1, -1)) + bytes(range(256)) * 2
    corners = b"".join(
        bytes([16 * red, 16 * green, 16 * blue]) for red in (0, 8) for green in (0, 8) for blue in (0, 8)
    )
    identity = colour(1, 0, 0)[8:] + colour(0, 1, 0)[8:] + colour(0, 0, 1)[8:]
    return b"mft1" + bytes(4) + bytes([3, 3, 2, 0]) + identity + ramps + corners + bytes(range(256)) * 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", HEIF])
@pytest.mark.parametrize("kept", [srgb(), adobe_rgb(), adobe_rgb(curve=table(SRGB_TABLE))])
def test_colours_stay_what_they_are(tmp_path, kind, kept):
    result = opened(rewritten(tmp_path, saved(picture(), kind, icc_profile=kept)))
    written = result.info["icc_profile"]
    assert len(written) < 1000
    assert difference(in_srgb(result, written), in_srgb(picture(), kept)) < 3
    assert difference(in_srgb(picture(), written), in_srgb(picture(), kept)) < 0.5


@pytest.mark.parametrize(
    "hiding",
    [
        srgb() + PAYLOAD,
        adobe_rgb((b"desc", b"desc" + bytes(8) + PAYLOAD)),
        adobe_rgb((b"cprt", b"text" + bytes(4) + PAYLOAD)),
        adobe_rgb((b"pict", PAYLOAD)),
        adobe_rgb(curve=curve(563) + PAYLOAD),
        adobe_rgb((b"B2A0", b"mft2" + PAYLOAD)),
        adobe_rgb()[:64] + PAYLOAD + adobe_rgb()[128:],
        adobe_rgb()[:-20] + PAYLOAD,
        adobe_rgb((b"A2B0", b"mft2" + bytes(4) + PAYLOAD * 10)),
        profile(b"RGB ", *ADOBE_PRIMARIES, *((name, curve(*PAYLOAD)) for name in (b"rTRC", b"gTRC", b"bTRC"))),
    ],
    ids=["appended", "name", "copyright", "own tag", "behind a curve", "way back", "header", "end", "table", "curve"],
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_no_byte_of_a_profile_is_copied(tmp_path, hiding, kind):
    assert any(piece in hiding for piece in (PAYLOAD[:16], curve(*PAYLOAD)))
    result = opened(rewritten(tmp_path, saved(picture(), kind, icc_profile=hiding)))
    written = result.info.get("icc_profile", b"")
    assert PAYLOAD[:8] not in written and curve(*PAYLOAD)[12:30] not in written and len(written) < 1000


@pytest.mark.parametrize(
    "unusual",
    [
        adobe_rgb(curve=curve(256)),
        adobe_rgb(curve=curve()),
        adobe_rgb(curve=curve(26)),
        adobe_rgb(curve=table(np.minimum(20 * RAMP, 1))),
        adobe_rgb(curve=table(1 - RAMP**2.2)),
        adobe_rgb(curve=table(np.where(RAMP < 0.5, RAMP**3, RAMP**1.7))),
        adobe_rgb((b"A2B0", inverting_table())),
        profile(b"RGB ", *((n, colour(5, 5, 5) if n == b"rXYZ" else c) for n, c in ADOBE_PRIMARIES), *GAMMA),
        profile(b"RGB ", *((n, colour(0.32, 0.33, 0.27) if n != b"wtpt" else c) for n, c in ADOBE_PRIMARIES), *GAMMA),
    ],
    ids=["linear", "identity", "brightening", "steep", "negative", "cliff", "table", "huge primaries", "one primary"],
)
def test_what_an_unusual_profile_shows_is_what_is_searched(tmp_path, unusual):
    """Converted to sRGB, so that no profile makes visible what the detector could not see."""
    photo = read_photo(put(tmp_path, saved(picture(), "PNG", icc_profile=unusual)))
    assert photo.icc_profile is None
    try:
        seen = in_srgb(picture(), unusual)
    except PIL.ImageCms.PyCMSError:
        seen = picture()
    assert difference(photo.image, seen) < 12


def test_an_unusual_grey_profile(tmp_path):
    image = picture().convert("L")
    unusual = grey_profile(table(np.minimum(20 * RAMP, 1)))
    photo = read_photo(put(tmp_path, saved(image, "PNG", icc_profile=unusual)))
    assert photo.grey and photo.icc_profile is None
    assert difference(photo.image, in_srgb(image, unusual)) < 2


def test_transparency_survives_the_conversion(tmp_path):
    image = picture()
    alpha = PIL.Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 40, 40))
    image.putalpha(alpha)
    photo = read_photo(put(tmp_path, saved(image, "PNG", icc_profile=adobe_rgb(curve=curve(256)))))
    assert photo.icc_profile is None and np.array_equal(photo.alpha, alpha)


@pytest.mark.parametrize("gamma", [1.8, 2.2, 2.4])
def test_gammas_are_kept(gamma):
    for original in (curve(round(gamma * 256)), table(RAMP**gamma)):
        kept = rebuilt_profile(grey_profile(original), b"GRAY")
        image = picture().convert("L")
        assert kept and difference(in_srgb(image, kept), in_srgb(image, grey_profile(original))) < 0.6


def test_rebuilt_profiles_are_sound():
    for rebuilt in (rebuilt_profile(adobe_rgb(), b"RGB "), rebuilt_profile(grey_profile(), b"GRAY")):
        read = PIL.ImageCms.ImageCmsProfile(io.BytesIO(rebuilt)).profile
        assert read.profile_description in ("RGB", "Grey") and read.version == pytest.approx(4.3)
        assert int.from_bytes(rebuilt[:4]) == len(rebuilt)
        assert rebuilt_profile(rebuilt, rebuilt[16:20]) == rebuilt


def test_rubbish_is_no_profile():
    random = np.random.default_rng(0)
    for _ in range(300):
        data = bytearray(adobe_rgb())
        for place in random.integers(128, len(data), 5):
            data[place] = random.integers(256)
        rebuilt = rebuilt_profile(bytes(data), b"RGB ")
        assert rebuilt is None or len(rebuilt) < 1000
