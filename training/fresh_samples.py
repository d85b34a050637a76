"""Fresh training samples of the denoiser, made by worker processes during training.

On a GPU, each cached image is drawn hundreds of times per hour, so that the network memorizes it.
Fresh samples replace the oldest ones all the time.
"""

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from training.augmentation import mirrored
from training.face_swaps import Partners, swap_face
from training.latent_cache import CROP_SIZE, LatentCache, jittered_crop, scaled_latents
from training.photometry import random_style
from training.portraits import load_portraits
from training.samples import Sampler
from training.sampling import Sampling


BATCH_SIZE = 64
MIN_PAIRS = 8192  # before the training begins

Pair = tuple[np.ndarray, np.ndarray, int, int]


class FreshPairs(IterableDataset[Pair]):
    """Endless pairs of a portrait, drawn by its weight, and the same with a swapped face."""

    def __init__(self, data: Path, runs: Path, seed: int) -> None:
        cache, sampling = LatentCache.load(runs), Sampling.load(runs)
        loaded = {portrait.id: portrait for portrait in load_portraits(data, "train")}
        self.portraits = [loaded[portrait_id] for portrait_id in cache.ids]
        self.landmarks = np.stack(
            [face.face_crop(CROP_SIZE).points_to_crop(face.landmarks) for face in self.portraits]
        )
        self.partners = Partners(cache, self.portraits, self.landmarks, runs)
        self.cumulated = np.cumsum(sampling.weights, dtype=np.float64)
        self.seed = seed

    def __iter__(self) -> Iterator[Pair]:
        worker = get_worker_info()
        cv2.setNumThreads(0)
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            yield self.draw(rng)

    def draw(self, rng: np.random.Generator) -> Pair:
        """Two (128, 128, 3) uint8 crops, and the rows of the portrait and of the swapped face."""
        row = int(np.searchsorted(self.cumulated, rng.random() * self.cumulated[-1], side="right"))
        portrait = self.portraits[row]
        cut = jittered_crop(portrait, rng)
        crop, landmarks = random_style(cut.crop_image(portrait.image()), rng), cut.points_to_crop(portrait.landmarks)
        if rng.random() < 0.5:
            crop, landmarks = mirrored(crop, landmarks)
        partner = self.partners.draw(row, landmarks, rng)
        other = self.portraits[partner]
        other_crop = other.face_crop(CROP_SIZE).crop_image(other.image())
        return crop, swap_face(crop, landmarks, other_crop, self.landmarks[partner]), row, partner


class Renewal:
    """Fills a sampler with fresh pairs, then replaces the oldest pairs on each call."""

    def __init__(self, pairs: IterableDataset[Pair], sampler: Sampler, autoencoder: Path, workers: int) -> None:
        self.sampler, self.device = sampler, sampler.weights.device
        self.autoencoder = AutoencoderTiny.from_pretrained(autoencoder).requires_grad_(False).to(self.device)
        self.autoencoder.to(memory_format=torch.channels_last)
        self.made = 0
        self._batches: queue.Queue = queue.Queue(maxsize=16)
        loader = DataLoader(pairs, batch_size=BATCH_SIZE, num_workers=workers)
        threading.Thread(target=self._collect, args=(loader,), daemon=True).start()
        while self.made < min(MIN_PAIRS, len(sampler.weights)):
            self._put(self._batches.get())

    def _collect(self, loader: DataLoader) -> None:
        for batch in loader:
            self._batches.put(batch)

    def __call__(self) -> None:
        """Store the pairs made since the last call."""
        for _ in range(self._batches.qsize()):
            self._put(self._batches.get())

    def _put(self, batch: list[torch.Tensor]) -> None:
        crops = torch.cat(batch[:2]).numpy()
        latents = scaled_latents(self.autoencoder, crops, self.device)
        rows = torch.arange(self.made, self.made + len(batch[0]), device=self.device) % len(self.sampler.weights)
        self.sampler.put(rows, *latents.chunk(2), *(column.to(self.device) for column in batch[2:]))
        self.made += len(batch[0])
