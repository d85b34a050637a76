"""What the parts of a model set are called, and what was found of one."""

from dataclasses import dataclass


# A part by the folder or file that it is loaded from, in nullface-tiny as in Stable Diffusion's repositories.
PARTS = {
    "vae": "autoencoder",
    "unet": "denoiser",
    "text_encoder": "text encoder",
    "tokenizer": "text encoder",
    "scheduler": "scheduler",
    "detector": "detector",
    "recognizer": "recognizer",
    "face_parser": "parser",
    "parsing_bisenet": "parser",
    "face_adapter": "adapter",
    "ip-adapter": "adapter",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        part (`str`): the part that is wrong if it is not as it should be.
        quantity (`str`): what was measured.
        value (`str`): found, and in brackets what was expected.
        passed (`bool`): whether the two agree.
    """

    part: str
    quantity: str
    value: str
    passed: bool


def part_of_file(path: str) -> str:
    """The part that a file of weights or settings belongs to; "model" if it is of none."""
    return next((part for beginning, part in PARTS.items() if f"/{beginning}" in f"/{path}"), "model")


def at_least(part: str, what: str, value: float, limit: float, form: str = ".2f") -> Finding:
    """Finding of a number with a lower bound; no number is below it."""
    return Finding(part, what, f"{value:{form}} (at least {limit:{form}})", value >= limit)


def at_most(part: str, what: str, value: float, limit: float, form: str = ".2f") -> Finding:
    """Finding of a number with an upper bound; no number is above it."""
    return Finding(part, what, f"{value:{form}} (at most {limit:{form}})", value <= limit)
