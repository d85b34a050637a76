"""Ranks, rates with intervals and thresholds from embeddings.

A *probe* is an anonymized face, and the *gallery* holds photos of the same people. Embeddings are
rows of unit norm. Similarities are computed in blocks of probes, so that memory does not grow with
the square of their number.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest


# Largest number of probes, and of cosines, per block.
BLOCK = 256
CELLS = 2**18
# Quantile of the normal distribution for 95 % intervals.
Z = 1.959964
# Cosines that differ by less are a tie: matrix products round differently in different places.
TIE = 1e-6
# Bins of impostor scores over [-1, 1]; thresholds are exact to one bin.
BINS = 200_000

Score = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Rate:
    """Share of `count` cases; `hits` is fractional for ties."""

    hits: float
    count: int

    @property
    def value(self) -> float:
        """Share in [0, 1]; NaN for no cases."""
        return self.hits / self.count if self.count else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval: its upper end is above 0 even for 0 hits."""
        if not self.count:
            return 0.0, 1.0
        # SciPy takes whole numbers only; ties make `hits` fractional.
        interval = binomtest(round(self.hits), self.count).proportion_ci(method="wilson")
        return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Mean:
    """Mean of `count` values and half the width of its 95 % interval (normal approximation)."""

    value: float
    half_width: float
    count: int

    @classmethod
    def of(cls, values: np.ndarray) -> "Mean":
        """Mean of (N,) values, without those that are NaN; NaN for none."""
        values = values[np.isfinite(values)]
        if not len(values):
            return cls(math.nan, math.nan, 0)
        spread = Z * float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
        return cls(float(values.mean()), spread, len(values))


@dataclass(frozen=True, eq=False)
class Ranks:
    """Ranks of N probes' mates in the gallery.

    Attributes:
        greater (`np.ndarray`): (N,) int, gallery entries that score higher than the mate.
        equal (`np.ndarray`): (N,) int, entries that score the same, including the mate.
    """

    greater: np.ndarray
    equal: np.ndarray

    def found_within(self, k: int) -> np.ndarray:
        """(N,) in [0, 1]: whether the mate is among the first k; for ties, the probability."""
        return np.clip((k - self.greater) / self.equal, 0.0, 1.0)

    def rate(self, k: int = 1) -> Rate:
        """Rank-k rate."""
        return Rate(float(self.found_within(k).sum()), len(self.greater))

    @property
    def middle(self) -> np.ndarray:
        """(N,) rank of the mate, from 1; ties count half."""
        return self.greater + (self.equal + 1) / 2


def normalized(embeddings: np.ndarray) -> np.ndarray:
    """(N, D) rows at unit norm, float32; a row of zeros stays."""
    embeddings = embeddings.astype(np.float32)
    embeddings /= np.maximum(np.linalg.norm(embeddings, axis=1, keepdims=True), 1e-12)
    return embeddings


def mated_ranks(
    probes: np.ndarray, gallery: np.ndarray, mates: np.ndarray | None = None, score: Score = np.positive
) -> Ranks:
    """Rank the whole gallery for each probe.

    Args:
        probes (`np.ndarray`): (N, D) unit norm.
        gallery (`np.ndarray`): (G, D) unit norm.
        mates (`np.ndarray`, *optional*): (N,) int, the gallery row of each probe's person; by
        default row by row.
        score (`Callable`): cosines to scores, of which the highest is ranked first.
    """
    mates = np.arange(len(probes)) if mates is None else mates
    greater, equal = [], []
    for start, cosines in similarity_blocks(probes, gallery):
        scores = score(cosines)
        mine = scores[np.arange(len(scores)), mates[start : start + len(scores)]][:, None]
        greater.append((scores > mine + TIE).sum(axis=1))
        equal.append((np.abs(scores - mine) <= TIE).sum(axis=1))
    return Ranks(np.concatenate(greater), np.concatenate(equal))


def genuine_scores(probes: np.ndarray, gallery: np.ndarray, mates: np.ndarray | None = None) -> np.ndarray:
    """(N,) cosines of each probe to its mate."""
    return np.einsum("nd,nd->n", probes, gallery if mates is None else gallery[mates])


def similarity_blocks(probes: np.ndarray, gallery: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the first row of each block of probes, and its (B, G) cosines to the gallery."""
    rows = block_size(len(gallery))
    for start in range(0, len(probes), rows):
        yield start, probes[start : start + rows] @ gallery.T


def block_size(gallery: int) -> int:
    """Number of probes that are compared with a gallery at a time."""
    return min(BLOCK, max(1, CELLS // gallery))


def cumulative_matches(found: Callable[[int], np.ndarray], last: int = 20) -> list[float]:
    """CMC curve: mean of `found(k)` for k = 1 to `last`."""
    return [float(found(k).mean()) for k in range(1, last + 1)]


@dataclass(frozen=True, eq=False)
class ImpostorScores:
    """Histogram of similarities between different people of a gallery.

    Attributes:
        counts (`np.ndarray`): (`BINS`,) int64, pairs by their cosine, from -1 to 1.
    """

    counts: np.ndarray

    @classmethod
    def of(cls, gallery: np.ndarray, subjects: np.ndarray | None = None) -> "ImpostorScores":
        """Count all pairs of different people in a (G, D) gallery, each pair once.

        Args:
            subjects (`np.ndarray`, *optional*): (G,) int; by default every photo has its own.
        """
        counts = np.zeros(BINS, dtype=np.int64)
        rows = block_size(len(gallery))
        for start in range(0, len(gallery), rows):
            cosines = gallery[start : start + rows] @ gallery[start:].T
            pairs = np.arange(cosines.shape[1]) > np.arange(len(cosines))[:, None]
            if subjects is not None:
                pairs &= np.not_equal.outer(subjects[start : start + rows], subjects[start:])
            bins = ((cosines[pairs] + 1.0) * (BINS / 2)).astype(np.int64)
            counts += np.bincount(np.clip(bins, 0, BINS - 1), minlength=BINS)
        return cls(counts)

    @property
    def pairs(self) -> int:
        """Number of pairs."""
        return int(self.counts.sum())

    def threshold(self, far: float) -> float | None:
        """Lowest similarity that at most a share `far` of pairs reaches; None for too few pairs.

        Thresholds from another data set, crop or network do not apply here.
        """
        allowed = far * self.pairs
        if allowed < 1:
            return None
        at_or_above = np.cumsum(self.counts[::-1])[::-1]
        passing = np.flatnonzero(at_or_above <= allowed)
        return float(passing[0] / (BINS / 2) - 1.0) if len(passing) else 1.0

    def coarse(self, bins: int = 100) -> np.ndarray:
        """(bins,) int64, the same pairs in fewer bins."""
        return self.counts.reshape(bins, -1).sum(axis=1)


@dataclass(frozen=True, eq=False)
class Gallery:
    """Gallery of one recognizer: (G, D) unit norm, and the mean subtracted from probes too."""

    embeddings: np.ndarray
    mean: np.ndarray | float
    impostor_scores: ImpostorScores

    @classmethod
    def of(cls, raw: np.ndarray, centred: bool) -> "Gallery":
        """Build a gallery from (G, D) raw embeddings."""
        mean = raw.mean(axis=0, dtype=np.float32) if centred else 0.0
        embeddings = normalized(raw - mean)
        return cls(embeddings, mean, ImpostorScores.of(embeddings))

    def probes(self, raw: np.ndarray) -> np.ndarray:
        """Center and normalize (N, D) raw embeddings for comparison with `embeddings`."""
        return normalized(raw - self.mean)


def three_rates(gt_aligned: np.ndarray, redetected: np.ndarray, detected: np.ndarray) -> dict[str, Rate]:
    """Match rates over three denominators.

    Args:
        gt_aligned (`np.ndarray`): (N,) in [0, 1], matches of results aligned by the original's
            landmarks. No result drops out.
        redetected (`np.ndarray`): (N,) matches of results aligned by their own landmarks; ignored
            where no face was detected.
        detected (`np.ndarray`): (N,) bool, whether a face was detected in the result.

    Returns:
        "gt_aligned"; "redetected", over all N, without a match where no face was detected;
        "detected_only", over the results with a face, as published figures seem to be.
    """
    matched = float(redetected[detected].sum())
    return {
        "gt_aligned": Rate(float(gt_aligned.sum()), len(gt_aligned)),
        "redetected": Rate(matched, len(redetected)),
        "detected_only": Rate(matched, int(detected.sum())),
    }
