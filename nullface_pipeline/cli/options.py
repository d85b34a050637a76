"""What the options of the command take: a wrong value is refused while the line is read, by the option's name."""

import math
from enum import StrEnum
from pathlib import Path

import typer


SHEET_SUFFIXES = (".png", ".jpg", ".jpeg")

# Names and the numbers of faces are added to it, and the sum has to fit into 64 bits.
MAX_SEED = 2**62


class Dtype(StrEnum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Preset(StrEnum):
    light = "light"
    standard = "standard"
    strong = "strong"
    fast = "fast"
    preview = "preview"


class OnFailure(StrEnum):
    cover = "cover"
    skip_file = "skip-file"
    error = "error"


def finite(value: float | None) -> float | None:
    """NaN is neither below nor above any bound, so the bounds let it pass."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is no finite number.")
    return value


def written_path(value: str) -> Path:
    """An empty name is mostly a variable of the shell that is not set, and would mean the present folder."""
    if not str(value) or "\0" in str(value):
        raise typer.BadParameter("the name is empty or holds what no name can.")
    return Path(value)


def sheet_path(value: str) -> Path:
    """A path whose suffix says how to write a picture."""
    path = written_path(value)
    if path.suffix.lower() not in SHEET_SUFFIXES:
        raise typer.BadParameter(f"--contact-sheet takes a {' or '.join(SHEET_SUFFIXES)} file, not {path}.")
    return path


def region_names(value: str) -> tuple[str, ...]:
    """`eyes,mouth` as names."""
    return tuple(name.strip() for name in value.split(",") if name.strip())
