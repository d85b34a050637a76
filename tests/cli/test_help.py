"""Help texts of all commands, compared with the files in `tests/cli/help`.

Rewrite the files after a change, and review their diff:

    UPDATE_HELP=1 python -m pytest tests/cli/test_help.py
"""

import os
from collections.abc import Iterator
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version
from typer.main import get_command
from typer.testing import CliRunner

from nullface_pipeline.cli import app
from nullface_pipeline.model_options import ModelOptions
from nullface_pipeline.photo_options import PhotoOptions, allowed_values, described


SNAPSHOTS = Path(__file__).parent / "help"


def command_paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Names of a command and its subcommands, each as a tuple."""
    yield path
    for name, subcommand in getattr(command, "commands", {}).items():
        yield from command_paths(subcommand, (*path, name))


PATHS = {"-".join(["nullface", *path]): path for path in command_paths(get_command(app))}


# Other versions lay out the same text differently.
LAYOUT = Version(version("typer")) >= Version("0.29") and Version(version("rich")) >= Version("14.3")


@pytest.mark.skipif(not LAYOUT, reason="needs Typer 0.29 and Rich 14.3")
@pytest.mark.parametrize("name", PATHS)
def test_help(name, monkeypatch):
    for variable, value in {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(variable, value)
    # Read from the environment when Typer is imported, for example of GitHub Actions.
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 80, raising=False)
    monkeypatch.setattr("typer.rich_utils.FORCE_TERMINAL", False, raising=False)
    result = CliRunner().invoke(app, [*PATHS[name], "--help"], prog_name="nullface")
    assert result.exit_code == 0, result.output
    # Without trailing spaces, which panels have and editors remove.
    text = "".join(f"{line.rstrip()}\n" for line in result.output.splitlines())
    snapshot = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("UPDATE_HELP"):
        SNAPSHOTS.mkdir(exist_ok=True)
        snapshot.write_text(text, encoding="utf-8")
    assert text == snapshot.read_text(encoding="utf-8")


def test_each_snapshot_has_a_command():
    assert {file.stem for file in SNAPSHOTS.iterdir()} == set(PATHS)


def test_the_range_of_each_number_is_shown():
    options = {parameter.name: parameter for parameter in get_command(app).commands["anonymize"].params}
    numbers = [
        field
        for schema in (PhotoOptions, ModelOptions)
        for field in fields(schema)
        if described(field).is_number and described(field).in_command
    ]
    assert len(numbers) > 5
    for field in numbers:
        assert options[field.name].help.endswith(allowed_values(field))
    assert allowed_values(next(field for field in numbers if field.name == "min_face")) == "Number from 0 to 1000000."


def test_help_fits_80_columns():
    """Boxes are cut where a word is longer than its column."""
    for file in SNAPSHOTS.iterdir():
        lines = file.read_text(encoding="utf-8").splitlines()
        assert max(map(len, lines)) <= 80 and "…" not in "".join(lines), file.name
