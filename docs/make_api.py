"""Write docs/api.md and docs/options.md from docstrings and options: `python docs/make_api.py`."""

import inspect
import re
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from itertools import groupby
from pathlib import Path
from typing import Any

from nullface_pipeline import (
    AnonymizedPhoto,
    DDPMInversion,
    FaceNotHiddenError,
    FaceRecord,
    NoFaceFoundError,
    NullFacePipelineOutput,
    PhotoOptions,
    PhotoRefusedError,
    StableDiffusionNullFacePipeline,
    StableDiffusionXLNullFacePipeline,
    TooManyFacesError,
)
from nullface_pipeline.cli.options import option_name
from nullface_pipeline.ddpm_inversion import few_step_timesteps
from nullface_pipeline.face_crops import FaceCrop
from nullface_pipeline.face_parsing import FaceParser
from nullface_pipeline.face_regions import FACE_REGIONS, REGIONS
from nullface_pipeline.model_options import ModelOptions
from nullface_pipeline.model_sets import load_detector, load_model_set
from nullface_pipeline.photo_files import PhotoFile, PhotoFileError, read_photo, write_photo
from nullface_pipeline.photo_folder import anonymize_photos, find_photos
from nullface_pipeline.photo_options import PRESETS, allowed_values, described
from nullface_pipeline.pipeline import EXAMPLE_DOC_STRING
from nullface_pipeline.pipeline_sdxl import EXAMPLE_DOC_STRING as EXAMPLE_OF_XL
from nullface_pipeline.runs.jobs import PhotoJob
from nullface_pipeline.runs.report import PhotoOutcome
from nullface_pipeline.tiny_model import load_nullface_tiny


PAGE = Path(__file__).parent / "reference" / "python.md"
OPTIONS_PAGE = Path(__file__).parent / "reference" / "settings.md"

HEAD = """\
# API reference

This page is generated from the docstrings by `python docs/make_api.py`. For the command line, run
`nullface --help`.
"""

PIPELINE_METHODS = (
    "anonymize",
    "__call__",
    "invert",
    "load_face_adapter",
    "unload_face_adapter",
    "load_lora_weights",
    "load_face_models",
    "embed_faces",
    "save_pretrained",
)

PARTS: dict[str, tuple[Any, ...]] = {
    "Options of a photo": (PhotoOptions,),
    "Results": (AnonymizedPhoto, FaceRecord, NullFacePipelineOutput, DDPMInversion),
    "Few steps": (few_step_timesteps,),
    "Errors": (PhotoRefusedError, NoFaceFoundError, TooManyFacesError, FaceNotHiddenError, PhotoFileError),
    "Complete pipelines": (load_model_set, load_detector, load_nullface_tiny),
    "Photo files and folders": (
        read_photo,
        write_photo,
        PhotoFile,
        find_photos,
        anonymize_photos,
        PhotoJob,
        PhotoOutcome,
    ),
    "Parts to bring along": (FaceParser, FaceCrop),
}


OPTIONS_HEAD = """\
# Options

All options of `pipe.anonymize`, with their names in the commands `nullface anonymize`,
`nullface video` and `nullface dataset`. Presets set the options marked "by preset". This page is
generated from `photo_options.py` and `model_options.py` by `python docs/make_api.py`.
"""


def main() -> None:
    PAGE.write_text(make_page())
    OPTIONS_PAGE.write_text(make_options_page())


def make_options_page() -> str:
    """Page of options with one table per group."""
    every = [field for schema in (PhotoOptions, ModelOptions) for field in fields(schema)]
    parts = [OPTIONS_HEAD]
    for group in dict.fromkeys(described(field).group for field in every):
        rows = [option_row(field) for field in every if described(field).group == group]
        head = "| Python | command | default | values | effect |\n| --- | --- | --- | --- | --- |"
        parts.append("\n".join([f"## {group}", "", head, *rows]) + "\n")
    return "\n".join(parts)


def option_row(field: Field) -> str:
    """Table row of one option."""
    about = described(field)
    in_command = about.in_command or field.name in ("keep_mask", "skip_faces", "seed", "on_failure")
    command = f"`{option_name(field.name)}`" if in_command else ""
    default = "" if field.default in (None, ()) else f"`{field.default}`"
    if any(field.name in settings for settings in PRESETS.values()):
        default = "by preset"
    effect = f"{about.help} {about.details}".strip().replace("|", "\\|")
    return f"| `{field.name}` | {command} | {default} | {allowed_values(field).rstrip('.')} | {effect} |"


def make_page() -> str:
    """Page of the API reference."""
    pipeline = StableDiffusionNullFacePipeline
    sections = [HEAD, "## The pipelines", "Both have the methods below."]
    sections += [section(each, show_signature=False) for each in (pipeline, StableDiffusionXLNullFacePipeline)]
    sections += [section(getattr(pipeline, name), f"pipe.{name}") for name in PIPELINE_METHODS]
    sections += ["## Names of regions", regions(), "## Presets", presets()]
    for title, objects in PARTS.items():
        sections += [f"## {title}", *(section(each) for each in objects)]
    return "\n\n".join(part.strip("\n") for part in sections) + "\n"


def section(described: Callable[..., Any], name: str = "", show_signature: bool = True) -> str:
    """Heading, signature and docstring of a class or function."""
    name = name or described.__name__
    lines = [f"### `{name.removesuffix('.__call__')}`"]
    if show_signature and not (isinstance(described, type) and issubclass(described, Exception)):
        lines += ["", "```text", signature(described, name.removesuffix(".__call__")), "```"]
    return "\n".join([*lines, "", *docstring(described.__doc__ or "")])


def signature(described: Callable[..., Any], name: str) -> str:
    """Signature without types, which the list of arguments has."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(described).parameters.values()
        if parameter.name != "self"
    ]
    return f"{name}({', '.join(map(str, parameters))})"


def docstring(text: str) -> Iterator[str]:
    """Docstring as Markdown, without the examples, which other pages have."""
    title = ""
    text = inspect.cleandoc(text.replace(EXAMPLE_DOC_STRING, "").replace(EXAMPLE_OF_XL, ""))
    for is_title, lines in groupby(text.splitlines(), key=lambda line: re.fullmatch(r"[A-Z]\w+:", line) is not None):
        if is_title:
            title = list(lines)[-1]
            continue
        body = [plain_links(line) for line in lines]
        yield from entries(title, body) if title else (re.sub("^ +- ", "- ", line) for line in body)


def entries(title: str, body: list[str]) -> Iterator[str]:
    """List of the arguments, attributes, returned values or errors of a docstring."""
    yield f"**{title.removesuffix(':')}**\n"
    inset = min((len(line) - len(line.lstrip()) for line in body if line.strip()), default=0)
    text = "\n".join(line[inset:].rstrip() for line in body if line.strip())
    text = re.sub(r"^(\w+ \([^)\n]*)\n +", r"\1 ", text, flags=re.MULTILINE)  # a list of types on two lines
    for line in text.splitlines():
        named = re.match(r"(\w+(?:, \w+)*)( \(.*?\))?:(?= |$)(.*)", line) or re.match(r"(\w+)( \(.*\))()$", line)
        if line.startswith(" "):
            yield f"  {line.strip()}"
        elif named:
            yield f"* `{named[1]}`{named[2] or ''}:{named[3]}"
        else:
            yield f"* {line}"
    yield ""


def plain_links(line: str) -> str:
    """Replace links that only diffusers' documentation resolves by code."""
    return re.sub(r"\[`~?(?:loaders\.|transformers\.)?([\w.]+)`\](?!\()", r"`\1`", line)


def regions() -> str:
    """Table of the names for `keep` and their labels of CelebAMask-HQ."""
    rows = [f"| `{name}` | {', '.join(labels)} |" for name, labels in REGIONS.items()]
    face = ", ".join(f"`{name}`" for name in FACE_REGIONS)
    return "\n".join(
        [
            f"`keep` takes these. The face, which changes unless it is kept, is {face}.",
            "",
            "| name | labels of CelebAMask-HQ |",
            "| --- | --- |",
            *rows,
        ]
    )


def presets() -> str:
    """Table of the presets of both model sets."""
    rows = [
        f"| {model} | `{name}` | {', '.join(f'{key}={value}' for key, value in settings.items())} |"
        for model, table in (("Stable Diffusion 1.5", PRESETS), ("nullface-tiny", load_nullface_tiny().presets))
        for name, settings in table.items()
    ]
    head = "`preset=` of `pipe.anonymize` and `--preset` of the command line take these names."
    return "\n".join([head, "", "| model set | name | settings |", "| --- | --- | --- |", *rows])


if __name__ == "__main__":
    main()
