"""Options of `anonymize`: type, range, help and group, for commands, docs and the Space.

Imports neither torch nor NumPy, so that wrong options are refused before a model is loaded.
"""

import hashlib
import inspect
import math
import numbers
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, Union

import PIL.Image

from .face_regions import check_kept_regions
from .photo_records import Box, FaceRecord, OptionError, OptionTypeError
from .protocols import FaceAnalyser, Settings


if TYPE_CHECKING:
    import numpy as np


# Settings of each preset, by default for Stable Diffusion. Settings that are given take precedence.
PRESETS: dict[str, Settings] = {
    "light": {"skip": 0.8, "guidance_scale": 7.5},
    "standard": {"skip": 0.7, "guidance_scale": 10.0},
    "strong": {"skip": 0.6, "guidance_scale": 15.0},
    # `min_angle` is that of `AngleSearch`. Not measured with Stable Diffusion.
    "private": {"skip": 0.7, "guidance_scale": 20.0, "min_angle": 90.0},
    "fast": {"skip": 0.7, "guidance_scale": 10.0, "few_steps": 7},
    "preview": {"skip": 0.7, "guidance_scale": 10.0, "few_steps": 3},
}

# The first of each is the default. See `identity_choices.py` and `face_covers.py`.
IDENTITIES = ("random", "opposite", "consistent")
VIDEO_IDENTITIES = ("opposite", "consistent")
COVERS = ("solid", "blur", "mosaic")

MAX_SEED = 2**63 - 1

# A box, a reference photo or its path, or an embedding.
FaceToSkip = Union[Box, PIL.Image.Image, Path, "np.ndarray"]

EMBEDDING_SIZE = 512

# Groups of options in help and docs.
IDENTITY = "New face"
VERIFICATION = "Verification"
METHOD = "Method"
RUN = "Model and machine"


@dataclass(frozen=True)
class Option:
    """Description of one option, in the metadata of its dataclass field.

    Attributes:
        help (`str`): one sentence.
        group (`str`): heading in help and docs.
        details (`str`): further sentences for Python users.
        low, high (`float`): range of a number, ends included; infinite otherwise.
        choices (`tuple[str, ...]`): allowed values of a text.
        in_command (`bool`): whether a command-line option is generated.
        changes_result (`bool`): whether results depend on it.
    """

    help: str
    group: str
    details: str = ""
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()
    in_command: bool = True
    changes_result: bool = True

    @property
    def is_number(self) -> bool:
        return self.low > -math.inf


# Any, as `dataclasses.field` has it: the field's annotation is its type.
def option(default: Any, help: str, group: str, **description: Any) -> Any:
    """A dataclass field with the [`Option`] that describes it."""
    return field(default=default, metadata={"option": Option(help, group, **description)})


def described(of: Field) -> Option:
    """The description of a field that `option` made."""
    return of.metadata["option"]


def is_whole(of: Field) -> bool:
    """Whether a field holds an int."""
    return of.type in (int, int | None)


@dataclass(frozen=True, eq=False, kw_only=True)
class PhotoOptions:
    """Options of one photo, checked when they are set.

    {attributes}

    Raises:
        OptionError: (a `ValueError`) if a value is out of range, not finite or does not go with
            others.
        OptionTypeError: (a `TypeError` too) if a value is of a wrong type.
    """

    keep: tuple[str, ...] = option(
        (), "Facial regions to keep unchanged, e.g. eyes,mouth.", IDENTITY, details="They keep the photo's own pixels."
    )
    keep_mask: PIL.Image.Image | None = option(
        None,
        "Mask of the photo's size; white areas of a face are kept.",
        IDENTITY,
        details="In upright orientation. A face with too little left to change is covered.",
        in_command=False,
    )
    seed: int | None = option(
        None,
        "Seed of the random numbers, for results that can be repeated.",
        RUN,
        low=0,
        high=MAX_SEED,
        in_command=False,
        changes_result=False,
    )
    preset: str = option(
        "standard",
        "Strength (light to strong, private), or few steps (fast, preview).",
        IDENTITY,
        details="Sets `skip` and `guidance_scale`, or `few_steps`, to the model's values. See `pipe.presets`.",
        choices=tuple(PRESETS),
    )
    skip_faces: "tuple[FaceToSkip, ...]" = option(
        (),
        "Faces to keep unchanged.",
        IDENTITY,
        details="Each is a box `(x0, y0, x1, y1)` in photo pixels, a [`FaceRecord`] of an earlier result, a "
        "reference photo of one person (an image or a path), or a row of `people`. Of a reference, the most "
        "similar face is kept if it is similar enough. Recognizers make mistakes, so boxes are safer.",
        in_command=False,
    )
    identity: str = option(
        IDENTITIES[0],
        "New identity of the faces; opposite is the paper's.",
        IDENTITY,
        details="`random` rotates the embedding towards a random identity until the similarity of the result to the "
        "person is that of a random stranger. `opposite` "
        "negates the embedding, as the paper does; an attacker can search for the least similar person. `consistent` "
        "gives each of `people` one new face in all photos of an album.",
        choices=IDENTITIES,
    )
    people: "np.ndarray | None" = option(
        None,
        "Embeddings of the people of an album, from `find_people`.",
        IDENTITY,
        details="(P, 512) float32, for `identity='consistent'`. Use one `seed` for all photos of an album; "
        "without one, the photos of a process share a random seed.",
        in_command=False,
    )
    prompt: str | None = option(
        None,
        "Description of the new faces, e.g. an old man with a beard.",
        IDENTITY,
        details="For models with a text encoder; nullface-tiny has none.",
        in_command=False,
    )
    similarity_threshold: float | None = option(
        None,
        "Lowest cosine similarity at which a result matches the person.",
        VERIFICATION,
        details="By default that of the recognizer.",
        low=-1.0,
        high=1.0,
    )
    accept_recognizable: bool = option(
        False,
        "Allow a similarity threshold above the recognizer's own.",
        VERIFICATION,
        details="Results that the recognizer matches with the person then pass.",
    )
    verifier: FaceAnalyser | None = option(
        None,
        "Second recognizer that must not match the person either.",
        VERIFICATION,
        details="An InsightFace `FaceAnalysis`. It uses the same threshold.",
        in_command=False,
        # Models are compared by name, see `ModelOptions`.
        changes_result=False,
    )
    max_attempts: int = option(
        3, "Attempts at a face before it is covered.", VERIFICATION, low=1, high=20, in_command=False
    )
    min_face: float = option(
        0.0,
        "Cover faces whose longer side is below N pixels.",
        VERIFICATION,
        details="They are not replaced.",
        low=0.0,
        high=1e6,
    )
    on_failure: str = option(
        "cover",
        "Treatment of a face that still matches the person.",
        VERIFICATION,
        details="`error` raises an exception and returns nothing.",
        choices=("cover", "error"),
        in_command=False,
    )
    cover: str = option(
        COVERS[0],
        "Look of covers; each is drawn from one average color.",
        VERIFICATION,
        choices=COVERS,
    )
    num_inference_steps: int | None = option(
        None,
        "Total number of diffusion steps, T.",
        METHOD,
        low=1,
        high=999,
        details="Cannot be given with `few_steps`.",
    )
    few_steps: int | None = option(
        None,
        "Number of evenly spaced steps, in place of T and skip.",
        METHOD,
        details="7 steps give nearly the same result in 20 instead of 89 UNet evaluations, 3 steps a preview in 8. A "
        "face that still matches is retried with all steps.",
        low=2,
        high=100,
        in_command=False,
    )
    solver_order: int | None = option(None, "Order of the solver.", METHOD, low=1, high=2, in_command=False)
    skip: float | None = option(
        None, "Share of the steps to leave out; a higher one keeps more of the photo.", METHOD, low=0.0, high=0.999
    )
    guidance_scale: float | None = option(
        None, "Guidance scale; higher values move further from the person.", METHOD, low=-100.0, high=100.0
    )
    identity_scale: float | None = option(None, "Norm of the identity embedding.", METHOD, low=-10.0, high=10.0)
    identity_angle: float | None = option(
        None,
        "Rotate the opposite identity by a random angle of up to N degrees.",
        METHOD,
        details="For `identity='opposite'`.",
        low=0.0,
        high=180.0,
    )
    mask_start: float | None = option(
        None,
        "Share of the steps after which the mask applies.",
        METHOD,
        low=0.0,
        high=1.0,
        in_command=False,
    )
    eta: float | None = option(
        None, "Noise of the inversion's steps, relative to DDPM.", METHOD, low=1e-3, high=1.0, in_command=False
    )
    ip_adapter_scale: float | None = option(
        None, "Scale of the face adapter.", METHOD, low=-10.0, high=10.0, in_command=False
    )
    batch_faces: int = option(8, "Number of faces in one batch.", RUN, low=1, high=1024, changes_result=False)
    inversion_batch_size: int | None = option(
        None,
        "Timesteps in one batch of the inversion.",
        RUN,
        low=1,
        high=4096,
        in_command=False,
        changes_result=False,
    )
    on_progress: Callable[[int, int], None] | None = option(
        None,
        "Callback with the number of finished faces and of all faces.",
        RUN,
        details="Called before each attempt and at the end.",
        in_command=False,
        changes_result=False,
    )

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "keep", _region_names(self.keep))
        object.__setattr__(self, "skip_faces", _faces_to_skip(self.skip_faces))
        if self.few_steps is not None and self.num_inference_steps is not None:
            raise OptionError("few_steps", "and `num_inference_steps` exclude each other. Leave one out.")
        self._check_identity()
        if not (self.on_progress is None or callable(self.on_progress)):
            raise OptionTypeError("on_progress", f"must be a function, got {type(self.on_progress).__name__}.")
        if not isinstance(self.prompt, (str, NoneType)):
            raise OptionTypeError("prompt", f"must be a str, got {type(self.prompt).__name__}.")
        if self.keep_mask is not None and not isinstance(self.keep_mask, PIL.Image.Image):
            raise OptionTypeError("keep_mask", f"must be a PIL image, got {type(self.keep_mask).__name__}.")

    def _check_identity(self) -> None:
        if self.people is not None:
            if self.identity != "consistent":
                raise OptionError("people", "only applies to the consistent identity.")
            object.__setattr__(self, "people", _embeddings(self.people, "people"))
        if self.preset == "private" and self.identity != "random":
            raise OptionError("preset", "private needs `identity` random.")
        if self.identity_angle is not None and self.identity != "opposite":
            raise OptionError("identity_angle", "needs `identity` opposite.")
        if self.identity == "random":
            for name in ("identity_scale", "guidance_scale"):
                if (getattr(self, name) or 0.0) < 0.0:
                    raise OptionError(name, "below 0 moves towards the person. It needs the opposite identity.")

    @classmethod
    def from_arguments(cls, arguments: Settings, options: "PhotoOptions | None" = None) -> "PhotoOptions":
        """Options by name, others as in `options` or default; TypeError for an unknown name."""
        if not isinstance(options, (cls, NoneType)):
            raise TypeError(f"`options` must be PhotoOptions, got {type(options).__name__}; name each option.")
        known = [each.name for each in fields(cls)]
        unknown = sorted(set(arguments) - set(known))
        if "strength" in unknown:
            raise TypeError("`anonymize` does not take `strength`. Pass `skip`, which is 1 - `strength`.")
        if unknown:
            raise TypeError(f"`anonymize` does not take {', '.join(unknown)}; its options are {', '.join(known)}.")
        return replace(options or cls(), **arguments)

    def settings(self, presets: Mapping[str, Settings] = PRESETS) -> Settings:
        """Arguments of the pipeline: those of the preset, overridden by the given options.

        Args:
            presets: the settings of each preset, `pipe.presets`. They differ between model sets.
        """
        settings = dict(presets[self.preset])
        given = {name: value for name in _SETTINGS if (value := getattr(self, name)) is not None}
        for name, other in (("num_inference_steps", "few_steps"), ("few_steps", "num_inference_steps")):
            if name in given:
                settings.pop(other, None)
        # Kept pixels are the person's own; only the opposite offsets their similarity.
        if self.identity != "random" or self.keep or self.keep_mask is not None:
            settings.pop("min_angle", None)
        return settings | given


# Options that are arguments of the pipeline's `__call__`.
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


def content(options: object) -> Settings:
    """Values of options that results depend on, for JSON; images, arrays and files as SHA-256."""
    return {
        each.name: _plain(getattr(options, each.name))
        for each in fields(options)  # type: ignore[arg-type]
        if described(each).changes_result
    }


def option_docs() -> str:
    """The "Attributes" section of the docstring of `PhotoOptions`."""
    lines = ["Attributes:"]
    for each in fields(PhotoOptions):
        about = described(each)
        text = " ".join(filter(None, (f"`{each.name}`:", about.help, about.details, allowed_values(each))))
        lines += textwrap.wrap(text, 100, initial_indent=8 * " ", subsequent_indent=12 * " ")
    return "\n".join(lines)


def allowed_values(of: Field) -> str:
    """The choices or the range of an option as a sentence, or an empty text."""
    about = described(of)
    if about.choices:
        return f"One of {', '.join(about.choices)}."
    return number_range(about.low, about.high, is_whole(of)) if about.is_number else ""


def number_range(low: float, high: float, whole: bool) -> str:
    """The range of a number as a sentence, ends included."""
    ends = [str(int(end)) if end == int(end) else str(end) for end in (low, high)]
    return f"{'Integer' if whole else 'Number'} from {ends[0]} to {ends[1]}."


def with_named_options(function: Callable) -> Callable:
    """Decorator: show the fields of `PhotoOptions` in the signature in place of `**arguments`."""
    signature = inspect.signature(function)
    named = [parameter for parameter in signature.parameters.values() if parameter.kind is not parameter.VAR_KEYWORD]
    named += [
        inspect.Parameter(each.name, inspect.Parameter.KEYWORD_ONLY, default=each.default, annotation=each.type)
        for each in fields(PhotoOptions)
    ]
    function.__signature__ = signature.replace(parameters=named)  # type: ignore[attr-defined]
    return function


def check_fields(options: object) -> None:
    """Check and normalize every field of a frozen options dataclass, in its `__post_init__`.

    Raises:
        OptionError, OptionTypeError: as `checked`.
    """
    for each in fields(options):  # type: ignore[arg-type]
        object.__setattr__(options, each.name, checked(each, getattr(options, each.name)))


def checked(of: Field, value: object) -> object:
    """A field's value: numbers as a plain int or float, others unchanged.

    Raises:
        OptionTypeError: if the value is not a number, an int, or True or False where the field is
            one.
        OptionError: if it is not finite, out of range, or not among the choices.
    """
    about = described(of)
    if of.default is None and value is None:
        return value
    if about.choices:
        if not isinstance(value, str) or value not in about.choices:
            raise OptionError(of.name, f"must be one of {', '.join(about.choices)}, got {value!r:.80}.")
    elif of.type is bool and not isinstance(value, bool):
        raise OptionTypeError(of.name, f"must be True or False, got {value!r:.80}.")
    elif about.is_number:
        return _checked_number(of, value)
    return value


def _checked_number(of: Field, value: object) -> int | float:
    about, whole = described(of), is_whole(of)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if whole else numbers.Real):
        raise OptionTypeError(of.name, f"must be {'an integer' if whole else 'a number'}, got {value!r:.80}.")
    number: int | float = int(value) if whole else float(value)  # type: ignore[call-overload]
    if not (math.isfinite(number) and about.low <= number <= about.high):
        raise OptionError(of.name, f"must be from {about.low:g} to {about.high:g}, got {number}.")
    return number


def _region_names(keep: object) -> tuple[str, ...]:
    if isinstance(keep, str):
        raise OptionError("keep", f"must be a list or tuple of region names, for example ({keep!r},).")
    if not isinstance(keep, Iterable):
        raise OptionTypeError("keep", f"must be a list or tuple of region names, got {keep!r:.80}.")
    names = tuple(keep)
    wrong = [name for name in names if not isinstance(name, str)]
    if wrong:
        raise OptionTypeError("keep", f"must hold names of regions, got {wrong[0]!r:.80}.")
    check_kept_regions(names)
    return names


def keyed_number(seed: int, what: bytes) -> int:
    """64 bits that depend on `what` and cannot be predicted without the seed: keyed BLAKE2b.

    Args:
        seed (`int`): 0 to 2**63 - 1.
    """
    return int.from_bytes(hashlib.blake2b(what, digest_size=8, key=seed.to_bytes(8, "big")).digest(), "big")


def _embeddings(people: object, name: str) -> "np.ndarray":
    import numpy as np

    try:
        # Overflow becomes inf and is rejected below.
        with np.errstate(over="ignore"):
            embeddings = np.asarray(people, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise OptionTypeError(name, f"must be an array of embeddings, got {type(people).__name__}.") from error
    if embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise OptionError(name, f"must be finite embeddings, one per row, got the shape {embeddings.shape}.")
    return embeddings


def _faces_to_skip(skip_faces: object) -> "tuple[FaceToSkip, ...]":
    if isinstance(skip_faces, (str, bytes, Mapping, PIL.Image.Image)) or not isinstance(skip_faces, Iterable):
        raise OptionTypeError(
            "skip_faces", f"must be a list of boxes or reference photos, got {type(skip_faces).__name__}."
        )
    return tuple(map(_face_to_skip, skip_faces))


def _face_to_skip(face: object) -> "FaceToSkip":
    if isinstance(face, PIL.Image.Image):
        return face
    if isinstance(face, (str, os.PathLike)):
        return Path(face)
    if getattr(face, "shape", None) == (EMBEDDING_SIZE,):
        return _embeddings([face], "skip_faces")[0]
    return _box(face.box if isinstance(face, FaceRecord) else face)


def _box(value: object) -> Box:
    corners = list(value) if isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) else []
    real = [corner for corner in corners if isinstance(corner, numbers.Real) and not isinstance(corner, bool)]
    if len(corners) != 4 or len(real) != 4:
        raise OptionTypeError(
            "skip_faces", f"must be a list of boxes (x0, y0, x1, y1) or reference photos, got {value!r:.80} in it."
        )
    x0, y0, x1, y1 = (float(corner) for corner in real)
    if not all(map(math.isfinite, (x0, y0, x1, y1))) or x0 >= x1 or y0 >= y1:
        raise OptionError(
            "skip_faces", f"holds the box {(x0, y0, x1, y1)}; x0 must be less than x1, and y0 less than y1."
        )
    return x0, y0, x1, y1


def _plain(value: object) -> object:
    """A value for JSON: arrays, images and files by their SHA-256."""
    if isinstance(value, tuple):
        # The order does not matter to any option.
        return sorted((_plain(each) for each in value), key=str)
    if isinstance(value, PIL.Image.Image):
        return hashlib.sha256(f"{value.mode} {value.size}".encode() + value.tobytes()).hexdigest()
    if isinstance(value, Path):
        return hashlib.sha256(value.read_bytes()).hexdigest()
    return hashlib.sha256(value.tobytes()).hexdigest() if hasattr(value, "tobytes") else value


if PhotoOptions.__doc__ is not None:  # not under `python -OO`
    PhotoOptions.__doc__ = PhotoOptions.__doc__.replace("{attributes}", option_docs())
