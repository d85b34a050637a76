"""What an evaluation found, before it is written down: arrays over people, and no embeddings."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from nullface_pipeline.evaluation.attacks import WorstAttack, worst_attack
from nullface_pipeline.evaluation.pairs import Picture
from nullface_pipeline.evaluation.rates import ImpostorScores, Mean, Ranks, Rate, three_rates
from nullface_pipeline.evaluation.recognizers import Recognizer
from nullface_pipeline.face_identity import FaceLocation


FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)


@dataclass(frozen=True, eq=False)
class Original:
    """One original and its face."""

    name: str
    picture: Picture
    size: tuple[int, int]  # (H, W)
    content: bytes  # a digest of its pixels
    face: FaceLocation


@dataclass(frozen=True, eq=False)
class Result:
    """What a method made of one original.

    Attributes:
        row (`int`): the original's, in the gallery.
        face (`FaceLocation`, *optional*): found in the result, where the original has it.
        leaked (`bool`): pixel for pixel the original.
    """

    row: int
    original: Original
    picture: Picture
    face: FaceLocation | None
    leaked: bool


@dataclass(frozen=True, eq=False)
class Recognition:
    """N results of one method as one recognizer sees them.

    Attributes:
        similarity (`np.ndarray`): (N,) cosine to the own original, aligned by the original's landmarks.
        attacks (`dict[str, Ranks]`): of each attack in `attacks.MATCHING_ATTACKS`, aligned so too.
        redetected_similarity, redetected_ranks: the same for the most similar match, aligned by the result's own landmarks; where no face
            was detected NaN, and a rank behind the whole gallery.
    """

    similarity: np.ndarray
    attacks: dict[str, Ranks]
    redetected_similarity: np.ndarray
    redetected_ranks: Ranks

    @property
    def detected(self) -> np.ndarray:
        """(N,) bool, whether a face was found in the result where the original has it."""
        return np.isfinite(self.redetected_similarity)

    def rates(self, k: int) -> dict[str, Rate]:
        """How often the most similar match has the person among the first k, by denominator, see `three_rates`."""
        return three_rates(
            self.attacks["most_similar"].found_within(k), self.redetected_ranks.found_within(k), self.detected
        )

    def accepted(self, threshold: float) -> dict[str, Rate]:
        """How often the result passes for the person at a threshold, by denominator: the TAR at its FAR."""
        redetected = np.nan_to_num(self.redetected_similarity, nan=-2.0) >= threshold
        return three_rates(self.similarity >= threshold, redetected, self.detected)


@dataclass(frozen=True, eq=False)
class LinkageResult:
    """Two anonymizations of N people, as one recognizer sees them.

    Attributes:
        ranks (`Ranks`): of the person's second result among all second results.
        similarity (`np.ndarray`): (N,) between the two.
        strangers (`Strangers`): the second results of different people.
    """

    ranks: Ranks
    similarity: np.ndarray
    impostor_scores: ImpostorScores


@dataclass(frozen=True)
class ReversalResult:
    """Rank 1 of people after the method was run backwards with one setting.

    Attributes:
        towards (`str`): "negated" (what an attacker has) or "positive" (the person's own embedding: the upper bound).
        rank1 (`dict[str, Rate]`): by recognizer.
    """

    towards: str
    guidance_scale: float
    skip: float
    rank1: dict[str, Rate]


@dataclass(frozen=True, eq=False)
class MethodResult:
    """All that is known of one method.

    Attributes:
        name (`str`): of the method.
        results (`list[Result]`): N of them, in the order of the originals.
        recognitions (`dict[str, Recognition]`): by recognizer.
        distances (`dict[str, np.ndarray]`): (N,) by measure; NaN where it could not be taken.
        sets (`dict[str, float]`): of the measures of whole sets.
        linkage (`dict[str, LinkageResult]`): by recognizer; empty without second results.
        reversal (`list[ReversalResult]`): empty where the reversal attack was not run.
    """

    name: str
    results: list[Result]
    recognitions: dict[str, Recognition]
    distances: dict[str, np.ndarray] = field(default_factory=dict)
    sets: dict[str, float] = field(default_factory=dict)
    linkage: dict[str, LinkageResult] = field(default_factory=dict)
    reversal: list[ReversalResult] = field(default_factory=list)

    @property
    def detected(self) -> Rate:
        """In how many results a face was found where the original has it."""
        return Rate(sum(result.face is not None for result in self.results), len(self.results))

    @property
    def leaks(self) -> int:
        """How many results are their originals."""
        return sum(result.leaked for result in self.results)

    def means(self) -> dict[str, Mean]:
        """Of `distances`."""
        return {name: Mean.of(values) for name, values in self.distances.items()}


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All methods on one set of originals.

    Attributes:
        originals (`list[Original]`): the G in which a face was found: the gallery.
        faceless (`list[str]`): of the originals in which none was found; nothing is said of them.
        recognizers (`list[Recognizer]`): that were asked.
        impostor_scores (`dict[str, ImpostorScores]`): the gallery's, by recognizer.
        units (`dict[str, str]`): by measure.
        not_run (`dict[str, str]`): what lacks its model, and what it needs.
        settings (`dict[str, Any]`): for the record.
    """

    originals: list[Original]
    faceless: list[str]
    recognizers: list[Recognizer]
    impostor_scores: dict[str, ImpostorScores]
    methods: list[MethodResult]
    units: dict[str, str]
    not_run: dict[str, str]
    settings: dict[str, Any]

    @cached_property
    def thresholds(self) -> dict[str, dict[float, float | None]]:
        """Similarities by recognizer and false accept rate, calibrated on the gallery's strangers."""
        return {
            name: {far: scores.threshold(far) for far in FALSE_ACCEPT_RATES}
            for name, scores in self.impostor_scores.items()
        }

    @property
    def chance(self) -> float:
        """What guessing gets at rank 1."""
        return 1.0 / len(self.originals)

    def worst(self, method: MethodResult) -> WorstAttack:
        """The best that an attacker gets, over all recognizers."""
        ranks = {name: recognition.attacks for name, recognition in method.recognitions.items()}
        return worst_attack(ranks)
