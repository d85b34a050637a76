"""Photo decoder: upright 8-bit RGB, and refusal of files that cannot be anonymized as a whole."""

import functools
import io
import os
import stat
import struct
from pathlib import Path
from typing import Any, BinaryIO

import PIL.ExifTags
import PIL.Image
import PIL.ImageFile
import PIL.JpegImagePlugin

from nullface_pipeline.photo_files.exif import kept_exif, read_exif
from nullface_pipeline.photo_files.metadata import XMP, heif_colours, png_chunks, resolution
from nullface_pipeline.photo_files.photo_file import PhotoFile, PhotoFileError, strip_info
from nullface_pipeline.photo_files.transparency import clean_alpha
from nullface_pipeline.runs.messages import format_error
from nullface_pipeline.runs.paths import is_regular


# Suffixes of photos in a searched folder. `read_photo` checks the content.
SUFFIXES = frozenset(
    {".bmp", ".heic", ".heif", ".hif", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
)

# Suffixes of unsupported pictures, which may show faces: other formats of Pillow and vector
# graphics, formats of editors, medical formats, and raw files of cameras.
UNREAD_PICTURES = frozenset(
    ".apng .avif .avifs .blp .bw .cur .dcx .dds .dib .emf .eps .fit .fits .flc .fli .ftc .ftu .gbr .gif .icb "
    ".icns .ico .im .j2c .j2k .jp2 .jpc .jpf .jpx .mpo .msp .pam .pbm .pcd .pcx .pfm .pgm .pnm .ppm .ps .pxr .qoi "
    ".ras .rgb .rgba .sgi .svg .svgz .tga .vda .vst .wmf .xbm .xpm .ai .cdr .clip .exr .hdr .heics .heifs .jps "
    ".jxl .jxr .kra .ora .psb .psd .wdp .xcf .dcm .dic .dicom .ima .mha .mhd .mrxs .ndpi .nii .nrrd .scn .svs "
    ".vms .3fr .ari .arw .bay .cr2 .cr3 .crw .dcr .dng .erf .fff .gpr .iiq .k25 .kdc .mef .mos .mrw .nef .nrw "
    ".orf .pef .raf .raw .rw2 .rwl .rwz .sr2 .srf .srw .x3f".split()
)

# MIME types of videos by suffix, see `video.FORMATS` for those that can be written.
VIDEO_TYPES = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
    ".avi": "video/x-msvideo",
}

_SAME_KIND = {".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".tif": ".tiff", ".heif": ".heic", ".hif": ".heic"}

# Pillow's hard limit. Such a photo takes about 2 GB of memory.
MAX_PIXELS = 178_956_970

# Shortest side in pixels in which a face can be detected.
MIN_SIDE = 16

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


def kind_of_photo(name: str) -> str:
    """Canonical suffix of a photo's name: one for each file type."""
    suffix = Path(name).suffix.lower()
    return _SAME_KIND.get(suffix, suffix)


def is_photo_name(name: str) -> bool:
    """Whether a file name has the suffix of a photo. `read_photo` checks the content."""
    return Path(name).suffix.lower() in SUFFIXES


def read_photo(source: str | os.PathLike[str] | BinaryIO, max_pixels: int = MAX_PIXELS) -> PhotoFile:
    """Read one photo.

    Args:
        source (`str`, `os.PathLike` or `BinaryIO`): JPEG, PNG, WebP, TIFF, BMP or HEIC file of any
            suffix. An open file is read to its end and stays open; `PhotoFile.path` is `None` then.
        max_pixels (`int`): highest number of pixels, checked before decoding. Pillow's own limit,
            `PIL.Image.MAX_IMAGE_PIXELS`, applies too.

    Raises:
        PhotoFileError: if the file cannot be read, for any reason.
    """
    path = Path(source) if isinstance(source, (str, os.PathLike)) else None
    with _in_memory(source) if path is None else _open_file(path) as file:
        try:
            return _read(path, file, max_pixels)
        except PhotoFileError:
            raise
        except PIL.Image.DecompressionBombError as error:
            raise _too_large(max_pixels) from error
        except PIL.UnidentifiedImageError as error:
            raise PhotoFileError(
                "It is not a JPEG, PNG, WebP, TIFF, BMP or HEIC photo, or its header is damaged: replace it."
            ) from error
        except MemoryError as error:
            raise PhotoFileError(f"{format_error(error)}.") from error
        # Decoders raise exceptions of any type for malformed files.
        except Exception as error:
            raise PhotoFileError(
                f"It cannot be decoded ({format_error(error, name_file=False)}): it is damaged or cut off. Replace it."
            ) from error


def file_bytes(path: Path) -> bytes:
    """Read the bytes of a photo file.

    Raises:
        OSError, PhotoFileError: if it cannot be read.
    """
    # `read_photo` raises the error for paths that are not files or cannot be opened.
    if not is_regular(path):
        read_photo(path)
    return path.read_bytes()


def _open_file(path: Path) -> BinaryIO:
    try:
        # Checked before opening, because opening a pipe blocks.
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise PhotoFileError("It is not a file: pass a photo.")
        if status.st_size == 0:
            raise PhotoFileError("The file is empty: copy it again from its source.")
        return path.open("rb")
    # ValueError: a null character in the path.
    except (OSError, ValueError) as error:
        raise PhotoFileError(
            f"It cannot be opened ({format_error(error, name_file=False)}): check the name and the permissions."
        ) from error


def _in_memory(source: object) -> BinaryIO:
    """Copy an open file into memory: decoders seek, which not every file supports."""
    data = source.read() if hasattr(source, "read") else None
    if not isinstance(data, bytes):
        raise TypeError(f"`source` must be a path or a file opened in binary mode, got {type(source).__name__}.")
    if not data:
        raise PhotoFileError("The file is empty: copy it again from its source.")
    return io.BytesIO(data)


def _read(path: Path | None, file: BinaryIO, max_pixels: int) -> PhotoFile:
    from nullface_pipeline.colour_profile import with_rebuilt_profile

    picture = PIL.Image.open(file, formats=_readable_formats(file))
    _check_header(picture, max_pixels)
    picture.load()
    exif = read_exif(picture)
    bits, grey = _bits_and_grey(picture, file)
    image, alpha = _colour_and_alpha(picture, bits)
    profile = None if picture.mode == "CMYK" else picture.info.get("icc_profile")
    image, profile = with_rebuilt_profile(image, profile, grey)
    alpha = None if alpha is None else clean_alpha(alpha)
    method = _TRANSPOSITIONS.get(exif.get(PIL.ExifTags.Base.Orientation, 1))
    if method is not None:
        image, alpha = image.transpose(method), None if alpha is None else alpha.transpose(method)
    return PhotoFile(
        path=path,
        image=image,
        alpha=alpha,
        format="JPEG" if picture.format == "MPO" else str(picture.format),
        grey=grey,
        bits=bits,
        icc_profile=profile,
        dpi=resolution(picture, turned=image.size != picture.size),
        exif=kept_exif(exif, image.size),
        encoding=_encoding(picture, file),
    )


def _readable_formats(file: BinaryIO) -> tuple[str, ...]:
    """Formats that Pillow may try; its other decoders never run."""
    if register_heif():
        return _FORMATS
    header = file.read(12)
    if header[4:8] == b"ftyp" and header[8:] in _HEIF_BRANDS:
        raise PhotoFileError("Reading HEIC needs pillow-heif: `pip install pillow-heif`.")
    return _FORMATS[:-1]


@functools.cache
def register_heif() -> bool:
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _check_header(picture: PIL.ImageFile.ImageFile, max_pixels: int) -> None:
    """Refuse a photo by its header, before it is decoded."""
    if picture.width * picture.height > max_pixels:
        raise _too_large(max_pixels)
    if min(picture.size) < MIN_SIDE:
        raise PhotoFileError(
            f"It has {picture.width} x {picture.height} pixels, too few for a face: each side needs {MIN_SIDE}."
        )
    if _has_further_pictures(picture):
        raise PhotoFileError(
            "It contains several pictures (an animation, pages or a series): save each as a separate file."
        )
    tags = getattr(picture, "tag_v2", {})
    # Many raw files begin with a preview; the photo is in a nested directory.
    if tags.get(PIL.ExifTags.Base.NewSubfileType, 0) & 1 or PIL.ExifTags.Base.DNGVersion in tags:
        raise PhotoFileError("It is a raw photo or a preview of one: develop it to JPEG or TIFF first.")


def _has_further_pictures(picture: PIL.ImageFile.ImageFile) -> bool:
    if picture.format != "MPO":
        return getattr(picture, "is_animated", False)
    # Previews and gain maps in camera JPEGs are dropped; several views of a scene are refused.
    entries = getattr(picture, "mpinfo", {})[0xB002]
    return any(entry["Attribute"]["MPType"].startswith("Multi-Frame") for entry in entries)


def _bits_and_grey(picture: PIL.ImageFile.ImageFile, file: BinaryIO) -> tuple[int, bool]:
    """Bits per channel of the file, and whether it is grayscale.

    Pillow's mode does not tell: most 16-bit pictures are decoded at 8, and gray with alpha as RGB.
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
    """RGB image and, with transparency, its opacity in mode "L"; both without metadata."""
    if picture.mode.startswith("I;16"):
        return _from_16_bits(picture, bits)
    if picture.mode == "CMYK":
        return strip_info(_cmyk_to_rgb(picture)), None
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.mode in ("LA", "PA", "RGBA", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        return strip_info(picture.convert("RGB")), strip_info(picture.getchannel("A"))
    if picture.mode not in ("1", "L", "P", "RGB", "RGBX", "YCbCr"):
        raise PhotoFileError(f"Its pixel format {picture.mode} is not supported: save it as 8-bit RGB first.")
    return strip_info(picture.convert("RGB")), None


def _from_16_bits(picture: PIL.Image.Image, bits: int) -> tuple[PIL.Image.Image, PIL.Image.Image | None]:
    """Convert 16-bit grayscale to RGB and opacity, without changing the contrast."""
    import numpy as np

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
    """Convert CMYK to sRGB, by the profile of the file if it is valid."""
    from nullface_pipeline.colour_profile import converted_to_srgb, is_profile

    profile = picture.info.get("icc_profile")
    converted = converted_to_srgb(picture, profile) if profile and is_profile(profile, b"CMYK") else None
    return picture.convert("RGB") if converted is None else converted


def _encoding(picture: PIL.ImageFile.ImageFile, file: BinaryIO) -> dict[str, Any]:
    """Arguments of Pillow's encoder for the same type of file."""
    match picture.format:
        case "JPEG" | "MPO":
            # -1 stands for gray, CMYK, and subsampling that Pillow cannot write.
            return {"quality": 95, "subsampling": max(PIL.JpegImagePlugin.get_sampling(picture), 0), "xmp": XMP}
        case "PNG":
            return {"pnginfo": png_chunks(file, has_profile="icc_profile" in picture.info)}
        case "WEBP":
            # For lossless files, `quality` is the compression effort.
            return {"lossless": True, "quality": 70, "xmp": XMP} if _is_lossless(file) else {"quality": 95, "xmp": XMP}
        case "TIFF":
            compression = picture.info.get("compression")
            return {"compression": compression if compression in ("raw", "tiff_lzw") else "tiff_adobe_deflate"}
        case "HEIF":
            chroma = picture.info.get("chroma")
            chroma = chroma if chroma in (420, 422) else 444
            return {"quality": 90, "chroma": chroma, "xmp": XMP} | heif_colours(picture)
    return {}


def _is_lossless(file: BinaryIO) -> bool:
    """Whether a WebP file is lossless."""
    file.seek(12)
    while len(header := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", header)
        if kind in (b"VP8L", b"VP8 "):
            return kind == b"VP8L"
        file.seek(length + length % 2, os.SEEK_CUR)
    return False


def _too_large(max_pixels: int) -> PhotoFileError:
    limit = min(max_pixels, 2 * (PIL.Image.MAX_IMAGE_PIXELS or max_pixels))
    return PhotoFileError(f"It has more pixels than the limit of {limit:,}: shrink the photo or raise the limit.")
