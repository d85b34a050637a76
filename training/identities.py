"""Embed the training portraits with the shipped recognizer, to condition the denoiser on them.

python -m training.identities        # after training.recognizer and training.latent_cache
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from rich.progress import track

from training.latent_cache import LatentCache
from training.loop import ArrayCache, option_parser
from training.portraits import load_portraits
from training.sampling import Sampling
from training.teacher import TeacherEmbeddings, rows_of
from training.views import aligned_crop, clean_view, random_view


@dataclass(frozen=True)
class StudentEmbeddings(ArrayCache):
    """The student's embeddings of some views of each portrait of the latent cache."""

    FILE = "identities_{split}.npz"
    ids: np.ndarray  # (N,) str, ids of the portraits
    embeddings: np.ndarray  # (N, V, 512) float32 unit norm: clean view, mirrored view, augmented views


def load_identities(ids: np.ndarray, split: str, name: str, runs: Path) -> np.ndarray:
    """(N, V, 512) float32 centred embeddings of the portraits `ids`.

    Args:
        ids (`np.ndarray`): (N,) str, ids of the portraits.
        split (`str`): `train` or `validation`.
        name (`str`): `teacher` or `student`.
        runs (`Path`): folder of caches.
    """
    if name == "teacher":
        return Sampling.load(runs).centre(TeacherEmbeddings.load(runs, split).select(ids))
    cache = StudentEmbeddings.load(runs, split)
    return cache.embeddings[rows_of(ids, cache.ids)].astype(np.float32)


def embed(recognizer: ArcFaceONNX, faces: list[np.ndarray]) -> np.ndarray:
    """(N, 512) float32 unit-norm embeddings of N aligned (112, 112, 3) uint8 RGB faces."""
    embeddings = recognizer.get_feat([np.ascontiguousarray(face[..., ::-1]) for face in faces])
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def main() -> None:
    parser = option_parser(__doc__, "data", "runs", "seed")
    default = "nullface_pipeline/tiny/face_models/recognizer.onnx"
    parser.add_argument("--recognizer", default=default, help="ONNX file of the recognizer")
    parser.add_argument("--changed", type=int, default=3, help="augmented views per portrait")
    args = parser.parse_args()
    recognizer = ArcFaceONNX(args.recognizer)
    for split in ("validation", "train"):
        ids = LatentCache.load(args.runs, split).ids
        portraits = {portrait.id: portrait for portrait in load_portraits(args.data, split)}
        embeddings = []
        for index, portrait_id in enumerate(track(ids, f"embedding {split}")):
            rng = np.random.default_rng([args.seed, index])
            crop = aligned_crop(portraits[portrait_id])
            clean = clean_view(crop)
            changed = [random_view(crop, rng) for _ in range(args.changed)]
            embeddings.append(embed(recognizer, [clean, clean[:, ::-1], *changed]))
        StudentEmbeddings(ids, np.stack(embeddings)).save(args.runs, split)


if __name__ == "__main__":
    main()
