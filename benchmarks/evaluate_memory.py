"""Memory and time of an evaluation, with and without a different-photo gallery.

    python -m benchmarks.evaluate_memory --runs /tmp/pairs --num-subjects 1000 10000

Synthetic people of 48 px. A result shares part of its pattern with the original; the other photo of
a person is the original's pattern with noise. Detector and recognizer answer at once; all else is
`nullface evaluate`: reading, cache, ranking, all attacks, two recognizers and the report. Each
measurement runs in its own process, first with an empty cache and then with a full one. Memory
excludes pages of files.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, cast

import PIL.Image
import psutil

from nullface_pipeline.evaluation.cache import Cache
from nullface_pipeline.evaluation.cached_models import CachedModels
from nullface_pipeline.evaluation.html_report import write_html
from nullface_pipeline.evaluation.pairs import Method
from nullface_pipeline.evaluation.report import write_figures
from nullface_pipeline.evaluation.run import evaluate
from tests.evaluation.small_world import PATTERN, Patterns, RedSquares, other_photo, person


def write_people(folder: Path, num_subjects: int) -> None:
    """Write originals, other photos, and results that share an eighth of the pattern."""
    for name in ("originals", "others", "results"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(num_subjects):
        file = f"{number:05}.png"
        if (folder / "results" / file).exists():
            continue
        original = person(number)
        result = person(num_subjects + number)
        result[PATTERN][:2] = original[PATTERN][:2]
        for name, photo in (("originals", original), ("others", other_photo(number)), ("results", result)):
            PIL.Image.fromarray(photo).save(folder / name / file)


class PeakMemory(threading.Thread):
    """Samples the memory of this process every 10 ms; `peak` is the highest, in megabytes."""

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


def measure(folder: Path, gallery: bool) -> dict[str, float | bool]:
    """Evaluate a folder and measure it."""
    start, before, memory = time.perf_counter(), held_memory(), PeakMemory()
    memory.start()
    models = CachedModels(cast(Any, RedSquares()), Cache(folder / f"cache-{gallery}.sqlite"), quiet=True)
    result = evaluate(
        folder / "originals",
        [Method("some", folder / "results")],
        [Patterns("first"), Patterns("second")],
        models,
        gallery=folder / "others" if gallery else None,
    )
    write_figures(result, folder / "report")
    write_html(result, folder / "report")
    rank1 = {
        name: round(100.0 * of["first"].rates(1)["gt_aligned"].value, 2)
        for name, of in result.methods[0].recognitions.items()
    }
    return {
        "people": len(result.originals),
        "gallery": gallery,
        "computed": models.cache.made,
        "megabytes_before": round(before, 1),
        "megabytes_peak": round(memory.peak, 1),
        "seconds": round(time.perf_counter() - start, 1),
        **{f"rank_1_{name}": value for name, value in rank1.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--num-subjects", type=int, nargs="+", default=[1_000, 10_000])
    parser.add_argument("--one", choices=("same", "different"), help="one measurement, in this process")
    args = parser.parse_args()
    for num_subjects in args.num_subjects:
        folder = args.runs / str(num_subjects)
        if args.one:
            print(json.dumps(measure(folder, args.one == "different")), flush=True)
            continue
        write_people(folder, num_subjects)
        for one in ("same", "same", "different", "different"):
            command = [sys.executable, "-m", "benchmarks.evaluate_memory", "--runs", str(args.runs)]
            subprocess.run([*command, "--num-subjects", str(num_subjects), "--one", one], check=True)


if __name__ == "__main__":
    main()
