"""Erase pose, expression, tone and gender from the embeddings that condition the denoiser.

    python -m training.pose_erasure        # after training.identities

The recognizer's embeddings also depend on these. The opposite embedding would therefore turn the
head, close the smile, remove lipstick and change the skin's colour, which shows at the mask's edge.
The adapter therefore begins with a projection. After it, no linear function of the embedding
predicts the landmarks, the measures of `training.sampling`, or the similarity to faces with the
reddest lips, nearly all of them women's. The recognizer that verifies results is unchanged.
"""

from pathlib import Path

import numpy as np

from training.identities import load_identities
from training.latent_cache import LatentCache
from training.loop import option_parser, save_array
from training.portraits import Portrait, load_portraits
from training.sampling import LIPS, measures, smoothed


CROP_SIZE = 128
REDDEST_SHARE = 0.12  # of the colour portraits


def landmark_components(portraits: list[Portrait], count: int) -> np.ndarray:
    """(N, count) float64 principal components of the aligned landmarks, with unit variance."""
    landmarks = np.stack([face.face_crop(CROP_SIZE).points_to_crop(face.landmarks).ravel() for face in portraits])
    left, _, _ = np.linalg.svd(landmarks - landmarks.mean(axis=0), full_matrices=False)
    return left[:, :count] * np.sqrt(len(portraits))


def standardized_measures(found: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """(N, 3) float64 standardized measures of colour portraits; 0 for the others.

    The zeros leave the covariance with the embeddings as in the colour portraits alone.

    Args:
        found (`np.ndarray`): (C, 3) measures of the colour portraits, see `training.sampling`.
        colour (`np.ndarray`): (N,) bool, C of them true.
    """
    result = np.zeros((len(colour), found.shape[1]))
    result[colour] = np.clip((found - found.mean(axis=0)) / found.std(axis=0), -2.5, 2.5)
    return result - colour[:, None] * result[colour].mean(axis=0)


def similar_to_reddest_lips(embeddings: np.ndarray, found: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """(N, 1) float64 standardized membership in the group with the reddest lips; 0 without colour.

    Lips and light differ from photo to photo. The group is therefore refined three times: a ridge
    regression on the embeddings predicts the membership, and the highest predictions form the
    group.

    Args:
        embeddings (`np.ndarray`): (N, 512).
        found (`np.ndarray`): (C, 3) measures of the colour portraits, see `training.sampling`.
        colour (`np.ndarray`): (N,) bool, C of them true.
    """
    predicted = smoothed(embeddings[colour], found)[:, [LIPS]]
    for _ in range(3):
        members = (predicted > np.quantile(predicted, 1.0 - REDDEST_SHARE)).astype(np.float64)
        predicted = smoothed(embeddings[colour], members)
    result = np.zeros((len(colour), 1))
    result[colour] = (members - members.mean()) / members.std()
    return result


def erasing_projection(embeddings: np.ndarray, concept: np.ndarray) -> np.ndarray:
    """Least-squares concept erasure (Belrose et al. 2023, theorem 4.3), without its constant part.

    Args:
        embeddings (`np.ndarray`): (N, D).
        concept (`np.ndarray`): (N, K) centred variables to erase.

    Returns:
        `np.ndarray`: (D, D) projection that changes the embeddings least, of all those for which
        `embeddings @ projection` is uncorrelated with the concept.
    """
    centred = embeddings - embeddings.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    used = variances > 1e-6 * variances.max()
    axes, deviations = axes[:, used], np.sqrt(variances[used])
    whiten, colour = axes / deviations @ axes.T, axes * deviations @ axes.T
    informative, _ = np.linalg.qr(whiten @ centred.T @ concept / len(centred))
    return np.eye(embeddings.shape[1]) - whiten @ informative @ informative.T @ colour


def load_projection(runs: Path) -> np.ndarray:
    """(512, 512) float32 projection, applied as `embeddings @ projection`."""
    return np.load(runs / "erasure.npy")


def main() -> None:
    parser = option_parser(__doc__, "data", "runs")
    parser.add_argument("--identities", default="student", choices=["teacher", "student"], help="source of embeddings")
    parser.add_argument("--components", type=int, default=10, help="principal components of the landmarks to erase")
    args = parser.parse_args()
    cache = LatentCache.load(args.runs)
    views = load_identities(cache.ids, "train", args.identities, args.runs).astype(np.float64)
    loaded = {portrait.id: portrait for portrait in load_portraits(args.data, "train")}
    portraits = [loaded[portrait_id] for portrait_id in cache.ids]
    found = np.stack([measures(portrait) for portrait, real in zip(portraits, cache.real_colour) if real])
    concept = [
        landmark_components(portraits, args.components),
        standardized_measures(found, cache.real_colour),
        similar_to_reddest_lips(views.mean(axis=1), found, cache.real_colour),
    ]
    projection = erasing_projection(views[:, 0], np.hstack(concept))
    save_array(args.runs / "erasure.npy", projection.astype(np.float32))


if __name__ == "__main__":
    main()
