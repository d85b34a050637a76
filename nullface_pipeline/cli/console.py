"""What the commands share: two consoles, and how they end with an error."""

import sys
import warnings
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.runs.messages import format_error, printable


TINY_RESULT = (
    "Made with nullface-tiny, a demonstration model of 128 px: do not publish. --model sd15 and --model sdxl are for real "
    "work."
)

# Fields of `PhotoOptions` and of an evaluation, as the command calls them.
_OPTIONS = {
    "similarity_threshold": "--similarity-threshold",
    "accept_recognizable=True": "--accept-recognizable",
    "skip_faces": "--skip-face",
    "num_inference_steps": "--steps",
    "on_failure='cover'": "--on-failure cover",
    'identity="opposite"': "--opposite",
    'identity="consistent"': "--same-face",
    **{
        field: "--" + field.replace("_", "-")
        for field in (
            *(
                "keep",
                "keep_mask",
                "verifier",
                "min_face",
                "detection_threshold",
                "batch_faces",
                "seed",
                "skip",
                "preset",
            ),
            *("guidance_scale", "identity_scale", "identity_angle", "method", "skip_missing"),
        )
    },
}

console = Console()
error_console = Console(stderr=True)


def fail(message: str | BaseException, code: ExitCode | None = None) -> NoReturn:
    """Print one line and exit.

    Args:
        message (`str` or `BaseException`): an exception is formatted by `format_error`, with the command's option names.
        code (`ExitCode`, *optional*): by default `usage` for a `TypeError` or `ValueError`, else `error`.
    """
    if isinstance(message, BaseException):
        code = code or (ExitCode.usage if isinstance(message, (TypeError, ValueError)) else ExitCode.error)
        message = as_options(f"{format_error(message)}.")
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


def as_options(message: str) -> str:
    """A message of Python's fields in the command's words: `--keep` for `keep`."""
    for field, option in _OPTIONS.items():
        message = message.replace(f"`{field}`", option)
    return message


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
