"""The `nullface` command."""

import sys
from typing import Annotated, Any

import typer

from nullface_pipeline import __version__
from nullface_pipeline.cli.anonymize import anonymize
from nullface_pipeline.cli.console import escape_unencodable, print_error
from nullface_pipeline.cli.dataset import dataset
from nullface_pipeline.cli.demo import demo
from nullface_pipeline.cli.doctor import doctor
from nullface_pipeline.cli.evaluate import evaluate
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.export import export
from nullface_pipeline.cli.fetch import fetch
from nullface_pipeline.cli.options import FLAG
from nullface_pipeline.cli.selftest import selftest
from nullface_pipeline.cli.threads import set_passive_waiting
from nullface_pipeline.cli.video import video


# Base class of errors in arguments; of Click, or of the copy of Click in newer versions of Typer.
UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]})


def print_version(value: bool) -> None:
    if value:
        print(f"nullface {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def nullface(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar=FLAG, callback=print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Anonymize the faces in photos, videos and data sets.

    Try `nullface demo`, then `nullface anonymize photo.jpg -o out`.
    """
    escape_unencodable()
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Entry point of the command."""
    set_passive_waiting()
    # Also here: errors in the arguments are printed before `nullface` is called.
    escape_unencodable()
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        print_error(usage_message(error))
        code = ExitCode.usage
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.stopped
    # Typer may also turn Ctrl-C into this code itself, without a message.
    if code == ExitCode.stopped:
        print_error("Stopped. Finished results are kept. Run the same command again to continue.")
    sys.exit(code)


def usage_message(error: Any) -> str:
    """Message about a wrong argument, with the command whose help explains it."""
    # Some versions of Typer pass on Pydantic's prefix.
    message = " ".join(error.format_message().split()).replace(": Value error, ", ": ").rstrip(".")
    names: list[str] = []
    context = getattr(error, "ctx", None)
    while context is not None and context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    stop = "" if message.endswith("?") else "."
    return f"{message}{stop} See `{' '.join(['nullface', *names])} --help`."


for command in (demo, anonymize, video, evaluate, selftest, fetch, doctor, export):
    app.command()(command)
app.add_typer(dataset)
