"""Identification of people on finished photos, with the evaluation's recognizers and rates."""

import numpy as np

from nullface_pipeline.evaluation.rates import Gallery, genuine_scores, mated_ranks
from nullface_pipeline.evaluation.recognizers import DlibRecognizer, Recognizer
from training.portraits import Portrait


class Verifier:
    """Identifies people against a gallery of their original photos.

    Args:
        portraits (`list[Portrait]`): people of the gallery.
        recognizer (`Recognizer`, *optional*): dlib's by default, which no training used.
    """

    def __init__(self, portraits: list[Portrait], recognizer: Recognizer | None = None) -> None:
        self.recognizer = recognizer or DlibRecognizer()
        self.rows = {portrait.id: index for index, portrait in enumerate(portraits)}
        # Old photos resemble each other to every recognizer, so that embeddings are centred.
        self.gallery = Gallery.of(self._embed(portraits, [portrait.image() for portrait in portraits]), centred=True)

    def _embed(self, portraits: list[Portrait], photos: list[np.ndarray]) -> np.ndarray:
        return np.stack([self.recognizer(photo, p.keypoints()) for p, photo in zip(portraits, photos)])

    def __call__(self, portraits: list[Portrait], photos: list[np.ndarray]) -> dict[str, float]:
        """Identification metrics of photos of `portraits`.

        Returns:
            `dict`: `rank1` and `inverted_rank1`, how often (%) the own original is the most and the
                least similar; `median_rank`; `similarity`, the mean cosine to the own original.
        """
        matched = (
            self.gallery.probes(self._embed(portraits, photos)),
            self.gallery.embeddings,
            np.array([self.rows[portrait.id] for portrait in portraits]),
        )
        ranks = mated_ranks(*matched)
        return {
            "rank1": 100.0 * float(ranks.found_within(1).mean()),
            "inverted_rank1": 100.0 * float(mated_ranks(*matched, np.negative).found_within(1).mean()),
            "median_rank": float(np.median(ranks.middle)),
            "similarity": float(genuine_scores(*matched).mean()),
        }
