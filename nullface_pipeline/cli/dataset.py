"""`nullface dataset`: anonymize sharded data sets and summarize their reports."""

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
from nullface_pipeline.cli.console import console, error_console, fail, print_tiny_notice, quiet_libraries, show
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.photo_run import PhotoRun, photo_arguments
from nullface_pipeline.cli.progress import ShardProgress
from nullface_pipeline.cli.threads import limit_threads
from nullface_pipeline.model_options import ModelOptions
from nullface_pipeline.photo_options import PhotoOptions


if TYPE_CHECKING:
    from nullface_pipeline.dataset import DatasetJob, RunSummary, Shard, ShardOutcome, StorageLocation


INSTALL = 'Packages are missing. Run `pip install "nullface-pipeline[dataset]"`, or `[dataset,ray]` for a cluster.'


class _RunByDefault(TyperGroup):
    """`nullface dataset SOURCE` is `nullface dataset run SOURCE`."""

    # The context's class is in a copy of Click inside Typer, so it has no public type.
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


dataset = typer.Typer(
    cls=_RunByDefault,
    name="dataset",
    no_args_is_help=True,
    help="Replace the faces in data sets: `nullface dataset SOURCE -o OUTPUT`.",
)


@dataclass(frozen=True, kw_only=True)
class DatasetRun(PhotoRun):
    """Arguments of `nullface dataset`."""

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
        """Check the combination of options, without loading a model.

        Raises:
            ValueError: if options exclude each other, or the source does not exist.
        """
        if self.on_failure is options.OnFailure.error:
            raise ValueError("--on-failure error does not apply to data sets. Use cover or skip-file.")
        if (self.address is None) == (self.engine is options.Engine.ray):
            raise ValueError("--engine ray and --address HOST:PORT must be given together.")
        if self.workers is not None and self.engine is not options.Engine.ray:
            raise ValueError(
                "--workers needs --engine ray. For accelerate, use `accelerate launch --num_processes N`."
            )
        target = Path(self.output).absolute()
        for path in self.other_inputs:
            if path.absolute().is_relative_to(target):
                raise ValueError(f"{path} lies in {self.output}, where results are written. Move it elsewhere.")
        # A URL is checked when its file system is opened.
        if "://" not in self.source and not Path(self.source).exists():
            raise ValueError(f"{self.source} does not exist.")

    def job(self, source: "StorageLocation", target: "StorageLocation") -> "DatasetJob":
        """Create the settings of the workers; reads the secret seed or creates a new one.

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
    skip_face: options.SkipPerson = None,
    on_failure: options.Failure = options.OnFailure.cover,
    keep_metadata: options.KeepMetadata = False,
    quiet: options.Quiet = False,
    **values: Any,
) -> None:
    """Replace the faces in a data set, shard by shard.

    SOURCE holds Parquet files with a column of images, WebDataset tars, or
    photos. To resume a stopped run, run the same command again. Reports are
    written to OUTPUT-reports; `nullface dataset report OUTPUT` summarizes them.

    Exit code: 0 if every face of this run is replaced and verified, 3 if some
    are covered instead, 4 if some photos were refused or some shards failed, 2
    for wrong usage, 1 for other errors. With --engine accelerate, it is 0, 1 or
    2 only; see the report.
    """
    console.quiet = quiet
    try:
        run = DatasetRun(
            **photo_arguments(values, list(skip_face or ()), on_failure),
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
        with _prepared(run) as (job, shards):
            outcomes = _anonymize_shards(run, job, shards)
    # Ray, the packages of fsspec and the models raise errors of any type.
    except typer.Exit:
        raise
    except ImportError as error:
        fail(f"{INSTALL} ({error})" if error.name else f"{error}. It is needed for this URL.")
    except Exception as error:
        fail(error)
    # `accelerate launch` ends all processes as soon as one exits with another code than 0.
    raise typer.Exit(0 if engine is options.Engine.accelerate else _exit_code(outcomes))


@contextlib.contextmanager
def _prepared(run: DatasetRun) -> "Iterator[tuple[DatasetJob, list[Shard]]]":
    """Context with the job and its unfinished shards; locks the target."""
    run.check()
    if run.engine is options.Engine.local and run.model.device is not None:
        from nullface_pipeline.model_sets import check_device

        check_device(run.model.device)
    from nullface_pipeline.dataset import StorageLocation, begin, claim_target, find_shards
    from nullface_pipeline.runs.lock import hold_folder

    source, target = StorageLocation(run.source), StorageLocation(run.output)
    shards = find_shards(source, target, run.shard_size)
    job = run.job(source, target)
    # All processes of `accelerate launch` belong to one run and need the same list.
    if run.engine is options.Engine.accelerate:
        claim_target(job, shards)
        yield job, shards
        return
    reports = job.reports.folder
    with contextlib.nullcontext() if reports is None else hold_folder(reports):
        unfinished = begin(job, shards)
        _remove_partial_files(job)
        yield job, unfinished
        # Workers that were killed during this run can leave files behind.
        _remove_partial_files(job)


def _remove_partial_files(job: "DatasetJob") -> None:
    from nullface_pipeline.runs.lock import remove_leftovers

    for location in (job.reports, job.target):
        if location.folder is not None:
            remove_leftovers({Path(root) for root, _, _ in os.walk(location.folder)}, location.folder)


def _anonymize_shards(run: DatasetRun, job: "DatasetJob", shards: "list[Shard]") -> "list[ShardOutcome]":
    from nullface_pipeline.dataset import run_accelerate, run_local, run_ray

    quiet_libraries()
    limit_threads(run.model.model)
    console.print(f"{len(shards)} shard(s) to do.")
    progress = ShardProgress(shards)
    finished: "Iterable[ShardOutcome]"
    if run.engine is options.Engine.ray:
        finished = run_ray(job, shards, str(run.address), run.workers)
    elif run.engine is options.Engine.accelerate:
        finished = run_accelerate(job, shards)
    else:
        finished = run_local(job, shards, progress.on_photo)
    outcomes = []
    # The processes of `accelerate launch` cannot share a line of the terminal.
    with contextlib.nullcontext() if run.engine is options.Engine.accelerate else progress.bar:
        for outcome in finished:
            outcomes.append(outcome)
            progress.on_shard(outcome)
            _print_outcome(outcome)
    # Only by the first process of `accelerate launch`.
    if run.model.model == "tiny" and outcomes and os.environ.get("RANK", "0") == "0":
        print_tiny_notice()
    return outcomes


def _print_outcome(outcome: "ShardOutcome") -> None:
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
    """Summarize the reports of a data set: photos, faces, refusals, time.

    Exit code: 0 if the results are complete, 4 if some are missing or changed,
    2 for wrong usage, 1 for other errors.
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
        print_tiny_notice()
    if summary.changed:
        error_console.print(
            f"[red]changed[/red] {len(summary.changed)} result(s) are missing or changed since the run, such as "
            f"{show(summary.changed[0])}. Run the command that wrote them again.",
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
        rows.append(("photos per second and worker", f"{photos / seconds:.2f}"))
        rows.append(("faces per second and worker", f"{faces / seconds:.2f}"))
    if summary.faces["replaced"]:
        rows.append(("UNet evaluations per face", f"{summary.unet_evaluations / faces:.1f}"))
    table = Table("", "", show_header=False)
    for row in rows:
        table.add_row(*row)
    return table
