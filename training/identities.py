"""The recognizer's embeddings of the portraits, which condition the denoiser: `pipe.anonymize` asks the same network.

python -m training.identities        # after training.recognizer and training.latent_cache
"""

import argparse
from pathlib import Path

import numpy as np
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from rich.progress import track

from training.latent_cache import LatentCache
from training.loop import RUNS
from training.portraits import load_portraits
from training.sampling import Sampling
from training.teacher import TeacherEmbeddings
from training.views import aligned_crop, clean_view, random_view


def load_identities(ids: np.ndarray, split: str, name: str, runs: Path) -> np.ndarray:
    """(N, V, 512) float32 centred embeddings of the portraits `ids`, V of each: the teacher's or the student's."""
    if name == "teacher":
        return Sampling.load(runs).centre(TeacherEmbeddings.load(split, runs).of(ids))
    with np.load(runs / f"identities_{split}.npz") as file:
        row = {portrait: index for index, portrait in enumerate(file["ids"])}
        return file["embeddings"][[row[portrait] for portrait in ids]].astype(np.float32)


def embed(recognizer: ArcFaceONNX, faces: list[np.ndarray]) -> np.ndarray:
    """(E, 512) float32 unit-norm embeddings of E aligned RGB faces."""
    embeddings = recognizer.get_feat([np.ascontiguousarray(face[..., ::-1]) for face in faces])
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Embed the denoiser's training portraits.")
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="parquet file of portraits")
    parser.add_argument("--recognizer", default="nullface_pipeline/tiny/face_models/recognizer.onnx")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of caches and checkpoints")
    parser.add_argument("--changed", type=int, default=3, help="changed views a portrait, besides the clean ones")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    recognizer = ArcFaceONNX(args.recognizer)
    for split in ("validation", "train"):
        ids = LatentCache.load(split, args.runs).ids
        portraits = {portrait.id: portrait for portrait in load_portraits(args.data, split)}
        embeddings = []
        for index, portrait_id in enumerate(track(ids, f"embedding {split}")):
            rng = np.random.default_rng([args.seed, index])
            crop = aligned_crop(portraits[portrait_id])
            clean = clean_view(crop)
            changed = [random_view(crop, rng) for _ in range(args.changed)]
            embeddings.append(embed(recognizer, [clean, clean[:, ::-1], *changed]))
        temporary = args.runs / f"identities_{split}.part.npz"
        np.savez(temporary, ids=ids, embeddings=np.stack(embeddings))
        temporary.replace(args.runs / f"identities_{split}.npz")


if __name__ == "__main__":
    main()
