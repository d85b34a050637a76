"""Memory and time of an evaluation by the number of its pictures: does the one stay flat?

    python -m benchmarks.evaluate_memory --runs /tmp/pairs

Synthetic people of 48 px, and as many results, in which another person's pattern covers part of the own. Everything but detector and
recognizer, which answer at once, is what `nullface evaluate` does: reading, remembering, ranking, all attacks, two recognizers, the
report. Each number of people is a process of its own, first with nothing remembered, then with everything. What is counted is memory
that the system cannot take back; pages of files it can.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import PIL.Image
import psutil

from nullface_pipeline.evaluation.cache import Cache
from nullface_pipeline.evaluation.cached_models import CachedModels
from nullface_pipeline.evaluation.html_report import write_html
from nullface_pipeline.evaluation.pairs import Method
from nullface_pipeline.evaluation.report import write_figures
from nullface_pipeline.evaluation.run import evaluate
from tests.evaluation.small_world import PATTERN, Patterns, RedSquares, person


NUMBERS = (1_250, 2_500, 5_000, 10_000)


def write_people(folder: Path, people: int) -> None:
    """Originals, and results that share an eighth of the pattern with them."""
    for name in ("originals", "results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(people):
        file = f"{number:05}.png"
        if (folder / "results" / file).exists():
            continue
        original = person(number)
        result = person(people + number)
        result[PATTERN][:2] = original[PATTERN][:2]
        PIL.Image.fromarray(original).save(folder / "originals" / file)
        PIL.Image.fromarray(result).save(folder / "results" / file)


class Watched(threading.Thread):
    """Looks every few milliseconds how many megabytes this process holds; `peak` is the most."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = held_memory()

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, held_memory())
            time.sleep(0.01)


def held_memory() -> float:
    """Megabytes of this process, without the pages of files."""
    memory = psutil.Process().memory_info()
    return (memory.rss - memory.shared) / 1e6


def measure(folder: Path) -> dict[str, float]:
    """Megabytes before, at the peak, and seconds of one evaluation of a folder."""
    start, before, watched = time.perf_counter(), held_memory(), Watched()
    watched.start()
    models = CachedModels(cast(Any, RedSquares()), Cache(folder / "cache.sqlite"), quiet=True)
    recognizers = [Patterns("first"), Patterns("second")]
    result = evaluate(folder / "originals", [Method("some", folder / "results")], recognizers, models)
    write_figures(result, folder / "report")
    write_html(result, folder / "report")
    return {
        "people": len(result.originals),
        "asked anew": models.cache.made,
        "megabytes before": round(before, 1),
        "megabytes at the peak": round(watched.peak, 1),
        "seconds": round(time.perf_counter() - start, 1),
        "rank 1, %": round(100.0 * float(np.mean(result.methods[0].recognitions["same_photo"]["first"].rates(1)["redetected"].value)), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, help="only this number, in this process")
    parser.add_argument("--runs", type=Path, required=True)
    args = parser.parse_args()
    if args.people:
        folder = args.runs / str(args.people)
        write_people(folder, args.people)
        print(json.dumps(measure(folder)), flush=True)
        return
    for people in NUMBERS:
        for _ in range(2):
            command = [sys.executable, "-m", "benchmarks.evaluate_memory", "--people", str(people)]
            subprocess.run([*command, "--runs", str(args.runs)], check=True)


if __name__ == "__main__":
    main()
