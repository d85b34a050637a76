"""Cost of a run: UNet evaluations, time and peak memory."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch


@dataclass
class Cost:
    """Cost of one run, complete when it ends.

    Attributes:
        evaluations (`int`): samples evaluated by the UNet.
        seconds (`float`): wall-clock time.
        busy (`float`): processor seconds of this process, less disturbed by other programs.
        unet_seconds, unet_busy (`float`): the UNet's share of both.
        memory (`float`): peak memory in GB, of the GPU, or of the process on a CPU.
    """

    evaluations: int = 0
    seconds: float = 0.0
    busy: float = 0.0
    unet_seconds: float = 0.0
    unet_busy: float = 0.0
    memory: float = 0.0


@contextmanager
def measure(unet: Any) -> Iterator[Cost]:
    """Measure the cost of a `with` block."""
    cost, memory = Cost(), PeakMemory(unet.device)
    with memory, counted(unet, cost):
        started = now(unet.device)
        yield cost
        cost.seconds, cost.busy = (end - start for end, start in zip(now(unet.device), started))
    cost.memory = memory.peak


@contextmanager
def counted(unet: Any, cost: Cost) -> Iterator[None]:
    """Count UNet evaluations and their time, including direct calls of `forward`."""
    forward = unet.forward

    def counting_forward(sample: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        started = now(unet.device)
        result = forward(sample, *args, **kwargs)
        seconds, busy = (end - start for end, start in zip(now(unet.device), started))
        cost.evaluations += len(sample)
        cost.unet_seconds += seconds
        cost.unet_busy += busy
        return result

    unet.forward = counting_forward
    try:
        yield
    finally:
        del unet.forward


def now(device: torch.device) -> tuple[float, float]:
    """Wall-clock and processor seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


class PeakMemory:
    """Peak memory of a `with` block in GB; on a CPU, sampled every 50 ms."""

    def __init__(self, device: torch.device):
        self.device, self.peak = device, 0.0
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            self._watcher.start()

    def __exit__(self, *exception: object) -> None:
        if self.device.type == "cuda":
            self.peak = torch.cuda.max_memory_allocated(self.device) / 1e9
        else:
            self._ended.set()
            self._watcher.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while True:
            self.peak = max(self.peak, process.memory_info().rss / 1e9)
            if self._ended.wait(0.05):
                return
