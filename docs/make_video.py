"""Make the clip of the documentation: `python -m docs.make_video`, one to two minutes.

It shows a moving portrait from the public domain that a bar occludes, above nullface-tiny's result.
"""

import tempfile
from pathlib import Path

import numpy as np
import PIL.Image
import torch

from nullface_pipeline.model_sets import load_model_set
from nullface_pipeline.video import anonymize_video
from tests.video.clips import astronaut, make_clip, read_back, sway, write_clip


FRAMES, FPS = 24, 8.0


def bar(number: int, frame: np.ndarray) -> np.ndarray:
    """Draw a bar that moves from right to left during the last 1.5 seconds."""
    right = 300 - 26 * (number - 12)
    if number >= 12:
        frame[:, max(0, right - 44) : max(0, right)] = (70, 90, 84)
    return frame


def main() -> None:
    torch.set_num_threads(1)
    pipe = load_model_set("tiny")
    clip = make_clip({"her": (astronaut(), sway(120, 96, 92, 10))}, FRAMES, (192, 240), FPS, change=bar, seed=9)
    with tempfile.TemporaryDirectory() as folder:
        source, output = Path(folder) / "in.mp4", Path(folder) / "out.mp4"
        write_clip(source, clip.frames, clip.pts)
        print(anonymize_video(pipe, source, output, seed=7, preset="fast"))
        frames = np.concatenate([read_back(source)[0], read_back(output)[0]], axis=1)
    pictures = [PIL.Image.fromarray(frame) for frame in frames]
    path = Path(__file__).parent / "images" / "video.webp"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=round(1000 / FPS), loop=0, quality=80)


if __name__ == "__main__":
    main()
