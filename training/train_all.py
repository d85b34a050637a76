"""Train all parts of nullface-tiny in the order of their dependencies, then evaluate them.

    python -m training.train_all --minutes 1200       # like the shipped model set, on two CPU cores
    python -m training.train_all --minutes 20         # short test of all parts, on fewer portraits

Each part resumes from its checkpoint in `--runs`. Repeat the command to continue a stopped run.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from training.loop import option_parser


# With less time, a subset of the portraits is used: embedding all of them takes ten minutes.
ALL_PORTRAITS_MINUTES = 240.0
# Samples per second on one core, for converting minutes to samples.
RATES = {"recognizer": 35.0, "denoiser": 11.0, "guided": 2.5}

Part = tuple[str, list[str]]


def parts(args: argparse.Namespace, data: Path, large: Path) -> list[Part]:
    """Module and options of each part in order; `large` is the file of 256 px portraits."""
    folder, runs = args.output, ["--runs", str(args.runs)]
    source, teacher = ["--data", str(data)], ["--teacher", str(args.models / "face_recognizer_512.onnx")]
    autoencoder = ["--autoencoder", str(folder / "model" / "vae")]

    def minutes(share: float) -> list[str]:
        return ["--minutes", f"{share * args.minutes:.3f}"]

    def samples(rate: str, share: float) -> int:
        return max(64, int(60.0 * share * args.minutes * RATES[rate]))

    denoiser = ["--output", str(folder), *runs, *autoencoder]
    measure = [*source, "--model", str(folder), "--models", str(args.models), "--output", str(args.figures)]
    people = ["--count", str(max(4, min(439, int(args.minutes / 3))))] if args.minutes < ALL_PORTRAITS_MINUTES else []
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


def subset(data: Path, runs: Path, minutes: float) -> Path:
    """File of the portraits, or of a subset that fits the minutes."""
    if minutes >= ALL_PORTRAITS_MINUTES:
        return data
    path = runs / data.name
    if not path.exists():
        table = pq.read_table(data).sort_by([("split", "ascending"), ("colour", "descending"), ("id", "ascending")])
        training = int(pc.sum(pc.equal(table["split"], "train")).as_py())
        every = max(1, int(ALL_PORTRAITS_MINUTES / max(minutes, 1.0)))
        chosen = [*range(0, training, every), *range(training, len(table), max(1, every // 8))]
        pq.write_table(table.take(chosen), path)
    return path


def run(command: list[str]) -> None:
    """Run a command; an error stops the whole training."""
    subprocess.run(command, check=True)


def train_all(args: argparse.Namespace, start: Callable[[list[str]], None] = run) -> None:
    """Start the commands of all parts one after the other."""
    args.runs.mkdir(parents=True, exist_ok=True)
    data, large = (subset(path, args.runs, args.minutes) for path in (args.data, args.large_data))
    todo = parts(args, data, large)
    for number, (module, options) in enumerate(todo, start=1):
        command = [sys.executable, "-m", f"training.{module}", *options]
        print(f"[{number}/{len(todo)}] {' '.join(command[1:])}", flush=True)
        start(command)


def main() -> None:
    output = Path("nullface_pipeline/tiny")
    parser = option_parser(__doc__, "data", "models", "runs", output=output, minutes=1200.0)
    large = Path("../shared/data/portraits_large.parquet")
    parser.add_argument("--large-data", type=Path, default=large, help="parquet file of portraits at full size")
    parser.add_argument("--figures", type=Path, default=Path("docs/nullface-tiny"), help="folder of tables and plots")
    train_all(parser.parse_args())


if __name__ == "__main__":
    main()
