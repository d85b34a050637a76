"""A visitor's photo: reading the upload, face detection, and the preview."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
from uploads import check_photo_name, delete_upload

from nullface_pipeline.face_crops import edge_feather
from nullface_pipeline.face_identity import DetectedFace
from nullface_pipeline.face_search import search_faces
from nullface_pipeline.face_target import make_target
from nullface_pipeline.photo_files import PhotoFile, read_photo
from nullface_pipeline.photo_records import NoFaceFoundError


MAX_PIXELS = 25_000_000

# Longer side of pictures on the page, in pixels. Results are downloaded at full size.
VIEW_SIDE = 1024

CHANGES, STAYS = (214, 40, 120), (0, 110, 180)


@dataclass(frozen=True, eq=False)
class OpenPhoto:
    """One photo of one visitor, in memory only.

    Attributes:
        file (`PhotoFile`): the photo at full size, with the data to write its result.
        faces (`list[DetectedFace]`): in photo pixels, from left to right; the first is face 1.
        view (`np.ndarray`): (h, w, 3) uint8 RGB; the longer side is at most `VIEW_SIDE`.
    """

    file: PhotoFile
    faces: list[DetectedFace]
    view: np.ndarray

    @property
    def nbytes(self) -> int:
        """Memory of the pixels."""
        image = self.file.image
        channels = 3 if self.file.alpha is None else 4
        return channels * image.width * image.height + self.view.nbytes


def open_upload(path: Path, analyser: Any) -> OpenPhoto:
    """Read an uploaded file and delete it, also in case of an error.

    Raises:
        PhotoFileError: if it is not a photo, damaged, or larger than `MAX_PIXELS`.
        NoFaceFoundError: if no face is found.
    """
    try:
        check_photo_name(path)
        return open_photo(read_photo(path, MAX_PIXELS), analyser)
    finally:
        delete_upload(path)


def open_photo(file: PhotoFile, analyser: Any) -> OpenPhoto:
    """Detect the faces of a photo; raises NoFaceFoundError if there are none."""
    faces = search_faces(analyser, np.asarray(file.image))
    if not faces:
        raise NoFaceFoundError("No face was found.")
    return OpenPhoto(file, sorted(faces, key=lambda face: float(face.box[0])), np.asarray(shrink(file.image)))


def shrink(image: PIL.Image.Image) -> PIL.Image.Image:
    """A copy whose longer side is at most `VIEW_SIDE`."""
    image = image.copy()
    image.thumbnail((VIEW_SIDE, VIEW_SIDE), PIL.Image.Resampling.LANCZOS)
    return image


def draw_changes(
    pipe: Any, photo: OpenPhoto, chosen: Sequence[int], keep: Sequence[str], keep_mask: PIL.Image.Image | None
) -> PIL.Image.Image:
    """Draw the preview: every face outlined and numbered, and changing areas tinted.

    Args:
        chosen (`Sequence[int]`): indices of the faces to anonymize.
        keep (`Sequence[str]`): regions of `face_regions.REGIONS` to keep.
        keep_mask (`PIL.Image.Image`, *optional*): white where the photo is kept; of any size.
    """
    scale = photo.view.shape[1] / photo.file.image.width
    faces = [_scaled(face, scale) for face in photo.faces]
    kept = None if keep_mask is None else _keep_weights(keep_mask, photo.view)
    pixels = photo.view
    for index in chosen:
        target = make_target(pipe, photo.view, faces[index], faces, keep, kept, None)
        tint = np.full_like(target.aligned, CHANGES)
        pixels = target.crop.paste(pixels, tint, 0.45 * target.mask * edge_feather(target.crop.size))
    for index, face in enumerate(faces):
        pixels = _outline(pixels, face.box, str(index + 1), CHANGES if index in chosen else STAYS)
    return PIL.Image.fromarray(pixels)


def _scaled(face: DetectedFace, scale: float) -> DetectedFace:
    return replace(face, box=face.box * scale, landmarks=face.landmarks * scale)


def _keep_weights(mask: PIL.Image.Image, view: np.ndarray) -> np.ndarray:
    return np.asarray(mask.convert("L").resize((view.shape[1], view.shape[0])), dtype=np.float32) / 255.0


def _outline(pixels: np.ndarray, box: np.ndarray, number: str, colour: tuple[int, int, int]) -> np.ndarray:
    """Draw a frame and a numbered label in it; returns a new (h, w, 3) array."""
    longer = max(pixels.shape[:2])
    width = max(2, longer // 250)
    x0, y0, x1, y1 = (round(float(value)) for value in box)
    # White around the colour makes the frame visible on any photo.
    framed = cv2.rectangle(pixels.copy(), (x0, y0), (x1, y1), (255, 255, 255), 2 * width + 2)
    image = PIL.Image.fromarray(cv2.rectangle(framed, (x0, y0), (x1, y1), colour, width))
    draw = PIL.ImageDraw.Draw(image)
    side = max(18, longer // 32)
    x0, y0 = min(max(x0 - width, 0), image.width - side), min(max(y0 - side, 0), image.height - side)
    draw.rectangle((x0, y0, x0 + side, y0 + side), fill=colour, outline="white")
    font = PIL.ImageFont.load_default(0.75 * side)
    draw.text((x0 + side / 2, y0 + side / 2), number, fill="white", font=font, anchor="mm")
    return np.asarray(image)
