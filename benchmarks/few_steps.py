"""Compare few-step presets with the default on people unseen by nullface-tiny.

The default with other noise shows the size of random differences. dlib's recognizer identifies the
finished photos among all validation portraits. No setting was chosen on these people.

    python -m benchmarks.few_steps --people 200
"""

import argparse
import json
from typing import Any

import numpy as np
import PIL.Image
import torch
from rich.progress import track

from benchmarks.cost import Cost, measure
from nullface_pipeline.ddpm_inversion import FAST_TIMESTEPS, PREVIEW_TIMESTEPS
from nullface_pipeline.face_identity import embed_face
from nullface_pipeline.face_masks import mask_picture
from nullface_pipeline.tiny_model import load_nullface_tiny
from training.evaluate import BATCH, Subject, change_mask, finish, load_subjects, spread
from training.expression import compare
from training.portraits import load_portraits
from training.verifier import Verifier


STANDARD = {"num_inference_steps": 30, "skip": 0.87, "guidance_scale": 4.0}  # nullface-tiny's
GUIDANCE = {"guidance_scale": 4.0}
OTHER_NOISE = 1_000_000

# Settings of each method, and the seed of the first face.
WAYS: dict[str, tuple[dict[str, Any], int]] = {
    "default": (STANDARD, 0),
    "default, other noise": (STANDARD, OTHER_NOISE),
    "fast": ({"timesteps": FAST_TIMESTEPS, **GUIDANCE}, 0),
    "preview": ({"timesteps": PREVIEW_TIMESTEPS, **GUIDANCE}, 0),
}


def hide(pipe: Any, subjects: list[Subject], masks: list[np.ndarray], seed: int, **settings: Any) -> list[np.ndarray]:
    """(S, S, 3) uint8 results, each with its own noise."""
    faces: list[np.ndarray] = []
    for start in track(range(0, len(subjects), BATCH), str(settings)):
        batch = range(start, min(start + BATCH, len(subjects)))
        images = pipe(
            [PIL.Image.fromarray(subjects[index].aligned) for index in batch],
            identity_embeds=torch.from_numpy(np.stack([subjects[index].embedding for index in batch])),
            mask_image=[mask_picture(masks[index]) for index in batch],
            generator=[torch.Generator().manual_seed(seed + index) for index in batch],
            **settings,
        ).images
        faces += [np.asarray(image) for image in images]
    return faces


def genuine_score(pipe: Any, subjects: list[Subject], photos: list[np.ndarray]) -> float:
    """Mean genuine score of nullface-tiny's own recognizer on finished photos."""
    embeddings = [embed_face(pipe.face_analyser, p, s.portrait.keypoints()) for s, p in zip(subjects, photos)]
    return float(np.mean([embedding @ s.embedding for s, embedding in zip(subjects, embeddings)]))


def face_distance(faces: list[np.ndarray], others: list[np.ndarray], masks: list[np.ndarray]) -> float:
    """Mean absolute difference (of 255) inside the masks."""
    pairs = zip(faces, others, masks)
    return float(np.mean([np.abs(face.astype(int) - other)[mask > 0.5].mean() for face, other, mask in pairs]))


def describe(
    pipe: Any,
    verifier: Verifier,
    subjects: list[Subject],
    masks: list[np.ndarray],
    faces: list[np.ndarray],
    default: list[np.ndarray],
    cost: Cost,
) -> dict[str, float]:
    """One row of the table."""
    photos = finish(pipe, subjects, faces, ())
    portraits, originals = [subject.portrait for subject in subjects], [subject.photo for subject in subjects]
    verified = verifier(portraits, photos)
    return {
        "evaluations": cost.evaluations / len(subjects),
        "rank 1 by dlib, %": verified["rank1"],
        "similarity by dlib": verified["similarity"],
        "similarity by nullface-tiny": genuine_score(pipe, subjects, photos),
        "landmark drift, %": compare(portraits, originals, photos, None)["landmark_drift"],
        "difference to the default": face_distance(faces, default, masks),
        "seconds a face": cost.seconds / len(subjects),
        "processor seconds a face": cost.busy / len(subjects),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="parquet file of portraits")
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    portraits = load_portraits(args.data, "validation")
    pipe, verifier = load_nullface_tiny(args.device), Verifier(portraits)
    pipe.set_progress_bar_config(disable=True)
    subjects = load_subjects(pipe, spread(portraits, args.people))
    masks = [change_mask(pipe, subject, ()) for subject in subjects]
    default: list[np.ndarray] = []
    for name, (settings, seed) in WAYS.items():
        with measure(pipe.unet) as cost:
            faces = hide(pipe, subjects, masks, seed, **settings)
        default = default or faces
        row = describe(pipe, verifier, subjects, masks, faces, default, cost)
        print(json.dumps({"name": name, "people": len(subjects), **row}), flush=True)


if __name__ == "__main__":
    main()
