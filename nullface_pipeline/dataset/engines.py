"""Engines that run the workers: this process, one process per GPU, or actors of a Ray cluster."""

import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

from nullface_pipeline.dataset.job import DatasetJob
from nullface_pipeline.dataset.shards import Shard
from nullface_pipeline.dataset.worker import ShardOutcome, ShardWorker


def run_local(
    job: DatasetJob, shards: list[Shard], on_photo: Callable[[], None] | None = None
) -> Iterator[ShardOutcome]:
    """Process shards one by one in this process.

    Args:
        on_photo (`Callable`, *optional*): called after each photo.
    """
    if shards:
        worker = ShardWorker(job)
        worker.on_photo = on_photo
        for shard in shards:
            yield worker.run(shard)


def run_accelerate(job: DatasetJob, shards: list[Shard]) -> Iterator[ShardOutcome]:
    """Process every n-th shard under `accelerate launch`, on the GPU of this rank.

    The processes do not communicate. Pass the same list to each, including finished shards, which
    are skipped.
    """
    from accelerate import PartialState

    state = PartialState(cpu=job.device == "cpu")
    try:
        mine = shards[state.process_index :: state.num_processes]
        # Model sets do not accept "cpu:1".
        device = "cpu" if state.device.type == "cpu" else str(state.device)
        yield from run_local(replace(job, device=device), mine)
    finally:
        state.destroy_process_group()


def run_ray(job: DatasetJob, shards: list[Shard], address: str, workers: int | None = None) -> Iterator[ShardOutcome]:
    """Process shards with actors of a Ray cluster, which retries those of killed actors and nodes.

    Args:
        address (`str`): HOST:PORT of the cluster, or "auto".
        workers (`int`, *optional*): number of actors, by default the number of GPUs, or 1.

    Raises:
        ConnectionError: if no cluster answers at the address.
        ImportError: if Ray is not installed.
        RuntimeError: if a model cannot be loaded, or the cluster is too small.
    """
    if not shards:
        return
    import ray
    import ray.data

    _check_answers(address)
    ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    # Errors are raised as exceptions; the log of Ray Data has a page per actor.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        gpus, cpus = (int(ray.cluster_resources().get(kind, 0)) for kind in ("GPU", "CPU"))
        use_gpu = gpus > 0 and job.device != "cpu"
        workers = workers or (gpus if use_gpu else 1)
        _check_size(workers, cpus, gpus if use_gpu else None)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # One block per shard, up to a number that Ray can schedule efficiently.
        blocks = min(len(shards), max(1000, 20 * workers))
        rows = ray.data.from_items([shard.as_row() for shard in shards], override_num_blocks=blocks)
        done = rows.map(
            ShardWorker,  # type: ignore[arg-type]
            fn_constructor_args=[job],
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
            num_gpus=1 if use_gpu else 0,
        )
        for row in done.iter_rows():
            yield ShardOutcome(**row)
    except ray.exceptions.RayError as error:
        # The last line is the error itself, after the traceback within Ray.
        raise RuntimeError(f"A worker failed: {str(error).strip().splitlines()[-1]}") from error
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Check that a cluster answers. Ray itself retries for a minute."""
    host, _, port = address.rpartition(":")
    if host:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except (OSError, ValueError) as error:
            raise ConnectionError(f"No Ray cluster answers at {address} ({error}): check --address.") from error


def _check_size(workers: int, cpus: int, gpus: int | None) -> None:
    """Check the resources of the cluster. Ray blocks without a message if they are too low."""
    if gpus is not None and workers > gpus:
        raise RuntimeError(f"{workers} workers need {workers} GPUs; the cluster has {gpus}. Lower --workers.")
    if cpus < workers + 1:
        raise RuntimeError(
            f"{workers} worker(s) need {workers + 1} CPUs, one of them for Ray's own tasks; the cluster has {cpus}. "
            "Lower --workers, or start Ray with a larger --num-cpus."
        )
