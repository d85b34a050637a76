"""What a measure of attributes or of quality looks like to the evaluation.

A measure's constructor raises `recognizers.MissingModelError` where its model is not there; the report then says
`not run: needs ...`.
"""

from collections.abc import Iterable
from typing import Protocol

import numpy as np


class FaceMeasure(Protocol):
    """Describes a face, and says how far two descriptions are apart: pose, gaze, expression, landmarks."""

    name: str
    unit: str
    # Of the weights and of what is done before them: descriptions are remembered under it.
    fingerprint: str

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Describe one face.

        Args:
            image (`np.ndarray`): (H, W, 3) uint8 RGB.
            landmarks (`np.ndarray`): (5, 2) float, pixels, of the face in the *original*, also where `image` is the
                anonymized one.

        Returns:
            `np.ndarray`: of any one shape; empty if the face cannot be described, which then counts for no mean and is
            told.
        """

    def distance(self, original: np.ndarray, anonymized: np.ndarray) -> float:
        """Between two descriptions, in `unit`."""


class PairMeasure(Protocol):
    """Compares a photo and its anonymized version where nothing should have changed: LPIPS, SSIM outside the mask."""

    name: str
    # Key of the cached results; depends on the weights and on the preprocessing.
    fingerprint: str

    def __call__(self, original: np.ndarray, anonymized: np.ndarray, mask: np.ndarray) -> float:
        """Two (H, W, 3) uint8 RGB images and an (H, W) float32 mask in [0, 1], 1 where the face is, to one number."""


class SetMeasure(Protocol):
    """Compares two sets of photos: FID, KID."""

    name: str

    def __call__(self, originals: Iterable[np.ndarray], anonymized: Iterable[np.ndarray]) -> dict[str, float]:
        """(H, W, 3) uint8 RGB images, read once and one after the other, to named numbers."""
