"""One face of a photo: cut out, with the mask of what may change, and pasted back."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from .face_crops import FaceCrop, edge_feather
from .face_identity import DetectedFace, FaceLocation, embed_face
from .face_masks import face_masks, nearest_face, parts_to_change
from .protocols import FaceAnalyser, NullFacePipeline


# Share of a face, and of the part with its features, that must be free to change. With less, the
# result still shows the person, even if a recognizer does not find them.
MIN_CHANGE = 0.2

# Share of a box that a new face must fill so that nothing of the old one is left in it.
FILLED = 0.9


@dataclass(frozen=True, eq=False)
class FaceTarget:
    """One face to replace, and the latest attempt at it.

    Attributes:
        face (`DetectedFace`): as it was in the photo.
        crop (`FaceCrop`): from the photo to the model's square.
        aligned (`np.ndarray`): (size, size, 3) uint8 RGB, the crop of the photo.
        mask (`np.ndarray`): (size, size) float32 in [0, 1], 1 where the face may change.
        wider_mask (`np.ndarray`): the same for retries.
        parts (`tuple[np.ndarray, ...]`): (size, size) bool, the face and its inner part inside the
            photo.
        seed (`int` or `None`): of the noise.
        identity (`np.ndarray`): (512,) identity to move away from: the embedding of this face, or
            the mean of all known faces of the person. The result is always compared with the photo.
        attempts (`int`): number of attempts so far.
        result (`np.ndarray` or `None`): (size, size, 3) uint8 RGB, the latest attempt.
        similarity (`float`): of the latest attempt to the person; inf before the first.
    """

    face: DetectedFace
    crop: FaceCrop
    aligned: np.ndarray
    mask: np.ndarray
    wider_mask: np.ndarray
    parts: tuple[np.ndarray, ...]
    seed: int | None
    identity: np.ndarray
    attempts: int = 0
    result: np.ndarray | None = None
    similarity: float = math.inf

    @property
    def can_change(self) -> bool:
        """Whether enough of the face may change to show another person."""
        return all(self.mask[part].sum() >= MIN_CHANGE * part.sum() for part in self.parts)

    def changed(self, pixels: np.ndarray) -> float:
        """Smallest share of changed pixels of (H, W, 3) uint8 `pixels`, over the parts."""
        differs = (self.crop.crop_image(pixels) != self.aligned).any(axis=-1)
        return min((float(differs[part].mean()) for part in self.parts if part.any()), default=1.0)

    def is_replaced(self, threshold: float) -> bool:
        """Whether the latest attempt does not match the person. NaN counts as a match."""
        return self.result is not None and self.similarity < threshold

    def embed(self, analyser: FaceAnalyser, result: np.ndarray) -> np.ndarray:
        """Embedding, (512,), of a (size, size, 3) uint8 RGB result pasted into the crop."""
        weight = self.mask[..., None] * edge_feather(self.crop.size)[..., None]
        blended = (self.aligned + weight * (result.astype(np.float32) - self.aligned)).round().astype(np.uint8)
        return embed_face(analyser, blended, self.crop.points_to_crop(self.face.landmarks))

    def paste(self, pixels: np.ndarray) -> np.ndarray:
        """Put the latest attempt into (H, W, 3) uint8 `pixels`; returns a new array."""
        if self.result is None:
            return pixels
        return self.crop.paste(pixels, self.result, self.mask * edge_feather(self.crop.size))


def make_target(
    pipe: NullFacePipeline,
    pixels: np.ndarray,
    face: DetectedFace,
    faces: list[DetectedFace],
    keep: Sequence[str],
    keep_mask: np.ndarray | None,
    seed: int | None,
    identity: np.ndarray | None = None,
) -> FaceTarget:
    """Cut one of several faces out of (H, W, 3) uint8 `pixels` and decide what of it may change.

    Args:
        identity (`np.ndarray`, *optional*): as in `FaceTarget`; the face's own embedding by
            default.
    """
    crop = FaceCrop.from_landmarks(face.landmarks, pipe.unet.config.sample_size * pipe.vae_scale_factor)
    aligned = crop.crop_image(pixels)
    mine: np.ndarray = nearest_face(crop, face, faces).astype(np.float32)
    if keep_mask is not None:
        mine = mine * (1.0 - crop.crop_mask(keep_mask))
    landmarks = crop.points_to_crop(face.landmarks)
    mask, wider_mask = face_masks(pipe.face_parser, aligned, landmarks, keep)
    parts = parts_to_change(crop, landmarks, pixels.shape[:2])
    identity = face.embedding if identity is None else identity
    return FaceTarget(face, crop, aligned, mine * mask, mine * wider_mask, parts, seed, identity)


def paste_all(pixels: np.ndarray, targets: list[FaceTarget]) -> np.ndarray:
    """Paste every latest attempt, large faces last: the larger of two is usually in front."""
    for target in sorted(targets, key=lambda target: target.face.area):
        pixels = target.paste(pixels)
    return pixels


def is_part_of_new_face(face: FaceLocation, replaced: Sequence[FaceTarget]) -> bool:
    """Whether a detection lies in a new face upside down, as a mouth and a nose may look like one.

    The recognizer is trained on upright faces and cannot decide this.
    """
    return any(
        is_filled(target, face.box) and is_upside_down(face.landmarks, target.face.landmarks) for target in replaced
    )


def is_filled(target: FaceTarget, box: np.ndarray) -> bool:
    """Whether a new face replaces the content of a box (x0, y0, x1, y1) of the photo."""
    x0, y0, x1, y1 = box
    corners = target.crop.points_to_crop(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]))
    if corners.min() < 0 or corners.max() > target.crop.size - 1:
        return False
    inside = cv2.fillConvexPoly(np.zeros(target.mask.shape, np.uint8), corners.round().astype(np.int32), 1) > 0
    return bool((target.mask[inside] > 0.5).mean() >= FILLED)


def is_upside_down(landmarks: np.ndarray, others: np.ndarray) -> bool:
    """Whether two faces, (5, 2) landmarks each, differ in rotation by more than 90 degrees."""
    up, other = (points[:2].mean(axis=0) - points[3:].mean(axis=0) for points in (landmarks, others))
    return bool(up @ other < 0)
