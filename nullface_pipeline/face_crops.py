"""Aligned face crops and their way back into the photo.

One `FaceCrop` maps images, points and masks in both directions, so that all use the same transform.

Frames: *photo* pixels and *crop* pixels, both with the centre of the top-left pixel at (0, 0), x to
the right, y down.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True, eq=False)
class FaceCrop:
    """Similarity transform (rotation, scale, shift) from photo pixels to a square aligned crop.

    Attributes:
        matrix (`np.ndarray`): (2, 3) float64, maps (x, y, 1) in the photo frame to (x, y) in the
            crop frame.
        size (`int`): side of the crop in pixels.
    """

    matrix: np.ndarray
    size: int

    @classmethod
    def from_landmarks(cls, landmarks: np.ndarray, size: int) -> "FaceCrop":
        """Crop of FFHQ and CelebA-HQ: upright, 4 eye distances or 3.6 eye-mouth distances wide.

        Args:
            landmarks (`np.ndarray`): (5, 2) float, photo frame, in InsightFace's order: eye, eye,
                nose tip, mouth corner, mouth corner, each pair from the image's left to its right.
            size (`int`): side of the crop in pixels.

        Raises:
            ValueError: if the landmarks are of another shape, not finite, or fall on one point.
        """
        landmarks = np.asarray(landmarks, dtype=np.float64)
        if landmarks.shape != (5, 2) or not np.isfinite(landmarks).all():
            raise ValueError(f"`landmarks` must be five finite (x, y) points, got shape {landmarks.shape}.")
        eyes, mouth = landmarks[:2].mean(axis=0), landmarks[3:].mean(axis=0)
        eye_to_eye, eye_to_mouth = landmarks[1] - landmarks[0], mouth - eyes

        # Averaging the eye line with the perpendicular of the eye-mouth line keeps turned heads
        # upright.
        right = eye_to_eye + np.array([eye_to_mouth[1], -eye_to_mouth[0]])
        half_width = max(2.0 * np.hypot(*eye_to_eye), 1.8 * np.hypot(*eye_to_mouth))
        if np.hypot(*right) < 1e-6 or half_width < 1e-6:
            raise ValueError("`landmarks` fall on one point; they do not describe a face.")
        cos, sin = right / np.hypot(*right)
        scale = size / (2.0 * half_width)
        linear = scale * np.array([[cos, sin], [-sin, cos]])
        centre = eyes + 0.1 * eye_to_mouth
        shift = (size - 1) / 2.0 - linear @ centre
        return cls(np.hstack([linear, shift[:, None]]), size)

    @property
    def scale(self) -> float:
        """Crop pixels per photo pixel."""
        return math.sqrt(abs(np.linalg.det(self.matrix[:, :2])))

    @property
    def inverse_matrix(self) -> np.ndarray:
        """(2, 3) float64, maps crop pixels to photo pixels."""
        return cv2.invertAffineTransform(self.matrix)

    def points_to_crop(self, points: np.ndarray) -> np.ndarray:
        """Map (N, 2) points from the photo frame to the crop frame."""
        return np.asarray(points, dtype=np.float64) @ self.matrix[:, :2].T + self.matrix[:, 2]

    def points_to_photo(self, points: np.ndarray) -> np.ndarray:
        """Map (N, 2) points from the crop frame to the photo frame."""
        inverse = self.inverse_matrix
        return np.asarray(points, dtype=np.float64) @ inverse[:, :2].T + inverse[:, 2]

    def crop_image(self, photo: np.ndarray) -> np.ndarray:
        """Cut the aligned crop out of an (H, W, C) uint8 photo, which is mirrored at its border."""
        part, matrix = self._part_below(photo)
        return _warp(part, matrix, (self.size, self.size), cv2.BORDER_REFLECT_101)

    def crop_mask(self, mask: np.ndarray) -> np.ndarray:
        """Cut the aligned crop out of an (H, W) float32 mask in [0, 1]; 0 outside the photo."""
        part, matrix = self._part_below(mask)
        return _warp(part, matrix, (self.size, self.size), cv2.BORDER_CONSTANT)

    def _part_below(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The part of an (H, W, ...) image that the crop shows, and the matrix from there.

        OpenCV cannot warp images of more than 32,766 pixels a side.
        """
        low, high = self._photo_bounds()
        low, high = np.floor(low) - 2, np.ceil(high) + 3
        end = np.array(picture.shape[1::-1])
        # Pixels beyond an edge are mirrored from the same distance inside.
        x0, y0 = np.clip(np.minimum(low, 2 * end - high - 2), 0, end - 1).astype(int)
        x1, y1 = np.clip(np.maximum(high, 2 - low), 1, end).astype(int)
        matrix = self.matrix.copy()
        matrix[:, 2] += matrix[:, :2] @ np.array([x0, y0])
        return picture[y0:y1, x0:x1], matrix

    def _photo_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest (x, y) of the crop's corners in the photo frame."""
        edge = self.size - 0.5
        corners = self.points_to_photo(np.array([[-0.5, -0.5], [edge, -0.5], [edge, edge], [-0.5, edge]]))
        return corners.min(axis=0), corners.max(axis=0)

    def is_in_photo(self, photo_size: tuple[int, int]) -> np.ndarray:
        """(size, size) bool: the pixels of the crop that lie in an (H, W) photo, not mirrored."""
        y, x = np.mgrid[: self.size, : self.size]
        points = self.points_to_photo(np.stack([x.ravel(), y.ravel()], axis=1))
        inside = (points >= -0.5) & (points < np.array(photo_size[::-1]) - 0.5)
        return inside.all(axis=1).reshape(self.size, self.size)

    def photo_box(self, photo_size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Bounding box (x0, y0, x1, y1), end exclusive, in whole pixels, cut to an (H, W) photo."""
        low, high = self._photo_bounds()
        height, width = photo_size
        x0, y0 = np.clip(np.floor(low), 0, [width, height]).astype(int)
        x1, y1 = np.clip(np.ceil(high) + 1, 0, [width, height]).astype(int)
        return int(x0), int(y0), int(x1), int(y1)

    def paste(self, photo: np.ndarray, face: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Blend a crop back into the photo it came from.

        Args:
            photo (`np.ndarray`): (H, W, C) uint8.
            face (`np.ndarray`): (size, size, C) uint8, crop frame.
            mask (`np.ndarray`): (size, size) float32 in [0, 1], crop frame; 1 takes `face`, 0 keeps
                `photo`.

        Returns:
            `np.ndarray`: (H, W, C) uint8, a new array; byte for byte `photo` wherever the warped
                mask is 0.
        """
        x0, y0, x1, y1 = self.photo_box(photo.shape[:2])
        result = photo.copy()
        if x1 <= x0 or y1 <= y0:
            return result
        to_box = self.inverse_matrix
        to_box[:, 2] -= (x0, y0)
        box_size = (x1 - x0, y1 - y0)
        # Linear interpolation would visibly soften an enlarged face. A mask must not overshoot.
        face_in_box = _warp(face, to_box, box_size, cv2.BORDER_REPLICATE, cv2.INTER_CUBIC).astype(np.float32)
        weight = _warp(mask.astype(np.float32), to_box, box_size, cv2.BORDER_CONSTANT)[..., None]
        region = result[y0:y1, x0:x1]
        region[:] = np.rint(region + weight * (face_in_box - region)).astype(np.uint8)
        return result


def edge_feather(size: int, width: float = 0.06) -> np.ndarray:
    """(size, size) float32 weights: 1 inside, falling smoothly to 0 over `width` of the side."""
    distance = (np.arange(size) + 0.5) / size
    ramp = np.clip(np.minimum(distance, 1.0 - distance) / width, 0.0, 1.0)
    ramp = ramp * ramp * (3.0 - 2.0 * ramp)
    return np.outer(ramp, ramp).astype(np.float32)


def _warp(
    image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], border: int, interpolation: int = cv2.INTER_LINEAR
) -> np.ndarray:
    """`cv2.warpAffine` to (width, height) that averages where the transform shrinks."""
    scale = math.sqrt(abs(np.linalg.det(matrix[:, :2])))
    oversampling = max(1, math.ceil(1.0 / scale - 0.01))
    # Pixel centres: u_fine = k * u + (k - 1) / 2.
    fine = oversampling * matrix
    fine[:, 2] += (oversampling - 1) / 2.0
    fine_size = (size[0] * oversampling, size[1] * oversampling)
    warped = cv2.warpAffine(image, fine, fine_size, flags=interpolation, borderMode=border)
    if oversampling > 1:
        warped = cv2.resize(warped, size, interpolation=cv2.INTER_AREA)
    return warped
