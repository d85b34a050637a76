"""Console output and error handling of all commands."""

import sys
import warnings
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.photo_options import OptionError
from nullface_pipeline.runs.messages import format_error, option_name, printable, with_option_names


TINY_RESULT = (
    "Made with nullface-tiny, a demonstration model with small, soft faces: do not publish. --model sd15 and "
    "--model sdxl make larger faces; their face models are licensed for research only."
)

console = Console()
error_console = Console(stderr=True)


def fail(message: str | BaseException, code: ExitCode | None = None) -> NoReturn:
    """Print an error in one line and exit.

    Args:
        message (`str` or `BaseException`): message, or an exception for `error_message`.
        code (`ExitCode`, *optional*): by default `usage` for a `TypeError` or `ValueError`, else
            `error`.
    """
    if isinstance(message, BaseException):
        code = code or (ExitCode.usage if isinstance(message, (TypeError, ValueError)) else ExitCode.error)
        message = error_message(message)
    print_error(message)
    raise typer.Exit(code or ExitCode.error)


def print_error(message: str) -> None:
    """Print an error in one line on standard error."""
    error_console.print(f"[red]Error:[/red] {show(message)}", soft_wrap=True)


def notice(message: str) -> None:
    """Print a notice in one line on standard error."""
    error_console.print(f"[yellow]Notice:[/yellow] {show(message)}", soft_wrap=True)


def print_tiny_notice() -> None:
    """Print the notice about results of nullface-tiny, except with `--quiet`."""
    if not console.quiet:
        notice(TINY_RESULT)


def show(text: object) -> str:
    """Escape unprintable characters and rich's markup."""
    return escape(printable(str(text)))


def error_message(error: BaseException) -> str:
    """Format an exception as a sentence that names the command-line option."""
    if isinstance(error, OptionError):
        return f"{option_name(error.option)} {with_option_names(error.problem)}"
    return with_option_names(f"{format_error(error)}.")


def escape_unencodable() -> None:
    """Print characters that the terminal's encoding lacks as escapes, instead of an exception."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def quiet_libraries() -> None:
    """Silence the warnings and progress bars of libraries while models are loaded."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
