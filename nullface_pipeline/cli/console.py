"""What the commands share: two consoles, and how they end with an error."""

import warnings
from typing import NoReturn

import typer
from rich.console import Console
from rich.markup import escape


TINY_NOTICE = "nullface-tiny: demonstration model, 128 px; use --model sd15 for real work."

console = Console()
error_console = Console(stderr=True)


def fail(message: str) -> NoReturn:
    """One line and exit code 1."""
    print_error(message)
    raise typer.Exit(1)


def print_error(message: str) -> None:
    """One line, however long, on the error stream."""
    error_console.print(f"[red]Error:[/red] {show(message)}", soft_wrap=True)


def show(path: object) -> str:
    """A path as text for the console; names of files may hold what no text can, and what means something to rich."""
    return escape(str(path).encode(errors="backslashreplace").decode())


def quiet_libraries() -> None:
    """What the libraries say about their own insides while a model is loaded tells a user of the command nothing."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")
