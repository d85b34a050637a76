"""Records of an anonymized photo, and the errors of refused photos and wrong options."""

from dataclasses import dataclass

import PIL.Image


Box = tuple[float, float, float, float]


class PhotoRefusedError(Exception):
    """A photo that is not returned. The message says why and what to do; others may be fine."""


class NoFaceFoundError(PhotoRefusedError, ValueError):
    """The detector found no face in a photo."""


class TooManyFacesError(PhotoRefusedError, ValueError):
    """The detector found more faces than a photo can show."""


class FaceToSkipError(PhotoRefusedError, ValueError):
    """A face to skip is not in the photo, or cannot be told apart from another."""


class FaceNotHiddenError(PhotoRefusedError, RuntimeError):
    """A face could not be replaced, and covering it was not allowed or did not work."""


class OptionError(ValueError):
    """An option whose value is out of range or conflicts with other options.

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
    """Record of one face, without its embedding or pixels.

    Attributes:
        box (`tuple[float, float, float, float]`): x0, y0, x1, y1 in photo pixels.
        score (`float`): detection score in [0, 1].
        similarity (`float` or `None`): cosine between the embeddings before and after, in [-1, 1];
            None if nothing was compared.
        attempts (`int`): number of attempts.
        method (`str`): "replaced", "covered" or "kept".
    """

    box: Box
    score: float
    similarity: float | None
    attempts: int
    method: str


@dataclass(frozen=True)
class AnonymizedPhoto:
    """New RGB image without metadata in which every face is replaced, and a record of each face."""

    image: PIL.Image.Image
    faces: tuple[FaceRecord, ...]
