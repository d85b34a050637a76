"""Command-line options: generated from the option dataclasses, or about files and runs."""

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
    allowed_values,
    described,
    is_whole,
    number_range,
)
from nullface_pipeline.runs.messages import option_name


SHEET_SUFFIXES = (".png", ".jpg", ".jpeg")

# A random seed has the same number of bits.
MAX_SEED = 2**62

SHARDS = "Shards and engines"
FILES = "Files and runs"

# Metavar of options without a value, for which Typer would show <bool>.
FLAG = ""

# Suffixes of common files besides pictures and videos, which a folder's name rarely has.
_FILE_SUFFIXES = frozenset(
    ".7z .csv .doc .docx .gz .htm .html .json .jsonl .md .mpeg .mpg .ods .odt .ogv .parquet .pdf .ppt .pptx .py .rar "
    ".rtf .tar .tgz .txt .wmv .flv .xls .xlsx .xml .yaml .yml .zip".split()
)

# Path that stands for standard input or standard output.
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
    """Parser of numbers in a range, ends included."""

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
    """Parse a path. An empty one (often an unset shell variable) would mean the current folder."""
    if not str(value) or "\0" in str(value):
        raise typer.BadParameter("the path is empty or contains a null character.")
    return Path(value)


def sheet_path(value: str) -> Path:
    """Parse the path of a PNG or JPEG file."""
    sheet = path(value)
    if sheet.suffix.lower() not in SHEET_SUFFIXES:
        raise typer.BadParameter(f"--contact-sheet takes a {' or '.join(SHEET_SUFFIXES)} file, not {sheet}.")
    return sheet


def folder(value: str) -> Path:
    """Parse the path of an output folder. A new folder is not named like a file."""
    output = path(value)
    if is_file_name(output.name) and not output.exists():
        raise typer.BadParameter(f"{output} is the name of a file. Name a folder.")
    return output


def target(value: str) -> str:
    """Parse the output folder or URL of a data set."""
    return value if "://" in value else str(folder(value))


def photo_output(value: str) -> Path:
    """Parse an output folder, the file of one photo, or `-`."""
    from nullface_pipeline.photo_files import is_photo_name

    output = path(value)
    if is_file_name(output.name) and not is_photo_name(output.name) and not output.exists():
        raise typer.BadParameter(
            f"{output} is the name of a file, but {output.suffix} is not supported. Name a folder; or, for one photo, "
            "a .jpg, .png, .webp, .tif, .bmp or .heic file."
        )
    return output


def is_file_name(name: str) -> bool:
    """Whether a name has the suffix of a picture, a video or another common file type."""
    from nullface_pipeline.photo_files import SUFFIXES, UNREAD_PICTURES, VIDEO_TYPES

    return Path(name).suffix.lower() in SUFFIXES | UNREAD_PICTURES | set(VIDEO_TYPES) | _FILE_SUFFIXES


def model_name(value: str) -> str:
    """Check the form of a model name, without a request to the Hub."""
    if value in ("tiny", "sd15", "sdxl"):
        return value
    if value and Path(value).exists():
        if not Path(value, "model_index.json").is_file():
            raise typer.BadParameter(f"{value} is not the folder of a diffusers model: it has no model_index.json.")
    elif not re.fullmatch(r"\w[\w.-]*/[\w.-]+", value, re.ASCII):
        raise typer.BadParameter(
            f"{value!r} is not a model set (tiny, sd15, sdxl), an existing folder, or a Hub name (OWNER/NAME)."
        )
    return value


def verifier_pack(value: str) -> str:
    """Check the name or folder of an InsightFace pack."""
    if value and Path(value).is_dir():
        if not any(Path(value).glob("*.onnx")):
            raise typer.BadParameter(f"{value} is not a folder of face models: it has no .onnx files.")
        return value
    # Imported late, because it imports torch.
    from nullface_pipeline.fetch_weights import is_known_pack
    from nullface_pipeline.weights import PACKS

    if not is_known_pack(value):
        raise typer.BadParameter(f"{value!r} is not an InsightFace pack ({', '.join(PACKS)}) or an existing folder.")
    return value


def names(values: list[str] | None) -> tuple[str, ...]:
    """Names from a repeatable option that takes comma-separated lists, such as `eyes,mouth`."""
    given = (name.strip() for value in values or () for name in value.split(","))
    return tuple(dict.fromkeys(name for name in given if name))


@dataclass(frozen=True)
class NumberedFace:
    """A face, given by its number in the preview. `photo` is empty if the run has one photo."""

    photo: str
    number: int


def skipped_face(value: str) -> Path | NumberedFace | tuple[float, ...]:
    """Parse a reference photo, a face number (`3` or `a.jpg:3`) or a box (`x0,y0,x1,y1`)."""
    numbered = re.fullmatch(r"(?:(.+):)?([1-9][0-9]{0,3})", value, flags=re.ASCII | re.DOTALL)
    if numbered and not Path(value).exists():
        return NumberedFace(numbered[1] or "", int(numbered[2]))
    corners = value.split(",")
    try:
        return tuple(float(corner) for corner in corners) if len(corners) == 4 else _reference(value)
    except ValueError:
        return _reference(value)


def _reference(value: str) -> Path:
    if not Path(value).exists():
        raise typer.BadParameter(f"{value!r} is not a file, a face number ([PHOTO:]NUMBER), or a box (x0,y0,x1,y1).")
    return path(value)


# Metavar and parser of fields that are neither a number nor a choice.
_PARSERS: dict[str, tuple[str, Callable[[str], Any] | None]] = {
    "keep": ("NAMES", None),
    "model": ("NAME", model_name),
    "device": ("NAME", None),
    "verifier": ("PACK", verifier_pack),
}


def with_options(*schemas: type, exclude: Collection[str] = (), **choices: Sequence[str]) -> Callable[..., Any]:
    """Decorator that adds the options of dataclasses to a command with a `**values` parameter.

    Args:
        schemas (`type`): dataclasses whose fields are made by `option`.
        exclude (`Collection[str]`): fields that this command does not have.
        choices (`Sequence[str]`): choices of a field in this command, the default first.
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
    """Create an options dataclass from the `**values` of a command with `with_options`.

    Raises:
        OptionError: if a value is invalid.
    """
    own = {field.name: values[field.name] for field in fields(schema) if field.name in values}  # type: ignore[arg-type]
    if "keep" in own:
        own["keep"] = names(own["keep"])
    plain = {name: str(value) if isinstance(value, StrEnum) else value for name, value in own.items()}
    return schema(**plain, **others)


def _parameter(field: Field, choices: Sequence[str] = ()) -> inspect.Parameter:
    """Convert a dataclass field to a parameter of a command."""
    description = described(field)
    default = choices[0] if choices else field.default
    annotation, info = _typer_option(field, description, choices or description.choices)
    choices = choices or description.choices
    if choices and default is not None:
        default = annotation(default)
    if field.name == "keep":
        default, annotation = None, list[str]
    if default is None:
        annotation = annotation | None
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info]
    )


def _typer_option(field: Field, description: Option, choices: Sequence[str]) -> tuple[Any, Any]:
    """Type of a command-line option, and its `typer.Option`."""
    name = option_name(field.name)
    ends = allowed_values(field) if description.is_number else ""
    arguments: dict[str, Any] = {"help": f"{description.help} {ends}".strip(), "rich_help_panel": description.group}
    if field.type is bool:
        return bool, typer.Option(name, metavar=FLAG, **arguments)
    if description.is_number:
        whole = is_whole(field)
        parser: Callable[[str], Any] | None = number(description.low, description.high, whole)
        return int if whole else float, typer.Option(name, parser=parser, metavar="N", **arguments)
    if choices:
        kind = StrEnum(field.name, {choice: choice for choice in choices})  # type: ignore[misc]
        return kind, typer.Option(name, metavar="|".join(choices), **arguments)
    metavar, parser = _PARSERS[field.name]
    return str, typer.Option(name, parser=parser, metavar=metavar, **arguments)


def flag(name: str, help: str, panel: str | None = None, short: str | None = None) -> Any:
    """Option without a value."""
    names = [name] if short is None else [name, short]
    return typer.Option(*names, metavar=FLAG, help=help, rich_help_panel=panel)


def file_option(help: str, panel: str | None = None, metavar: str = "FILE") -> Any:
    """Option that takes a path."""
    return typer.Option(parser=path, metavar=metavar, help=help, rich_help_panel=panel)


def whole_number(low: int, high: int, help: str, panel: str | None = None) -> Any:
    """Option that takes an integer in a range, ends included."""
    help = f"{help} {number_range(low, high, whole=True)}"
    return typer.Option(parser=number(low, high, whole=True), metavar="N", help=help, rich_help_panel=panel)


def output_option(help: str, metavar: str = "FOLDER", parser: Callable[[str], Path] = folder) -> Any:
    """`--output`, `-o`."""
    return typer.Option("--output", "-o", parser=parser, metavar=metavar, help=help)


Paths = Annotated[
    list[str], typer.Argument(metavar="PHOTOS", help="Photos, folders or quoted patterns; - for standard input.")
]
Output = Annotated[
    Path, output_option("Output folder; or a file, for one photo; - for standard output.", "PATH", photo_output)
]
KeepMask = Annotated[
    Path | None, file_option("Mask of the photo's size, for one photo; white areas are kept.", IDENTITY)
]
SkipFace = Annotated[
    list[Any] | None,
    typer.Option(
        parser=skipped_face,
        metavar="FACE",
        help="Face to keep: photo of the person, [PHOTO:]NUMBER, or x0,y0,x1,y1.",
        rich_help_panel=IDENTITY,
    ),
]
SkipPerson = Annotated[
    list[Path] | None,
    typer.Option(
        "--skip-face",
        parser=path,
        metavar="FILE",
        help="Reference photo of a person whose face is kept. Repeatable.",
        rich_help_panel=IDENTITY,
    ),
]
Failure = Annotated[
    OnFailure,
    typer.Option(
        metavar="cover|skip-file|error",
        help="If a face still matches: cover it, skip the photo or stop the run.",
        rich_help_panel=VERIFICATION,
    ),
]
Seed = Annotated[
    int | None, whole_number(0, MAX_SEED, "Seed, for repeatable results. Random and secret by default.", RUN)
]

KeepMetadata = Annotated[bool, flag("--keep-metadata", "Keep EXIF data, including GPS, but not its thumbnail.", FILES)]
Report = Annotated[Path | None, file_option("Append one JSON line per photo to FILE.", FILES)]
ContactSheet = Annotated[
    Path | None,
    typer.Option(
        parser=sheet_path, metavar="FILE", help="Write thumbnails of the results, PNG or JPEG.", rich_help_panel=FILES
    ),
]
NoResume = Annotated[bool, flag("--no-resume", "Process again what was finished before.", FILES)]
Overwrite = Annotated[bool, flag("--overwrite", "Replace files that nullface did not write.", FILES)]
DryRun = Annotated[bool, flag("--dry-run", "Only detect faces, and write previews with the faces framed.", FILES)]
AsJson = Annotated[bool, flag("--json", "Print one JSON line per photo, with --dry-run.", FILES)]
Quiet = Annotated[bool, flag("--quiet", "Print only errors, refusals and notices.", FILES, short="-q")]

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Folder or URL of Parquet files, WebDataset tars or photos.")
]
Target = Annotated[
    str,
    typer.Option(
        "--output", "-o", parser=target, metavar="PATH", help="Folder or URL for the results, empty at the start."
    ),
]
EngineName = Annotated[
    Engine,
    typer.Option(
        metavar="local|accelerate|ray",
        help="One process, one per GPU (accelerate launch), or a Ray cluster.",
        rich_help_panel=SHARDS,
    ),
]
Address = Annotated[
    str | None, typer.Option(metavar="HOST:PORT", help="Address of a running Ray cluster.", rich_help_panel=SHARDS)
]
Workers = Annotated[
    int | None, whole_number(1, 100_000, "Number of Ray actors; by default one per GPU, or one.", SHARDS)
]
SeedFile = Annotated[Path | None, file_option("File of the secret seed; by default in the state folder.", SHARDS)]
ImageColumn = Annotated[
    str, typer.Option(metavar="NAME", help="Column of images in Parquet files.", rich_help_panel=SHARDS)
]
IdColumn = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Parquet column of unique row IDs; default: file name and row number.",
        rich_help_panel=SHARDS,
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAMES",
        help="Other columns or tar members to copy, e.g. label,json. Repeatable.",
        rich_help_panel=SHARDS,
    ),
]
ShardSize = Annotated[int, whole_number(1, 1_000_000, "Photos per shard, if SOURCE is a folder of photos.", SHARDS)]
