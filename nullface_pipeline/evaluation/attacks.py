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

from nullface_pipeline.evaluation.rates import Ranks, Rate, normalized, own_ranks


FOLDS = 5
# Strengths of the ridge, as shares of the largest singular value squared.
STRENGTHS = tuple(10.0**power for power in range(-6, 2))


def naive(probes: np.ndarray, gallery: np.ndarray, own: np.ndarray | None = None) -> Ranks:
    """Nothing is known of the method: the most similar original first. The paper's re-identification."""
    return own_ranks(probes, gallery, own)


def inverted(probes: np.ndarray, gallery: np.ndarray, own: np.ndarray | None = None) -> Ranks:
    """The method is known to move away from the person: the *least* similar original first. Follows from the paper's
    c_id = -lambda_id * e (section 3.3); no source measures it.
    """
    return own_ranks(probes, gallery, own, np.negative)


def absolute(probes: np.ndarray, gallery: np.ndarray, own: np.ndarray | None = None) -> Ranks:
    """Too alike or too unlike: the highest |cosine| first."""
    return own_ranks(probes, gallery, own, np.abs)


def parrot(probes: np.ndarray, gallery: np.ndarray, own: np.ndarray | None = None) -> Ranks:
    """A map from anonymized to original embeddings is learnt on other people, whom the attacker anonymized himself.

    The light form of the parrot attack (Newton et al. 2005; Hanisch et al., arXiv 2304.01635): a ridge regression, and
    everybody is judged by a map learnt on the other folds' people. Both sides are centred.
    """
    gallery = normalized(gallery - gallery.mean(axis=0))
    targets = gallery[: len(probes)] if own is None else gallery[own]
    fold = np.arange(len(probes)) % FOLDS
    guesses = np.zeros_like(targets)
    # One probe alone leaves nobody to learn from.
    for held_out in range(min(FOLDS, len(probes)) if len(probes) > 1 else 0):
        learnt = fold != held_out
        mean = probes[learnt].mean(axis=0)
        weights = ridge(probes[learnt] - mean, targets[learnt])
        guesses[~learnt] = (probes[~learnt] - mean) @ weights
    return own_ranks(normalized(guesses), gallery, own)


def ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(D, E) weights of the ridge regression from (N, D) to (N, E), both centred; its strength is chosen by generalized
    cross-validation (Golub, Heath and Wahba 1979).
    """
    u, s, vt = np.linalg.svd(x.astype(np.float64), full_matrices=False)
    projected = u.T @ y
    unexplained = float((y.astype(np.float64) ** 2).sum() - (projected**2).sum())

    def error(strength: float) -> float:
        shrink = s**2 / (s**2 + strength)
        residual = unexplained + float((((1 - shrink)[:, None] * projected) ** 2).sum())
        # One degree of freedom went into the mean.
        return residual / max(1 - (shrink.sum() + 1) / len(x), 1e-9) ** 2

    strength = min((share * max(s[0], 1e-9) ** 2 for share in STRENGTHS), key=error)
    return (vt.T * (s / (s**2 + strength)) @ projected).astype(np.float32)


MATCHING: dict[str, Callable[..., Ranks]] = {
    "naive": naive,
    "inverted": inverted,
    "absolute": absolute,
    "parrot": parrot,
}


def linkability(first: np.ndarray, second: np.ndarray) -> Ranks:
    """Whether two anonymizations of one person are known for the same: (N, D) results of one run are looked for among
    those of another (Article 29 Working Party, Opinion 05/2014: singling out, linkability, inference).
    """
    return own_ranks(first, second)


def recovery(pipe: Any, faces: list[PIL.Image.Image], embeds: np.ndarray, **settings: Any) -> list[PIL.Image.Image]:
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
        name: {attack: match(probes, gallery, own) for attack, match in MATCHING.items()}
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
