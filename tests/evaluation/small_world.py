"""People of a few pixels: a red square is a face, and the pattern below it says whose.

Detector and recognizer are real ones for this world, so that whole evaluations take milliseconds.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL.Image

from nullface_pipeline.face_identity import FaceLocation


SIZE = 48
MARK = np.array([255, 0, 0])
LANDMARKS = np.array([[0, 0], [8, 0], [4, 2], [1, 4], [7, 4]], dtype=np.float32)
PATTERN = np.s_[20:36, 12:28]


class RedSquares:
    """Finds the red square, if it is whole."""

    name = "red squares"
    fingerprint = "1"

    def largest(self, image: np.ndarray) -> FaceLocation | None:
        rows, columns = np.nonzero((image == MARK).all(axis=2))
        if len(rows) != 64:
            return None
        x, y = columns.min(), rows.min()
        box = np.array([x, y, columns.max() + 1, rows.max() + 1], dtype=np.float32)
        return FaceLocation(box, LANDMARKS + np.array([x, y], dtype=np.float32), 1.0)

    def at(self, image: np.ndarray, landmarks: np.ndarray) -> FaceLocation | None:
        face = self.largest(image)
        return face if face is not None and np.abs(face.landmarks - landmarks).max() < 4 else None


class Patterns:
    """The pattern where the landmarks say; the negative of a pattern is the negative embedding.
    Counts its calls.
    """

    independent = True
    centred = False
    description = "patterns"

    def __init__(self, name: str = "patterns"):
        self.name, self.fingerprint, self.calls = name, name, 0

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        self.calls += 1
        x, y = landmarks[0].astype(int)
        # Every second pixel: learned attacks cost the cube of the length.
        part = image[y + 12 : y + 28 : 2, x : x + 16 : 2].astype(np.float32) / 127.5 - 1
        return part.ravel() / np.linalg.norm(part)


def person(number: int, found: bool = True) -> np.ndarray:
    """(48, 48, 3) uint8."""
    image = np.full((SIZE, SIZE, 3), 90, dtype=np.uint8)
    image[PATTERN] = np.random.default_rng(number).integers(0, 256, (16, 16, 3))
    if found:
        image[8:16, 12:20] = MARK
    return image


def other_photo(number: int, photo: int = 1) -> np.ndarray:
    """Another photo of a person: the same pattern with noise, on another background."""
    image = person(number)
    noise = np.random.default_rng([number, photo]).integers(-40, 41, (16, 16, 3))
    image[PATTERN] = np.clip(image[PATTERN].astype(int) + noise, 1, 254)
    image[40:] = 30 + photo
    return image


def negative(image: np.ndarray) -> np.ndarray:
    """The same face with the negative of the pattern."""
    result = image.copy()
    result[PATTERN] = 255 - image[PATTERN]
    return result


def unmarked(image: np.ndarray) -> np.ndarray:
    """The same without the face's mark."""
    result = image.copy()
    result[8:16, 12:20] = 90
    return result


def write(folder: Path, images: Iterable[np.ndarray], first: int = 0) -> Path:
    """PNG files named by number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images, start=first):
        PIL.Image.fromarray(image).save(folder / f"{number:03}.png")
    return folder
