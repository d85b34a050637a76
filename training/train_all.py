"""Train all parts of nullface-tiny in the order of their dependencies, then measure the result.

    python -m training.train_all                  # about three hours on one CPU core
    python -m training.train_all --device cuda --hours 0.4

Every part resumes from its checkpoint in training/runs, so that the command can be stopped and given again.
"""

import argparse
import subprocess
import sys


# Module and task, its share of the training time (0: as long as it takes), and which options it knows.
PARTS: tuple[tuple[str, float, str], ...] = (
    ("teacher", 0.0, "data"),
    ("recognizer all", 0.20, "data device"),
    ("detector all", 0.10, "data device"),
    ("parser all", 0.07, "data device"),
    ("autoencoder", 0.18, "data device"),
    ("latent_cache", 0.0, "data device"),
    ("identities", 0.0, "data"),
    ("pose_erasure", 0.0, "data"),
    ("denoiser", 0.45, "device"),
    ("evaluate table", 0.0, "data device"),
    ("evaluate trends", 0.0, "data device"),
    ("evaluate sheet", 0.0, "data device"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="parquet file of portraits")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--hours", type=float, default=3.0, help="training time of all parts together")
    args = parser.parse_args()
    for number, (part, share, options) in enumerate(PARTS, start=1):
        module, *task = part.split()
        command = [sys.executable, "-m", f"training.{module}", *task]
        for option in options.split():
            command += [f"--{option}", getattr(args, option)]
        if share:
            command += ["--minutes", f"{60.0 * args.hours * share:.1f}"]
        print(f"[{number}/{len(PARTS)}] {' '.join(command[1:])}", flush=True)
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
