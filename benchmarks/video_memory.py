"""Memory over a long video: does it stay flat?

    python -m benchmarks.video_memory look --frames 9000
    python -m benchmarks.video_memory cover --frames 9000
    python -m benchmarks.video_memory render --frames 300

One small face that sways, 128 x 96 pixels, 25 frames a second. `look` finds and links its faces; `cover` goes on from there
with a patch over every face, through everything but the UNet; `render` gives the faces of a shorter clip new ones. Each is a
process of its own, and goes on where it was if it was stopped. Needs the extra `video`.
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

# What is told of the memory: this frame's, and the last one's.
EARLY = 1000


def pictures(frames: int) -> list[np.ndarray]:
    """(H, W, 3) uint8 each, the same again after `PERIOD` frames."""
    scene, face, place = background(*SIZE, seed=9), astronaut(), sway(64, 48, 44, 6)
    period = [scene.copy() for _ in range(PERIOD)]
    for number, frame in enumerate(period):
        draw(frame, face, *place(number / FPS))
    return [period[number % PERIOD] for number in range(frames)]


class Memory:
    """Megabytes of this process as a step goes on; frames that a stopped run has done are not counted again."""

    def __init__(self) -> None:
        self.process, self.started = psutil.Process(), time.perf_counter()
        self.steps: dict[str, list[tuple[int, float]]] = {}

    def __call__(self, step: str, done: int, total: int | None) -> None:
        size = self.process.memory_info().rss / 1e6
        self.steps.setdefault(step, []).append((done, size))
        if done % EARLY == 0:
            print(json.dumps({"step": step, "frame": done, "megabytes": round(size, 1)}), flush=True)

    def told(self) -> dict[str, dict[str, float]]:
        """For each step: at `EARLY` or, of fewer frames, after a third of them; at the last; the most between."""
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
    parser.add_argument("step", choices=("look", "cover", "render"))
    parser.add_argument("--frames", type=int, default=9000)
    parser.add_argument("--folder", type=Path, required=True, help="For the clip and the work on it.")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.folder.mkdir(parents=True, exist_ok=True)
    clip = arguments.folder / f"{arguments.frames}.mp4"
    if not clip.exists():
        part = clip.with_suffix(".part.mp4")
        write_clip(part, pictures(arguments.frames), range(0, 1000 // FPS * arguments.frames, 1000 // FPS))
        part.replace(clip)
    pipe = load_model_set("tiny")
    # The detector scales what it sees to this size.
    pipe.face_analyser = load_face_analyser(TINY_FOLDER / "face_models", detection_size=(128, 128))
    memory = Memory()
    checkpoint = VideoCheckpoint(arguments.folder / f"{arguments.frames}.work", "memory", seed=7)
    video = link_video(pipe.face_analyser, clip, checkpoint, memory)
    if arguments.step != "look":
        min_face = 1e6 if arguments.step == "cover" else 0.0
        options = PhotoOptions(identity="opposite", preset="fast", min_face=min_face)
        report = render_video(pipe, video, clip.with_suffix(".out.mp4"), options, checkpoint, on_progress=memory)
        print(json.dumps({"replaced": report.replaced, "covered": report.covered}))
    seconds = time.perf_counter() - memory.started
    print(json.dumps({"faces": len(video.detections.faces), "seconds": round(seconds), **memory.told()}))


if __name__ == "__main__":
    main()
