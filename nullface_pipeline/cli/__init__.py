"""The `nullface` command."""

import sys

import typer

from nullface_pipeline.cli.anonymize import anonymize
from nullface_pipeline.cli.console import print_error, write_what_the_terminal_can
from nullface_pipeline.cli.demo import demo, side_by_side
from nullface_pipeline.cli.doctor import doctor
from nullface_pipeline.cli.evaluate import evaluate
from nullface_pipeline.cli.export import export


app = typer.Typer(
    help="Replace the faces in photos by other people's.", no_args_is_help=True, pretty_exceptions_enable=False
)


@app.callback()
def nullface() -> None:
    """Replace the faces in photos by other people's."""
    write_what_the_terminal_can()


def main() -> None:
    """Entry point: wrong usage exits with 1, because 2 says here that some faces were covered."""
    # Here too, for what is wrong before a command is known.
    write_what_the_terminal_can()
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        print_error(f"{in_words(error)} See `nullface --help`.")
        code = 1
    except (KeyboardInterrupt, typer.Abort):
        print_error("Stopped. Give the same command again to go on.")
        code = 1
    sys.exit(code)


def in_words(error: typer.TyperException) -> str:
    """With the option's name."""
    return " ".join(error.format_message().split())


for command in (demo, anonymize, evaluate, export, doctor):
    app.command()(command)
