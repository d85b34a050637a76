"""What the training loops share: a wall-clock budget that survives stop and resume, and checkpoints written whole."""

import math
import os
import time
from pathlib import Path

import torch


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


def save_checkpoint(path: Path, state: dict) -> None:
    """Write a checkpoint under a temporary name first, so that a stop never leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    torch.save(state, temporary)
    os.replace(temporary, path)


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
