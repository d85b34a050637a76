"""Matching attacks: a gallery of photos is ranked for each anonymized face.

The attacks take (N, D) probes and a (G, D) gallery of unit-norm rows, one photo a person. The
gallery may hold the originals themselves (same-photo gallery) or other photos of the same people
(different-photo gallery).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nullface_pipeline.evaluation.rates import Ranks, Rate, Score, mated_ranks, normalized


# Attacks that rank the gallery by a score of the cosine.
SCORES: dict[str, Score] = {
    # The paper's re-identification; needs no knowledge of the method.
    "most_similar": np.positive,
    # For methods that move away from the person: the paper's c_id = -lambda_id * e (section 3.3).
    "least_similar": np.negative,
    "most_or_least_similar": np.abs,
}
MATCHING_ATTACKS = (*SCORES, "learned_linear")

FOLDS = 5
# Ridge strengths, relative to the largest squared singular value.
STRENGTHS = tuple(10.0**power for power in range(-6, 2))


def matching_attacks(
    probes: np.ndarray, gallery: np.ndarray, mates: np.ndarray | None = None, originals: np.ndarray | None = None
) -> dict[str, Ranks]:
    """Run every attack of `MATCHING_ATTACKS`.

    Args:
        probes (`np.ndarray`): (N, D) unit norm.
        gallery (`np.ndarray`): (G, D) unit norm.
        mates (`np.ndarray`, *optional*): (N,) int, the gallery row of each probe's person; row by
            row by default. -1 if the person is not in the gallery: the learned attack trains on
            such a probe, and no attack ranks it.
        originals (`np.ndarray`, *optional*): (N, D) unit norm, the photos from which the probes
            were made; by default the gallery holds them. The learned attack trains on them.

    Returns:
        Ranks of the M probes with a mate, by attack.
    """
    mates = np.arange(len(probes)) if mates is None else mates
    originals = gallery[mates] if originals is None else originals
    mated = mates >= 0
    ranks = {name: mated_ranks(probes[mated], gallery, mates[mated], score) for name, score in SCORES.items()}
    predicted = predict_originals(probes, originals - gallery.mean(axis=0))[mated]
    return ranks | {"learned_linear": mated_ranks(predicted, normalized(gallery - gallery.mean(axis=0)), mates[mated])}


def predict_originals(probes: np.ndarray, originals: np.ndarray) -> np.ndarray:
    """Predict original from anonymized embeddings, by ridge regression on the other folds' people.

    The attacker anonymizes photos of other people to learn the method's effect: a linear form of
    the parrot attack (Newton et al. 2005; Hanisch et al., arXiv 2304.01635).

    Args:
        probes, originals (`np.ndarray`): (N, D) and (N, E), one pair per person.

    Returns:
        (N, E) unit norm; zeros for a single person, because there are no others to train on.
    """
    originals = normalized(originals)
    predicted = np.zeros_like(originals)
    if len(probes) < 2:
        return predicted
    fold = np.arange(len(probes)) % FOLDS
    for number in range(min(FOLDS, len(probes))):
        test = fold == number
        mean, weights = ridge(probes[~test], originals[~test])
        predicted[test] = (probes[test] - mean) @ weights
    return normalized(predicted)


def ridge(inputs: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit a ridge regression with the strength of generalized cross-validation.

    Golub, Heath and Wahba (1979).

    Args:
        inputs, targets (`np.ndarray`): (N, D) and (N, E).

    Returns:
        The (D,) mean to subtract from inputs, and (D, E) float32 weights.
    """
    count, mean = len(inputs), inputs.mean(axis=0, dtype=np.float64)
    x, y = inputs - mean, targets.astype(np.float64)
    # X = U S Vt, from the smaller of the two Gram matrices.
    is_wide = count < x.shape[1]
    squares, vectors = np.linalg.eigh(x @ x.T if is_wide else x.T @ x)
    kept = squares > max(squares[-1], 1e-18) * 1e-12
    squares, vectors = squares[kept], vectors[:, kept]
    others = (x.T if is_wide else x) @ vectors / np.sqrt(squares)
    u, v = (vectors, others) if is_wide else (others, vectors)
    projected = u.T @ y
    unexplained = float((y**2).sum() - (projected**2).sum())

    def error(strength: float) -> float:
        shrink = squares / (squares + strength)
        residual = unexplained + float((((1 - shrink)[:, None] * projected) ** 2).sum())
        # The mean takes one degree of freedom.
        return residual / max(1 - (shrink.sum() + 1) / count, 1e-9) ** 2

    largest = float(squares.max(initial=1e-18))
    strength = min((share * largest for share in STRENGTHS), key=error)
    weights = v * (np.sqrt(squares) / (squares + strength)) @ projected
    return mean.astype(np.float32), weights.astype(np.float32)


@dataclass(frozen=True)
class WorstAttack:
    """The attack and recognizer with the highest rank-1 rate.

    A maximum over many rates is biased upwards.

    Attributes:
        recognizer, attack (`str`): their names.
        rate (`Rate`): at rank 1.
    """

    recognizer: str
    attack: str
    rate: Rate


def worst_attack(ranks: Mapping[str, Mapping[str, Ranks]]) -> WorstAttack:
    """Find the highest rank-1 rate in ranks by recognizer and attack."""
    rates = {
        (recognizer, attack): ranks_of.rate()
        for recognizer, attacks in ranks.items()
        for attack, ranks_of in attacks.items()
    }
    recognizer, attack = max(rates, key=lambda key: rates[key].value)
    return WorstAttack(recognizer, attack, rates[recognizer, attack])
