"""`nullface fetch`: download the weights of the real models, after their licences are accepted."""

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from nullface_pipeline.cli.console import console, fail, show
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.options import flag
from nullface_pipeline.runs.messages import format_error


if TYPE_CHECKING:
    from nullface_pipeline.weights import Weights


class WeightSet(StrEnum):
    sd15 = "sd15"
    sdxl = "sdxl"
    faces = "faces"


def fetch(
    name: Annotated[
        WeightSet, typer.Argument(metavar="NAME", help="Weights of a model set, or of the face models only.")
    ],
    accept_licences: Annotated[bool, flag("--accept-licences", "Accept the licences without a prompt.")] = False,
) -> None:
    """Download the weights of the real models.

    Shows sizes and licences, asks for confirmation, downloads missing files and
    verifies their hashes. To resume a download, run the same command again.
    """
    from nullface_pipeline.fetch_weights import fetch_weights, unverified_files
    from nullface_pipeline.weights import WEIGHT_SETS, missing_weights, readable_size

    missing = missing_weights(name)
    show_licences(missing)
    if missing:
        console.print(f"Download size: about {readable_size(sum(weights.size for weights in missing))}.")
        confirm_licences(accept_licences)
    for weights in WEIGHT_SETS[name]:
        try:
            fetch_weights(weights)
        except (OSError, ValueError) as error:
            fail(f"{weights.name} could not be downloaded. {format_error(error)}. Run the command again to resume.")
        console.print(f"{weights.name}: complete.")
        if unverified := unverified_files(weights):
            console.print(f"  Files without a known hash: {show(', '.join(unverified))}", soft_wrap=True)


def show_licences(missing: "list[Weights]") -> None:
    from nullface_pipeline.weights import readable_size

    for weights in missing:
        console.print(f"{weights.name}, {readable_size(weights.size)}: {weights.licence}", soft_wrap=True)
        console.print(f"  {weights.licence_page}", soft_wrap=True)


def confirm_licences(accepted: bool) -> None:
    """Ask whether the licences are accepted; exit if not. Exit code `usage` without a terminal."""
    if not accepted and not on_a_terminal():
        fail("The licences are not accepted. Read them, then pass --accept-licences.", ExitCode.usage)
    if not accepted and not typer.confirm("Do you accept these licences?"):
        fail("Nothing was downloaded.")


def on_a_terminal() -> bool:
    return sys.stdin.isatty()
