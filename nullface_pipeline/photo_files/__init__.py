"""Photo files in and out: what is read is upright 8-bit RGB, what is written is the picture and little else.

Reading refuses whatever cannot be anonymized as a whole (animations, pages, raw files, damaged files) with one
`PhotoFileError`. Writing starts from bare pixels, so that nothing of the original file comes along unless it is named
here: the colour profile, the resolution, the transparency and, only when asked for, the camera's notes in the EXIF.

| file | read as | written as |
|---|---|---|
| JPEG | RGB; CMYK through its profile | JPEG, quality 95, the file's own subsampling; CMYK becomes sRGB |
| PNG, palette included | RGB, alpha apart | PNG, 8 bits a channel, with the file's colour chunks |
| WebP | RGB, alpha apart | WebP, lossless where the file is, else quality 95 |
| TIFF | RGB, alpha apart | TIFF, uncompressed or LZW as the file, else deflate |
| BMP | RGB, alpha apart | BMP; it can carry neither profile nor AI mark, and few programs see its transparency |
| HEIC | RGB, alpha apart | HEIC, quality 90, the file's own chroma; an encoder in pillow-heif is needed |

Photos of which more than a tenth is half transparent are refused: the transparency could show the face once more.

Grey photos stay grey, with their profile. The format is told by the content; a PNG named `.jpg` is written as a PNG
under the name it is given. 16-bit photos are written at 8 bits: faces are looked for and judged at 8 bits, and what
lies in the lower bits of a photo that is nearly black could hold a face that nobody has checked. Secondary pictures
inside a file, such as thumbnails, previews, gain maps, depth maps and motion clips, are left out.
"""

import contextlib
import functools
import io
import os
import secrets
import stat
import struct
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL.ExifTags
import PIL.Image
import PIL.ImageCms
import PIL.ImageFile
import PIL.JpegImagePlugin
import PIL.PngImagePlugin


# What counts as a photo when folders are walked. What a file really is, its content says.
SUFFIXES = frozenset(
    {".bmp", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)

# Pillow's own hard limit; a photo of that size takes about two gigabytes on its way through.
MAX_PIXELS = 178_956_970

# No face can be found in fewer pixels.
MIN_SIDE = 16

# Share of pixels that are neither opaque nor clear: the soft edge of a figure, not a picture in grey.
MAX_HALF_TRANSPARENT = 0.1

# Half-written files. A killed run may leave one behind; none is ever seen under a photo's name.
TEMPORARY_PATTERN = ".nullface-*.part"

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"

XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">'
    f"<Iptc4xmpExt:DigitalSourceType>{DIGITAL_SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>"
    '</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
).encode()

_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "HEIF")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1")

_TRANSPOSITIONS = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}

# The EXIF tags that `keep_metadata` keeps: the descriptive ones of the main directory (title, camera, date, author,
# rating) and those of the exposure. Named one by one, because what is left out can hold pictures: the thumbnail's
# directory, MakerNote, Photoshop's resources and layers, IPTC, XMP, nested directories.
_MAIN_TAGS = frozenset(
    {0x010D, 0x010E, 0x010F, 0x0110, 0x0131, 0x0132, 0x013B, 0x013C, 0x4746, 0x4749, 0x8298, *range(0x9C9B, 0x9CA0)}
)
_EXPOSURE_TAGS = frozenset(
    {
        *range(0x829A, 0x829E),
        *range(0x8822, 0x8836),
        *range(0x9000, 0x9293),
        *range(0x9400, 0x9406),
        *range(0xA000, 0xA005),
        *range(0xA20B, 0xA501),
    }
    - {PIL.ExifTags.Base.MakerNote, PIL.ExifTags.IFD.GPSInfo}
)
# Longer values are no notes, and a thumbnail would fit.
_MAX_EXIF_VALUE = 2048
# One segment of a JPEG.
_MAX_EXIF = 65_000


class PhotoFileError(Exception):
    """A photo that cannot be read or written. The message is one line: what is wrong, and what to do."""


@dataclass(frozen=True)
class PhotoFile:
    """A photo as it was read, and what is needed to write its anonymized version as the same kind of file.

    Attributes:
        path (`Path`): where it was read.
        image (`PIL.Image.Image`): upright RGB, 8 bits a channel, without metadata. Transparent pixels have the
            colours that the file gives them.
        alpha (`PIL.Image.Image`, *optional*): 8-bit opacity of the same size, mode "L".
        format (`str`): "JPEG", "PNG", "WEBP", "TIFF", "BMP" or "HEIF", by content.
        grey (`bool`): whether the file has a single channel of colour.
        bits (`int`): bits a channel in the file. Output has 8.
        icc_profile (`bytes`, *optional*): the profile of what is written; `None` means sRGB.
        dpi (`tuple[float, float]`, *optional*): horizontal and vertical resolution.
        exif (`bytes`, *optional*): the notes that `keep_metadata` keeps, without thumbnail, orientation 1.
        encoding (`dict[str, Any]`): settings of Pillow's encoder for this kind of file, the AI mark included.
    """

    path: Path
    image: PIL.Image.Image
    alpha: PIL.Image.Image | None
    format: str
    grey: bool
    bits: int
    icc_profile: bytes | None = field(repr=False)
    dpi: tuple[float, float] | None
    exif: bytes | None = field(repr=False)
    encoding: dict[str, Any] = field(repr=False)


def read_photo(path: str | os.PathLike[str], max_pixels: int = MAX_PIXELS) -> PhotoFile:
    """Read one photo.

    Args:
        path (`str` or `os.PathLike`): a JPEG, PNG, WebP, TIFF, BMP or HEIC file, whatever its name.
        max_pixels (`int`): larger pictures are refused before they are decoded. Pillow's own limit
            (`PIL.Image.MAX_IMAGE_PIXELS`) holds as well.

    Raises:
        `PhotoFileError`: for whatever is wrong with the file. Nothing else is raised, whatever it contains.
    """
    path = Path(path)
    with _open_file(path) as file:
        try:
            return _read(path, file, max_pixels)
        except PhotoFileError:
            raise
        except PIL.Image.DecompressionBombError as error:
            raise _too_large(max_pixels) from error
        except PIL.UnidentifiedImageError as error:
            raise PhotoFileError(
                "It is not a JPEG, PNG, WebP, TIFF, BMP or HEIC photo, or its header is damaged: convert or replace it."
            ) from error
        # Decoders raise exceptions of every kind when a file is made to hurt them.
        except Exception as error:
            raise PhotoFileError(
                f"It cannot be decoded ({_reason(error)}): it is damaged or cut off; replace it."
            ) from error


def write_photo(
    image: PIL.Image.Image, path: str | os.PathLike[str], source: PhotoFile, keep_metadata: bool = False
) -> None:
    """Write an anonymized photo as the kind of file that it was read from, marked as edited by AI.

    The file appears under its name complete or not at all: it is written under a temporary name beside it, synced to
    the disk and renamed. A file that is already there is replaced, unless it is the source.

    Args:
        image (`PIL.Image.Image`): the result, of the size of `source.image`. Only its pixels are written. It is made
            grey if the source is.
        path (`str` or `os.PathLike`): where to; its folder has to exist. The suffix does not decide on the format.
        source (`PhotoFile`): what `read_photo` returned.
        keep_metadata (`bool`): whether the EXIF's notes are kept: date, camera, exposure, description, author and
            GPS position. The thumbnail and MakerNote never are, nor is any metadata besides EXIF.

    Raises:
        `PhotoFileError`: if it cannot be encoded or written, or if `path` is the source itself.
    """
    path = Path(path)
    if image.size != source.image.size:
        raise ValueError(f"`image` has the size {image.size}, but its source has {source.image.size}.")
    if _same_file(path, source.path):
        raise PhotoFileError("The output would replace the original: choose another folder or name.")
    if source.format == "HEIF" and not (_register_heif() and "HEIF" in PIL.Image.SAVE):
        raise PhotoFileError("Writing HEIC needs pillow-heif with an encoder: install it or convert the photo first.")
    try:
        data = _encode(image, source, keep_metadata)
    except Exception as error:
        raise PhotoFileError(
            f"It cannot be encoded as {source.format} ({_reason(error)}): convert the photo to another format first."
        ) from error
    try:
        write_whole(path, data)
    except OSError as error:
        raise PhotoFileError(
            f"It cannot be written ({_reason(error)}): check the output folder and the space left on its disk."
        ) from error


def _open_file(path: Path) -> BinaryIO:
    try:
        # Asked before opening, because opening a pipe waits for somebody to write to it.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise PhotoFileError("It is not a file: name a photo.")
        if status.st_size == 0:
            raise PhotoFileError("The file is empty: copy it again from where it came.")
        return path.open("rb")
    # ValueError: a null character in the path.
    except (OSError, ValueError) as error:
        raise PhotoFileError(f"It cannot be opened ({_reason(error)}): check the name and the permissions.") from error


def _read(path: Path, file: BinaryIO, max_pixels: int) -> PhotoFile:
    picture = PIL.Image.open(file, formats=_readable_formats(file))
    _check_header(picture, max_pixels)
    picture.load()
    notes = _read_exif(picture)
    bits, grey = _bits_and_grey(picture, file)
    image, alpha = _colour_and_alpha(picture, bits)
    if alpha is not None:
        _check_alpha(alpha)
    method = _TRANSPOSITIONS.get(notes.get(PIL.ExifTags.Base.Orientation, 1))
    if method is not None:
        image, alpha = image.transpose(method), None if alpha is None else alpha.transpose(method)
    return PhotoFile(
        path=path,
        image=image,
        alpha=alpha,
        format="JPEG" if picture.format == "MPO" else str(picture.format),
        grey=grey,
        bits=bits,
        icc_profile=_output_profile(picture, grey),
        dpi=_resolution(picture, turned=image.size != picture.size),
        exif=_kept_exif(notes, image.size),
        encoding=_encoding(picture, file),
    )


def _readable_formats(file: BinaryIO) -> tuple[str, ...]:
    """Few decoders are better than many: Pillow's others are never tried on a file."""
    if _register_heif():
        return _FORMATS
    header = file.read(12)
    if header[4:8] == b"ftyp" and header[8:] in _HEIF_BRANDS:
        raise PhotoFileError("Reading HEIC needs pillow-heif: `pip install pillow-heif`.")
    return _FORMATS[:-1]


@functools.cache
def _register_heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _check_header(picture: PIL.ImageFile.ImageFile, max_pixels: int) -> None:
    """Whatever can be refused before a pixel is decoded."""
    if picture.width * picture.height > max_pixels:
        raise _too_large(max_pixels)
    if min(picture.size) < MIN_SIDE:
        raise PhotoFileError(
            f"{picture.width} x {picture.height} pixels are too few for a face: {MIN_SIDE} a side are needed."
        )
    if _has_further_pictures(picture):
        raise PhotoFileError(
            "It holds several pictures (an animation, pages or a series): save each as a file of its own."
        )
    tags = getattr(picture, "tag_v2", {})
    # A reduced picture comes first in raw files of many makers, the photo itself as a nested one.
    if tags.get(PIL.ExifTags.Base.NewSubfileType, 0) & 1 or PIL.ExifTags.Base.DNGVersion in tags:
        raise PhotoFileError("It is a raw photo or a preview of one: develop it to JPEG or TIFF first.")


def _has_further_pictures(picture: PIL.ImageFile.ImageFile) -> bool:
    if picture.format != "MPO":
        return getattr(picture, "is_animated", False)
    # Cameras append previews and gain maps to their JPEGs, which are left out; views of a scene are more photos.
    entries = getattr(picture, "mpinfo", {})[0xB002]
    return any(entry["Attribute"]["MPType"].startswith("Multi-Frame") for entry in entries)


def _encoding(picture: PIL.ImageFile.ImageFile, file: BinaryIO) -> dict[str, Any]:
    """The arguments with which Pillow writes such a file again, without those that hold for every format."""
    match picture.format:
        case "JPEG" | "MPO":
            # -1 stands for grey, CMYK and what Pillow cannot write.
            return {"quality": 95, "subsampling": max(PIL.JpegImagePlugin.get_sampling(picture), 0), "xmp": XMP}
        case "PNG":
            return {"pnginfo": _png_chunks(file)}
        case "WEBP":
            # The quality of lossless files is the effort made.
            return {"lossless": True, "quality": 70, "xmp": XMP} if _is_lossless(file) else {"quality": 95, "xmp": XMP}
        case "TIFF":
            compression = picture.info.get("compression")
            return {"compression": compression if compression in ("raw", "tiff_lzw") else "tiff_adobe_deflate"}
        case "HEIF":
            return {"quality": 90, "chroma": picture.info.get("chroma", 444), "xmp": XMP} | _heif_colours(picture)
    return {}


def _png_chunks(file: BinaryIO) -> PIL.PngImagePlugin.PngInfo:
    """The AI mark, and the chunks that say what the colours mean where no profile does: at most 32 bytes each."""
    chunks = PIL.PngImagePlugin.PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", XMP)
    file.seek(8)
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"IDAT":
            break
        if kind in (b"cHRM", b"cICP", b"gAMA", b"sRGB") and length <= 32:
            chunks.add(kind, file.read(length))
            length = 0
        file.seek(length + 4, os.SEEK_CUR)
    return chunks


def _is_lossless(file: BinaryIO) -> bool:
    """Whether the picture in a WebP file is of the lossless kind."""
    file.seek(12)
    while len(header := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", header)
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        file.seek(length + length % 2, os.SEEK_CUR)
    return False


def _heif_colours(picture: PIL.ImageFile.ImageFile) -> dict[str, int]:
    """Primaries and transfer curve where no profile names them. The pixels themselves are written as BT.601."""
    nclx = picture.info.get("nclx_profile")
    if not nclx or picture.info.get("icc_profile"):
        return {}
    names = "color_primaries", "transfer_characteristics"
    return {name: int(nclx[name]) for name in names} | {"matrix_coefficients": 6, "full_range_flag": 1}


def _bits_and_grey(picture: PIL.ImageFile.ImageFile, file: BinaryIO) -> tuple[int, bool]:
    """Bits a channel, and whether there is one channel of colour.

    Asked of the file, because Pillow decodes most pictures of 16 bits at 8, and grey ones with alpha as RGB.
    """
    grey = picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I;16")
    if picture.format == "PNG":
        file.seek(24)
        bits, colour_type = file.read(2)
        return bits, colour_type in (0, 4)
    if picture.format == "TIFF":
        return max(getattr(picture, "tag_v2", {}).get(PIL.ExifTags.Base.BitsPerSample, (1,))), grey
    return int(picture.info.get("bit_depth", 8)), grey


def _colour_and_alpha(picture: PIL.Image.Image, bits: int) -> tuple[PIL.Image.Image, PIL.Image.Image | None]:
    """RGB and, where the picture has transparency, its opacity as "L"; both 8-bit and without metadata."""
    if picture.mode.startswith("I;16"):
        return _from_16_bits(picture, bits)
    if picture.mode == "CMYK":
        return _bare(_cmyk_to_rgb(picture)), None
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return _bare(picture.convert("RGB")), _bare(picture.getchannel("A"))
    if picture.mode not in ("1", "L", "P", "RGB", "RGBX", "YCbCr"):
        raise PhotoFileError(f"Pixels of Pillow's type {picture.mode} are not supported: save it as 8-bit RGB first.")
    return _bare(picture.convert("RGB")), None


def _check_alpha(alpha: PIL.Image.Image) -> None:
    """Transparency is copied, and nobody looks for faces in it."""
    counts = alpha.histogram()
    if sum(counts[1:255]) > MAX_HALF_TRANSPARENT * sum(counts):
        raise PhotoFileError("Its transparency could be a picture of its own: save it without transparency first.")


def _from_16_bits(picture: PIL.Image.Image, bits: int) -> tuple[PIL.Image.Image, PIL.Image.Image | None]:
    """Grey of more than 8 bits, black to white as the format defines them: no stretching to what is there."""
    pixels, white = np.asarray(picture), 2**bits - 1
    to_8_bits = (np.arange(2**16).clip(max=white) * 255 + white // 2) // white
    if getattr(picture, "tag_v2", {}).get(PIL.ExifTags.Base.PhotometricInterpretation) == 0:
        to_8_bits = 255 - to_8_bits
    image = PIL.Image.fromarray(to_8_bits.astype(np.uint8)[pixels]).convert("RGB")
    transparent = picture.info.get("transparency")
    if transparent is None:
        return image, None
    return image, PIL.Image.fromarray(np.where(pixels == transparent, 0, 255).astype(np.uint8))


def _cmyk_to_rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    """sRGB, through the file's profile where it has a sound one."""
    profile = _matching_profile(picture.info.get("icc_profile"), b"CMYK")
    if profile is not None:
        with contextlib.suppress(PIL.ImageCms.PyCMSError):
            converted = PIL.ImageCms.profileToProfile(
                picture,
                io.BytesIO(profile),
                PIL.ImageCms.createProfile("sRGB"),
                # As photo editors do: colours stay what they are, and black becomes black.
                renderingIntent=PIL.ImageCms.Intent.RELATIVE_COLORIMETRIC,
                flags=PIL.ImageCms.Flags.BLACKPOINTCOMPENSATION,
                outputMode="RGB",
            )
            if converted is not None:
                return converted
    return picture.convert("RGB")


def _output_profile(picture: PIL.Image.Image, grey: bool) -> bytes | None:
    if picture.mode == "CMYK":
        return None
    return _matching_profile(picture.info.get("icc_profile"), b"GRAY" if grey else b"RGB ")


def _matching_profile(profile: Any, colour_space: bytes) -> bytes | None:
    """The ICC profile, if it is one and describes pixels of this colour space: `b"RGB "`, `b"GRAY"` or `b"CMYK"`."""
    if isinstance(profile, bytes) and profile[36:40] == b"acsp" and profile[16:20] == colour_space:
        return profile
    return None


def _resolution(picture: PIL.Image.Image, turned: bool) -> tuple[float, float] | None:
    """Dots per inch, if they are what a printer could mean."""
    try:
        across, down = (float(value) for value in picture.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if not (1 <= across <= 30_000 and 1 <= down <= 30_000):
        return None
    return (down, across) if turned else (across, down)


def _read_exif(picture: PIL.Image.Image) -> PIL.Image.Exif:
    """The EXIF; empty where it cannot be read, which is no reason to refuse the photo."""
    try:
        return picture.getexif()
    except Exception:
        return PIL.Image.Exif()


def _kept_exif(notes: PIL.Image.Exif, size: tuple[int, int]) -> bytes | None:
    """The notes of a photo as an EXIF block of their own: nothing is kept that is not named above."""
    kept = PIL.Image.Exif()
    try:
        kept.update(_short_values(notes, _MAIN_TAGS))
        exposure = _short_values(notes.get_ifd(PIL.ExifTags.IFD.Exif), _EXPOSURE_TAGS)
        for tag, length in zip((PIL.ExifTags.Base.ExifImageWidth, PIL.ExifTags.Base.ExifImageHeight), size):
            if tag in exposure:
                exposure[tag] = length
        position = _short_values(notes.get_ifd(PIL.ExifTags.IFD.GPSInfo), range(32))
        for directory, values in ((PIL.ExifTags.IFD.Exif, exposure), (PIL.ExifTags.IFD.GPSInfo, position)):
            if values:
                kept.get_ifd(directory).update(values)
        if not (len(kept) or exposure or position):
            return None
        kept[PIL.ExifTags.Base.Orientation] = 1
        block = kept.tobytes()
    # Values of the wrong type, offsets to nowhere: unreadable notes are no reason to refuse the photo.
    except Exception:
        return None
    return block if len(block) <= _MAX_EXIF else None


def _short_values(tags: Mapping[int, Any], names: Container[int]) -> dict[int, Any]:
    values = {tag: tags[tag] for tag in tags if tag in names}
    return {
        tag: value for tag, value in values.items() if not hasattr(value, "__len__") or len(value) <= _MAX_EXIF_VALUE
    }


def _encode(image: PIL.Image.Image, source: PhotoFile, keep_metadata: bool) -> bytes:
    picture = _bare(image.convert("L" if source.grey else "RGB"))
    if source.alpha is not None:
        picture.putalpha(source.alpha)
    options = source.encoding | {"icc_profile": source.icc_profile}
    if source.dpi is not None:
        options["dpi"] = source.dpi
    exif = source.exif if keep_metadata else None
    if source.format == "TIFF":
        options["exif"] = _tiff_tags(exif, predict=source.encoding["compression"] != "raw")
    elif exif is not None:
        options["exif"] = exif
    if source.format == "HEIF":
        options["enc_params"] = _heif_speed()
    file = io.BytesIO()
    picture.save(file, format=source.format, **options)
    return file.getvalue()


def _tiff_tags(exif: bytes | None, predict: bool) -> PIL.Image.Exif:
    """In a TIFF, notes and XMP are tags of the picture itself."""
    tags = PIL.Image.Exif()
    if exif is not None:
        tags.load(exif)
    tags[PIL.ExifTags.Base.XMLPacket] = XMP
    if predict:
        # Differences between neighbours compress far better than photos do.
        tags[PIL.ExifTags.Base.Predictor] = 2
    return tags


def _heif_speed() -> dict[str, str]:
    """x265's fastest setting: for a still picture an eighth of the time, the same quality and 3 % more bytes."""
    import pillow_heif

    return {"preset": "ultrafast"} if "x265" in pillow_heif.libheif_info()["encoders"] else {}


def _bare(picture: PIL.Image.Image) -> PIL.Image.Image:
    """Forget all but the pixels: several of Pillow's encoders write what they find in `info`. Works in place."""
    picture.info = {}
    return picture


def write_picture(picture: PIL.Image.Image, path: Path) -> None:
    """Write a picture that is no photo, such as a preview, in the format of its suffix and without metadata.

    Raises:
        `OSError`, `ValueError`: if it cannot be written, or the suffix is not a picture's.
    """
    file = io.BytesIO()
    _bare(picture.copy()).save(file, format=PIL.Image.registered_extensions().get(path.suffix.lower(), path.suffix))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, file.getvalue())


def write_whole(path: Path, data: bytes) -> None:
    """The file under its name, complete and on the disk, or nothing."""
    # Not the photo's own name with something added: that may be as long as names can be.
    temporary = path.with_name(TEMPORARY_PATTERN.replace("*", secrets.token_hex(8)))
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a renaming outlast a power cut, where the system lets folders be synced."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _same_file(first: Path, second: Path) -> bool:
    try:
        return first.samefile(second)
    # One of them does not exist.
    except (OSError, ValueError):
        return False


def _too_large(max_pixels: int) -> PhotoFileError:
    limit = min(max_pixels, 2 * (PIL.Image.MAX_IMAGE_PIXELS or max_pixels))
    return PhotoFileError(f"It has more than {limit:,} pixels, the limit: shrink the photo or raise the limit.")


def _reason(error: Exception) -> str:
    """The exception in a few words on one line, without paths and control characters."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    words = " ".join(text.split())[:200]
    return "".join(letter for letter in words if letter.isprintable()) or type(error).__name__
