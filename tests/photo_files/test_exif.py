import base64
from pathlib import Path
from typing import Any

import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
from PIL.TiffImagePlugin import IFDRational

from nullface_pipeline.photo_files import read_photo
from nullface_pipeline.photo_files.exif import EXPOSURE_TAGS, MAIN_TAGS, POSITION_TAGS

from .samples import picture, put, saved


PAYLOAD = np.random.default_rng(5).bytes(600)
LETTERS = base64.b64encode(PAYLOAD).decode()
EXIF, GPS = PIL.ExifTags.IFD.Exif, PIL.ExifTags.IFD.GPSInfo


def kept(
    tmp_path: Path,
    main: dict[int, Any] | None = None,
    exposure: dict[int, Any] | None = None,
    position: dict[int, Any] | None = None,
) -> tuple[dict[int, Any], ...]:
    """What is left of such notes: the three directories."""
    exif = PIL.Image.Exif()
    exif.update(main or {})
    exif.get_ifd(EXIF).update(exposure or {})
    exif.get_ifd(GPS).update(position or {})
    block = read_photo(put(tmp_path, saved(picture(), "JPEG", exif=exif))).exif
    left = PIL.Image.Exif()
    left.load(block or b"")
    return dict(left), dict(left.get_ifd(EXIF)), dict(left.get_ifd(GPS))


def test_ordinary_notes_are_kept(tmp_path):
    main = {0x010F: "Camera Works", 0x0132: "2024:05:06 07:08:09", 0x010E: "At the sea, in May", 0x4746: 4}
    main[0x9C9B] = "Am Meer".encode("utf-16-le")
    exposure = {
        0x829A: IFDRational(1, 250),
        0x829D: IFDRational(14, 5),
        0xA300: b"\3",
        0xA301: b"\1",
        0x8827: 400,
        0x9000: b"0232",
        0x9204: IFDRational(-1, 3),
    }
    exposure |= {0x9286: b"ASCII\0\0\0so windy", 0x9011: "+02:00", 0x9101: b"\1\2\3\0", 0xA434: "50mm f/1.8"}
    position = {1: "N", 2: (48.0, 7.0, 31.4), 3: "E", 4: (11.0, 30.0, 0.0), 29: "2024:05:06", 6: 519.5}
    left = kept(tmp_path, main, exposure, position)
    assert {key: left[0][key] for key in (0x010F, 0x0132, 0x010E, 0x4746)} == {
        key: main[key] for key in (0x010F, 0x0132, 0x010E, 0x4746)
    }
    assert left[0][0x9C9B].decode("utf-16-le") == "Am Meer\0"
    assert left[1].keys() == exposure.keys() and left[1][0x829A] == IFDRational(1, 250)
    assert left[1][0x9286] == b"ASCII\0\0\0so windy" and float(left[1][0x9204]) == pytest.approx(-1 / 3)
    assert left[2].keys() == position.keys() and float(left[2][2][2]) == pytest.approx(31.4)


@pytest.mark.parametrize("tag", [0x010D, 0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x8298])
@pytest.mark.parametrize("text", [LETTERS, LETTERS[:60], "word " * 60, "a\x01b", "A1b" * 6])
def test_what_is_no_text_that_people_write(tmp_path, tag, text):
    assert tag not in kept(tmp_path, {tag: text})[0]


@pytest.mark.parametrize("charset", [b"ASCII\0\0\0", b"UNICODE\0", b"JIS\0\0\0\0\0", bytes(8), b"WHATEVER"])
@pytest.mark.parametrize("content", [PAYLOAD, PAYLOAD[:40], LETTERS.encode(), b"\xff\xd8\xff\xe0" + PAYLOAD[:30]])
def test_a_remark_is_no_place_for_pictures(tmp_path, charset, content):
    assert 0x9286 not in kept(tmp_path, exposure={0x9286: charset + content})[1]
    assert not {27, 28} & kept(tmp_path, position={27: charset + content, 28: charset + content})[2].keys()


@pytest.mark.parametrize("tag", sorted({*MAIN_TAGS, *EXPOSURE_TAGS, *POSITION_TAGS}))
@pytest.mark.parametrize(
    "value", [PAYLOAD[:64], PAYLOAD[:64].decode("latin-1"), LETTERS], ids=["bytes", "text", "letters"]
)
def test_no_tag_takes_a_payload(tmp_path, tag, value):
    if tag in MAIN_TAGS:
        assert MAIN_TAGS[tag](value) is None
    if tag in EXPOSURE_TAGS:
        assert EXPOSURE_TAGS[tag](value) is None
    if tag in POSITION_TAGS:
        assert POSITION_TAGS[tag](value) is None


def test_numbers_are_few_finite_and_in_range(tmp_path):
    exposure = {0x829A: IFDRational(1, 0), 0x829D: IFDRational(0, 0), 0x9204: IFDRational(-(10**6), 1)}
    exposure |= {
        0x8827: tuple(range(40)),
        0xA432: (1.0, 2.0),
        0x9214: tuple(range(9)),
        0x9000: b"02321",
        0xA301: b"\2",
    }
    position = {2: (91.0, 0.0, 0.0), 4: (1.0,) * 9, 7: (99.0, 0.0, 0.0), 1: "X", 0: b"\2\3\0\0\0", 29: "yesterday"}
    assert kept(tmp_path, {0x4746: 60_000, 0x0132: "yesterday"}, exposure, position) == ({}, {}, {})


def test_fractions_are_written_anew(tmp_path):
    hidden = IFDRational(int.from_bytes(b"\x12face"[:4]), int.from_bytes(b"\x11hide"[:4]))
    value = kept(tmp_path, exposure={0x829A: hidden})[1][0x829A]
    assert float(value) == pytest.approx(float(hidden)) and value.denominator <= 1_000_000


@pytest.mark.parametrize("tag", [0x927C, 0x8828, 0xA302, 0xA40B, 0xA20C, 0x8824, 0xEA1C, 0xA462])
def test_what_is_not_named_is_left_out(tmp_path, tag):
    assert tag not in kept(tmp_path, {tag: PAYLOAD[:20]}, {tag: PAYLOAD[:20], 0x8827: 100})[1]
