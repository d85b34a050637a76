"""Preview of a dry run: a photo with its detected faces covered, which shows missed faces."""

from pathlib import Path

import cv2
import numpy as np
import PIL.Image

from nullface_pipeline.face_covers import cover_faces
from nullface_pipeline.face_identity import DetectedFace
from nullface_pipeline.face_search import search_faces
from nullface_pipeline.photo_files import read_photo, write_picture
from nullface_pipeline.photo_folder.planned_files import preview_path
from nullface_pipeline.protocols import FaceAnalyser
from nullface_pipeline.runs.jobs import PhotoJob


LONGEST_SIDE = 1280
FRAME = (255, 196, 0)


def write_preview(analyser: FaceAnalyser, job: PhotoJob) -> tuple[list[DetectedFace], Path]:
    """Detect the faces of one photo, and write its preview beside the path of the result.

    The preview is readable only by users who can read the photo.

    Args:
        analyser (`insightface.app.FaceAnalysis`): detection and recognition.

    Returns:
        The faces, with boxes in photo pixels, and the path of the preview.

    Raises:
        PhotoFileError: if the photo cannot be read.
        OSError: if the preview cannot be written.
    """
    pixels = np.asarray(read_photo(job.source).image)
    faces = search_faces(analyser, pixels)
    path = preview_path(job.output)
    write_picture(draw_faces(pixels, faces), path, job.source)
    return faces, path


def draw_faces(photo: np.ndarray, faces: list[DetectedFace]) -> PIL.Image.Image:
    """Cover and number the faces of an (H, W, 3) uint8 RGB photo; at most `LONGEST_SIDE` pixels."""
    photo = cover_faces(photo, [face.box for face in faces])
    scale = min(1.0, LONGEST_SIDE / max(photo.shape[:2]))
    size = max(1, round(scale * photo.shape[1])), max(1, round(scale * photo.shape[0]))
    picture = np.array(PIL.Image.fromarray(photo).resize(size, PIL.Image.Resampling.LANCZOS))
    for number, face in enumerate(faces, start=1):
        x0, y0, x1, y1 = (scale * face.box).round().astype(int).tolist()
        cv2.rectangle(picture, (x0, y0), (x1, y1), FRAME, 2)
        cv2.putText(picture, f"{number}: {face.score:.2f}", (x0, y0 - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.45, FRAME, 1)
    return PIL.Image.fromarray(picture)
