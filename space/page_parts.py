"""Parts of the page that show pictures.

Pictures are data URLs in the page's HTML. Gradio's own picture components would write them to files
that outlive the visit, and its before/after slider needs a mouse.
"""

import base64
import html
import io
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import PIL.Image
from open_photo import OpenPhoto, shrink

from nullface_pipeline.photo_files import encode_photo
from nullface_pipeline.photo_records import AnonymizedPhoto, FaceRecord


MIME_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
    "TIFF": "image/tiff",
    "BMP": "image/bmp",
    "HEIF": "image/heic",
}
# Name of a face that was not found when the photo was opened.
UNNUMBERED = "Another face"

SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp", "HEIF": "heic"}


def keep_brush() -> gr.HTML:
    """Brush to paint the region to keep onto the photo.

    Its value has the photo as a data URL, its width and height, and `mask`: the painting as a PNG
    data URL, or "". Gradio's image editor would upload the photo again, as files, with every
    stroke.
    """
    folder = Path(__file__).parent
    return gr.HTML(
        brush_value(None),
        html_template=(folder / "brush.html").read_text(encoding="utf-8"),
        js_on_load=(folder / "brush.js").read_text(encoding="utf-8"),
        elem_classes="brush",
    )


def brush_value(view: np.ndarray | None) -> dict[str, Any]:
    """Value of an unused brush, for an (h, w, 3) uint8 RGB photo or without a photo."""
    if view is None:
        return {"photo": "", "width": 1, "height": 1, "mask": ""}
    photo = data_url(*encode_view(PIL.Image.fromarray(view)))
    return {"photo": photo, "width": view.shape[1], "height": view.shape[0], "mask": ""}


def painted_mask(brush: dict[str, Any], view: np.ndarray, size: tuple[int, int]) -> PIL.Image.Image | None:
    """Mask of the painted region at the photo's size (width, height), white on black.

    Returns None if nothing was painted. Raises ValueError if the painting does not belong to this
    (h, w, 3) view.
    """
    if not brush["mask"]:
        return None
    data = base64.b64decode(brush["mask"].partition(",")[2])
    painting = PIL.Image.open(io.BytesIO(data), formats=["PNG"])
    if painting.size != (view.shape[1], view.shape[0]):
        raise ValueError("The painted region belongs to another photo. Remove it and paint again.")
    return painting.convert("RGBA").getchannel("A").point(lambda opacity: 255 if opacity else 0).resize(size)


def encode_view(image: PIL.Image.Image) -> tuple[bytes, str]:
    """Encode a picture for the page; returns its bytes and MIME type."""
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=90)
    return file.getvalue(), "image/jpeg"


def data_url(data: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode()}"


def picture(image: PIL.Image.Image, description: str) -> str:
    """HTML of a picture with its description for screen readers."""
    size = f'width="{image.width}" height="{image.height}"'
    return f'<img class="photo" src="{data_url(*encode_view(image))}" alt="{html.escape(description)}" {size}>'


def before_after(before: PIL.Image.Image, after: PIL.Image.Image) -> str:
    """HTML of two pictures, side by side on a wide page, else overlaid with a slider."""
    return (
        '<div class="compare" style="--at: 0%"><div class="pair">'
        + f'<figure class="after">{picture(after, "Anonymized photo")}<figcaption>Result</figcaption></figure>'
        + f'<figure class="before">{picture(before, "Your photo, before")}<figcaption>Original</figcaption></figure>'
        + '</div><label>Show before <input type="range" min="0" max="100" value="0" '
        "oninput=\"this.closest('.compare').style.setProperty('--at', this.value + '%')\"></label></div>"
    )


def describe_face(record: FaceRecord, name: str, threshold: float) -> str:
    """Describe the outcome of one face in one sentence."""
    figures = ""
    if record.similarity is not None:
        figures = f" (similarity {record.similarity:.2f}, threshold {threshold:.2f})"
    if record.method == "kept":
        return f"{name}: kept, as you chose."
    if record.method == "replaced":
        return f"{name}: replaced. It does not match the person{figures}."
    if record.attempts:
        return f"{name}: covered, because it still matched the person after {record.attempts} attempts{figures}."
    if name == UNNUMBERED:
        return f"{name}: covered, because it was found only in the finished photo."
    return f"{name}: covered, because the kept regions leave too little of it to change."


def describe_faces(photo: OpenPhoto, result: AnonymizedPhoto, threshold: float) -> list[str]:
    """Describe all faces, one sentence per face, in the order of their numbers on the page."""
    numbers = {tuple(face.box.tolist()): number for number, face in enumerate(photo.faces, start=1)}
    sentences = [
        (number := numbers.get(record.box, len(numbers) + 1), describe_face(record, _name(number, numbers), threshold))
        for record in result.faces
    ]
    return [sentence for _, sentence in sorted(sentences)]


def _name(number: int, numbers: dict[Any, int]) -> str:
    return f"Face {number}" if number <= len(numbers) else UNNUMBERED


def show_result(photo: OpenPhoto, result: AnonymizedPhoto, threshold: float) -> str:
    """HTML of a result: the comparison, the outcome of each face, and the download.

    Raises:
        PhotoFileError: if the result cannot be written in the photo's format.
    """
    sentences = "".join(f"<li>{html.escape(text)}</li>" for text in describe_faces(photo, result, threshold))
    name = html.escape(file_name(photo), quote=True)
    link = data_url(result_file(photo, result), MIME_TYPES[photo.file.format])
    return (
        "<h2>Result</h2>"
        + before_after(PIL.Image.fromarray(photo.view), shrink(result.image))
        + f'<ul class="faces">{sentences}</ul>'
        + f'<a class="download" download="{name}" href="{link}">Download the photo</a>'
        + "<p>The photo has full size and no metadata. It is marked as edited by AI if the format allows it. "
        "Verification is automatic and can fail. Check the photo before you publish it.</p>"
    )


def file_name(photo: OpenPhoto) -> str:
    """Name of the result's file."""
    stem = "photo" if photo.file.path is None else photo.file.path.stem
    return f"{stem}-anonymized.{SUFFIXES[photo.file.format]}"


def result_file(photo: OpenPhoto, result: AnonymizedPhoto) -> bytes:
    """Encode the result in the photo's format, without metadata and with the AI mark."""
    return encode_photo(result.image, photo.file)
