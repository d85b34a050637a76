"""What the training loops share: a budget that survives stop and resume, checkpoints written whole, the command line."""

import argparse
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import torch

from training.muon import MixedOptimizer


RUNS = Path("training/runs")  # caches and checkpoints; ignored by git


class Budget:
    """Wall-clock budget of a training; the learning rate follows the share of it that is spent.

    Args:
        minutes (`float`): the budget of the whole training, over all its runs.
        spent (`float`): seconds already spent by earlier runs, from the checkpoint.
    """

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self.seconds = 60.0 * minutes
        self._start = time.monotonic() - spent

    @property
    def spent(self) -> float:
        """Seconds spent, those of earlier runs included."""
        return time.monotonic() - self._start

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        return min(1.0, self.spent / self.seconds)


def cosine_rate(peak: float, fraction: float, step: int, warmup: int = 200, floor: float = 0.01) -> float:
    """Learning rate: linear warm-up over the first steps, then a cosine down to `floor` of the peak."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * fraction))
    return peak * min(1.0, (step + 1) / warmup) * (floor + (1.0 - floor) * cosine)


def level_rate(fraction: float, step: int, warmup: int = 200, decay: float = 0.3) -> float:
    """Share of the peak learning rate: linear warm-up, level, and linear to nothing in the last `decay` of the way.

    Level, so that a training can be given more samples until the decay begins.
    """
    return min(1.0, (step + 1) / warmup) * min(1.0, max(0.0, (1.0 - fraction) / decay))


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint under a temporary name first, so that a stop never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


def resume(
    path: Path, network: torch.nn.Module, optimizer: torch.optim.Optimizer | MixedOptimizer, device: torch.device
) -> tuple[float, int]:
    """Load a checkpoint if there is one; returns the seconds spent and the steps made by earlier runs."""
    if not path.exists():
        return 0.0, 0
    state = torch.load(path, map_location=device, weights_only=True)
    network.load_state_dict(state["network"])
    optimizer.load_state_dict(state["optimizer"])
    return state["spent"], state["step"]


def part_parser(description: str, output: Path) -> argparse.ArgumentParser:
    """The options of every part that is trained, exported and evaluated."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("task", nargs="?", default="all", choices=["all", "train", "export", "evaluate"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/portraits.parquet"))
    parser.add_argument("--output", type=Path, default=output)
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of caches and checkpoints")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    return parser


def run_part(args: argparse.Namespace, run_folder: Path, **tasks: Callable[[argparse.Namespace], None]) -> None:
    """Do the task asked for, or all of `tasks` in their order."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(0)
    run_folder.mkdir(parents=True, exist_ok=True)
    for name, task in tasks.items():
        if args.task in ("all", name):
            task(args)


class Every:
    """True once in every `seconds`: `if every(): ...`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True
