"""Findings of the self-test, and the names of the model parts."""

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
    """Result of one measurement.

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
    """Part that a file of weights or settings belongs to; "model" if unknown."""
    return next((part for beginning, part in PARTS.items() if f"/{beginning}" in f"/{path}"), "model")


def at_least(part: str, what: str, value: float, limit: float, form: str = ".2f") -> Finding:
    """Finding with a lower bound. NaN fails."""
    return Finding(part, what, f"{value:{form}} (at least {limit:{form}})", value >= limit)


def at_most(part: str, what: str, value: float, limit: float, form: str = ".2f") -> Finding:
    """Finding with an upper bound. NaN fails."""
    return Finding(part, what, f"{value:{form}} (at most {limit:{form}})", value <= limit)
