"""Memory during a long video.

    python -m benchmarks.video_memory detect --folder FOLDER --frames 9000
    python -m benchmarks.video_memory cover --folder FOLDER --frames 9000
    python -m benchmarks.video_memory render --folder FOLDER --frames 300

The clip has one small moving face, 128 x 96 px, 25 frames per second. `detect` detects and links
its faces. `cover` continues with a patch over each face, which needs no UNet. `render` replaces the
faces. Each step continues a stopped run. It needs the extra `video`.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from nullface_pipeline.face_identity import load_face_analyser
from nullface_pipeline.model_sets import load_model_set
from nullface_pipeline.photo_options import PhotoOptions
from nullface_pipeline.tiny_model import TINY_FOLDER
from nullface_pipeline.video import VideoCheckpoint, link_video, render_video
from tests.video.clips import astronaut, background, draw, sway, write_clip


SIZE, FPS, PERIOD = (96, 128), 25, 150
EARLY = 1000  # frame whose memory is compared with that of the last one


def pictures(frames: int) -> list[np.ndarray]:
    """(H, W, 3) uint8 RGB frames that repeat after `PERIOD` frames."""
    scene, face, motion = background(*SIZE, seed=9), astronaut(), sway(64, 48, 44, 6)
    period = [scene.copy() for _ in range(PERIOD)]
    for number, frame in enumerate(period):
        draw(frame, face, *motion(number / FPS))
    return [period[number % PERIOD] for number in range(frames)]


class Memory:
    """Progress callback that records the memory of this process in megabytes by step."""

    def __init__(self) -> None:
        self.process, self.started = psutil.Process(), time.perf_counter()
        self.steps: dict[str, list[tuple[int, float]]] = {}

    def __call__(self, step: str, done: int, total: int | None) -> None:
        size = self.process.memory_info().rss / 1e6
        self.steps.setdefault(step, []).append((done, size))
        if done % EARLY == 0:
            print(json.dumps({"step": step, "frame": done, "megabytes": round(size, 1)}), flush=True)

    def summary(self) -> dict[str, dict[str, float]]:
        """Early, last and highest memory by step; early is `EARLY` or a third of the frames."""
        result = {}
        for step, values in self.steps.items():
            early = min(EARLY, values[-1][0] // 3)
            since = [(done, size) for done, size in values if done >= early]
            result[step] = {
                "frames": values[-1][0],
                "early_frame": since[0][0],
                "early": round(since[0][1], 1),
                "last": round(since[-1][1], 1),
                "most": round(max(size for _, size in since), 1),
            }
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("detect", "cover", "render"))
    parser.add_argument("--frames", type=int, default=9000)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the clip and the checkpoint")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    clip = arguments.folder / f"{arguments.frames}.mp4"
    if not clip.exists():
        part = clip.with_suffix(".part.mp4")
        write_clip(part, pictures(arguments.frames), range(0, 1000 // FPS * arguments.frames, 1000 // FPS))
        part.replace(clip)
    pipe = load_model_set("tiny")
    # The detector scales frames to this size.
    pipe.face_analyser = load_face_analyser(TINY_FOLDER / "face_models", detection_size=(128, 128))
    memory = Memory()
    checkpoint = VideoCheckpoint(arguments.folder / f"{arguments.frames}.work", "memory", seed=7)
    video = link_video(pipe.face_analyser, clip, checkpoint, memory)
    if arguments.step != "detect":
        min_face = 1e6 if arguments.step == "cover" else 0.0
        options = PhotoOptions(identity="opposite", preset="fast", min_face=min_face)
        report = render_video(pipe, video, clip.with_suffix(".out.mp4"), options, checkpoint, on_progress=memory)
        print(json.dumps({"replaced": report.replaced, "covered": report.covered}))
    seconds = time.perf_counter() - memory.started
    print(json.dumps({"faces": len(video.detections.faces), "seconds": round(seconds), **memory.summary()}))


if __name__ == "__main__":
    main()
