"""A marker and a tiny JPEG of a face in every corner of a file: neither comes out again."""

import io
import struct
import zlib

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.PngImagePlugin
import pytest
from skimage import data

from nullface_pipeline.photo_files import PhotoFileError, encode_photo, read_photo

from .samples import HAS_HEIF, adobe_rgb, png, png_rows, profile, saved


PLAIN = PIL.Image.new("RGB", (64, 64), (90, 120, 150))
MARKER = np.random.default_rng(77).bytes(64)


def face_jpeg() -> bytes:
    return saved(PIL.Image.fromarray(data.astronaut()[20:210, 150:310]).resize((40, 48)), "JPEG", quality=30)


def notes(payload: bytes) -> bytes:
    exif = PIL.Image.Exif()
    for tag in (0x010E, 0x010F, 0x013B, 0x8298, 0x9C9C, 0x02BC, 0x8649, 0x83BB, 0xC4A5, 0xEA1C):
        exif[tag] = payload
    exif.get_ifd(PIL.ExifTags.IFD.Exif).update(
        dict.fromkeys((37500, 37510, 41730, 41995, 34856, 37121, 41728, 41729, 42016), payload)
    )
    exif.get_ifd(PIL.ExifTags.IFD.GPSInfo).update(dict.fromkeys((0, 5, 27, 28, 29, 18), payload))
    return exif.tobytes()


def profiles(payload: bytes) -> dict[str, bytes]:
    return {
        "profile's end": adobe_rgb() + payload,
        "profile's tag": adobe_rgb((b"pict", payload)),
        "profile's name": adobe_rgb((b"desc", b"desc" + bytes(4) + payload)),
        "profile of nothing else": profile(b"RGB ", (b"A2B0", payload)),
    }


def segment(jpeg: bytes, marker: int, payload: bytes) -> bytes:
    return jpeg[:2] + struct.pack(">BBH", 255, marker, len(payload) + 2) + payload + jpeg[2:]


def files(payload: bytes) -> dict[str, bytes]:
    jpeg, plain_png = saved(PLAIN, "JPEG"), np.full((64, 64, 3), 90, dtype=np.uint8)
    table = bytes([0, *(max(value, 1) for value in payload[:64])])
    made = {
        "JPEG comment": segment(jpeg, 0xFE, payload),
        "JPEG quantisation table": segment(jpeg, 0xDB, b"\3" + table[1:]),
        "JPEG trailer": jpeg + payload,
        "JPEG second picture": saved(PLAIN, "MPO", save_all=True, append_images=[PLAIN], comment=payload) + payload,
        "TIFF trailer": saved(PLAIN, "TIFF") + payload,
        "BMP trailer": saved(PLAIN, "BMP") + payload,
        "WEBP trailer": saved(PLAIN, "WEBP") + payload,
        "WEBP XMP": saved(PLAIN, "WEBP", xmp=payload),
        "PNG trailer": saved(PLAIN, "PNG") + payload,
    }
    made |= {f"JPEG segment {marker:x}": segment(jpeg, marker, payload) for marker in range(0xE1, 0xF0)}
    for label in (b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0", b"http://ns.adobe.com/xmp/extension/\0"):
        made[f"JPEG {label[:18]!r}"] = segment(jpeg, 0xE1, label + payload)
    for kind in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"prVt", b"cHRM", b"cICP", b"gAMA", b"sRGB", b"pHYs", b"bKGD"):
        for length in (4, 32, len(payload)):
            made[f"PNG {kind.decode()} {length}"] = png(64, 64, 8, 2, png_rows(plain_png), (kind, payload[:length]))
    compressed = (b"Comment\0\0" + zlib.compress(payload)), (b"Title\0" + payload)
    made["PNG zTXt"] = png(64, 64, 8, 2, png_rows(plain_png), (b"zTXt", compressed[0]), (b"tEXt", compressed[1]))
    for tag in (270, 305, 315, 700, 33723, 34377, 37724, 50341, 65000):
        made[f"TIFF tag {tag}"] = saved(PLAIN, "TIFF", tiffinfo={tag: payload})
    palette = PIL.Image.new("P", (64, 64))
    palette.putpalette(payload.ljust(768, b"\0")[:768])
    made |= {"PNG palette": saved(palette, "PNG"), "PNG opacities": saved(palette, "PNG", transparency=payload[:200])}
    for kind in ("JPEG", "PNG", "WEBP", "TIFF") + (("HEIF",) if HAS_HEIF else ()):
        made[f"{kind} EXIF"] = saved(PLAIN, kind, exif=notes(payload))
        made |= {f"{kind} {name}": saved(PLAIN, kind, icc_profile=each) for name, each in profiles(payload).items()}
    if HAS_HEIF:
        made["HEIF trailer"] = saved(PLAIN, "HEIF") + payload
        made["HEIF XMP"] = saved(PLAIN, "HEIF", xmp=payload)
    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("keep_metadata", [False, True])
@pytest.mark.parametrize("payload", [MARKER, face_jpeg()], ids=["marker", "face"])
def test_nothing_gets_through(payload, keep_metadata):
    passed, leaks = 0, []
    # A JPEG begins with tables that most JPEGs have.
    telling = payload[max(payload.find(b"\xff\xda"), 0) :]
    pieces = [telling[start : start + 12] for start in range(0, len(telling) - 12, 7)]
    for name, content in files(payload).items():
        try:
            photo = read_photo(io.BytesIO(content))
        except PhotoFileError:
            continue
        result = encode_photo(photo.image, photo, keep_metadata)
        passed += 1
        body = result[2:] if photo.format == "JPEG" else result
        if b"\xff\xd8\xff" in body or any(piece in result for piece in pieces if len(set(piece)) > 8):
            leaks.append(name)
    assert not leaks and passed > 80
