"""What somebody can do to find out who was in an anonymized picture.

Matching attacks rank a gallery of originals for each anonymized probe. They take (N, D) probes and a (G, D) gallery of
unit-norm rows, and optionally each probe's own row of the gallery; one photo a person.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import torch

from nullface_pipeline.evaluation.rates import Ranks, Rate, mated_ranks
from nullface_pipeline.evaluation.tables import BLOCK, normalized_table, scratch_table
from nullface_pipeline.pipeline import StableDiffusionNullFacePipeline


FOLDS = 5
# Strengths of the ridge, as shares of the largest singular value squared.
STRENGTHS = tuple(10.0**power for power in range(-6, 2))


def most_similar(probes: np.ndarray, gallery: np.ndarray, own: np.ndarray | None = None) -> Ranks:
    """Nothing is known of the method: the most similar original first. The paper's re-identification."""
    return mated_ranks(probes, gallery, own)


def least_similar(probes: np.ndarray, gallery: np.ndarray, own: np.ndarray | None = None) -> Ranks:
    """The method is known to move away from the person: the *least* similar original first. Follows from the paper's
    c_id = -lambda_id * e (section 3.3); no source measures it.
    """
    return mated_ranks(probes, gallery, own, np.negative)


def most_or_least_similar(probes: np.ndarray, gallery: np.ndarray, own: np.ndarray | None = None) -> Ranks:
    """Too alike or too unlike: the highest |cosine| first."""
    return mated_ranks(probes, gallery, own, np.abs)


def learned_linear(probes: np.ndarray, gallery: np.ndarray, own: np.ndarray | None = None) -> Ranks:
    """A map from anonymized to original embeddings is learnt on other people, whom the attacker anonymized himself.

    The light form of the parrot attack (Newton et al. 2005; Hanisch et al., arXiv 2304.01635): a ridge regression, and
    everybody is judged by a map learnt on the other folds' people. Both sides are centred.
    """
    gallery = normalized_table(gallery, gallery.mean(axis=0))
    own = np.arange(len(probes)) if own is None else own
    fold = np.arange(len(probes)) % FOLDS
    guesses = scratch_table(len(probes), gallery.shape[1])
    # One probe alone leaves nobody to learn from.
    for held_out in range(min(FOLDS, len(probes)) if len(probes) > 1 else 0):
        mean, weights = ridge(probes, gallery, np.flatnonzero(fold != held_out), own)
        judged = np.flatnonzero(fold == held_out)
        for rows in np.split(judged, range(BLOCK, len(judged), BLOCK)):
            guesses[rows] = (probes[rows] - mean) @ weights
    return mated_ranks(normalized_table(guesses), gallery, own)


def ridge(
    probes: np.ndarray, gallery: np.ndarray, learnt: np.ndarray, own: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The ridge regression from probes to their originals; its strength is chosen by generalized cross-validation (Golub,
    Heath and Wahba 1979). Goes by blocks, so that it needs no more memory for more people.

    Args:
        probes, gallery (`np.ndarray`): (N, D) and (G, E).
        learnt (`np.ndarray`): (L,) int, the rows of probes to learn from.
        own (`np.ndarray`): (N,) int, each probe's row of the gallery.

    Returns:
        The (D,) mean of the probes, to be taken off, and (D, E) float32 weights.
    """
    count = len(learnt)
    blocks = [learnt[start : start + BLOCK] for start in range(0, count, BLOCK)]
    mean = np.sum([probes[rows].sum(axis=0, dtype=np.float64) for rows in blocks], axis=0) / count
    within = np.zeros(2 * (probes.shape[1],))
    across = np.zeros((probes.shape[1], gallery.shape[1]))
    unexplained = 0.0
    for rows in blocks:
        x, y = probes[rows] - mean, gallery[own[rows]].astype(np.float64)
        within += x.T @ x
        across += x.T @ y
        unexplained += float((y**2).sum())
    # X = U S Vt: the squares of S and V from X^T X, and U^T Y = S^-1 V^T X^T Y.
    squares, v = np.linalg.eigh(within)
    there = squares > max(squares[-1], 1e-18) * 1e-12
    squares, v = squares[there], v[:, there]
    projected = v.T @ across / np.sqrt(squares)[:, None]
    unexplained -= float((projected**2).sum())

    def error(strength: float) -> float:
        shrink = squares / (squares + strength)
        residual = unexplained + float((((1 - shrink)[:, None] * projected) ** 2).sum())
        # One degree of freedom went into the mean.
        return residual / max(1 - (shrink.sum() + 1) / count, 1e-9) ** 2

    largest = float(squares.max(initial=1e-18))
    strength = min((share * largest for share in STRENGTHS), key=error)
    weights = v * (np.sqrt(squares) / (squares + strength)) @ projected
    return mean.astype(np.float32), weights.astype(np.float32)


MATCHING_ATTACKS: dict[str, Callable[..., Ranks]] = {
    "most_similar": most_similar,
    "least_similar": least_similar,
    "most_or_least_similar": most_or_least_similar,
    "learned_linear": learned_linear,
}


def linkage(first: np.ndarray, second: np.ndarray) -> Ranks:
    """Whether two anonymizations of one person are known for the same: (N, D) results of one run are looked for among
    those of another (Article 29 Working Party, Opinion 05/2014: singling out, linkability, inference).
    """
    return mated_ranks(first, second)


def reverse(
    pipe: StableDiffusionNullFacePipeline, faces: list[PIL.Image.Image], embeds: np.ndarray, **settings: Any
) -> list[PIL.Image.Image]:
    """The method once more on its own results, towards an identity instead of away from it (paper, section 6).

    Args:
        faces (`list[PIL.Image.Image]`): B aligned anonymized faces of the model's size.
        embeds (`np.ndarray`): (B, 512), the identity moved towards. An attacker has only what the result shows: the
            result's own embedding negated, since the result stands opposite to the person. The paper's "positive
            embedding" is the person's own, which only somebody has who knows the answer; it is the upper bound.
        settings: of the pipeline: `guidance_scale`, `skip` or `inversion`, and so on.

    Returns:
        B aligned faces.
    """
    return pipe(faces, identity_embeds=torch.from_numpy(embeds), identity_scale=-1.0, **settings).images


@dataclass(frozen=True)
class WorstAttack:
    """The best that an attacker gets at rank 1.

    Attributes:
        recognizer, attack (`str`): with which it was reached.
        rate (`Rate`): its rank 1. The highest of many is itself a little above what it would be elsewhere.
        chance (`float`): what guessing gets.
    """

    recognizer: str
    attack: str
    rate: Rate
    chance: float


def worst_attack(embedded: Mapping[str, tuple[np.ndarray, np.ndarray]], own: np.ndarray | None = None) -> WorstAttack:
    """The highest rank 1 of every matching attack by every recognizer, independent or not.

    Args:
        embedded: (N, D) probes and (G, D) gallery by the recognizer's name.
        own (`np.ndarray`, *optional*): (N,) int, each probe's own row of the gallery; by default row by row.
    """
    ranks = {
        name: {attack: match(probes, gallery, own) for attack, match in MATCHING_ATTACKS.items()}
        for name, (probes, gallery) in embedded.items()
    }
    return worst_of(ranks, chance=1.0 / len(next(iter(embedded.values()))[1]))


def worst_of(ranks: Mapping[str, Mapping[str, Ranks]], chance: float) -> WorstAttack:
    """As `worst_attack`, of ranks that are known: by recognizer and attack."""
    rates = {
        (name, attack): ranks_of.rate() for name, attacks in ranks.items() for attack, ranks_of in attacks.items()
    }
    recognizer, attack = max(rates, key=lambda key: rates[key].value)
    return WorstAttack(recognizer, attack, rates[recognizer, attack], chance)
