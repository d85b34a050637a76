"""What is asked of one photo and what is said of its result: checked options, a record of each face, refusals.

Nothing here needs torch, or NumPy at once, so that what is wrong is answered before anything is loaded.
"""

import hashlib
import inspect
import math
import numbers
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import PIL.Image

from .face_regions import check_kept_regions
from .protocols import FaceAnalyser


if TYPE_CHECKING:
    import numpy as np


# The paper's knobs, set together. Settings given besides take precedence.
PRESETS: dict[str, dict[str, Any]] = {
    "light": {"skip": 0.8, "guidance_scale": 7.5},
    "standard": {"skip": 0.7, "guidance_scale": 10.0},
    "strong": {"skip": 0.6, "guidance_scale": 15.0},
    "fast": {"skip": 0.7, "guidance_scale": 10.0, "few_steps": 7},
    "preview": {"skip": 0.7, "guidance_scale": 10.0, "few_steps": 3},
}

# How a new identity is chosen, see `identity_choices.py`; the first is the default.
IDENTITIES = ("random", "opposite", "consistent")

# What a face that cannot be replaced is covered by, see `face_covers.py`.
COVERS = ("solid", "blur", "mosaic")

MAX_SEED = 2**63 - 1

# Range of each number, and whether it is a whole one; the ends are allowed. None where the field may be left out.
NUMBER_RANGES: dict[str, tuple[float, float, bool]] = {
    "seed": (0, MAX_SEED, True),
    "min_face": (0.0, 1e6, False),
    "similarity_threshold": (-1.0, 1.0, False),
    "max_attempts": (1, 20, True),
    "batch_faces": (1, 1024, True),
    "few_steps": (2, 100, True),
    "num_inference_steps": (1, 999, True),
    "solver_order": (1, 2, True),
    "skip": (0.0, 0.999, False),
    "guidance_scale": (-100.0, 100.0, False),
    "identity_scale": (-10.0, 10.0, False),
    "identity_angle": (0.0, 180.0, False),
    "mask_start": (0.0, 1.0, False),
    "eta": (1e-3, 1.0, False),
    "ip_adapter_scale": (-10.0, 10.0, False),
    "inversion_batch_size": (1, 4096, True),
}

# What the pipeline is told, where given.
_SETTINGS = (
    "prompt",
    "few_steps",
    "num_inference_steps",
    "solver_order",
    "skip",
    "guidance_scale",
    "identity_scale",
    "identity_angle",
    "mask_start",
    "eta",
    "ip_adapter_scale",
    "inversion_batch_size",
)

Box = tuple[float, float, float, float]

EMBEDDING_SIZE = 512


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


@dataclass(frozen=True, eq=False, kw_only=True)
class PhotoOptions:
    """What is asked of one photo; checked once, here, for whoever asks.

    Attributes:
        keep (`tuple[str, ...]`): regions of the faces to leave as they are, such as `("eyes", "mouth")`. They keep the
            photo's own pixels.
        keep_mask (`PIL.Image.Image`, *optional*): a picture of the photo's size, upright: white is left as it is
            wherever it meets a face, a lesion for example. A face of which too little is left to change is covered.
        seed (`int`, *optional*): makes the result deterministic; 0 to 2**63 - 1.
        preset (`str`): `"light"`, `"standard"` (the paper's settings) or `"strong"`: sets `skip` and `guidance_scale`
            together. `"fast"` and `"preview"` are the standard in 7 and in 3 steps.
        skip_faces (`tuple`): people to leave alone: boxes `(x0, y0, x1, y1)` in photo pixels, [`FaceRecord`]s of an earlier
            result, reference photos, also by path, that show one of them each, or rows of `people`. The most similar face
            is taken for the person, if it is similar enough; a recognizer can err, so boxes are safer.
        min_face (`float`): faces whose longer side is shorter than this many photo pixels are covered instead of
            anonymized.
        similarity_threshold (`float`, *optional*): cosine similarity in [-1, 1] from which on two faces count as the
            same person; by default what suits the recognizer.
        accept_recognizable (`bool`): has to be set for a `similarity_threshold` above what suits the recognizer, with
            which results that it knows again pass.
        max_attempts (`int`): how often a face is tried before it is covered; 1 to 20.
        on_failure (`str`): `"cover"` covers a face that still resembles the person; `"error"` raises and returns
            nothing.
        cover (`str`): by what: `"solid"`, one colour, or what looks like a `"blur"` or a `"mosaic"` and tells no more.
        verifier (`insightface.app.FaceAnalysis`, *optional*): a second recognizer that must not know the person again
            either, by the same threshold.
        identity (`str`): how the new identity is chosen. `"random"` rotates the embedding towards a random identity until
            its similarity to the person is that of a random stranger, with fresh noise; it takes two to
            three times the work of `"opposite"`, the paper's way, which negates the embedding and can be found by an
            attacker who looks for the least similar person. `"consistent"` gives each of `people` one new face in all
            photos of an album.
        people (`np.ndarray`, *optional*): (P, 512) float32 embeddings of the people of an album, from `find_people`; for
            `identity="consistent"`. Use one `seed` for all photos of the album.
            Without one, all photos of one process share a random secret seed.
        on_progress (`Callable[[int, int], None]`, *optional*): called before each attempt, and once nothing is left,
            with the number of faces that are done and the number of faces to replace.
        batch_faces (`int`): faces in one batch; 1 to 1024.
        few_steps (`int`, *optional*): so many well-placed steps instead of what `skip` leaves of `num_inference_steps`: 7
            for nearly the same result at 20 evaluations of the UNet instead of 89, 3 for a preview at 8. What is
            still recognized is tried again in full.
        prompt (`str`, *optional*): what all new faces are to be like, "an old man with a beard" for example. For a model
            that knows text; nullface-tiny does not.
        num_inference_steps, solver_order, skip, guidance_scale, identity_scale, identity_angle, mask_start, eta,
            ip_adapter_scale, inversion_batch_size: as for the pipeline's `__call__`; they take precedence over the preset.

    Raises:
        TypeError: if a value is of the wrong type; the field is named.
        ValueError: if a value is out of range or not finite; the field is named.
    """

    keep: tuple[str, ...] = ()
    keep_mask: PIL.Image.Image | None = None
    seed: int | None = None
    preset: str = "standard"
    skip_faces: tuple["Box | PIL.Image.Image | Path | np.ndarray", ...] = ()
    min_face: float = 0.0
    similarity_threshold: float | None = None
    accept_recognizable: bool = False
    max_attempts: int = 3
    on_failure: str = "cover"
    cover: str = COVERS[0]
    verifier: FaceAnalyser | None = None
    identity: str = IDENTITIES[0]
    people: "np.ndarray | None" = None
    on_progress: Callable[[int, int], None] | None = None
    batch_faces: int = 8
    few_steps: int | None = None
    prompt: str | None = None
    num_inference_steps: int | None = None
    solver_order: int | None = None
    skip: float | None = None
    guidance_scale: float | None = None
    identity_scale: float | None = None
    identity_angle: float | None = None
    mask_start: float | None = None
    eta: float | None = None
    ip_adapter_scale: float | None = None
    inversion_batch_size: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if field.name in NUMBER_RANGES and not (field.default is None and getattr(self, field.name) is None):
                self._set(field.name, check_number(field.name, getattr(self, field.name)))
        if self.few_steps is not None and self.num_inference_steps is not None:
            raise ValueError("`few_steps` and `num_inference_steps` are two ways to say how many: leave one out.")
        self._set("keep", _region_names(self.keep))
        self._set("skip_faces", _faces_to_skip(self.skip_faces))
        _check_choice("preset", self.preset, tuple(PRESETS))
        _check_choice("on_failure", self.on_failure, ("cover", "error"))
        _check_choice("cover", self.cover, COVERS)
        _check_choice("identity", self.identity, IDENTITIES)
        if not isinstance(self.accept_recognizable, bool):
            raise TypeError(f"`accept_recognizable` must be True or False, got {self.accept_recognizable!r}.")
        self._check_identity()
        if not (self.on_progress is None or callable(self.on_progress)):
            raise TypeError(f"`on_progress` must be a function, got {type(self.on_progress).__name__}.")
        if not isinstance(self.prompt, (str, NoneType)):
            raise TypeError(f"`prompt` must be a text, got {type(self.prompt).__name__}.")
        if self.keep_mask is not None and not isinstance(self.keep_mask, PIL.Image.Image):
            raise TypeError(f"`keep_mask` must be a PIL image, got {type(self.keep_mask).__name__}.")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _check_identity(self) -> None:
        if self.people is not None:
            if self.identity != "consistent":
                raise ValueError('`people` belong to `identity="consistent"`. Set it, or leave `people` out.')
            self._set("people", _embeddings(self.people, "people"))
        if self.identity_angle is not None and self.identity != "opposite":
            raise ValueError('`identity_angle` belongs to `identity="opposite"`. Set it, or leave the angle out.')
        if self.identity == "random":
            for name in ("identity_scale", "guidance_scale"):
                if (getattr(self, name) or 0.0) < 0.0:
                    raise ValueError(f'`{name}` below 0 moves towards the person. It needs `identity="opposite"`.')

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any], options: "PhotoOptions | None" = None) -> "PhotoOptions":
        """Options by name, those left out as in `options` or by default; TypeError for an unknown name."""
        if not isinstance(options, (cls, NoneType)):
            raise TypeError(f"`options` must be PhotoOptions, got {type(options).__name__}; name each option.")
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(arguments) - set(known))
        if "strength" in unknown:
            raise TypeError("`anonymize` does not take `strength`. Pass `skip`, which is 1 - `strength`.")
        if unknown:
            raise TypeError(f"`anonymize` does not take {', '.join(unknown)}; its options are {', '.join(known)}.")
        return replace(options or cls(), **arguments)

    def settings(self, presets: Mapping[str, Mapping[str, Any]] = PRESETS) -> dict[str, Any]:
        """Arguments of the pipeline: the preset's, and over them those that were given.

        Args:
            presets: the numbers of each preset, `pipe.presets`. They differ between model sets.
        """
        settings = dict(presets[self.preset])
        given = {name: value for name in _SETTINGS if (value := getattr(self, name)) is not None}
        for name, other in (("num_inference_steps", "few_steps"), ("few_steps", "num_inference_steps")):
            if name in given:
                settings.pop(other, None)
        return settings | given


def with_named_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: name the fields of `PhotoOptions` in the signature of a function that takes them as `**arguments`."""
    signature = inspect.signature(function)
    named = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    named += [
        inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=field.type)
        for field in fields(PhotoOptions)
    ]
    function.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
    return function


def check_number(name: str, value: Any) -> Any:
    """A number in the range of the option `name`, as a plain int or float.

    Raises:
        TypeError: if it is no number, or not a whole one where that is wanted.
        ValueError: if it is not finite or out of range.
    """
    low, high, whole = NUMBER_RANGES[name]
    kind = numbers.Integral if whole else numbers.Real
    if isinstance(value, bool) or not isinstance(value, kind):
        wanted = "a whole number" if whole else "a number"
        raise TypeError(f"`{name}` must be {wanted}, got {value!r:.80}.")
    value = int(value) if isinstance(value, numbers.Integral) and whole else float(value)
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"`{name}` must be from {low} to {high}, got {value}.")
    return value


def _region_names(keep: Any) -> tuple[str, ...]:
    if isinstance(keep, str):
        raise ValueError(f"`keep` must be a list or tuple of region names, for example ({keep!r},).")
    if not isinstance(keep, Iterable):
        raise TypeError(f"`keep` must be a list or tuple of region names, got {keep!r:.80}.")
    names = tuple(keep)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise TypeError(f"`keep` must hold names of regions, got {wrong[0]!r:.80}.")
    check_kept_regions(names)
    return names


def keyed_number(seed: int, what: bytes) -> int:
    """64 bits that depend on `what` and that cannot be predicted without the seed: keyed BLAKE2b.

    Args:
        seed (`int`): 0 to 2**63 - 1.
    """
    return int.from_bytes(hashlib.blake2b(what, digest_size=8, key=seed.to_bytes(8, "big")).digest(), "big")


def _embeddings(people: Any, name: str) -> "np.ndarray":
    import numpy as np

    try:
        # What does not fit becomes infinite, which is refused below.
        with np.errstate(over="ignore"):
            embeddings = np.asarray(people, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise TypeError(f"`{name}` must be an array of embeddings, got {type(people).__name__}.") from error
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise ValueError(f"`{name}` must be finite embeddings, one a row, got the shape {embeddings.shape}.")
    return embeddings


def _faces_to_skip(skip_faces: Any) -> "tuple[Box | PIL.Image.Image | Path | np.ndarray, ...]":
    if isinstance(skip_faces, (str, bytes, Mapping, PIL.Image.Image)) or not isinstance(skip_faces, Iterable):
        raise TypeError(f"`skip_faces` must be a list of boxes or reference photos, got {type(skip_faces).__name__}.")
    return tuple(map(_face_to_skip, skip_faces))


def _face_to_skip(face: Any) -> "Box | PIL.Image.Image | Path | np.ndarray":
    if isinstance(face, PIL.Image.Image):
        return face
    if isinstance(face, (str, os.PathLike)):
        return Path(face)
    if getattr(face, "shape", None) == (EMBEDDING_SIZE,):
        return _embeddings([face], "skip_faces")[0]
    return _box(face.box if isinstance(face, FaceRecord) else face)


def _box(value: Any) -> Box:
    corners = list(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) else []
    real = [corner for corner in corners if isinstance(corner, numbers.Real) and not isinstance(corner, bool)]
    if len(corners) != 4 or len(real) != 4:
        raise TypeError(
            f"`skip_faces` must be a list of boxes (x0, y0, x1, y1) or reference photos; {value!r:.80} is neither."
        )
    x0, y0, x1, y1 = (float(corner) for corner in real)
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x0 >= x1 or y0 >= y1:
        raise ValueError(f"`skip_faces` names the box {(x0, y0, x1, y1)}; x0 < x1 and y0 < y1 must be finite.")
    return x0, y0, x1, y1


def _check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r:.80}.")


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
