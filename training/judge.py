"""Tells people apart on finished photographs, with the evaluation's recognizers and rates."""

import numpy as np

from nullface_pipeline.evaluation.rates import Gallery, genuine_scores, mated_ranks
from nullface_pipeline.evaluation.recognizers import DlibRecognizer, Recognizer
from training.portraits import Portrait


class Judge:
    """Looks for people among the original photographs of all of `portraits`.

    By default it is dlib's recognizer, which had no part in the training of anything.
    """

    def __init__(self, portraits: list[Portrait], recognizer: Recognizer | None = None) -> None:
        self.recognizer = recognizer or DlibRecognizer()
        self.rows = {portrait.id: index for index, portrait in enumerate(portraits)}
        # Old photographs are alike to every recognizer: the mean is taken out of each.
        self.gallery = Gallery.of(self._embed(portraits, [portrait.image() for portrait in portraits]), centred=True)

    def _embed(self, portraits: list[Portrait], photos: list[np.ndarray]) -> np.ndarray:
        return np.stack([self.recognizer(photo, p.keypoints()) for p, photo in zip(portraits, photos)])

    def __call__(self, portraits: list[Portrait], photos: list[np.ndarray]) -> dict[str, float]:
        """Of photos of `portraits`: how often (%) the own original is the likest, and the least like, of all;
        the median rank, and the mean cosine to it.
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
