"""Records of an anonymized photo, and the errors of refused photos and wrong options."""

from dataclasses import dataclass

import PIL.Image


Box = tuple[float, float, float, float]


class PhotoRefusedError(Exception):
    """A photo of which nothing is returned. The message says why, and what to do; other photos may be fine."""


class NoFaceFoundError(PhotoRefusedError, ValueError):
    """A photo shows no face, as far as the detector can tell."""


class TooManyFacesError(PhotoRefusedError, ValueError):
    """A photo seems to show more faces than any photo does."""


class FaceToSkipError(PhotoRefusedError, ValueError):
    """A face that was named to be left alone is not in the photo, or cannot be told from another."""


class FaceNotHiddenError(PhotoRefusedError, RuntimeError):
    """A face is not hidden as it should be, and covering it was not wanted or did not work."""


class OptionError(ValueError):
    """An option with a value that is out of range or does not go with others.

    Attributes:
        option (`str`): its name.
        problem (`str`): the rest of the message.
    """

    def __init__(self, option: str, problem: str):
        super().__init__(f"`{option}` {problem}")
        self.option, self.problem = option, problem

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.option, self.problem)


class OptionTypeError(OptionError, TypeError):
    """An option with a value of a wrong type."""


@dataclass(frozen=True)
class FaceRecord:
    """What was done to one face. Holds neither its embedding nor its pixels.

    Attributes:
        box (`tuple[float, float, float, float]`): x0, y0, x1, y1 in photo pixels.
        score (`float`): detection score in [0, 1].
        similarity (`float` or `None`): cosine between the embeddings before and after, in [-1, 1]; 1 is the same
            face. None where nothing was compared.
        attempts (`int`): how often the face was anonymized.
        method (`str`): "replaced", "covered" or "kept".
    """

    box: Box
    score: float
    similarity: float | None
    attempts: int
    method: str


@dataclass(frozen=True)
class AnonymizedPhoto:
    """The photo with every face replaced, as a new RGB image without metadata, and a record of each face."""

    image: PIL.Image.Image
    faces: tuple[FaceRecord, ...]
