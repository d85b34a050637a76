"""Shared parts of the training commands: options, budget, checkpoints, logging, array files."""

import argparse
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import cv2
import numpy as np
import torch


RUNS = Path("training/runs")  # caches and checkpoints; ignored by git

SHARED_MODELS = Path("../shared/models")
OPTIONS: dict[str, tuple[type, object, str]] = {  # type, default and help
    "data": (Path, Path("../shared/data/portraits.parquet"), "parquet file of portraits"),
    "runs": (Path, RUNS, "folder of caches and checkpoints"),
    "output": (Path, None, "where the result is written"),
    "autoencoder": (Path, Path("nullface_pipeline/tiny/model/vae"), "folder of the autoencoder"),
    "model": (Path, Path("nullface_pipeline/tiny"), "folder of the model set"),
    "models": (Path, SHARED_MODELS, "folder of the teacher and the measuring networks"),
    "teacher": (Path, SHARED_MODELS / "face_recognizer_512.onnx", "ONNX file of the teacher"),
    "minutes": (float, None, "wall-clock budget of all runs together"),
    "batch_size": (int, None, "samples per step"),
    "lr": (float, None, "peak learning rate"),
    "device": (str, "cpu", "device of the networks"),
    "threads": (int, 1, "CPU threads of torch"),
    "seed": (int, 0, "random seed"),
}

Tasks = Mapping[str, Callable[[argparse.Namespace], None]]


def option_parser(description: str | None, *names: str, **defaults: object) -> argparse.ArgumentParser:
    """Parser with the named shared options.

    Args:
        description (`str`, *optional*): shown by `--help` as it is.
        names (`str`): keys of `OPTIONS`, with the default values given there.
        defaults (`object`): keys of `OPTIONS` with other default values.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in (*names, *defaults):
        kind, default, text = OPTIONS[name]
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=kind, default=defaults.get(name, default), help=text)
    return parser


def set_up(threads: int) -> None:
    """Log to standard error and limit torch and OpenCV to a number of threads."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(threads)
    cv2.setNumThreads(0)


def run_tasks(args: argparse.Namespace, tasks: Tasks) -> None:
    """Run the task named by `args.task`, or all tasks in their order."""
    set_up(args.threads)
    args.runs.mkdir(parents=True, exist_ok=True)
    for name, task in tasks.items():
        if args.task in ("all", name):
            task(args)


class Budget:
    """Wall-clock budget of a training run; the learning rate follows the share spent.

    Args:
        minutes (`float`): budget of the whole training, over all its runs.
        spent (`float`): seconds already spent by earlier runs, from the checkpoint.
    """

    def __init__(self, minutes: float, spent: float = 0.0) -> None:
        self.seconds = 60.0 * minutes
        self._start = time.monotonic() - spent

    @property
    def spent(self) -> float:
        """Seconds spent, including those of earlier runs."""
        return time.monotonic() - self._start

    @property
    def fraction(self) -> float:
        """Share of the budget that is spent, in [0, 1]."""
        return min(1.0, self.spent / self.seconds)


def cosine_rate(peak: float, fraction: float, step: int, warmup: int = 200, floor: float = 0.01) -> float:
    """Learning rate: linear warm-up over the first steps, then cosine decay to `floor * peak`."""
    cosine = 0.5 * (1.0 + math.cos(math.pi * fraction))
    return peak * min(1.0, (step + 1) / warmup) * (floor + (1.0 - floor) * cosine)


def level_rate(fraction: float, step: int, warmup: int = 200, decay: float = 0.3) -> float:
    """Share of the peak learning rate: linear warm-up, constant, linear decay to 0.

    The decay takes the last `decay` of the training. Until it begins, the number of samples can
    still be raised.
    """
    return min(1.0, (step + 1) / warmup) * min(1.0, max(0.0, (1.0 - fraction) / decay))


class Stateful(Protocol):
    """A network, an optimizer or anything else with a state dict."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state_dict: dict, /) -> Any: ...


def save_checkpoint(path: Path, parts: Mapping[str, Stateful], **progress: float) -> None:
    """Write the state of all parts and the progress atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    torch.save({name: part.state_dict() for name, part in parts.items()} | progress, temporary)
    os.replace(temporary, path)


def resume(path: Path, parts: Mapping[str, Stateful], device: torch.device) -> dict[str, Any]:
    """Load the state of all parts from a checkpoint, if it exists.

    Returns:
        `dict`: progress as given to `save_checkpoint`; empty without a checkpoint.
    """
    if not path.exists():
        return {}
    state = torch.load(path, map_location=device, weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state.pop(name))
    return state


class Every:
    """Timer: calling it returns True once per interval of `seconds`."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True


class LossLog:
    """Logs the mean losses every 30 seconds."""

    def __init__(self, logger: logging.Logger) -> None:
        self.logger, self.due = logger, Every(30)
        self.losses: list[dict[str, torch.Tensor]] = []

    def __call__(self, fraction: float, progress: str, **losses: torch.Tensor) -> bool:
        """Add the losses of one step; return whether their means were logged.

        Args:
            fraction (`float`): share of the training that is done, in [0, 1].
            progress (`str`): steps or samples so far, for the log.
            losses (`torch.Tensor`): scalars, the same names in each call.
        """
        self.losses.append({name: loss.detach() for name, loss in losses.items()})
        if not self.due():
            return False
        means = {name: torch.stack([each[name] for each in self.losses]).mean().item() for name in losses}
        shown = "  ".join(f"{name} {mean:.4f}" for name, mean in means.items())
        self.logger.info("%5.1f %%  %s  %s", 100.0 * fraction, progress, shown)
        self.losses.clear()
        return True


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an `.npy` file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part.npy")
    np.save(temporary, array)
    temporary.replace(path)


def cached_array(path: Path, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Array of an `.npy` file, memory-mapped copy-on-write; made and written if it is missing."""
    if not path.exists():
        save_array(path, make())
    return np.load(path, mmap_mode="c")


class ArrayCache:
    """Base of dataclasses whose fields are arrays, stored in one `.npz` file of the runs folder."""

    FILE: ClassVar[str]  # name of the file, in which `{split}` is replaced

    @classmethod
    def load(cls, runs: Path, split: str = "train") -> Self:
        """Read the arrays of one split, `train` or `validation`."""
        with np.load(runs / cls.FILE.format(split=split)) as file:
            return cls(**file)

    def save(self, runs: Path, split: str = "train") -> None:
        """Write the arrays atomically."""
        path = runs / self.FILE.format(split=split)
        temporary = path.with_suffix(".part.npz")
        np.savez(temporary, **vars(self))
        temporary.replace(path)
