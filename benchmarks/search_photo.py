"""Time of the face search in a 24-megapixel photo with many faces of 40 to 400 px.

It uses old functions of the package only, so that it also runs with earlier versions:

    python benchmarks/search_photo.py
    git worktree add ../earlier COMMIT
    PYTHONPATH=../earlier python benchmarks/search_photo.py
"""

import argparse
import os
import statistics
import time

import cv2
import numpy as np
import onnxruntime
import skimage.data

from nullface_pipeline.face_identity import load_face_analyser
from nullface_pipeline.face_search import search_faces
from nullface_pipeline.tiny_model import TINY_FOLDER


HEIGHT, WIDTH = 4000, 6000
SIZES = (400, 300, 200, 140, 100, 70, 50, 40)
# The astronaut's head, and the width of its face.
HEAD, FACE_WIDTH = (slice(0, 270), slice(90, 360)), 110


def make_group_photo(seed: int = 0) -> tuple[np.ndarray, int]:
    """(H, W, 3) uint8 RGB photo with a row of heads per face width, and the number of heads."""
    head, generator = skimage.data.astronaut()[HEAD], np.random.default_rng(seed)
    photo = generator.integers(90, 130, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    top, count = 20, 0
    for size in SIZES:
        side = round(head.shape[0] * size / FACE_WIDTH)
        scaled = cv2.resize(head, (side, side), interpolation=cv2.INTER_AREA if side < 270 else cv2.INTER_CUBIC)
        gap = max(side // 3, 60)
        for left in range(20, WIDTH - side, side + gap)[:12]:
            photo[top : top + side, left : left + side] = scaled
            count += 1
        top += side + 40
    return photo, count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    photo, count = make_group_photo()
    analyser = load_face_analyser(TINY_FOLDER / "face_models")
    found = len(search_faces(analyser, photo))
    clock, busy = [], []
    for _ in range(args.repeats):
        started = time.perf_counter(), time.process_time()
        search_faces(analyser, photo)
        clock.append(time.perf_counter() - started[0])
        busy.append(time.process_time() - started[1])
    print(
        f"{count} heads, {found} faces found: median of {args.repeats}: {statistics.median(clock):.1f} s, "
        f"{statistics.median(busy):.1f} processor seconds; ONNX Runtime {onnxruntime.__version__}, "
        f"load average {os.getloadavg()[0]:.1f}"
    )


if __name__ == "__main__":
    main()
