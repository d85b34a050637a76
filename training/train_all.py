"""Train all parts of nullface-tiny in the order of their dependencies, then measure the result.

    python -m training.train_all --minutes 1200       # what the shipped set is made of, on two CPU cores
    python -m training.train_all --minutes 20         # every part at toy length, on a share of the portraits

Every part resumes from its checkpoint in `--runs`, so that the command can be stopped and given again.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from training.loop import RUNS


# From how many minutes on all portraits are used; below it a share of them, for embedding all takes ten minutes alone.
WHOLE_MINUTES = 240.0
# Samples a second on one core, by which minutes become a number of samples.
RATES = {"recognizer": 35.0, "denoiser": 11.0, "guided": 2.5}

Part = tuple[str, list[str]]


def parts(args: argparse.Namespace, data: Path, large: Path) -> list[Part]:
    """Module and options of every part, in order; `large` are the portraits that have 256 px."""
    folder, runs = args.output, ["--runs", str(args.runs)]
    source, teacher = ["--data", str(data)], ["--teacher", str(args.models / "face_recognizer_512.onnx")]
    autoencoder = ["--autoencoder", str(folder / "model" / "vae")]

    def minutes(share: float) -> list[str]:
        return ["--minutes", f"{share * args.minutes:.3f}"]

    def samples(rate: str, share: float) -> int:
        return max(64, int(60.0 * share * args.minutes * RATES[rate]))

    denoiser = ["--output", str(folder), *runs, *autoencoder]
    measure = [*source, "--model", str(folder), "--models", str(args.models), "--output", str(args.figures)]
    people = ["--count", str(max(4, min(439, int(args.minutes / 3))))] if args.minutes < WHOLE_MINUTES else []
    results = ["--count", str(max(2, min(200, int(args.minutes))))]
    return [
        ("autoencoder", [*source, *runs, *minutes(0.12), "--output", str(folder / "model" / "vae")]),
        ("detector", [*source, *runs, *minutes(0.08), "--output", str(folder / "face_models" / "detector.onnx")]),
        ("parser", [*source, *runs, *minutes(0.05), "--output", str(folder / "face_parser")]),
        ("teacher", [*source, *runs, *teacher]),
        ("latent_cache", [*source, *runs, *autoencoder]),
        ("sampling", [*source, *runs]),
        (
            "recognizer",
            [*source, *runs, *teacher, "--samples", str(samples("recognizer", 0.15))]
            + ["--output", str(folder / "face_models" / "recognizer.onnx")],
        ),
        ("people", [*source, "--model", str(folder)]),
        ("identities", [*source, *runs, "--recognizer", str(folder / "face_models" / "recognizer.onnx")]),
        ("pose_erasure", [*source, *runs]),
        ("face_swaps", [*source, *runs, *autoencoder]),
        ("denoiser", ["train", *denoiser, "--samples", str(samples("denoiser", 0.4))]),
        (
            "denoiser",
            ["train", *denoiser, "--name", "sharp", "--from", str(args.runs / "denoiser.pt"), "--critic"]
            + ["--samples", str(samples("denoiser", 0.15)), "--lr", "5e-4", "--window-share", "0"],
        ),
        (
            "denoiser",
            ["all", *denoiser, "--name", "guided", "--from", str(args.runs / "sharp.pt"), "--guided", "8"]
            + ["--samples", str(samples("guided", 0.05)), "--lr", "4e-4"],
        ),
        ("decoded_results", [*source, *runs, "--model", str(folder), *results]),
        (
            "autoencoder_256",
            [*source, *runs, *minutes(0.12), *autoencoder, "--large-data", str(large)]
            + ["--output", str(folder / "model" / "vae")],
        ),
        *(("evaluate", [part, *measure, *people]) for part in ("table", "trends", "sheet")),
    ]


def some_portraits(data: Path, runs: Path, minutes: float) -> Path:
    """The portraits, or if there is little time a file of every so many-th of them."""
    if minutes >= WHOLE_MINUTES:
        return data
    path = runs / data.name
    if not path.exists():
        table = pq.read_table(data).sort_by([("split", "ascending"), ("colour", "descending"), ("id", "ascending")])
        training = int(pc.sum(pc.equal(table["split"], "train")).as_py())
        every = max(1, int(WHOLE_MINUTES / max(minutes, 1.0)))
        chosen = [*range(0, training, every), *range(training, len(table), max(1, every // 8))]
        pq.write_table(table.take(chosen), path)
    return path


def run(command: list[str]) -> None:
    """Run a command; an error ends everything."""
    subprocess.run(command, check=True)


def train_all(args: argparse.Namespace, start: Callable[[list[str]], None] = run) -> None:
    """Give the commands of all parts one after the other."""
    args.runs.mkdir(parents=True, exist_ok=True)
    data, large = (some_portraits(path, args.runs, args.minutes) for path in (args.data, args.large_data))
    todo = parts(args, data, large)
    for number, (module, options) in enumerate(todo, start=1):
        command = [sys.executable, "-m", f"training.{module}", *options]
        print(f"[{number}/{len(todo)}] {' '.join(command[1:])}", flush=True)
        start(command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/portraits.parquet"))
    parser.add_argument("--large-data", type=Path, default=Path("../shared/data/portraits_large.parquet"))
    parser.add_argument("--models", type=Path, default=Path("../shared/models"), help="teacher, and what measures")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of caches and checkpoints")
    parser.add_argument("--output", type=Path, default=Path("nullface_pipeline/tiny"), help="folder of the model set")
    parser.add_argument("--figures", type=Path, default=Path("docs/nullface-tiny"), help="folder of tables and plots")
    parser.add_argument("--minutes", type=float, default=1200.0, help="training time of all parts together")
    train_all(parser.parse_args())


if __name__ == "__main__":
    main()
