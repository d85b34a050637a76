"""What is said of an anonymized photo: the picture, a record of each face, and why there is none."""

from dataclasses import dataclass

import PIL.Image


class NoFaceFoundError(ValueError):
    """A photo shows no face, as far as the detector can tell."""


class FaceNotHiddenError(RuntimeError):
    """A face still resembles the person after every attempt, and covering it was not wanted."""


@dataclass(frozen=True)
class FaceRecord:
    """What was done to one face. Holds neither its embedding nor its pixels.

    Attributes:
        box (`tuple[float, float, float, float]`): x0, y0, x1, y1 in photo pixels.
        score (`float`): detection score in [0, 1].
        similarity (`float` or `None`): cosine between the embeddings before and after, in [-1, 1]; 1 is the same
            face. None where nothing was compared.
        attempts (`int`): how often the face was anonymized.
        method (`str`): "nullface", "covered" or "spared".
    """

    box: tuple[float, float, float, float]
    score: float
    similarity: float | None
    attempts: int
    method: str


@dataclass(frozen=True)
class AnonymizedPhoto:
    """The photo with every face replaced, as a new RGB image without metadata, and a record of each face."""

    image: PIL.Image.Image
    faces: tuple[FaceRecord, ...]
