"""Compute the sampling weights of the training portraits and the centre of the identity space.

    python -m training.sampling        # after training.teacher and training.latent_cache

Half of the portraits are prints and engravings. Nine in ten colour photographs show men, nearly all
of them light-skinned. The data has no label for either, and none is made. Three measures describe
the image instead: redness of the lips relative to the cheeks (lipstick), lightness of the cheeks,
and spread of the colours across hues (low for paintings and tinted prints). A ridge regression on
the teacher's embeddings smooths each measure, so that the light of a single photo has little
influence. The weight of a colour portrait is the inverse density of its measures, within limits.
Red lips are then drawn nearly as often as pale ones, and dark cheeks as often as light ones. Only
the weights are stored.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from training.latent_cache import CROP_SIZE, LatentCache
from training.loop import ArrayCache, option_parser
from training.portraits import Portrait, load_portraits
from training.teacher import TeacherEmbeddings


COLOUR_SHARE = 0.75  # total weight of colour photographs
MAX_RARITY = 6.0  # weight of the rarest colour portraits relative to the most common ones
RIDGE = 10.0
LIPS, CHEEKS, HUES = range(3)


@dataclass(frozen=True)
class Sampling(ArrayCache):
    """Sampling weights of the training portraits, and the weighted mean of their embeddings."""

    FILE = "sampling.npz"
    ids: np.ndarray  # (N,) str, those of the latent cache
    weights: np.ndarray  # (N,) float32, sum 1
    mean: np.ndarray  # (512,) float32, of the teacher's raw embeddings

    def centre(self, raw: np.ndarray) -> np.ndarray:
        """Centre (..., 512) raw embeddings and scale them to unit norm."""
        centred = raw - self.mean
        return centred / np.linalg.norm(centred, axis=-1, keepdims=True)


def measures(portrait: Portrait) -> np.ndarray:
    """(3,) float64: lip redness less cheek redness, cheek lightness, spread across hues."""
    crop = portrait.face_crop(CROP_SIZE)
    lab = cv2.cvtColor(crop.crop_image(portrait.image()), cv2.COLOR_RGB2LAB).astype(np.float64)
    points = crop.points_to_crop(portrait.landmarks)
    lips = np.zeros(lab.shape[:2], np.uint8)
    cv2.fillPoly(lips, [np.rint(np.concatenate([points[54:61], points[67:63:-1]])).astype(np.int32)], 1)
    cheeks = np.zeros(lab.shape[:2], np.uint8)
    for eye, corner in ((points[36:42], 48), (points[42:48], 54)):
        x, y = 0.45 * eye.mean(axis=0) + 0.55 * points[corner]
        cv2.circle(cheeks, (round(x), round(y)), 5, 1, thickness=-1)
    lip, cheek = lab[lips > 0].mean(axis=0), lab[cheeks > 0].mean(axis=0)
    narrow = np.linalg.eigvalsh(np.cov(lab[..., 1:].reshape(-1, 2).T))[0]
    return np.array([lip[1] - cheek[1], cheek[0], np.log(np.sqrt(max(narrow, 0.0)) + 1.0)])


def smoothed(embeddings: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Standardized (N, K) ridge regression of values on (N, 512) embeddings."""
    inputs = embeddings - embeddings.mean(axis=0)
    clipped = np.clip((values - np.median(values, axis=0)) / values.std(axis=0), -2.5, 2.5)
    gram = inputs.T @ inputs + RIDGE / len(inputs) * np.trace(inputs.T @ inputs) / inputs.shape[1] * np.eye(512)
    predicted = inputs @ np.linalg.solve(gram, inputs.T @ (clipped - clipped.mean(axis=0)))
    return (predicted - predicted.mean(axis=0)) / np.maximum(predicted.std(axis=0), 1e-9)


def rarity(values: np.ndarray, width: float = 0.35) -> np.ndarray:
    """(N,) inverse kernel density of (N, K) standardized rows, clipped to [1, `MAX_RARITY`]."""
    squares = (values[:, None] - values[None]) ** 2
    density = np.exp(-0.5 * squares.sum(axis=2) / width**2).mean(axis=1)
    return np.clip(np.quantile(density, 0.9) / density, 1.0, MAX_RARITY)


def choose_weights(cache: LatentCache, embeddings: np.ndarray, portraits: dict[str, Portrait]) -> np.ndarray:
    """(N,) float32 weights, of sum 1, of the cached portraits with (N, 512) embeddings."""
    colour = cache.real_colour
    found = smoothed(embeddings[colour], np.stack([measures(portraits[each]) for each in cache.ids[colour]]))
    weights = np.ones(len(cache.ids))
    photograph = 1.0 / (1.0 + np.exp(-2.0 * (found[:, HUES] + 1.0)))
    weights[colour] = rarity(found[:, [LIPS, CHEEKS]]) * photograph
    weights[colour] *= COLOUR_SHARE / weights[colour].sum()
    weights[~colour] *= (1.0 - COLOUR_SHARE) / weights[~colour].sum()
    return weights.astype(np.float32)


def main() -> None:
    args = option_parser(__doc__, "data", "runs").parse_args()
    cache = LatentCache.load(args.runs)
    embeddings = TeacherEmbeddings.load(args.runs).select(cache.ids)[:, :2].mean(axis=1)
    portraits = {portrait.id: portrait for portrait in load_portraits(args.data, "train")}
    weights = choose_weights(cache, embeddings, portraits)
    mean = np.average(embeddings, axis=0, weights=weights).astype(np.float32)
    Sampling(cache.ids, weights, mean).save(args.runs)


if __name__ == "__main__":
    main()
