"""Results of an evaluation, without embeddings."""

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from nullface_pipeline.evaluation.attacks import WorstAttack, worst_attack
from nullface_pipeline.evaluation.pairs import Picture
from nullface_pipeline.evaluation.rates import ImpostorScores, Mean, Ranks, Rate, three_rates
from nullface_pipeline.evaluation.recognizers import Recognizer
from nullface_pipeline.evaluation.verification import Verification
from nullface_pipeline.face_identity import FaceLocation


FALSE_ACCEPT_RATES = (1e-2, 1e-3, 1e-4)

# Names of the galleries of the originals, and of other photos of the same people.
SAME_PHOTO, DIFFERENT_PHOTO = "same_photo", "different_photo"


@dataclass(frozen=True, eq=False)
class Original:
    """A photo before anonymization, and its face."""

    name: str
    picture: Picture
    size: tuple[int, int]  # (H, W)
    content: bytes  # digest of its pixels
    face: FaceLocation


@dataclass(frozen=True, eq=False)
class Result:
    """Anonymized version of an original.

    Attributes:
        row (`int`): index of the original.
        face (`FaceLocation`, *optional*): detected face that contains the nose of the original's.
        leaked (`bool`): whether the pixels are identical to the original's.
    """

    row: int
    original: Original
    picture: Picture
    face: FaceLocation | None
    leaked: bool


@dataclass(frozen=True, eq=False)
class Recognition:
    """M results of one method, searched in one gallery by one recognizer.

    Attributes:
        index (`np.ndarray`): (M,) int, positions in the method's list of results.
        similarity (`np.ndarray`): (M,) cosines to the person's photo in the gallery, aligned by the
            original's landmarks.
        attacks (`dict[str, Ranks]`): by the name in `attacks.MATCHING_ATTACKS`, aligned in the same
        way.
        redetected_similarity, redetected_ranks: of the most similar match, aligned by the result's
            own landmarks. Without a detected face: NaN, and a rank after the whole gallery.
    """

    index: np.ndarray
    similarity: np.ndarray
    attacks: dict[str, Ranks]
    redetected_similarity: np.ndarray
    redetected_ranks: Ranks

    @property
    def detected(self) -> np.ndarray:
        """(M,) bool, whether each result has a detected face, see `Result.face`."""
        return np.isfinite(self.redetected_similarity)

    def rates(self, k: int) -> dict[str, Rate]:
        """Rank-k rates of the most similar match by denominator, see `three_rates`."""
        matched = self.attacks["most_similar"].found_within(k)
        return three_rates(matched, self.redetected_ranks.found_within(k), self.detected)

    def accepted(self, threshold: float) -> dict[str, Rate]:
        """True accept rates at a threshold by denominator, see `three_rates`."""
        redetected = np.nan_to_num(self.redetected_similarity, nan=-2.0) >= threshold
        return three_rates(self.similarity >= threshold, redetected, self.detected)


@dataclass(frozen=True, eq=False)
class SearchResult:
    """M probes searched in a gallery: originals, or results among other results (linkage).

    Attributes:
        ranks (`Ranks`): ranks of the mates in the gallery.
        similarity (`np.ndarray`): (M,) genuine scores.
        impostor_scores (`ImpostorScores`): impostor scores of the gallery.
    """

    ranks: Ranks
    similarity: np.ndarray
    impostor_scores: ImpostorScores

    def accepted(self, far: float) -> Rate | None:
        """True accept rate at a false accept rate; None for too few impostor pairs."""
        threshold = self.impostor_scores.threshold(far)
        if threshold is None:
            return None
        return Rate(float((self.similarity >= threshold).sum()), len(self.similarity))


@dataclass(frozen=True)
class ReversalResult:
    """Rank-1 rates of the reversal attack in one gallery with one setting.

    Attributes:
        towards (`str`): "negated" (the negated embedding of the result, which an attacker has) or
            "positive" (the person's own embedding: an upper bound).
        rank1 (`dict[str, Rate]`): by recognizer.
    """

    gallery: str
    towards: str
    guidance_scale: float
    skip: float
    rank1: dict[str, Rate]


@dataclass(frozen=True, eq=False)
class MethodResult:
    """All results of one method.

    Attributes:
        results (`list[Result]`): N results, in the order of the originals.
        recognitions (`dict[str, dict[str, Recognition]]`): by gallery and recognizer.
        distances (`dict[str, np.ndarray]`): (N,) by measure; NaN where it could not be measured.
        sets (`dict[str, float]`): measures of whole sets.
        linkage (`dict[str, dict[str, SearchResult]]`): by gallery and recognizer; a gallery is
            missing without second results.
        reversal (`list[ReversalResult]`): empty unless the reversal attack was run.
        verification (`dict[str, Verification]`): by recognizer; empty without a pairs file.
    """

    name: str
    results: list[Result]
    recognitions: dict[str, dict[str, Recognition]]
    distances: dict[str, np.ndarray] = field(default_factory=dict)
    sets: dict[str, float] = field(default_factory=dict)
    linkage: dict[str, dict[str, SearchResult]] = field(default_factory=dict)
    reversal: list[ReversalResult] = field(default_factory=list)
    verification: dict[str, Verification] = field(default_factory=dict)

    @property
    def detected(self) -> Rate:
        """Share of results with a detected face, see `Result.face`."""
        return Rate(sum(result.face is not None for result in self.results), len(self.results))

    @property
    def leaks(self) -> int:
        """Number of results that are identical to their originals."""
        return sum(result.leaked for result in self.results)

    def means(self) -> dict[str, Mean]:
        """Means of `distances`."""
        return {name: Mean.of(values) for name, values in self.distances.items()}

    def worst(self, gallery: str) -> WorstAttack:
        """The matching attack and recognizer with the highest rank-1 rate in a gallery."""
        return worst_attack({name: of.attacks for name, of in self.recognitions[gallery].items()})


@dataclass(frozen=True, eq=False)
class GallerySummary:
    """A gallery of G people, without its embeddings.

    Attributes:
        size (`int`): G.
        impostor_scores (`dict[str, ImpostorScores]`): by recognizer.
        originals (`dict[str, SearchResult]`): baseline without anonymization: the originals
            searched in the gallery, by recognizer. Empty for the same-photo gallery.
        excluded (`list[str]`): originals of people who are not in the gallery.
        ignored (`int`): photos in the gallery's folder that belong to no original.
    """

    size: int
    impostor_scores: dict[str, ImpostorScores]
    originals: dict[str, SearchResult] = field(default_factory=dict)
    excluded: list[str] = field(default_factory=list)
    ignored: int = 0

    @property
    def chance(self) -> float:
        """Chance level at rank 1."""
        return 1.0 / self.size

    @cached_property
    def thresholds(self) -> dict[str, dict[float, float | None]]:
        """Thresholds by recognizer and false accept rate, from the impostor scores."""
        return {
            name: {far: scores.threshold(far) for far in FALSE_ACCEPT_RATES}
            for name, scores in self.impostor_scores.items()
        }


@dataclass(frozen=True, eq=False)
class Evaluation:
    """All methods on one set of originals.

    Attributes:
        originals (`list[Original]`): originals with a detected face.
        faceless (`list[str]`): names of the originals without a detected face; they are excluded.
        galleries (`dict[str, GallerySummary]`): `SAME_PHOTO`, and `DIFFERENT_PHOTO` if there are
            other photos.
        units (`dict[str, str]`): units by measure.
        not_run (`dict[str, str]`): missing models, by measure or recognizer.
        settings (`dict[str, str]`): version and detector.
        verification (`dict[str, Verification]`): verification of the originals, by recognizer;
            empty without a pairs file.
    """

    originals: list[Original]
    faceless: list[str]
    recognizers: list[Recognizer]
    galleries: dict[str, GallerySummary]
    methods: list[MethodResult]
    units: dict[str, str]
    not_run: dict[str, str]
    settings: dict[str, str]
    verification: dict[str, Verification] = field(default_factory=dict)
