"""Takes the pose, the expression, the tone and the sex of the face out of what the FaceID adapter is told.

A face turned to the left lies elsewhere in the recognizer's space than the same face turned to the right, so that the
opposite embedding would turn the head and close the smile as well as change the person; and it would take off the
lipstick and change the colour of the skin, which the mask's edge then shows. The adapter therefore begins with a
projection after which no linear function of the embedding says anything about where the landmarks are, nor about the
measures of `training.sampling`, nor whether the face is like those with the reddest lips, which are nearly all women's:
her opposite need not be a man. The recognizer itself, which verifies results, keeps all it knows; no label is stored.

    python -m training.pose_erasure        # after training.identities
"""

import argparse
from pathlib import Path

import numpy as np

from training.identities import load_identities
from training.latent_cache import LatentCache
from training.loop import RUNS
from training.portraits import Portrait, load_portraits
from training.sampling import LIPS, measures, smoothed


CROP_SIZE = 128
REDDEST_SHARE = 0.12  # of the colour portraits


def landmark_components(portraits: list[Portrait], count: int) -> np.ndarray:
    """(N, count) float64 of unit variance: the directions in which the landmarks of aligned faces vary most."""
    landmarks = np.stack([face.face_crop(CROP_SIZE).points_to_crop(face.landmarks).ravel() for face in portraits])
    left, _, _ = np.linalg.svd(landmarks - landmarks.mean(axis=0), full_matrices=False)
    return left[:, :count] * np.sqrt(len(portraits))


def tones(found: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """(N, 3) float64: the measures of `training.sampling`, standardised over the colour portraits, 0 for the others.

    The zeros leave the covariance with the embeddings as the colour portraits alone have it.

    Args:
        found (`np.ndarray`): (C, 3) measures of the colour portraits.
        colour (`np.ndarray`): (N,) bool, C of them true.
    """
    result = np.zeros((len(colour), found.shape[1]))
    result[colour] = np.clip((found - found.mean(axis=0)) / found.std(axis=0), -2.5, 2.5)
    return result - colour[:, None] * result[colour].mean(axis=0)


def like_the_reddest_lips(embeddings: np.ndarray, found: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """(N, 1) float64: whether a colour portrait is like those with the reddest lips, standardised; 0 for the others.

    Lips and light differ from photo to photo. What the faces have in common that stand out so by their embeddings is
    told by embeddings in turn, and once more.
    """
    told = smoothed(embeddings[colour], found)[:, [LIPS]]
    for _ in range(3):
        among = (told > np.quantile(told, 1.0 - REDDEST_SHARE)).astype(np.float64)
        told = smoothed(embeddings[colour], among)
    result = np.zeros((len(colour), 1))
    result[colour] = (among - among.mean()) / among.std()
    return result


def erasing_projection(embeddings: np.ndarray, concept: np.ndarray) -> np.ndarray:
    """Least-squares concept erasure (Belrose et al. 2023, theorem 4.3), without its constant part.

    Args:
        embeddings (`np.ndarray`): (N, D).
        concept (`np.ndarray`): (N, K), centred: what is to be erased.

    Returns:
        `np.ndarray`: (D, D); `embeddings @ projection` is uncorrelated with the concept, and of all such projections
        the one that changes the embeddings least.
    """
    centred = embeddings - embeddings.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    used = variances > 1e-6 * variances.max()
    axes, deviations = axes[:, used], np.sqrt(variances[used])
    whiten, colour = axes / deviations @ axes.T, axes * deviations @ axes.T
    informative, _ = np.linalg.qr(whiten @ centred.T @ concept / len(centred))
    return np.eye(embeddings.shape[1]) - whiten @ informative @ informative.T @ colour


def load_projection(runs: Path) -> np.ndarray:
    """(512, 512) float32, for embeddings as rows from the left."""
    return np.load(runs / "erasure.npy")


def main() -> None:
    parser = argparse.ArgumentParser(description="Find the projection that erases pose, expression and tone.")
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="parquet file of portraits")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of caches and checkpoints")
    parser.add_argument("--identities", default="student", choices=["teacher", "student"], help="whose embeddings")
    parser.add_argument("--components", type=int, default=10, help="how many directions of the landmarks to erase")
    args = parser.parse_args()
    cache = LatentCache.load("train", args.runs)
    views = load_identities(cache.ids, "train", args.identities, args.runs).astype(np.float64)
    loaded = {portrait.id: portrait for portrait in load_portraits(args.data, "train")}
    portraits = [loaded[portrait_id] for portrait_id in cache.ids]
    found = np.stack([measures(portrait) for portrait, real in zip(portraits, cache.real_colour) if real])
    concept = [
        landmark_components(portraits, args.components),
        tones(found, cache.real_colour),
        like_the_reddest_lips(views.mean(axis=1), found, cache.real_colour),
    ]
    projection = erasing_projection(views[:, 0], np.hstack(concept)).astype(np.float32)
    temporary = args.runs / "erasure.part.npy"
    np.save(temporary, projection)
    temporary.replace(args.runs / "erasure.npy")


if __name__ == "__main__":
    main()
