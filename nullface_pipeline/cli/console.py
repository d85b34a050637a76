"""What the commands share: two consoles, and how they end with an error."""

import sys
import warnings
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.options import option_name
from nullface_pipeline.photo_options import OptionError
from nullface_pipeline.runs.messages import format_error, printable


TINY_RESULT = (
    "Made with nullface-tiny, a demonstration model of 128 px: do not publish. --model sd15 and --model sdxl are for real "
    "work."
)

console = Console()
error_console = Console(stderr=True)


def fail(message: str | BaseException, code: ExitCode | None = None) -> NoReturn:
    """Print one line and exit.

    Args:
        message (`str` or `BaseException`): an exception is formatted by `error_message`.
        code (`ExitCode`, *optional*): by default `usage` for a `TypeError` or `ValueError`, else `error`.
    """
    if isinstance(message, BaseException):
        code = code or (ExitCode.usage if isinstance(message, (TypeError, ValueError)) else ExitCode.error)
        message = error_message(message)
    print_error(message)
    raise typer.Exit(code or ExitCode.error)


def print_error(message: str) -> None:
    """One line, however long, on the error stream."""
    error_console.print(f"[red]Error:[/red] {show(message)}", soft_wrap=True)


def notice(message: str) -> None:
    """One line on the error stream about what is no error, but should be known."""
    error_console.print(f"[yellow]Notice:[/yellow] {show(message)}", soft_wrap=True)


def tell_demonstration() -> None:
    """The notice about results of nullface-tiny, once a run; silent under `--quiet`."""
    if not console.quiet:
        notice(TINY_RESULT)


def show(text: object) -> str:
    """Text for the console, printable and without rich's markup."""
    return escape(printable(str(text)))


def error_message(error: BaseException) -> str:
    """An exception as a sentence, with the command's name of a wrong option."""
    if isinstance(error, OptionError):
        return f"{option_name(error.option)} {error.problem}"
    return f"{format_error(error)}."


def write_what_the_terminal_can() -> None:
    """Letters that the terminal's encoding lacks are spelt out, instead of ending the run with an error."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def quiet_libraries() -> None:
    """What the libraries say about their own insides while a model is loaded tells a user of the command nothing."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
