"""How often each portrait is trained on, and the mean that the identity space is centred on.

Half of the portraits are prints and engravings, and of the colour photographs nine in ten show men, nearly all of them
light-skinned. There is no column for either, and none is made: nothing here says of anybody what they are. Measured is
what a picture shows: how much redder the lips are than the cheeks (lipstick), how light the cheeks are, and how far the
colours spread across more than one hue (a photograph, and no painting or tinted print). Each measure is smoothed by the
ridge regression of it on the teacher's embeddings, so that one picture's light decides little. Then each colour portrait
is drawn inversely to how common its measures are, within limits, so that red lips are drawn nearly as often as pale
ones and dark cheeks as often as light ones. Only the weight is kept.

    python -m training.sampling        # after training.teacher and training.latent_cache
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from training.latent_cache import CROP_SIZE, LatentCache
from training.loop import RUNS
from training.portraits import Portrait, load_portraits
from training.teacher import TeacherEmbeddings


COLOUR_SHARE = 0.75  # of all draws go to real colour photographs
RAREST = 6.0  # how many times as often as the commonest a rare colour portrait is drawn
RIDGE = 10.0
LIPS, CHEEKS, HUES = range(3)


@dataclass(frozen=True)
class Sampling:
    """The training portraits that are used at all, how often, and the mean of what the teacher says of them."""

    ids: np.ndarray  # (N,) str, those of the latent cache
    weights: np.ndarray  # (N,) float32, sum 1
    mean: np.ndarray  # (512,) float32, of raw embeddings

    @classmethod
    def load(cls, runs: Path) -> "Sampling":
        """Read what `python -m training.sampling` wrote."""
        with np.load(runs / "sampling.npz") as file:
            return cls(file["ids"], file["weights"], file["mean"])

    def save(self, runs: Path) -> None:
        """Write the file, under a temporary name first."""
        temporary = runs / "sampling.part.npz"
        np.savez(temporary, ids=self.ids, weights=self.weights, mean=self.mean)
        temporary.replace(runs / "sampling.npz")

    def centre(self, raw: np.ndarray) -> np.ndarray:
        """(..., 512) raw embeddings to float32 unit-norm ones of the identity space."""
        centred = raw - self.mean
        return centred / np.linalg.norm(centred, axis=-1, keepdims=True)


def measures(portrait: Portrait) -> np.ndarray:
    """(3,) float64 of a colour portrait: redness of lips less cheeks, lightness of the cheeks, spread across hues."""
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
    """(N, K) standardised values as ridge regression on (N, 512) embeddings tells them, standardised again."""
    inputs = embeddings - embeddings.mean(axis=0)
    clipped = np.clip((values - np.median(values, axis=0)) / values.std(axis=0), -2.5, 2.5)
    gram = inputs.T @ inputs + RIDGE / len(inputs) * np.trace(inputs.T @ inputs) / inputs.shape[1] * np.eye(512)
    told = inputs @ np.linalg.solve(gram, inputs.T @ (clipped - clipped.mean(axis=0)))
    return (told - told.mean(axis=0)) / np.maximum(told.std(axis=0), 1e-9)


def rarity(values: np.ndarray, width: float = 0.35) -> np.ndarray:
    """(N,) in [1, `RAREST`]: inverse of how common each of (N, K) standardised rows is, by Gaussian kernels."""
    squares = (values[:, None] - values[None]) ** 2
    density = np.exp(-0.5 * squares.sum(axis=2) / width**2).mean(axis=1)
    return np.clip(np.quantile(density, 0.9) / density, 1.0, RAREST)


def choose_weights(cache: LatentCache, embeddings: np.ndarray, portraits: dict[str, Portrait]) -> np.ndarray:
    """(N,) float32 weights of sum 1 for the portraits of the cache, (N, 512) embeddings in the same order."""
    colour = cache.real_colour
    told = smoothed(embeddings[colour], np.stack([measures(portraits[portrait]) for portrait in cache.ids[colour]]))
    weights = np.ones(len(cache.ids))
    photograph = 1.0 / (1.0 + np.exp(-2.0 * (told[:, HUES] + 1.0)))
    weights[colour] = rarity(told[:, [LIPS, CHEEKS]]) * photograph
    weights[colour] *= COLOUR_SHARE / weights[colour].sum()
    weights[~colour] *= (1.0 - COLOUR_SHARE) / weights[~colour].sum()
    return weights.astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description="Choose how often each portrait is trained on.")
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="parquet file of portraits")
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of caches and checkpoints")
    args = parser.parse_args()
    cache = LatentCache.load("train", args.runs)
    embeddings = TeacherEmbeddings.load("train", args.runs).of(cache.ids)[:, :2].mean(axis=1)
    portraits = {portrait.id: portrait for portrait in load_portraits(args.data, "train")}
    weights = choose_weights(cache, embeddings, portraits)
    mean = np.average(embeddings, axis=0, weights=weights).astype(np.float32)
    Sampling(cache.ids, weights, mean).save(args.runs)


if __name__ == "__main__":
    main()
