"""Whole photos: find every face, anonymize the aligned crops in one batch, paste them back."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

from .face_crops import FaceCrop, edge_feather
from .face_identity import DetectedFace, detect_faces, embed_face, similarity
from .face_parsing import anonymization_mask


@dataclass(frozen=True)
class FaceRecord:
    """What was done to one face. Holds neither its embedding nor its pixels.

    Attributes:
        box (`tuple[float, float, float, float]`): x0, y0, x1, y1 in photo pixels.
        score (`float`): detection score in [0, 1].
        similarity (`float`): cosine between the embeddings before and after, in [-1, 1]; 1 is the same face.
        attempts (`int`): how often the face was anonymized.
        method (`str`): how it was hidden: "nullface".
    """

    box: tuple[float, float, float, float]
    score: float
    similarity: float
    attempts: int
    method: str


@dataclass(frozen=True)
class AnonymizedPhoto:
    """The photo with every face replaced, as a new RGB image without metadata, and a record of each face."""

    image: PIL.Image.Image
    faces: tuple[FaceRecord, ...]


def anonymize_photo(
    pipe: Any, photo: PIL.Image.Image, keep: Sequence[str] = (), seed: int | None = None, **settings: Any
) -> AnonymizedPhoto:
    """Body of `StableDiffusionNullFacePipeline.anonymize`; see there."""
    if pipe.face_analyser is None:
        raise RuntimeError("No face models are loaded. Call `pipe.load_face_models()` first.")
    pixels = np.array(PIL.ImageOps.exif_transpose(photo).convert("RGB"))
    faces = detect_faces(pipe.face_analyser, pixels)
    if not faces:
        raise ValueError(
            "No face was found in the photo, so nothing was anonymized and nothing is returned. Lower the detection "
            "threshold in `load_face_models` if it shows one."
        )
    size = pipe.unet.config.sample_size * pipe.vae_scale_factor
    crops = [FaceCrop.from_landmarks(face.landmarks, size) for face in faces]
    aligned = [crop.crop_image(pixels) for crop in crops]
    masks = [_face_mask(pipe, image, crop, face, keep) for image, crop, face in zip(aligned, crops, faces)]
    anonymized = pipe(
        [PIL.Image.fromarray(image) for image in aligned],
        identity_embeds=torch.from_numpy(np.stack([face.embedding for face in faces])),
        mask_image=[PIL.Image.fromarray((255 * mask).round().astype(np.uint8)) for mask in masks],
        generator=_generators(seed, len(faces)),
        **settings,
    ).images

    # Small faces last: where two crops overlap, the one in front of the other is usually the larger.
    result = pixels
    for crop, image, mask in reversed(list(zip(crops, anonymized, masks))):
        result = crop.paste(result, np.asarray(image), mask * edge_feather(size))
    return AnonymizedPhoto(
        image=PIL.Image.fromarray(result),
        faces=tuple(_record(face, embed_face(pipe.face_analyser, result, face.landmarks)) for face in faces),
    )


def _face_mask(pipe: Any, aligned: np.ndarray, crop: FaceCrop, face: DetectedFace, keep: Sequence[str]) -> np.ndarray:
    """(size, size) float32 in [0, 1]: the parsed face without what is kept, or an ellipse where nothing parses."""
    if pipe.face_parser is not None:
        mask = anonymization_mask(pipe.face_parser(aligned), pipe.face_parser.labels, keep)
        if mask.max() > 0.5:
            return mask
    elif keep:
        raise RuntimeError("`keep` needs a face parser. Call `pipe.load_face_models()` with one.")
    return face_ellipse(crop.points_to_crop(face.landmarks), crop.size)


def face_ellipse(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Soft ellipse from brow to chin and ear to ear around (5, 2) landmarks in the crop; (size, size) float32."""
    eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
    centre = eyes + 0.45 * (mouth - eyes)
    eye_distance, face_height = np.hypot(*(landmarks[1] - landmarks[0])), np.hypot(*(mouth - eyes))
    axes = max(1.15 * eye_distance, 0.9 * face_height), max(1.75 * face_height, 1.3 * eye_distance)
    angle = np.degrees(np.arctan2(*(mouth - eyes))) * -1.0
    mask = np.zeros((size, size), dtype=np.float32)
    cv2.ellipse(mask, (tuple(centre.tolist()), tuple((2.0 * np.array(axes)).tolist()), float(angle)), 1.0, -1)
    return cv2.GaussianBlur(mask, (0, 0), 0.02 * size)


def _generators(seed: int | None, count: int) -> list[torch.Generator] | None:
    """One generator a face, so that a face's result does not depend on how many others there are."""
    if seed is None:
        return None
    return [torch.Generator().manual_seed(seed + index) for index in range(count)]


def _record(face: DetectedFace, embedding: np.ndarray) -> FaceRecord:
    x0, y0, x1, y1 = (float(value) for value in face.box)
    return FaceRecord((x0, y0, x1, y1), face.score, similarity(face.embedding, embedding), 1, "nullface")
