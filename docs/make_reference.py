"""Write docs/reference/settings.md and docs/reference/command-line.md: `python
docs/make_reference.py`.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path

import typer.main
from typer.cli import get_docs_for_click

from nullface_pipeline import PhotoOptions
from nullface_pipeline.cli import app
from nullface_pipeline.face_regions import FACE_REGIONS, REGIONS
from nullface_pipeline.model_options import ModelOptions
from nullface_pipeline.photo_options import PRESETS, allowed_values, described
from nullface_pipeline.runs.messages import option_name
from nullface_pipeline.tiny_model import load_nullface_tiny


FOLDER = Path(__file__).parent / "reference"

SETTINGS = """\
# Settings

Options of `pipe.anonymize`, and below each its name in `nullface anonymize`, `nullface video` and
`nullface dataset`. Options marked "by preset" get their default from the [preset](#presets).
[Choose settings](../how-to/settings.md) explains the choice with pictures.
`python docs/make_reference.py` writes this page.
"""

COMMANDS = """\
# Command line

Every command and option, as `--help` shows them. `python docs/make_reference.py` writes this page.
"""


def main() -> None:
    (FOLDER / "settings.md").write_text(settings_page())
    (FOLDER / "command-line.md").write_text(commands_page())


def settings_page() -> str:
    return "\n".join([SETTINGS, *option_tables(), *regions(), *presets()])


def option_tables() -> Iterator[str]:
    """One table per group of options."""
    every = [field for schema in (PhotoOptions, ModelOptions) for field in fields(schema)]
    for group in dict.fromkeys(described(field).group for field in every):
        rows = [option_row(field) for field in every if described(field).group == group]
        head = "| option | default | values | effect |\n| --- | --- | --- | --- |"
        yield "\n".join([f"## {group}", "", head, *rows]) + "\n"


def option_row(field: Field) -> str:
    about = described(field)
    in_command = about.in_command or field.name in ("keep_mask", "skip_faces", "seed", "on_failure")
    names = f"`{field.name}`" + (f"<br>`{option_name(field.name)}`" if in_command else "")
    default = "" if field.default in (None, ()) else f"`{field.default}`"
    if any(field.name in settings for settings in PRESETS.values()):
        default = "by preset"
    effect = re.sub(r"\[(`\w+`)\]", r"\1", f"{about.help} {about.details}".strip()).replace("|", "\\|")
    return f"| {names} | {default} | {allowed_values(field).rstrip('.')} | {effect} |"


def regions() -> Iterator[str]:
    """Names that `keep` takes, with their labels of CelebAMask-HQ."""
    face = ", ".join(f"`{name}`" for name in FACE_REGIONS)
    yield f"## Regions\n\n`keep` takes these names. Parts of the face, which change unless they are kept: {face}.\n"
    yield "| name | labels of CelebAMask-HQ |\n| --- | --- |"
    yield from (f"| `{name}` | {', '.join(labels)} |" for name, labels in REGIONS.items())
    yield ""


def presets() -> Iterator[str]:
    """Settings of each preset, for both model sets."""
    yield "## Presets\n\n| models | preset | settings |\n| --- | --- | --- |"
    for models, table in (("Stable Diffusion", PRESETS), ("nullface-tiny", load_nullface_tiny().presets)):
        for name, settings in table.items():
            yield f"| {models} | `{name}` | {', '.join(f'`{key}={value}`' for key, value in settings.items())} |"
    yield ""


def commands_page() -> str:
    """Typer's own reference, one heading a command."""
    command = typer.main.get_command(app)
    text = html.unescape(get_docs_for_click(obj=command, ctx=typer.Context(command), name="nullface"))
    text = text[text.index("## ") :].replace("```console", "```text").replace("][", "]\\[")
    return f"{COMMANDS}\n{text.rstrip()}\n"


if __name__ == "__main__":
    main()
