"""Time of two photos with nullface-tiny, by number of threads and spinning or sleeping waits.

    python -m benchmarks.threads --busy 1

Each configuration runs in turn in its own process, beside `--busy` processes that each keep a core
busy. It prints medians. Loading is excluded.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time


# Number of threads, and whether they spin while they wait.
WAYS = {"2 threads, spinning": (2, True), "2 threads, sleeping": (2, False), "1 thread, sleeping": (1, False)}
OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
BUSY = "while True: pass"


def measure(threads: int, spinning: bool) -> None:
    """Print the wall-clock and processor seconds of two photos in this process."""
    import onnxruntime
    import PIL.Image
    import PIL.ImageOps
    import torch
    from skimage import data

    from nullface_pipeline import face_identity
    from nullface_pipeline.tiny_model import load_nullface_tiny

    torch.set_num_threads(threads)
    if spinning:
        face_identity._session_options = onnxruntime.SessionOptions
    pipe = load_nullface_tiny()
    pipe.set_progress_bar_config(disable=True)
    photo = PIL.Image.fromarray(data.astronaut())
    started, before = time.perf_counter(), time.process_time()
    for each in (photo, PIL.ImageOps.mirror(photo)):
        pipe.anonymize(each, seed=1)
    print(json.dumps([time.perf_counter() - started, time.process_time() - before]))


def run(way: str) -> list[float]:
    """Wall-clock and processor seconds of one configuration in its own process."""
    threads, spinning = WAYS[way]
    environment = {name: value for name, value in os.environ.items() if name not in OPENMP}
    if not spinning:
        environment |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    child = [sys.executable, "-m", "benchmarks.threads", "--child", way]
    done = subprocess.run(child, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--busy", type=int, default=0, help="number of busy processes")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each configuration")
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child is not None:
        return measure(*WAYS[args.child])
    print(f"# {os.cpu_count()} cores, {args.busy} busy, load average {os.getloadavg()[0]:.1f} before the run")
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(args.busy)]
    try:
        rounds = [{way: run(way) for way in WAYS} for _ in range(args.rounds)]
    finally:
        for process in busy:
            process.kill()
    print("| configuration | seconds | range | processor seconds |\n| --- | --- | --- | --- |")
    for way in WAYS:
        seconds, used = zip(*(each[way] for each in rounds))
        spread = f"{min(seconds):.1f} to {max(seconds):.1f}"
        print(f"| {way} | {statistics.median(seconds):.1f} | {spread} | {statistics.median(used):.1f} |", flush=True)


if __name__ == "__main__":
    main()
