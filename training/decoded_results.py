"""Record the latents that nullface-tiny decodes, as training data of the 256 px decoder.

python -m training.decoded_results
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from nullface_pipeline.face_identity import DetectedFace, embed_face
from nullface_pipeline.face_target import make_target
from nullface_pipeline.identity_choices import RandomIdentity
from training.evaluate import load_model_set
from training.loop import option_parser, save_array
from training.portraits import load_portraits


BATCH = 4
KEPT = ((), ("eyes", "mouth"))


def decoded_latents(folder: Path, data: Path, count: int) -> np.ndarray:
    """(N, 4, 32, 32) float16 unscaled latents that the default settings decode.

    Args:
        folder (`Path`): model set.
        data (`Path`): parquet file of portraits.
        count (`int`): colour portraits of the training split that are anonymized.
    """
    pipe: Any = load_model_set(folder, "cpu")
    decode, recorded = pipe.decode_latents, []

    def recording(latents: torch.Tensor) -> torch.Tensor:
        recorded.append((latents / pipe.vae.config.scaling_factor).half().numpy())
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
    return np.concatenate(recorded)


def main() -> None:
    parser = option_parser(__doc__, "data", "model", "runs")
    parser.add_argument("--count", type=int, default=200, help="number of portraits")
    args = parser.parse_args()
    save_array(args.runs / "decoded_results.npy", decoded_latents(args.model, args.data, args.count))


if __name__ == "__main__":
    main()
