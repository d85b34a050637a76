"""Command-line options: those of the option dataclasses, which are generated, and those of files and runs."""

import inspect
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import Field, dataclass, fields
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from nullface_pipeline.photo_options import (
    IDENTITY,
    RUN,
    VERIFICATION,
    Option,
    described,
    is_whole,
)


SHEET_SUFFIXES = (".png", ".jpg", ".jpeg")

# The secret one has as many bits.
MAX_SEED = 2**62

SHARDS = "Shards and engines"
FILES = "Files and runs"

# Of options without a value, for which Typer would show <bool>.
FLAG = ""

# A photo on the standard input, a result on the standard output.
STREAM = "-"

Options = TypeVar("Options")


class OnFailure(StrEnum):
    cover = "cover"
    skip_file = "skip-file"
    error = "error"


class Engine(StrEnum):
    local = "local"
    accelerate = "accelerate"
    ray = "ray"


def number(low: float, high: float, whole: bool) -> Callable[[str], Any]:
    """A parser of numbers of a range, the ends included."""

    def parse(value: str) -> Any:
        try:
            read = int(value) if whole else float(value)
        except ValueError as error:
            raise typer.BadParameter(f"{value!r} is not {'an integer' if whole else 'a number'}.") from error
        # Not "outside": NaN is neither below nor above any bound.
        if not low <= read <= high:
            ends = f"{low:.0f} to {high:.0f}" if whole else f"{low:g} to {high:g}"
            raise typer.BadParameter(f"{value} is not in the range from {ends}.")
        return read

    return parse


def path(value: str) -> Path:
    """Parse a path. An empty one, often an unset shell variable, would mean the current folder."""
    if not str(value) or "\0" in str(value):
        raise typer.BadParameter("the path is empty or contains a null character.")
    return Path(value)


def sheet_path(value: str) -> Path:
    """A path whose suffix says how to write a picture."""
    sheet = path(value)
    if sheet.suffix.lower() not in SHEET_SUFFIXES:
        raise typer.BadParameter(f"--contact-sheet takes a {' or '.join(SHEET_SUFFIXES)} file, not {sheet}.")
    return sheet


def model_name(value: str) -> str:
    """Check the form of a model name before the Hub is asked."""
    if value not in ("tiny", "sd15", "sdxl") and "/" not in value and not Path(value).exists():
        raise typer.BadParameter(
            f"{value!r} is none of tiny, sd15 and sdxl, no folder, and no Hub name like OWNER/NAME."
        )
    return value


def verifier_pack(value: str) -> str:
    """An InsightFace pack by name, or its folder."""
    if "/" in value and not Path(value).is_dir():
        raise typer.BadParameter(f"there is no folder {value}.")
    return value


def names(values: list[str] | None) -> tuple[str, ...]:
    """Names of an option that can be repeated and takes lists with commas: `eyes,mouth`."""
    given = (name.strip() for value in values or () for name in value.split(","))
    return tuple(dict.fromkeys(name for name in given if name))


@dataclass(frozen=True)
class NumberedFace:
    """A face by its number in the preview of a photo; `photo` is empty for the only one."""

    photo: str
    number: int


def skipped_face(value: str) -> Path | NumberedFace | tuple[float, ...]:
    """A reference photo, a face's number as in `3` or `a.jpg:3`, or a box `x0,y0,x1,y1`."""
    numbered = re.fullmatch(r"(?:(.+):)?([1-9][0-9]{0,3})", value, flags=re.ASCII | re.DOTALL)
    if numbered and not Path(value).exists():
        return NumberedFace(numbered[1] or "", int(numbered[2]))
    corners = value.split(",")
    try:
        return tuple(float(corner) for corner in corners) if len(corners) == 4 else path(value)
    except ValueError:
        return path(value)


def option_name(field: str) -> str:
    """The command's name of a field: `--min-face` for `min_face`."""
    return "--" + {"skip_faces": "skip_face"}.get(field, field).replace("_", "-")


def with_option_names(message: str) -> str:
    """Replace the fields in a message by their options: `--min-face` for `min_face` in backticks."""
    return re.sub(r"`(\w+)`", lambda field: option_name(field[1]), message)


# Fields that take more than a number or a choice.
_PARSERS: dict[str, tuple[str, Callable[[str], Any] | None]] = {
    "keep": ("NAMES", None),
    "model": ("NAME", model_name),
    "device": ("NAME", None),
    "verifier": ("PACK", verifier_pack),
}


def with_options(*schemas: type, exclude: Collection[str] = (), **choices: Sequence[str]) -> Callable[..., Any]:
    """Decorator: give a command the options of dataclasses, which it takes as `**values`.

    Args:
        schemas: dataclasses whose fields `option` made.
        exclude: fields that this command does not take.
        choices: choices of a field in this command, the default first.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        generated = [
            _parameter(field, choices.get(field.name, ()))
            for schema in schemas
            for field in fields(schema)
            if described(field).in_command and field.name not in exclude
        ]
        required = [each for each in own if each.default is each.empty]
        optional = [each.replace(kind=each.KEYWORD_ONLY) for each in own if each.default is not each.empty]
        command.__signature__ = signature.replace(parameters=[*required, *generated, *optional])  # type: ignore[attr-defined]
        return command

    return decorate


def read_options(schema: type[Options], values: dict[str, Any], **others: Any) -> Options:
    """An options dataclass from the values of a command that was decorated by `with_options`.

    Raises:
        OptionError: if a value is wrong.
    """
    taken = {field.name: values[field.name] for field in fields(schema) if field.name in values}  # type: ignore[arg-type]
    if "keep" in taken:
        taken["keep"] = names(taken["keep"])
    given = {name: str(value) if isinstance(value, StrEnum) else value for name, value in taken.items()}
    return schema(**given, **others)


def _parameter(field: Field, choices: Sequence[str] = ()) -> inspect.Parameter:
    """A field as a parameter of a command."""
    about = described(field)
    default = choices[0] if choices else field.default
    choices = choices or about.choices
    annotation, info = _typer_option(field, about, choices)
    if choices and default is not None:
        default = annotation(default)
    if field.name == "keep":
        default, annotation = None, list[str]
    if default is None:
        annotation = annotation | None
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info]
    )


def _typer_option(field: Field, about: Option, choices: Sequence[str]) -> tuple[Any, Any]:
    """The type of an option, and what Typer has to know about it."""
    arguments: dict[str, Any] = {"help": about.help, "rich_help_panel": about.group}
    name = option_name(field.name)
    if field.type is bool:
        return bool, typer.Option(name, metavar=FLAG, **arguments)
    if about.is_number:
        whole = is_whole(field)
        read = number(about.low, about.high, whole)
        return int if whole else float, typer.Option(name, parser=read, metavar="N", **arguments)
    if choices:
        return StrEnum(field.name, {each: each for each in choices}), typer.Option(
            name, metavar="|".join(choices), **arguments
        )
    metavar, parser = _PARSERS[field.name]
    return str, typer.Option(name, parser=parser, metavar=metavar, **arguments)


Paths = Annotated[
    list[str],
    typer.Argument(metavar="PHOTOS", help="Photos, folders and patterns in quotes; - for standard input."),
]
Output = Annotated[
    Path,
    typer.Option(
        *("--output", "-o"),
        parser=path,
        metavar="PATH",
        help="Folder for the results, which mirrors the trees read; a file for one photo; - for standard output.",
    ),
]

KeepMask = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        metavar="FILE",
        help="For one photo: a picture of its size, white where it stays as it is, a lesion for example.",
        rich_help_panel=IDENTITY,
    ),
]
SkipFace = Annotated[
    list[Any] | None,
    typer.Option(
        parser=skipped_face,
        metavar="WHO",
        help="Face to leave as it is: a reference photo of the person, its number in the preview (3 or a.jpg:3), or a "
        "box x0,y0,x1,y1. Repeatable.",
        rich_help_panel=IDENTITY,
    ),
]
SkipPerson = Annotated[
    list[Path] | None,
    typer.Option(
        "--skip-face",
        parser=path,
        metavar="FILE",
        help="Somebody who agreed to be seen: a photo of this person alone. Repeatable.",
        rich_help_panel=IDENTITY,
    ),
]


Failure = Annotated[
    OnFailure,
    typer.Option(
        metavar="WHAT",
        help="With a face that cannot be hidden: cover it, leave its photo out (skip-file), or stop there (error).",
        rich_help_panel=VERIFICATION,
    ),
]

Seed = Annotated[
    int | None,
    typer.Option(
        parser=number(0, MAX_SEED, whole=True),
        metavar="N",
        help="Same seed, same faces; a secret one by default.",
        rich_help_panel=RUN,
    ),
]


KeepMetadata = Annotated[
    bool,
    typer.Option(
        "--keep-metadata",
        metavar=FLAG,
        help="Keep the EXIF, GPS included; never its thumbnail.",
        rich_help_panel=FILES,
    ),
]
Report = Annotated[
    Path | None,
    typer.Option(parser=path, metavar="FILE", help="Append one JSON line a photo.", rich_help_panel=FILES),
]
ContactSheet = Annotated[
    Path | None,
    typer.Option(
        parser=sheet_path, metavar="FILE", help="Small pictures of the results, PNG or JPEG.", rich_help_panel=FILES
    ),
]
NoResume = Annotated[
    bool,
    typer.Option(
        "--no-resume", metavar=FLAG, help="Do again what was done with the same options.", rich_help_panel=FILES
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", metavar=FLAG, help="Replace files that no run is known to have made.", rich_help_panel=FILES
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        metavar=FLAG,
        help="Only look for faces, and write previews with these covered.",
        rich_help_panel=FILES,
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", metavar=FLAG, help="With --dry-run: one JSON line a photo.", rich_help_panel=FILES)
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet", "-q", metavar=FLAG, help="Say nothing but errors, refusals and notices.", rich_help_panel=FILES
    ),
]

Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE", help="Folder or URL (s3://, gs://, hf://) of Parquet files, WebDataset tars, or photos."
    ),
]
Target = Annotated[
    str,
    typer.Option(
        *("--output", "-o"),
        metavar="PLACE",
        help="Folder or URL for shards of the same names, empty in the beginning.",
    ),
]
EngineName = Annotated[
    Engine,
    typer.Option(
        metavar="NAME",
        help="local: this process. accelerate: one for each GPU, by accelerate launch. ray: a cluster.",
        rich_help_panel=SHARDS,
    ),
]
Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Of a running Ray cluster.", rich_help_panel=SHARDS)
]
Workers = Annotated[
    int | None,
    typer.Option(
        parser=number(1, 100_000, whole=True),
        metavar="N",
        help="Ray's actors; one for each GPU by default, or one.",
        rich_help_panel=SHARDS,
    ),
]
SeedFile = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        metavar="FILE",
        help="The secret seed, drawn if there is none; by default among your own files.",
        rich_help_panel=SHARDS,
    ),
]
ImageColumn = Annotated[
    str, typer.Option(metavar="NAME", help="Parquet: the column of images.", rich_help_panel=SHARDS)
]
IdColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Parquet: the column that tells a row from all others; its file and number by default.",
        rich_help_panel=SHARDS,
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAMES",
        help="Other columns, or members of tars by suffix, to keep: label,json. They can identify people. Repeatable.",
        rich_help_panel=SHARDS,
    ),
]
ShardSize = Annotated[
    int,
    typer.Option(
        parser=number(1, 1_000_000, whole=True),
        metavar="N",
        help="Photos of a folder in one shard.",
        rich_help_panel=SHARDS,
    ),
]
