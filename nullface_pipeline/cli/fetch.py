"""`nullface fetch`: download the weights of the real models, after their licences are accepted."""

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from nullface_pipeline.cli.console import console, fail, show
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.options import FLAG
from nullface_pipeline.runs.messages import format_error


if TYPE_CHECKING:
    from nullface_pipeline.weights import Weights


class WeightSet(StrEnum):
    sd15 = "sd15"
    sdxl = "sdxl"
    faces = "faces"


def fetch(
    name: Annotated[
        WeightSet,
        typer.Argument(metavar="NAME", help="All that --model sd15 or sdxl runs; or only the face models."),
    ],
    accept_licences: Annotated[
        bool, typer.Option("--accept-licences", metavar=FLAG, help="Do not ask about the licences.")
    ] = False,
) -> None:
    """Download the weights of the real models.

    Shows their sizes and licences, asks, fetches what is not here, and
    compares the files with the hashes in this package. What is interrupted
    goes on when the command is given again.
    """
    from nullface_pipeline.fetch_weights import fetch_weights, unverified_files
    from nullface_pipeline.weights import WEIGHT_SETS, missing_weights, readable_size

    missing = missing_weights(name)
    show_licences(missing)
    if missing:
        console.print(f"To fetch: about {readable_size(sum(weights.size for weights in missing))}.")
        ask(accept_licences)
    for weights in WEIGHT_SETS[name]:
        try:
            fetch_weights(weights)
        except (OSError, ValueError) as error:
            fail(f"{weights.name} could not be fetched. {format_error(error)}. Give the same command again to go on.")
        console.print(f"{weights.name}: complete.")
        if unverified := unverified_files(weights):
            console.print(f"  No hash in this package for: {show(', '.join(unverified))}", soft_wrap=True)


def show_licences(missing: "list[Weights]") -> None:
    from nullface_pipeline.weights import readable_size

    for weights in missing:
        console.print(f"{weights.name}, {readable_size(weights.size)}: {weights.licence}", soft_wrap=True)
        console.print(f"  {weights.licence_page}", soft_wrap=True)


def ask(accepted: bool) -> None:
    """Ask whether the licences are accepted; exit if not. Exit code `usage` without a terminal."""
    if not accepted and not on_a_terminal():
        fail(
            "The licences have to be accepted: read them, and give the command again with --accept-licences.",
            ExitCode.usage,
        )
    if not accepted and not typer.confirm("Do you accept these licences?"):
        fail("Nothing was fetched.")


def on_a_terminal() -> bool:
    return sys.stdin.isatty()
