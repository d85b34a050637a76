"""Upload inputs of the page, and checks of the uploaded files.

Gradio checks the suffixes of `file_types` only in the browser. The checks here run on the server.
"""

import contextlib
from pathlib import Path
from typing import Any

import gradio as gr

from nullface_pipeline.photo_files import SUFFIXES as PHOTO_SUFFIXES
from nullface_pipeline.photo_files import PhotoFileError
from nullface_pipeline.video import FORMATS, VideoError


CLIP_SUFFIXES = frozenset(FORMATS)

# The first box of an ISO base media file (MP4, M4V, MOV), and the first bytes of a WebM file.
_ISO_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"})
_EBML = b"\x1a\x45\xdf\xa3"


class PhotoUpload(gr.Image):
    """Input for one photo whose value is the path of the upload, not opened."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        return None if payload is None else payload.path


class ClipUpload(gr.File):
    """Input for one clip whose value is the path of the upload, not copied."""

    is_template = True

    def preprocess(self, payload: Any) -> str | None:
        return None if payload is None else payload.path


def check_photo_name(path: Path) -> None:
    """Raise PhotoFileError if the suffix is not a photo's. `read_photo` checks the content."""
    if path.suffix.lower() not in PHOTO_SUFFIXES:
        raise PhotoFileError(
            f"The file type {path.suffix!r} is not supported. Use JPEG, PNG, WebP, TIFF, BMP or HEIC."
        )


def check_clip(name: str, data: bytes) -> None:
    """Raise VideoError unless suffix and first bytes are those of an MP4, MOV or WebM file."""
    if Path(name).suffix.lower() not in CLIP_SUFFIXES:
        raise VideoError(f"The file type {Path(name).suffix!r} is not supported. Use MP4, MOV or WebM.")
    if data[4:8] not in _ISO_BOXES and not data.startswith(_EBML):
        raise VideoError("The content is not an MP4, MOV or WebM video. Convert it to MP4 first.")


def delete_upload(path: Path) -> None:
    """Delete an uploaded file and the folder that Gradio made for it."""
    with contextlib.suppress(OSError):
        path.unlink()
        path.parent.rmdir()
