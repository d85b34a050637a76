"""The pieces of the page that show pictures.

Pictures travel inside the page's HTML. Gradio's own picture components would write each of them to a file that
outlives the visit, and its before/after slider can be moved by a mouse only.
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
# What the page calls a face that it had not found when the photo was opened.
UNNUMBERED = "Another face"

SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp", "HEIF": "heic"}


def keep_brush() -> gr.HTML:
    """A brush for the region to keep, on the photo.

    Its value holds the photo as a data URL, its width and height, and what was painted: `mask`, a PNG as a data URL,
    or "". Gradio's image editor would upload the photo again, as files, whenever something is painted.
    """
    folder = Path(__file__).parent
    return gr.HTML(
        brush_value(None),
        html_template=(folder / "brush.html").read_text(encoding="utf-8"),
        js_on_load=(folder / "brush.js").read_text(encoding="utf-8"),
        elem_classes="brush",
    )


def brush_value(view: np.ndarray | None) -> dict[str, Any]:
    """Value of the brush on an (h, w, 3) photo, or on none, with nothing painted."""
    if view is None:
        return {"photo": "", "width": 1, "height": 1, "mask": ""}
    photo = data_url(*encode_view(PIL.Image.fromarray(view)))
    return {"photo": photo, "width": view.shape[1], "height": view.shape[0], "mask": ""}


def painted_mask(brush: dict[str, Any], view: np.ndarray, size: tuple[int, int]) -> PIL.Image.Image | None:
    """What was painted on the (h, w, 3) view of a photo, as white on black of the photo's size (width, height).

    None where nothing was painted. Raises ValueError for anything but a painting on this view.
    """
    if not brush["mask"]:
        return None
    data = base64.b64decode(brush["mask"].partition(",")[2])
    painting = PIL.Image.open(io.BytesIO(data), formats=["PNG"])
    if painting.size != (view.shape[1], view.shape[0]):
        raise ValueError("What you painted belongs to another photo. Remove it and paint again.")
    return painting.convert("RGBA").getchannel("A").point(lambda opacity: 255 if opacity else 0).resize(size)


def encode_view(image: PIL.Image.Image) -> tuple[bytes, str]:
    """A picture for the page, and its MIME type."""
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
    """HTML of two pictures of one size: side by side on a wide page, else one over the other with a slider."""
    return (
        '<div class="compare" style="--at: 0%"><div class="pair">'
        + f'<figure class="after">{picture(after, "Anonymized photo")}<figcaption>Result</figcaption></figure>'
        + f'<figure class="before">{picture(before, "Your photo, before")}<figcaption>Original</figcaption></figure>'
        + '</div><label>Show before <input type="range" min="0" max="100" value="0" '
        "oninput=\"this.closest('.compare').style.setProperty('--at', this.value + '%')\"></label></div>"
    )


def describe_face(record: FaceRecord, name: str, threshold: float) -> str:
    """What happened to one face, in one plain sentence."""
    figures = ""
    if record.similarity is not None:
        figures = f" (similarity {record.similarity:.2f}; same person from {threshold:.2f})"
    if record.method == "kept":
        return f"{name}: left as it was, as you chose."
    if record.method == "replaced":
        return f"{name}: replaced. Not recognised as the same person{figures}."
    if record.attempts:
        return f"{name}: covered, because it was still recognised after {record.attempts} attempts{figures}."
    if name == UNNUMBERED:
        return f"{name}: covered, because it was seen only when the finished photo was checked."
    return f"{name}: covered, because you left too little of it to change."


def describe_faces(photo: OpenPhoto, result: AnonymizedPhoto, threshold: float) -> list[str]:
    """One sentence a face, in the order of the numbers on the page."""
    numbers = {tuple(face.box.tolist()): number for number, face in enumerate(photo.faces, start=1)}
    sentences = [
        (number := numbers.get(record.box, len(numbers) + 1), describe_face(record, _name(number, numbers), threshold))
        for record in result.faces
    ]
    return [sentence for _, sentence in sorted(sentences)]


def _name(number: int, numbers: dict[Any, int]) -> str:
    return f"Face {number}" if number <= len(numbers) else UNNUMBERED


def show_result(photo: OpenPhoto, result: AnonymizedPhoto, threshold: float) -> str:
    """HTML of a result: the comparison, what was done to each face, and the download.

    Raises:
        PhotoFileError: if the result cannot be written in the photo's format.
    """
    sentences = "".join(f"<li>{html.escape(text)}</li>" for text in describe_faces(photo, result, threshold))
    name = html.escape(file_name(photo), quote=True)
    link = data_url(result_file(photo, result), MIME_TYPES[photo.file.format])
    return (
        "<h2>Result</h2>"
        + before_after(PIL.Image.fromarray(photo.view), shrink(result.image))
        + f'<ul class="faces">{sentences}</ul><a class="download" download="{name}" href="{link}">Download the photo</a>'
        + "<p>Full size, without metadata, marked as edited by AI where the format allows. The judge is a program: "
        "look at the photo before you publish it.</p>"
    )


def file_name(photo: OpenPhoto) -> str:
    """Name of the result's file."""
    stem = "photo" if photo.file.path is None else photo.file.path.stem
    return f"{stem}-anonymized.{SUFFIXES[photo.file.format]}"


def result_file(photo: OpenPhoto, result: AnonymizedPhoto) -> bytes:
    """The result as a file of the photo's format, without metadata and with the AI mark."""
    return encode_photo(result.image, photo.file)
