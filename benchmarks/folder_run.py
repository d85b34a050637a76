"""Memory, speed and share of model time of a long run over a folder.

    python benchmarks/folder_run.py --count 1000

The photos are the validation portraits, repeated as needed; every tenth has three faces.
"""

import argparse
import io
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
import psutil
import pyarrow.parquet as pq
import torch

from nullface_pipeline.photo_files import PhotoFile
from nullface_pipeline.photo_files.anonymize import anonymize_file
from nullface_pipeline.photo_folder import anonymize_photos, find_photos
from nullface_pipeline.photo_options import PhotoOptions
from nullface_pipeline.tiny_model import load_nullface_tiny


def fill_folder(folder: Path, data: str, count: int) -> None:
    """Write JPEG photos with one face, and with three faces in every tenth."""
    table = pq.read_table(data, columns=["image"], filters=[("split", "=", "validation")])
    images = [image.as_py() for image in table["image"]]
    for number in range(count):
        path = folder / f"{number:05}.jpg"
        if number % 10:
            path.write_bytes(images[number % len(images)])
        else:
            chosen = [images[(number + offset) % len(images)] for offset in range(3)]
            faces = [PIL.Image.open(io.BytesIO(image)).convert("RGB").resize((220, 280)) for image in chosen]
            PIL.Image.fromarray(np.hstack([np.asarray(face) for face in faces])).save(path, quality=95)


def run(folder: Path, output: Path, steps: int) -> dict[str, float]:
    """Anonymize the folder and measure memory in MB and times in seconds."""
    pipe = load_nullface_tiny()
    pipe.set_progress_bar_config(disable=True)
    process, busy = psutil.Process(), 0.0
    options = PhotoOptions(seed=0, num_inference_steps=steps)

    def hide(file: PhotoFile, name: str):
        nonlocal busy
        started = time.perf_counter()
        try:
            return anonymize_file(pipe, file, options)
        finally:
            busy += time.perf_counter() - started

    started, memory, faces, done = time.perf_counter(), {}, 0, 0
    for number, outcome in enumerate(anonymize_photos(hide, find_photos([folder], output)), start=1):
        done += outcome.status != "refused"
        faces += len(outcome.faces)
        memory[number] = process.memory_info().rss / 1e6
        if number % 100 == 0:
            print(f"{number} photos, {time.perf_counter() - started:.0f} s, {memory[number]:.0f} MB", flush=True)
    seconds = time.perf_counter() - started
    early = min(100, len(memory))
    return {
        "photos": len(memory),
        "written": done,
        "faces": faces,
        "memory at the 100th": memory[early],
        "memory at the last": memory[len(memory)],
        "largest until the 100th": max(memory[number] for number in range(1, early + 1)),
        "largest until the last": max(memory.values()),
        "peak of the process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "photos per second": len(memory) / seconds,
        "share of the time in the model": busy / seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="parquet file of portraits")
    parser.add_argument("--count", type=int, default=1000, help="number of photos")
    parser.add_argument("--num-inference-steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "photos"
        folder.mkdir()
        fill_folder(folder, args.data, args.count)
        print(json.dumps(run(folder, Path(temporary) / "out", args.num_inference_steps), indent=1))


if __name__ == "__main__":
    main()
