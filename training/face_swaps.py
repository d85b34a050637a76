"""One person's face under another's landmarks: what teaches the denoiser that the identity decides who is in a picture.

At the timesteps where the method works, a noisy face shows who it is, so that a denoiser that is only told the truth
hardly needs to be told. Here the face of B lies in the portrait of A, warped to A's landmarks and in A's tones. Told
"A", the denoiser has to make A of it; told "B", to leave it. So it learns to believe what it is told where the picture
says otherwise, and to take pose, expression, light and hair from the picture.

    python -m training.face_swaps        # after training.latent_cache and training.sampling
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny
from rich.progress import track
from scipy.interpolate import LinearNDInterpolator

from training.latent_cache import CROP_SIZE, LatentCache, cached_landmarks, encode, styled_crops
from training.loop import RUNS
from training.portraits import Portrait, load_portraits
from training.pose_erasure import like_the_reddest_lips
from training.sampling import CHEEKS, LIPS, Sampling, measures, smoothed
from training.teacher import TeacherEmbeddings


FOREHEAD = 0.5  # how far above the brows a face is swapped, of the distance from brows to the base of the nose
NEAREST = 30  # of the faces with the most similar landmarks one is drawn
FARTHEST_TONE = 0.8  # how much two faces' measures may differ, in standard deviations
LARGEST_SIMILARITY = 0.35  # of two different people, by the teacher


@dataclass(frozen=True)
class SwapCache:
    """Latents of swapped faces, in the order of the latent cache."""

    latents: np.ndarray  # (N, V, 4, 32, 32) float16
    partners: np.ndarray  # (N, V) int64, rows of the portraits whose faces were put in

    @classmethod
    def load(cls, runs: Path) -> "SwapCache":
        """Read what `python -m training.face_swaps` wrote."""
        with np.load(runs / "swaps_train.npz") as file:
            return cls(file["latents"], file["partners"])

    def save(self, runs: Path) -> None:
        """Write the file, under a temporary name first."""
        temporary = runs / "swaps_train.part.npz"
        np.savez(temporary, latents=self.latents, partners=self.partners)
        temporary.replace(runs / "swaps_train.npz")


def with_forehead(landmarks: np.ndarray) -> np.ndarray:
    """(78, 2): 68 landmarks, and the brows once more, raised into the forehead."""
    up = landmarks[17:27].mean(axis=0) - landmarks[33]
    return np.concatenate([landmarks, landmarks[17:27] + FOREHEAD * up])


def swap_face(crop: np.ndarray, landmarks: np.ndarray, other: np.ndarray, other_landmarks: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8: `crop` with the face of `other`, both (H, W, 3) uint8 with (68, 2) landmarks in them."""
    points, other_points = with_forehead(landmarks), with_forehead(other_landmarks)
    ticks = np.stack(np.meshgrid(np.arange(crop.shape[1]), np.arange(crop.shape[0])), axis=-1)
    source = np.nan_to_num(LinearNDInterpolator(points, other_points)(ticks), nan=-1.0).astype(np.float32)
    warped = cv2.remap(other, source[..., 0], source[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)

    inside: np.ndarray = np.zeros(crop.shape[:2], np.float32)
    cv2.fillConvexPoly(inside, cv2.convexHull(np.rint(points).astype(np.int32)), 1.0)
    inside = cv2.erode(inside, np.ones((5, 5)), borderType=cv2.BORDER_CONSTANT, borderValue=0.0)
    toned = in_tones_of(warped, crop, inside > 0.0)
    soft = cv2.GaussianBlur(inside, (0, 0), 1.5)[..., None]
    return np.rint(soft * toned + (1.0 - soft) * crop).astype(np.uint8)


def in_tones_of(picture: np.ndarray, model: np.ndarray, where: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 picture with the mean and the spread that `model` has in Lab within an (H, W) bool region."""
    lab, wanted = (cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32) for image in (picture, model))
    spread = np.clip(wanted[where].std(axis=0) / (lab[where].std(axis=0) + 1.0), 0.0, 1.6)
    lab = (lab - lab[where].mean(axis=0)) * spread + wanted[where].mean(axis=0)
    return cv2.cvtColor(np.rint(np.clip(lab, 0.0, 255.0)).astype(np.uint8), cv2.COLOR_LAB2RGB)


class Partners:
    """Finds, for a face, other people of like pose, expression and tone."""

    def __init__(self, cache: LatentCache, portraits: list[Portrait], landmarks: np.ndarray, runs: Path) -> None:
        embeddings = Sampling.load(runs).centre(
            TeacherEmbeddings.load("train", runs).of(cache.ids)[:, :2].mean(axis=1)
        )
        self.colour, self.embeddings = cache.real_colour, embeddings
        self.landmarks = landmarks.reshape(len(landmarks), -1)
        self.tones = np.zeros((len(portraits), 2))
        found = np.stack([measures(portraits[row]) for row in np.flatnonzero(self.colour)])
        self.tones[self.colour] = smoothed(embeddings[self.colour], found)[:, [LIPS, CHEEKS]]
        # A picture that shows a woman is then told of women, so that it is taken from the picture that she is one.
        self.reddest = like_the_reddest_lips(embeddings, found, self.colour)[:, 0] > 0.0

    def draw(self, row: int, landmarks: np.ndarray, rng: np.random.Generator) -> int:
        """The row of a person whose face fits (68, 2) landmarks in a portrait of row `row`.

        What is asked of the others is not asked where it would leave nobody, as among few portraits.
        """
        rows = np.flatnonzero(np.arange(len(self.colour)) != row)
        for fits in (
            self.colour == self.colour[row],
            self.embeddings @ self.embeddings[row] < LARGEST_SIMILARITY,
            (np.abs(self.tones - self.tones[row]) < FARTHEST_TONE).all(axis=1),
            self.reddest == self.reddest[row],
        ):
            rows = rows[fits[rows]] if fits[rows].any() else rows
        nearest = np.square(self.landmarks[rows] - landmarks.ravel()).sum(axis=1).argsort()[:NEAREST]
        return int(rows[rng.choice(nearest)])


def build_cache(args: argparse.Namespace) -> SwapCache:
    """Swap and encode every variant of every portrait of the latent cache."""
    autoencoder = AutoencoderTiny.from_pretrained(args.autoencoder).to(memory_format=torch.channels_last)
    cache, variant_points = LatentCache.load("train", args.runs), cached_landmarks(args.data, "train", args.runs)
    numbered = {portrait.id: (index, portrait) for index, portrait in enumerate(load_portraits(args.data, "train"))}
    numbers, portraits = (list(column) for column in zip(*(numbered[portrait] for portrait in cache.ids)))
    crops = [portrait.face_crop(CROP_SIZE) for portrait in portraits]
    points = np.stack([crop.points_to_crop(portrait.landmarks) for crop, portrait in zip(crops, portraits)])
    plain = [crop.crop_image(portrait.image()) for crop, portrait in zip(crops, track(portraits, "cutting"))]
    partners, latents, chosen = Partners(cache, portraits, points, args.runs), [], []
    for row, portrait in enumerate(track(portraits, "swapping")):
        # The pictures of the latent cache, drawn again by the generators that drew them.
        styled = styled_crops(portrait, cache.latents.shape[1], np.random.default_rng([args.seed, numbers[row]]))
        rng = np.random.default_rng([args.seed, 1, row])
        others = [partners.draw(row, landmarks, rng) for landmarks in variant_points[row]]
        swapped = [
            swap_face(picture, landmarks, plain[other], points[other])
            for picture, landmarks, other in zip(styled, variant_points[row], others)
        ]
        latents.append(encode(autoencoder, np.stack(swapped), torch.device("cpu")))
        chosen.append(others)
    return SwapCache(np.stack(latents), np.array(chosen))


def main() -> None:
    parser = argparse.ArgumentParser(description="Swap the faces of the denoiser's training portraits.")
    parser.add_argument("--data", default="../shared/data/portraits.parquet", help="parquet file of portraits")
    parser.add_argument("--autoencoder", type=Path, default=Path("nullface_pipeline/tiny/model/vae"))
    parser.add_argument("--runs", type=Path, default=RUNS, help="folder of caches and checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    build_cache(args).save(args.runs)


if __name__ == "__main__":
    main()
