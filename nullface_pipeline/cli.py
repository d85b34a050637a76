"""The `nullface` command."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import PIL.Image
import typer
from rich.console import Console
from rich.table import Table


if TYPE_CHECKING:
    from nullface_pipeline.photo import AnonymizedPhoto


app = typer.Typer(
    help="Replace the faces in photos by other people's.", no_args_is_help=True, pretty_exceptions_enable=False
)
console = Console()
error_console = Console(stderr=True)


@app.callback()
def main() -> None:
    """Replace the faces in photos by other people's."""


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Same seed, same face.")] = 0,
) -> None:
    """Anonymize the astronaut portrait that ships with scikit-image, with the embedded model and no download."""
    try:
        from skimage import data
    except ImportError:
        _fail("The demo photo comes with scikit-image: `pip install scikit-image`.")
    from nullface_pipeline.tiny_model import load_nullface_tiny

    console.print(
        "nullface-tiny: demonstration model, 128 px, trained on portraits; for real work use Stable Diffusion."
    )
    photo = PIL.Image.fromarray(data.astronaut())
    pipe = load_nullface_tiny()
    started = time.perf_counter()
    result = pipe.anonymize(photo, seed=seed)
    seconds = time.perf_counter() - started

    output.mkdir(parents=True, exist_ok=True)
    pictures = {
        "input.png": photo,
        "anonymized.png": result.image,
        "side_by_side.png": side_by_side(photo, result.image),
    }
    for name, picture in pictures.items():
        save_picture(picture, output / name)
    console.print(faces_table(result))
    console.print(
        f"{seconds:.1f} s. Wrote {', '.join(pictures)} to {output}{'' if str(output).endswith('/') else '/'}"
    )


@app.command()
def export(
    single_file: Annotated[
        Path, typer.Option("--single-file", help="Write the pipeline as one file, for loading by name or path.")
    ],
) -> None:
    """Write the pipeline in a form that other programs load."""
    from nullface_pipeline.single_file import write_single_file

    if not single_file.parent.is_dir():
        _fail(f"The folder {single_file.parent} does not exist.")
    write_single_file(single_file)
    console.print(f"Wrote {single_file}.")


def side_by_side(first: PIL.Image.Image, second: PIL.Image.Image) -> PIL.Image.Image:
    """Two pictures of one height next to each other, with a narrow white gap."""
    gap = max(4, first.width // 64)
    sheet = PIL.Image.new("RGB", (first.width + gap + second.width, first.height), "white")
    sheet.paste(first, (0, 0))
    sheet.paste(second, (first.width + gap, 0))
    return sheet


def save_picture(picture: PIL.Image.Image, path: Path) -> None:
    """Write a picture under a temporary name first, so that no half-written file ever bears the final one."""
    temporary = path.with_name(path.name + ".tmp")
    picture.save(temporary, format="PNG")
    temporary.replace(path)


def faces_table(result: "AnonymizedPhoto") -> Table:
    """What was done to each face."""
    table = Table("face", "box", "detection", "similarity to the original", "hidden by")
    for number, face in enumerate(result.faces, start=1):
        box = " ".join(f"{value:.0f}" for value in face.box)
        table.add_row(str(number), box, f"{face.score:.2f}", f"{face.similarity:+.2f}", face.method)
    return table


def _fail(message: str) -> None:
    error_console.print(f"[red]Error:[/red] {message}")
    raise typer.Exit(1)
