"""The options of the commands: what each takes, its group in the help, and what is refused while the line is read."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from nullface_pipeline.photo_records import NUMBER_RANGES


SHEET_SUFFIXES = (".png", ".jpg", ".jpeg")

# The secret one has as many bits.
MAX_SEED = 2**62

FACES = "The new faces"
CHECKS = "What counts as hidden"
RUN = "Model and machine"
SHARDS = "Shards and engines"
FILES = "Files and runs"

# Of options without a value, for which Typer would show <bool>.
FLAG = ""

# A photo on the standard input, a result on the standard output.
STREAM = "-"


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


class Cover(StrEnum):
    solid = "solid"
    blur = "blur"
    mosaic = "mosaic"


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
            raise typer.BadParameter(f"{value!r} is no {'whole number' if whole else 'number'}.") from error
        # Not "outside": NaN is neither below nor above any bound.
        if not low <= read <= high:
            ends = f"{low:.0f} to {high:.0f}" if whole else f"{low:g} to {high:g}"
            raise typer.BadParameter(f"{value} is not in the range from {ends}.")
        return read

    return parse


def field_number(field: str) -> Callable[[str], Any]:
    """A parser of numbers in the range of a field of `PhotoOptions`."""
    return number(*NUMBER_RANGES[field])


def path(value: str) -> Path:
    """An empty name is mostly a variable of the shell that is not set, and would mean the present folder."""
    if not str(value) or "\0" in str(value):
        raise typer.BadParameter("the name is empty or holds what no name can.")
    return Path(value)


def sheet_path(value: str) -> Path:
    """A path whose suffix says how to write a picture."""
    sheet = path(value)
    if sheet.suffix.lower() not in SHEET_SUFFIXES:
        raise typer.BadParameter(f"--contact-sheet takes a {' or '.join(SHEET_SUFFIXES)} file, not {sheet}.")
    return sheet


def model_name(value: str) -> str:
    """A model set, a folder or a Hub name, by its looks: what is none would only be found out after a search on the Hub."""
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

Keep = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAMES",
        help="Facial regions to keep, with commas: eyes,mouth. Repeatable.",
        rich_help_panel=FACES,
    ),
]
KeepMask = Annotated[
    Path | None,
    typer.Option(
        parser=path,
        metavar="FILE",
        help="For one photo: a picture of its size, white where it stays as it is, a lesion for example.",
        rich_help_panel=FACES,
    ),
]
SkipFace = Annotated[
    list[Any] | None,
    typer.Option(
        parser=skipped_face,
        metavar="WHO",
        help="Face to leave as it is: a reference photo of the person, its number in the preview (3 or a.jpg:3), or a "
        "box x0,y0,x1,y1. Repeatable.",
        rich_help_panel=FACES,
    ),
]
SkipPerson = Annotated[
    list[Path] | None,
    typer.Option(
        "--skip-face",
        parser=path,
        metavar="FILE",
        help="Somebody who agreed to be seen: a photo of this person alone. Repeatable.",
        rich_help_panel=FACES,
    ),
]
PresetName = Annotated[
    Preset,
    typer.Option(
        metavar="NAME",
        help="Distance of the new face from the old one: light, standard or strong. fast and preview: fewer steps (fast "
        "saves nothing with nullface-tiny).",
        rich_help_panel=FACES,
    ),
]

Opposite = Annotated[
    bool,
    typer.Option(
        "--opposite",
        metavar=FLAG,
        help="The paper's way: straight away from the person. Faster, but whoever knows it finds more people.",
        rich_help_panel=FACES,
    ),
]


def _knob(field: str, help: str, *names: str) -> Any:
    return typer.Option(*names, parser=field_number(field), metavar="N", help=help, rich_help_panel=FACES)


Steps = Annotated[int | None, _knob("num_inference_steps", "The paper's T: steps in all, before the skip.", "--steps")]
Skip = Annotated[float | None, _knob("skip", "Share of the steps left out, 0 to 0.999: more stays.")]
GuidanceScale = Annotated[float | None, _knob("guidance_scale", "How strongly the new identity acts.")]
IdentityScale = Annotated[float | None, _knob("identity_scale", "Length of the opposite embedding.")]
IdentityAngle = Annotated[float | None, _knob("identity_angle", "Turn it by up to so many degrees, at random.")]

SimilarityThreshold = Annotated[
    float | None,
    typer.Option(
        parser=field_number("similarity_threshold"),
        metavar="N",
        help="Similarity from which on a result still is the person, -1 to 1.",
        rich_help_panel=CHECKS,
    ),
]
AcceptRecognizable = Annotated[
    bool,
    typer.Option(
        "--accept-recognizable",
        metavar=FLAG,
        help="Allow a --similarity-threshold with which recognizable results pass.",
        rich_help_panel=CHECKS,
    ),
]
Verifier = Annotated[
    str | None,
    typer.Option(
        parser=verifier_pack,
        metavar="PACK",
        help="A second recognizer that must not know the person either: an InsightFace pack by name, or its folder.",
        rich_help_panel=CHECKS,
    ),
]
DetectionThreshold = Annotated[
    float,
    typer.Option(
        parser=number(0.05, 0.95, whole=False),
        metavar="N",
        help="Lowest score that counts as a face, 0.05 to 0.95.",
        rich_help_panel=CHECKS,
    ),
]
MinFace = Annotated[
    float,
    typer.Option(
        parser=field_number("min_face"),
        metavar="N",
        help="Cover faces smaller than so many pixels.",
        rich_help_panel=CHECKS,
    ),
]
Failure = Annotated[
    OnFailure,
    typer.Option(
        metavar="WHAT",
        help="With a face that cannot be hidden: cover it, leave its photo out (skip-file), or stop there (error).",
        rich_help_panel=CHECKS,
    ),
]
CoverName = Annotated[
    Cover,
    typer.Option(
        metavar="NAME",
        help="What covers a face that cannot be replaced: solid, or what looks like a blur or a mosaic and tells no "
        "more.",
        rich_help_panel=CHECKS,
    ),
]

Model = Annotated[
    str,
    typer.Option(
        parser=model_name,
        metavar="NAME",
        help="tiny (in the package), sd15, sdxl, or a folder or Hub name of a Stable Diffusion 1.5 or XL model.",
        rich_help_panel=RUN,
    ),
]
Device = Annotated[
    str | None, typer.Option(metavar="NAME", help="cpu, cuda or mps; what there is by default.", rich_help_panel=RUN)
]
DtypeName = Annotated[
    Dtype | None,
    typer.Option(
        metavar="NAME",
        help="float32, bfloat16 or float16; what suits the processor by default.",
        rich_help_panel=RUN,
    ),
]
BatchFaces = Annotated[
    int,
    typer.Option(parser=field_number("batch_faces"), metavar="N", help="Faces in one batch.", rich_help_panel=RUN),
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

SameFace = Annotated[
    bool,
    typer.Option(
        "--same-face",
        metavar=FLAG,
        help="One new face for a person in all of them: a pseudonym.",
        rich_help_panel=FACES,
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
