"""`nullface export`: the pipeline in forms that other programs load, and the way to the Hub."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Column, Table

from nullface_pipeline.cli.console import console, fail


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
    sdxl: Annotated[
        bool, typer.Option("--sdxl", help="With --single-file or --hub: the pipeline of Stable Diffusion XL.")
    ] = False,
    push: Annotated[
        str | None, typer.Option("--push", metavar="ORG/NAME", help="Upload what --hub or --model writes.")
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="With --push: only say what would be uploaded.")] = True,
) -> None:
    """Write the pipeline in a form that other programs load. Give one of --single-file, --hub and --model."""
    if [single_file, hub, model].count(None) != 2:
        fail("Give exactly one of --single-file, --hub and --model.")
    if single_file is not None and push is not None:
        fail("--push uploads a repository: give it with --hub or --model.")
    if sdxl and model is not None:
        fail("--model writes nullface-tiny, which is no Stable Diffusion XL; give --sdxl with --hub or --single-file.")
    pipeline = "pipeline_sdxl" if sdxl else "pipeline"
    if single_file is not None:
        _export_single_file(single_file, pipeline)
    else:
        _export_repository(hub, model, pipeline, push, dry_run)


def _export_single_file(path: Path, pipeline: str) -> None:
    from nullface_pipeline.publish.single_file import write_single_file

    if not path.parent.is_dir():
        fail(f"The folder {path.parent} does not exist.")
    write_single_file(path, pipeline)
    console.print(f"Wrote {path}.", soft_wrap=True)


def _export_repository(hub: Path | None, model: Path | None, pipeline: str, push: str | None, dry_run: bool) -> None:
    from nullface_pipeline.publish.hub import (
        MODEL_REPOSITORY,
        PIPELINE_REPOSITORY,
        SDXL_REPOSITORY,
        model_files,
        pipeline_files,
        write_repository,
    )

    if push is not None:
        _check_push(push, dry_run)
    try:
        if hub is not None:
            default = PIPELINE_REPOSITORY if pipeline == "pipeline" else SDXL_REPOSITORY
            files = pipeline_files(push or default, pipeline)
        else:
            files = model_files(push or MODEL_REPOSITORY)
        folder = hub or model or Path()
        write_repository(files, folder)
    except (OSError, ValueError) as error:
        fail(str(error))
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
        fail(str(error))
    if "/" not in repository:
        fail(f"--push takes the name of a repository with its owner, such as me/{repository}.")
    if not dry_run and get_token() is None:
        fail("There is no Hub token. Run `hf auth login`, or set HF_TOKEN.")


def _upload(files: dict[str, bytes], repository: str) -> None:
    from httpx2 import HTTPError

    from nullface_pipeline.publish.hub import push_repository

    try:
        address = push_repository(files, repository)
    except (HTTPError, OSError, ValueError) as error:
        fail(f"The upload to {repository} failed: {error}")
    console.print(f"Uploaded: {address}", soft_wrap=True)


def _size(contents: Iterable[bytes]) -> str:
    return f"{sum(map(len, contents)) / 1e3:,.1f} kB"


def _upload_table(files: dict[str, bytes], repository: str) -> Table:
    table = Table(f"would go to {repository}", Column("size", justify="right"))
    for name, content in sorted(files.items()):
        table.add_row(name, _size([content]))
    return table
