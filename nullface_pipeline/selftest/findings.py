"""Findings of the self-test, and the names of the model parts."""

from dataclasses import dataclass


# Parts by the beginning of the file or folder name, for nullface-tiny and Stable Diffusion.
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
        part (`str`): model part that fails if the value is out of range.
        quantity (`str`): measured quantity, with its unit.
        value (`str`): measured value, with the expected one in brackets.
        passed (`bool`): whether the value is as expected.
    """

    part: str
    quantity: str
    value: str
    passed: bool


def part_of_file(path: str) -> str:
    """Part that a file of weights or settings belongs to; "model" if unknown."""
    return next((part for beginning, part in PARTS.items() if f"/{beginning}" in f"/{path}"), "model")


def at_least(part: str, quantity: str, value: float, limit: float, form: str = ".2f") -> Finding:
    """Finding with a lower bound. NaN fails."""
    return Finding(part, quantity, f"{value:{form}} (at least {limit:{form}})", value >= limit)


def at_most(part: str, quantity: str, value: float, limit: float, form: str = ".2f") -> Finding:
    """Finding with an upper bound. NaN fails."""
    return Finding(part, quantity, f"{value:{form}} (at most {limit:{form}})", value <= limit)
