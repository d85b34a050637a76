"""Face swaps, which train the denoiser to follow the identity embedding, not the image.

At the method's timesteps, a noisy face still shows its identity. A denoiser trained only on
matching pairs of image and embedding therefore learns to ignore the embedding. In a face swap, the
face of person B lies in the portrait of person A, warped to A's landmarks and toned like A's.
Conditioned on A, the denoiser has to restore A's face; conditioned on B, it has to leave the image
unchanged. Pose, expression, light and hair come from the image in both cases.

    python -m training.face_swaps        # after training.latent_cache and training.sampling
"""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny
from rich.progress import track
from scipy.interpolate import LinearNDInterpolator

from training.latent_cache import CROP_SIZE, LatentCache, cached_landmarks, encode, styled_crops
from training.loop import ArrayCache, option_parser, set_up
from training.portraits import Portrait, load_portraits
from training.pose_erasure import similar_to_reddest_lips
from training.sampling import CHEEKS, LIPS, Sampling, measures, smoothed
from training.teacher import TeacherEmbeddings


FOREHEAD = 0.5  # height of the swapped forehead, relative to the distance from the brows to the base of the nose
NUM_NEAREST = 30  # faces with the most similar landmarks, of which one is drawn
MAX_TONE_DIFFERENCE = 0.8  # between the measures of two faces, in standard deviations
MAX_SIMILARITY = 0.35  # between two people, by the teacher


@dataclass(frozen=True)
class SwapCache(ArrayCache):
    """Latents of swapped faces, in the order of the latent cache."""

    FILE = "swaps_{split}.npz"
    latents: np.ndarray  # (N, V, 4, 32, 32) float16
    partners: np.ndarray  # (N, V) int64, rows of the portraits that the faces are taken from


def with_forehead(landmarks: np.ndarray) -> np.ndarray:
    """Extend (68, 2) landmarks to (78, 2) by the brow points raised into the forehead."""
    up = landmarks[17:27].mean(axis=0) - landmarks[33]
    return np.concatenate([landmarks, landmarks[17:27] + FOREHEAD * up])


def swap_face(crop: np.ndarray, landmarks: np.ndarray, other: np.ndarray, other_landmarks: np.ndarray) -> np.ndarray:
    """Replace the face in an (H, W, 3) uint8 crop by that of `other`, by (68, 2) landmarks."""
    points, other_points = with_forehead(landmarks), with_forehead(other_landmarks)
    ticks = np.stack(np.meshgrid(np.arange(crop.shape[1]), np.arange(crop.shape[0])), axis=-1)
    source = np.nan_to_num(LinearNDInterpolator(points, other_points)(ticks), nan=-1.0).astype(np.float32)
    warped = cv2.remap(other, source[..., 0], source[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)

    inside: np.ndarray = np.zeros(crop.shape[:2], np.float32)
    cv2.fillConvexPoly(inside, cv2.convexHull(np.rint(points).astype(np.int32)), 1.0)
    inside = cv2.erode(inside, np.ones((5, 5)), borderType=cv2.BORDER_CONSTANT, borderValue=0.0)
    toned = match_tones(warped, crop, inside > 0.0)
    soft = cv2.GaussianBlur(inside, (0, 0), 1.5)[..., None]
    return np.rint(soft * toned + (1.0 - soft) * crop).astype(np.uint8)


def match_tones(image: np.ndarray, reference: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Transfer the Lab mean and deviation of a reference within an (H, W) bool region, in uint8."""
    lab, target = (cv2.cvtColor(each, cv2.COLOR_RGB2LAB).astype(np.float32) for each in (image, reference))
    spread = np.clip(target[where].std(axis=0) / (lab[where].std(axis=0) + 1.0), 0.0, 1.6)
    lab = (lab - lab[where].mean(axis=0)) * spread + target[where].mean(axis=0)
    return cv2.cvtColor(np.rint(np.clip(lab, 0.0, 255.0)).astype(np.uint8), cv2.COLOR_LAB2RGB)


class Partners:
    """Draws other people with a similar pose, expression and tone for a face."""

    def __init__(self, cache: LatentCache, portraits: list[Portrait], landmarks: np.ndarray, runs: Path) -> None:
        embeddings = Sampling.load(runs).centre(TeacherEmbeddings.load(runs).select(cache.ids)[:, :2].mean(axis=1))
        self.colour, self.embeddings = cache.real_colour, embeddings
        self.landmarks = landmarks.reshape(len(landmarks), -1)
        self.tones = np.zeros((len(portraits), 2))
        found = np.stack([measures(portraits[row]) for row in np.flatnonzero(self.colour)])
        self.tones[self.colour] = smoothed(embeddings[self.colour], found)[:, [LIPS, CHEEKS]]
        # Women are paired with women mostly, so that the denoiser takes the gender from the image.
        self.reddest = similar_to_reddest_lips(embeddings, found, self.colour)[:, 0] > 0.0

    def draw(self, row: int, landmarks: np.ndarray, rng: np.random.Generator) -> int:
        """Draw the row of a person whose face fits (68, 2) landmarks in the portrait of row `row`.

        A criterion that no person meets is skipped, as happens with few portraits.
        """
        rows = np.flatnonzero(np.arange(len(self.colour)) != row)
        for fits in (
            self.colour == self.colour[row],
            self.embeddings @ self.embeddings[row] < MAX_SIMILARITY,
            (np.abs(self.tones - self.tones[row]) < MAX_TONE_DIFFERENCE).all(axis=1),
            self.reddest == self.reddest[row],
        ):
            rows = rows[fits[rows]] if fits[rows].any() else rows
        nearest = np.square(self.landmarks[rows] - landmarks.ravel()).sum(axis=1).argsort()[:NUM_NEAREST]
        return int(rows[rng.choice(nearest)])


def build_cache(args: Namespace) -> SwapCache:
    """Swap the face in each variant of each cached portrait, and encode the results."""
    autoencoder = AutoencoderTiny.from_pretrained(args.autoencoder).to(memory_format=torch.channels_last)
    cache, variant_points = LatentCache.load(args.runs), cached_landmarks(args.data, "train", args.runs)
    numbered = {portrait.id: (index, portrait) for index, portrait in enumerate(load_portraits(args.data, "train"))}
    numbers, portraits = (list(column) for column in zip(*(numbered[portrait] for portrait in cache.ids)))
    crops = [portrait.face_crop(CROP_SIZE) for portrait in portraits]
    points = np.stack([crop.points_to_crop(portrait.landmarks) for crop, portrait in zip(crops, portraits)])
    plain = [crop.crop_image(portrait.image()) for crop, portrait in zip(crops, track(portraits, "cutting"))]
    partners, latents, chosen = Partners(cache, portraits, points, args.runs), [], []
    for row, portrait in enumerate(track(portraits, "swapping")):
        # Repeats the crops of the latent cache with the same random generators.
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
    args = option_parser(__doc__, "data", "autoencoder", "runs", "seed").parse_args()
    set_up(threads=1)
    build_cache(args).save(args.runs)


if __name__ == "__main__":
    main()
