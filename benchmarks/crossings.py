"""Leaks of a face that another face occludes in a video.

    python -m benchmarks.crossings --pictures crossings/

Twelve composed clips differ in portraits, speeds, sizes and directions. A face of which at least
20 % is visible in a frame has leaked if less than half of the visible part has changed. It needs
nullface-tiny's portraits (`--data`) and the extras `training` and `video`, and takes 15 minutes.
"""

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import PIL.Image
import torch

from benchmarks.video import DIFFERENT, SCENE, SIZE, Marked, people
from nullface_pipeline.model_sets import load_model_set
from nullface_pipeline.protocols import NullFacePipeline
from nullface_pipeline.video import anonymize_video
from tests.video.clips import Clip, Motion, head_mask, make_clip, read_back, sway, write_clip


# Minimum visible share of a face, and minimum share of its visible part that has to change.
MIN_VISIBLE, MIN_CHANGED = 0.2, 0.5


def passing(frames: int, height: float = 78, until: float = 1.0, start: float = 40, way: float = 180) -> Motion:
    """Motion across the image in `frames` at 8 per second, which stops at the share `until`."""
    return lambda t: (start + way * min(until, 8 * t / frames), 104, height, 0)


def stops_and_goes(t: float) -> tuple[float, float, float, float]:
    return 40 + 100 * min(1.0, t) + 100 * max(0.0, t - 2.0), 104, 80, 0


# Number of frames, motion of the occluded face, motion of the occluder.
CLIPS: dict[str, tuple[int, Motion, Motion]] = {
    "passes": (14, sway(140, 100, 74, 5), passing(14)),
    "slow": (28, sway(140, 100, 74, 5), passing(28)),
    "fast": (14, sway(140, 100, 74, 5), passing(8)),
    "to the left": (20, sway(130, 100, 74, 5), passing(20, start=220, way=-180)),
    "large": (20, sway(140, 100, 66, 5), passing(20, 96)),
    "small": (20, sway(140, 100, 90, 5), passing(20, 60)),
    "stays before": (24, sway(140, 100, 74, 8), passing(12, until=0.5)),
    "downwards": (20, sway(130, 110, 70, 4), lambda t: (130 + 3 * np.sin(t), 20 + 64 * t, 74, 0)),
    "both": (20, lambda t: (60 + 56 * t, 98, 70, 3), lambda t: (205 - 56 * t, 106, 78, -3)),
    "stops and goes": (24, sway(140, 100, 74, 5), stops_and_goes),
    "half and back": (24, sway(150, 100, 74, 3), lambda t: (60 + 50 * np.sin(np.pi * t / 3), 104, 80, 0)),
    "comes nearer": (20, sway(140, 100, 70, 3), lambda t: (50 + 60 * t, 100, 50 + 20 * t, 6)),
}


def visible_parts(clip: Clip, faces: dict[str, Marked]) -> Iterator[tuple[int, str, np.ndarray]]:
    """Frame, name and (H, W) bool visible part of each face that is visible enough."""
    y, x = np.mgrid[: clip.frames.shape[1], : clip.frames.shape[2]]
    for number, boxes in enumerate(clip.boxes):
        for name, (x0, y0, x1, y1) in boxes.items():
            face = (2 * (x - x0) / (x1 - x0) - 1) ** 2 + (2 * (y - y0) / (y1 - y0) - 1) ** 2 <= 1
            visible = face.copy()
            if name == "a" and "b" in boxes:
                front = cv2.warpAffine(head_mask(faces["b"]), clip.matrices[number]["b"], clip.frames.shape[2:0:-1])
                visible &= front < 0.5
            if visible.sum() >= MIN_VISIBLE * face.sum():
                yield number, name, visible


def measure(pipe: NullFacePipeline, name: str, data: Path, preset: str, pictures: Path | None) -> dict[str, object]:
    """Anonymize one clip and count its leaks."""
    count, behind, front = CLIPS[name]
    faces = dict(zip("ab", people(data, 2, 2 * list(CLIPS).index(name))))
    clip = make_clip({"a": (faces["a"], behind), "b": (faces["b"], front)}, count, SIZE, seed=SCENE)
    with tempfile.TemporaryDirectory() as folder:
        source, output = write_clip(Path(folder) / "in.mp4", clip.frames, clip.pts), Path(folder) / "out.mp4"
        report = anonymize_video(pipe, source, output, seed=7, preset=preset)
        before, after = read_back(source)[0], read_back(output)[0]
    shares = []
    for number, face, visible in visible_parts(clip, faces):
        differs = np.abs(before[number].astype(int) - after[number]).max(axis=-1) > DIFFERENT
        shares.append((float(differs[visible].mean()), number, face))
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
        both = np.concatenate([before, after], axis=1)
        for start in range(0, count, 8):
            row = np.concatenate(list(both[start : start + 8]), axis=1)
            PIL.Image.fromarray(row).save(pictures / f"{name}-{start}.png")
    return {
        "clip": name,
        "frames": count,
        "faces": len(shares),
        "leaked": [place for share, *place in shares if share < MIN_CHANGED],
        "least_changed": min(shares)[0],
        "replaced": report.replaced + report.gaps,
        "patched_frames": report.patched_frames,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="*", default=list(CLIPS))
    parser.add_argument("--data", type=Path, default=Path("../shared/data/portraits.parquet"))
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the frames, originals above results")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipe = load_model_set("tiny")
    for name in arguments.clips:
        print(json.dumps(measure(pipe, name, arguments.data, arguments.preset, arguments.pictures)), flush=True)


if __name__ == "__main__":
    main()
