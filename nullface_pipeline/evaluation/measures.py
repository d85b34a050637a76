"""Protocols of the utility metrics.

A measure's constructor raises `recognizers.MissingModelError` if its model is missing; the report
then shows `not run: needs ...`.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np


class FaceMeasure(Protocol):
    """Distance of two faces by a description of each: pose, gaze, expression, landmarks."""

    name: str
    unit: str
    # Weights and preprocessing, as part of the cache key.
    fingerprint: str

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Describe one face.

        Args:
            image (`np.ndarray`): (H, W, 3) uint8 RGB.
            landmarks (`np.ndarray`): (5, 2) float, pixels, of the face in the *original*, also
                where `image` is the anonymized one.

        Returns:
            `np.ndarray`: of one shape for all faces; empty if the face cannot be described. Means
                exclude it.
        """

    def distance(self, original: np.ndarray, anonymized: np.ndarray) -> float:
        """Distance of two descriptions, in `unit`."""


class PairMeasure(Protocol):
    """Distance of a photo and its anonymized version outside the face: LPIPS, SSIM."""

    name: str
    # Weights and preprocessing, as part of the cache key.
    fingerprint: str

    def __call__(self, original: np.ndarray, anonymized: np.ndarray, mask: np.ndarray) -> float:
        """Compare two (H, W, 3) uint8 RGB images.

        Args:
            mask (`np.ndarray`): (H, W) float32 in [0, 1], 1 in the face.
        """


class SetMeasure(Protocol):
    """Distance of two sets of photos: FID, KID."""

    name: str

    def __call__(self, originals: Iterable[np.ndarray], anonymized: Iterable[np.ndarray]) -> dict[str, float]:
        """Compare (H, W, 3) uint8 RGB images, each read once; returns numbers by name."""
