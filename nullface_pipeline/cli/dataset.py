"""`nullface dataset`: anonymize data sets of shards, and sum up their reports."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from nullface_pipeline.cli import options
from nullface_pipeline.cli.console import (
    console,
    error_console,
    fail,
    quiet_libraries,
    show,
    tell_demonstration,
)
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.photo_run import PhotoRun, photo_arguments
from nullface_pipeline.cli.progress import ShardProgress
from nullface_pipeline.cli.threads import limit_threads
from nullface_pipeline.model_options import ModelOptions
from nullface_pipeline.photo_options import PhotoOptions


if TYPE_CHECKING:
    from nullface_pipeline.dataset import DatasetJob, RunSummary, Shard, ShardOutcome, StorageLocation


INSTALL = 'Data sets need more packages: `pip install "nullface-pipeline[dataset]"`, for a cluster `[dataset,ray]`.'


class _RunByDefault(TyperGroup):
    """`nullface dataset SOURCE` is `nullface dataset run SOURCE`."""

    # Typer's own copy of Click has the type of the context.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


dataset = typer.Typer(
    cls=_RunByDefault,
    name="dataset",
    no_args_is_help=True,
    help="Replace the faces in data sets of shards: `nullface dataset SOURCE -o OUTPUT`.",
)


@dataclass(frozen=True, kw_only=True)
class DatasetRun(PhotoRun):
    """The arguments of `nullface dataset`."""

    source: str
    output: str
    engine: options.Engine
    address: str | None
    workers: int | None
    seed_file: Path | None
    image_column: str
    id_column: str | None
    columns: list[str] | None
    shard_size: int

    def check(self) -> None:
        """Check what can be checked without loading a model.

        Raises:
            TypeError, ValueError: if options do not go together, or the source does not exist.
        """
        if self.on_failure is options.OnFailure.error:
            raise ValueError("A data set goes on after a face that cannot be hidden: --on-failure cover or skip-file.")
        if self.about_one_photo is not None:
            raise ValueError(f"{self.about_one_photo} is about one photo, and this is a data set.")
        if any(isinstance(face, options.NumberedFace) for face in self.skip_face):
            raise ValueError("--skip-face with a face's number is for `nullface anonymize`: give reference photos.")
        if (self.address is None) == (self.engine is options.Engine.ray):
            raise ValueError("--address HOST:PORT says where the Ray cluster is, and goes with --engine ray.")
        if self.workers is not None and self.engine is not options.Engine.ray:
            raise ValueError("--workers goes with --engine ray; `accelerate launch --num_processes` is the other's.")
        # A URL is checked when its store is opened.
        if "://" not in self.source and not Path(self.source).exists():
            raise ValueError(f"{self.source} does not exist.")

    def job(self, source: "StorageLocation", target: "StorageLocation") -> "DatasetJob":
        """Settings of the workers. The secret seed is read or drawn.

        Raises:
            OSError, ValueError: if the seed cannot be read or written.
        """
        from nullface_pipeline.dataset import DatasetJob, read_or_draw_seed, seed_path

        return DatasetJob(
            source=source,
            target=target,
            options=self.options,
            seed=read_or_draw_seed(self.seed_file or seed_path(target)),
            options_sha256=self._digest_with_columns,
            model=self.model.model,
            device=self.model.device,
            dtype=self.model.dtype,
            detection_threshold=self.model.detection_threshold,
            verifier=self.model.verifier,
            keep_metadata=self.keep_metadata,
            columns=options.names(self.columns),
            image_column=self.image_column,
            id_column=self.id_column,
            shard_size=self.shard_size,
        )

    @property
    def _digest_with_columns(self) -> str:
        from nullface_pipeline.runs.digests import options_digest

        columns = {
            "columns": options.names(self.columns),
            "image_column": self.image_column,
            "id_column": self.id_column,
        }
        return options_digest({**self.content, **columns})


@dataset.command()
@options.with_options(PhotoOptions, ModelOptions, identity=("random", "opposite"))
def run(
    source: options.Source,
    output: options.Target,
    engine: options.EngineName = options.Engine.local,
    address: options.Address = None,
    workers: options.Workers = None,
    seed_file: options.SeedFile = None,
    image_column: options.ImageColumn = "image",
    id_column: options.IdColumn = None,
    columns: options.Columns = None,
    shard_size: options.ShardSize = 256,
    skip_face: options.SkipFace = None,
    on_failure: options.Failure = options.OnFailure.cover,
    keep_metadata: options.KeepMetadata = False,
    quiet: options.Quiet = False,
    **values: Any,
) -> None:
    """Replace the faces in a data set, shard by shard.

    SOURCE holds Parquet files with a column of images, WebDataset tars, or
    photos. A stopped run goes on if it is given again. Reports go to a folder
    beside the output, named OUTPUT-reports: `nullface dataset report OUTPUT`
    adds them up.

    Exit code: 0 if every face of this run is replaced and verified, 3 if some
    are covered instead, 4 if some photos were refused or some shards failed, 2
    for wrong usage, 1 for other errors. With --engine accelerate 0, 1 or 2: see
    the report.
    """
    console.quiet = quiet
    try:
        run = DatasetRun(
            **photo_arguments(values, skip_face, on_failure),
            source=source,
            output=output,
            engine=engine,
            address=address,
            workers=workers,
            seed_file=seed_file,
            image_column=image_column,
            id_column=id_column,
            columns=columns,
            shard_size=shard_size,
            keep_metadata=keep_metadata,
        )
        with _beginning(run) as (job, shards):
            outcomes = _go_through(run, job, shards)
    # Ray, fsspec's packages and the models raise what they like.
    except typer.Exit:
        raise
    except ImportError as error:
        fail(f"{INSTALL} ({error})")
    except Exception as error:
        fail(error)
    # The launcher ends all processes as soon as one ends with anything but 0.
    raise typer.Exit(0 if engine is options.Engine.accelerate else _exit_code(outcomes))


@contextlib.contextmanager
def _beginning(run: DatasetRun) -> "Iterator[tuple[DatasetJob, list[Shard]]]":
    """The job and its unfinished shards. The target is locked until the end."""
    run.check()
    from nullface_pipeline.dataset import StorageLocation, begin, claim_target, find_shards
    from nullface_pipeline.runs.lock import hold_folder

    source, target = StorageLocation(run.source), StorageLocation(run.output)
    shards = find_shards(source, target, run.shard_size)
    job = run.job(source, target)
    # The processes of `accelerate launch` are one run, and each needs the whole list.
    if run.engine is options.Engine.accelerate:
        claim_target(job, shards)
        yield job, shards
        return
    reports = job.reports.folder
    with contextlib.nullcontext() if reports is None else hold_folder(reports):
        left = begin(job, shards)
        _remove_half_written(job)
        yield job, left
        # Of workers that were killed while this run went on.
        _remove_half_written(job)


def _remove_half_written(job: "DatasetJob") -> None:
    from nullface_pipeline.runs.lock import remove_leftovers

    for location in (job.reports, job.target):
        if location.folder is not None:
            remove_leftovers({Path(root) for root, _, _ in os.walk(location.folder)}, location.folder)


def _go_through(run: DatasetRun, job: "DatasetJob", shards: "list[Shard]") -> "list[ShardOutcome]":
    from nullface_pipeline.dataset import run_accelerate, run_local, run_ray

    quiet_libraries()
    limit_threads(run.model.model)
    console.print(f"{len(shards)} shard(s) to do.")
    progress = ShardProgress(shards)
    found: "Iterable[ShardOutcome]"
    if run.engine is options.Engine.ray:
        found = run_ray(job, shards, str(run.address), run.workers)
    elif run.engine is options.Engine.accelerate:
        found = run_accelerate(job, shards)
    else:
        found = run_local(job, shards, progress.on_photo)
    outcomes = []
    # Several processes of `accelerate launch` cannot share a line of the terminal.
    with contextlib.nullcontext() if run.engine is options.Engine.accelerate else progress.bar:
        for outcome in found:
            outcomes.append(outcome)
            progress.on_shard(outcome)
            _tell(outcome)
    # Once a run, of which `accelerate launch` starts several processes.
    if run.model.model == "tiny" and outcomes and os.environ.get("RANK", "0") == "0":
        tell_demonstration()
    return outcomes


def _tell(outcome: "ShardOutcome") -> None:
    if outcome.failed:
        error_console.print(f"[red]failed[/red] {show(f'{outcome.name}: {outcome.failed}')}", soft_wrap=True)
        return
    counts = f"{outcome.anonymized} anonymized, {outcome.covered} covered, {outcome.refused} refused"
    console.print(show(f"{outcome.name}: {outcome.photos} photos, {counts}"), soft_wrap=True)


def _exit_code(outcomes: "list[ShardOutcome]") -> int:
    if any(outcome.failed or outcome.refused for outcome in outcomes):
        return ExitCode.refused
    return ExitCode.covered if any(outcome.covered for outcome in outcomes) else ExitCode.ok


@dataset.command()
def report(output: Annotated[str, typer.Argument(metavar="OUTPUT", help="The --output of a run.")]) -> None:
    """Add up the reports on a data set: photos, faces, refusals, time.

    Exit code: 3 if results in OUTPUT are missing or are not what the run made,
    1 for wrong usage, else 0.
    """
    try:
        from nullface_pipeline.dataset import StorageLocation, summarize

        summary = summarize(StorageLocation(output))
    except ImportError as error:
        fail(f"{INSTALL} ({error})")
    except (OSError, ValueError) as error:
        fail(error)
    console.print(_summary_table(summary))
    for reason, count in summary.reasons.most_common(10):
        console.print(show(f"{count} refused: {reason}"), soft_wrap=True)
    if "tiny" in summary.models:
        tell_demonstration()
    if summary.changed:
        error_console.print(
            f"[red]changed[/red] {len(summary.changed)} result(s) are missing or are not what the run made, such as "
            f"{show(summary.changed[0])}. Give the command of the run again.",
            soft_wrap=True,
        )
        raise typer.Exit(ExitCode.refused)


def _summary_table(summary: "RunSummary") -> Table:
    photos, faces, seconds = summary.photos.total(), summary.faces.total(), sum(summary.seconds.values())
    rows: list[tuple[str, str]] = [("shards", f"{summary.shards:,}"), ("photos", f"{photos:,}")]
    rows.append(("identity", ", ".join(sorted(summary.identities))))
    rows += [(f"photos {status}", f"{count:,}") for status, count in sorted(summary.photos.items())]
    rows += [(f"faces {method}", f"{count:,}") for method, count in sorted(summary.faces.items())]
    rows += [(f"hours on {device}", f"{used / 3600:.2f}") for device, used in sorted(summary.seconds.items())]
    if seconds:
        rows.append(("photos a second and worker", f"{photos / seconds:.2f}"))
        rows.append(("faces a second and worker", f"{faces / seconds:.2f}"))
    if summary.faces["replaced"]:
        rows.append(("UNet evaluations a face", f"{summary.unet_evaluations / faces:.1f}"))
    table = Table("", "", show_header=False)
    for row in rows:
        table.add_row(*row)
    return table
