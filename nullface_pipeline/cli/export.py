"""`nullface export`: export the pipeline and the Space, and upload them to the Hub."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from nullface_pipeline.cli.console import console, fail
from nullface_pipeline.cli.options import flag
from nullface_pipeline.publish.hub import (
    MODEL_REPOSITORY,
    PIPELINE_REPOSITORY,
    SDXL_REPOSITORY,
    model_files,
    pipeline_files,
    push_repository,
    write_repository,
)
from nullface_pipeline.publish.single_file import write_single_file
from nullface_pipeline.publish.space import space_files


def export(
    single_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the pipeline as one Python file.")
    ] = None,
    hub: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write a Hub repository for custom_pipeline=.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write a Hub model repository of nullface-tiny.")
    ] = None,
    space: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write a Hub Space with the page and the package.")
    ] = None,
    sdxl: Annotated[bool, flag("--sdxl", "Export the SDXL pipeline, with --single-file or --hub.")] = False,
    git: Annotated[
        str | None,
        typer.Option(metavar="URL@REVISION", help="Install the package from this repository, with --space."),
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Upload the exported repository or Space.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only list the files that --push would upload.")] = True,
) -> None:
    """Export a single file, a Hub repository or a Space.

    Pass one of --single-file, --hub, --model and --space. An earlier export is
    replaced. A folder with other files is an error.
    """
    if [single_file, hub, model, space].count(None) != 3:
        fail(ValueError("Pass exactly one of --single-file, --hub, --model and --space."))
    if single_file is not None and push is not None:
        fail(ValueError("--push cannot upload a single file. Pass --hub, --model or --space."))
    if sdxl and single_file is None and hub is None:
        fail(ValueError("--sdxl needs --hub or --single-file."))
    if git is not None and (space is None or not re.fullmatch(r"https://\S+@[^\s@]+", git)):
        fail(ValueError("--git needs a URL and a revision (https://host/org/name@v1.0), and --space."))
    pipeline = "pipeline_sdxl" if sdxl else "pipeline"
    if push is not None:
        _check_push(push, dry_run)
    if single_file is not None:
        _export_single_file(single_file, pipeline)
    elif hub is not None:
        name = push or (SDXL_REPOSITORY if sdxl else PIPELINE_REPOSITORY)
        _export_repository(hub, lambda: pipeline_files(name, pipeline), push, dry_run)
    elif model is not None:
        _export_repository(model, lambda: model_files(push or MODEL_REPOSITORY), push, dry_run)
    elif space is not None:
        _export_repository(space, lambda: space_files(git), push, dry_run, kind="space")


def _export_single_file(path: Path, pipeline: str) -> None:
    if path.is_dir():
        fail(ValueError(f"--single-file {path} is a folder. Name a file, such as {path / 'pipeline.py'}."))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_single_file(path, pipeline)
    except OSError as error:
        fail(error)
    console.print(f"Wrote {path}.", soft_wrap=True)


def _export_repository(
    folder: Path, make_files: Callable[[], dict[str, bytes]], push: str | None, dry_run: bool, kind: str = "model"
) -> None:
    try:
        files = make_files()
        write_repository(files, folder)
    except (OSError, ValueError) as error:
        fail(error)
    console.print(f"Wrote {folder}/: {len(files)} files, {_size(files.values())}.", soft_wrap=True)
    if push is not None and dry_run:
        console.print(_upload_table(files, push))
        console.print("Nothing was uploaded. Pass --no-dry-run to upload.")
    elif push is not None:
        _upload(files, push, kind)


def _check_push(repository: str, dry_run: bool) -> None:
    from huggingface_hub import get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        fail(error)
    if "/" not in repository:
        fail(ValueError(f"--push {repository} has no owner. Pass OWNER/{repository}."))
    if not dry_run and get_token() is None:
        fail("No Hub token was found. Run `hf auth login`, or set HF_TOKEN.")


def _upload(files: dict[str, bytes], repository: str, kind: str) -> None:
    from nullface_pipeline.fetch_weights import HTTPError

    try:
        address = push_repository(files, repository, kind)
    except (HTTPError, OSError, ValueError) as error:
        fail(f"The upload to {repository} failed: {error}")
    console.print(f"Uploaded: {address}", soft_wrap=True)


def _size(contents: Iterable[bytes]) -> str:
    return f"{sum(map(len, contents)) / 1e3:,.1f} kB"


def _upload_table(files: dict[str, bytes], repository: str) -> Table:
    table = Table(f"files for {repository}", Column("size", justify="right"))
    for name, content in sorted(files.items()):
        table.add_row(name, _size([content]))
    return table
