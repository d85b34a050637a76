"""The `nullface` command."""

import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import PIL.Image
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table


if TYPE_CHECKING:
    from nullface_pipeline.photo import AnonymizedPhoto
    from nullface_pipeline.photo_folder import PhotoOutcome


SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
TINY_NOTICE = "nullface-tiny: demonstration model, 128 px; use --model sd15 for real work."

app = typer.Typer(
    help="Replace the faces in photos by other people's.", no_args_is_help=True, pretty_exceptions_enable=False
)
console = Console()
error_console = Console(stderr=True)


@app.callback()
def nullface() -> None:
    """Replace the faces in photos by other people's."""


def main() -> None:
    """Entry point: wrong usage exits with 1, because 2 says here that some faces were covered."""
    try:
        code = app(standalone_mode=False)
    except typer.TyperException as error:
        print_error(f"{error} See `nullface --help`.")
        code = 1
    sys.exit(code)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pictures.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Same seed, same face.")] = 0,
) -> None:
    """Anonymize the astronaut portrait that ships with scikit-image, with the embedded model and no download."""
    from skimage import data

    from nullface_pipeline.tiny_model import TINY_SETTINGS, load_nullface_tiny

    _quiet_libraries()
    console.print(TINY_NOTICE, soft_wrap=True)
    photo = PIL.Image.fromarray(data.astronaut())
    pipe = load_nullface_tiny()
    started = time.perf_counter()
    result = pipe.anonymize(photo, seed=seed, **TINY_SETTINGS)
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
    console.print(f"{seconds:.1f} s. Wrote {', '.join(pictures)} to {output}/", soft_wrap=True)


class Dtype(StrEnum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class OnFailure(StrEnum):
    redact = "redact"
    skip_file = "skip-file"


@app.command()
def anonymize(
    paths: Annotated[list[Path], typer.Argument(help="Photos and folders of photos.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; trees are mirrored in it.")],
    model: Annotated[
        str, typer.Option(help="tiny (in the package), sd15, or a folder or Hub name of a Stable Diffusion 1.5 model.")
    ] = "tiny",
    keep: Annotated[str, typer.Option(help="Regions to leave as they are, with commas: eyes,mouth.")] = "",
    strength: Annotated[str, typer.Option(help="light, standard or strong.")] = "standard",
    device: Annotated[str | None, typer.Option(help="cpu or cuda; what there is by default.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="float16 on a GPU and float32 on a CPU by default.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same faces.")] = 0,
    threshold: Annotated[
        float | None, typer.Option(help="Similarity from which on a result still is the person; by recognizer.")
    ] = None,
    min_face: Annotated[float, typer.Option(help="Cover faces smaller than this many pixels.")] = 0.0,
    on_failure: Annotated[
        OnFailure, typer.Option(help="What to do with a face that cannot be hidden.")
    ] = OnFailure.redact,
    batch_faces: Annotated[int, typer.Option(help="Faces in one batch.")] = 8,
    keep_metadata: Annotated[bool, typer.Option(help="Keep the EXIF, GPS included; never its thumbnail.")] = False,
    resume: Annotated[bool, typer.Option(help="Leave out photos that the output folder has already.")] = True,
    report: Annotated[Path | None, typer.Option(help="Append one JSON line a photo to this file.")] = None,
) -> None:
    """Anonymize photos.

    Exit code: 0 if every face is verified, 2 if some are covered instead, 3 if some photos were refused, 1 for wrong
    usage. A photo that cannot be anonymized is not written.
    """
    from nullface_pipeline.photo import STRENGTHS
    from nullface_pipeline.photo_folder import anonymize_photos, find_photos

    if strength not in STRENGTHS:
        _fail(f"--strength must be one of {', '.join(STRENGTHS)}, not {strength!r}.")
    try:
        jobs = find_photos(paths, output)
    except ValueError as error:
        _fail(str(error))
    if not jobs:
        _fail("There are no photos in what was named.")
    pipe, settings = _load_model(model, device, dtype, strength)
    settings |= {
        "keep": tuple(name.strip() for name in keep.split(",") if name.strip()),
        "strength": strength,
        "similarity_threshold": threshold,
        "min_face": min_face,
        "on_failure": "redact" if on_failure is OnFailure.redact else "error",
        "batch_faces": batch_faces,
    }

    def hide_faces(photo: PIL.Image.Image, name: str) -> "AnonymizedPhoto":
        # A photo's noise depends on its name, not on which others are run with it, so that a resumed run is the same.
        return pipe.anonymize(photo, seed=seed + zlib.crc32(name.encode()), **settings)

    output.mkdir(parents=True, exist_ok=True)
    outcomes: "list[PhotoOutcome]" = []
    with _progress() as progress:
        task = progress.add_task("photos", total=len(jobs))
        try:
            for outcome in anonymize_photos(hide_faces, jobs, keep_metadata, resume):
                outcomes.append(outcome)
                progress.advance(task)
                if outcome.status == "refused":
                    line = f"{outcome.job.source}: {outcome.reason}"
                    progress.console.print(f"[red]refused[/red] {escape(line)}", soft_wrap=True)
                if report is not None and outcome.status != "done before":
                    _append_line(report, outcome.as_json())
        except (ValueError, RuntimeError) as error:
            _fail(str(error))
    console.print(outcomes_table(outcomes))
    statuses = {outcome.status for outcome in outcomes}
    raise typer.Exit(3 if "refused" in statuses else 2 if "redacted" in statuses else 0)


def _load_model(name: str, device: str | None, dtype: Dtype | None, strength: str) -> tuple[Any, dict[str, Any]]:
    """The pipeline with its face models, and the settings that suit the model."""
    import torch

    from nullface_pipeline import StableDiffusionNullFacePipeline
    from nullface_pipeline.tiny_model import TINY_SETTINGS, load_nullface_tiny

    _quiet_libraries()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    precision = getattr(torch, dtype or ("float32" if device == "cpu" else "float16"))
    settings: dict[str, Any] = {}
    try:
        if name == "tiny":
            console.print(TINY_NOTICE, soft_wrap=True)
            pipe = load_nullface_tiny(device, precision)
            settings = dict(TINY_SETTINGS) if strength == "standard" else {}
        else:
            pipe = StableDiffusionNullFacePipeline.from_pretrained(SD15 if name == "sd15" else name, dtype=precision)
            pipe.load_face_adapter()
            pipe.to(device)
            pipe.load_face_models()
    except (OSError, RuntimeError, ValueError) as error:
        _fail(f"The model {name!r} could not be loaded: {str(error).splitlines()[0]}")
    pipe.set_progress_bar_config(disable=True)
    return pipe, settings


def _quiet_libraries() -> None:
    """What the libraries say about their own insides while a model is loaded tells a user of the command nothing."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    warnings.filterwarnings("ignore")


def _progress() -> Progress:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console)


def _append_line(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def outcomes_table(outcomes: "list[PhotoOutcome]") -> Table:
    """How many photos and faces came to which end."""
    table = Table("", "photos", "faces")
    photos = Counter(outcome.status for outcome in outcomes)
    for status in ("anonymized", "redacted", "refused", "done before"):
        faces = Counter(face.method for outcome in outcomes if outcome.status == status for face in outcome.faces)
        counted = ", ".join(f"{count} {method}" for method, count in sorted(faces.items()))
        table.add_row(status, str(photos[status]), counted)
    return table


@app.command()
def export(
    single_file: Annotated[
        Path | None, typer.Option("--single-file", help="Write the pipeline as one file, for loading by name or path.")
    ] = None,
    hub: Annotated[
        Path | None, typer.Option("--hub", help="Write a folder for the Hub that custom_pipeline= loads.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="Write a model repository for the Hub, around nullface-tiny.")
    ] = None,
    push: Annotated[
        str | None, typer.Option("--push", metavar="ORG/NAME", help="Upload what --hub or --model writes.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="With --push: only say what would be uploaded.")] = True,
) -> None:
    """Write the pipeline in a form that other programs load. Give one of --single-file, --hub and --model."""
    if [single_file, hub, model].count(None) != 2:
        _fail("Give exactly one of --single-file, --hub and --model.")
    if single_file is not None and push is not None:
        _fail("--push uploads a repository: give it with --hub or --model.")
    if single_file is not None:
        _export_single_file(single_file)
    else:
        _export_repository(hub, model, push, dry_run)


def _export_single_file(path: Path) -> None:
    from nullface_pipeline.single_file import write_single_file

    if not path.parent.is_dir():
        _fail(f"The folder {path.parent} does not exist.")
    write_single_file(path)
    console.print(f"Wrote {path}.", soft_wrap=True)


def _export_repository(hub: Path | None, model: Path | None, push: str | None, dry_run: bool) -> None:
    from nullface_pipeline import hub_export

    if push is not None:
        _check_push(push, dry_run)
    try:
        if hub is not None:
            files = hub_export.pipeline_files(push or hub_export.PIPELINE_REPOSITORY)
        else:
            files = hub_export.model_files(push or hub_export.MODEL_REPOSITORY)
        folder = hub or model or Path()
        hub_export.write_repository(files, folder)
    except (OSError, ValueError) as error:
        _fail(str(error))
    console.print(f"Wrote {folder}/: {len(files)} files, {_size(files.values())}.", soft_wrap=True)
    if push is not None and dry_run:
        console.print(_upload_table(files, push))
        console.print("Nothing was uploaded; --no-dry-run uploads.")
    elif push is not None:
        _upload(files, push)


def _check_push(repository: str, dry_run: bool) -> None:
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        _fail(str(error))
    if "/" not in repository:
        _fail(f"--push takes the name of a repository with its owner, such as me/{repository}.")
    if not dry_run and get_token() is None:
        _fail("There is no Hub token. Run `hf auth login`, or set HF_TOKEN.")


def _upload(files: dict[str, bytes], repository: str) -> None:
    from httpx2 import HTTPError

    from nullface_pipeline.hub_export import push_repository

    try:
        address = push_repository(files, repository)
    except (HTTPError, OSError, ValueError) as error:
        _fail(f"The upload to {repository} failed: {error}")
    console.print(f"Uploaded: {address}", soft_wrap=True)


def _size(contents: Iterable[bytes]) -> str:
    return f"{sum(map(len, contents)) / 1e3:,.1f} kB"


def _upload_table(files: dict[str, bytes], repository: str) -> Table:
    table = Table(f"would go to {repository}", Column("size", justify="right"))
    for name, content in sorted(files.items()):
        table.add_row(name, _size([content]))
    return table


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
        similarity = "" if face.similarity is None else f"{face.similarity:+.2f}"
        table.add_row(str(number), box, f"{face.score:.2f}", similarity, face.method)
    return table


def _fail(message: str) -> NoReturn:
    print_error(message)
    raise typer.Exit(1)


def print_error(message: str) -> None:
    """One line, however long, on the error stream."""
    error_console.print(f"[red]Error:[/red] {escape(message)}", soft_wrap=True)
