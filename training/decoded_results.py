"""Latents that nullface-tiny decodes in use: the decoder has to make its results sharp, and these have no photo.

python -m training.decoded_results
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from nullface_pipeline.face_identity import DetectedFace, embed_face
from nullface_pipeline.face_target import make_target
from nullface_pipeline.identity_choices import RandomIdentity
from nullface_pipeline.tiny_model import TINY_FOLDER
from training.evaluate import load_model_set
from training.loop import RUNS
from training.portraits import load_portraits


BATCH = 4
KEPT = ((), ("eyes", "mouth"))


def decoded_latents(folder: Path, data: Path, count: int) -> np.ndarray:
    """(N, 4, 32, 32) float16, not scaled: all that the defaults decode for `count` portraits of the training split."""
    pipe: Any = load_model_set(folder, "cpu")
    decode, seen = pipe.decode_latents, []

    def recording(latents: torch.Tensor) -> torch.Tensor:
        seen.append((latents / pipe.vae.config.scaling_factor).half().numpy())
        return decode(latents)

    pipe.decode_latents = recording
    portraits = [portrait for portrait in load_portraits(data, "train") if portrait.colour][:count]
    for start in track(range(0, len(portraits), BATCH), "anonymizing"):
        targets = []
        for index, portrait in enumerate(portraits[start : start + BATCH], start=start):
            photo, landmarks = portrait.image(), portrait.keypoints()
            face = DetectedFace(portrait.box, landmarks, 1.0, embed_face(pipe.face_analyser, photo, landmarks))
            targets.append(make_target(pipe, photo, face, [face], KEPT[index % 4 == 3], None, index))
        RandomIdentity().new_faces(pipe, targets, pipe.presets["standard"])
    return np.concatenate(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/portraits.parquet"))
    parser.add_argument("--model", type=Path, default=TINY_FOLDER, help="folder of the model set")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of caches and checkpoints")
    parser.add_argument("--count", type=int, default=200, help="people")
    args = parser.parse_args()
    args.runs.mkdir(parents=True, exist_ok=True)
    np.save(args.runs / "decoded_results.npy", decoded_latents(args.model, args.data, args.count))


if __name__ == "__main__":
    main()
