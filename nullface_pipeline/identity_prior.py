"""Random identities: the prior they are drawn from, and the rotation of an embedding towards one.

The paper's c_id = -lambda_id * e (section 3.3) is a known direction: an attacker who knows it looks
for the person who is *least* similar to the result. Here the identity is rotated from -e towards a
random one, until the result is as similar to the person as a random stranger is. The person can
then stand anywhere in a ranking by this recognizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .photo_options import EMBEDDING_SIZE
from .protocols import FaceAnalyser


# Beside a recognizer's own file.
PRIOR_FILE = "people.npz"

# Target percentile of the person's similarity among strangers' similarities: away from both ends,
# and in the lower half, because other recognizers see a little more of the person than the one that
# steers.
PERCENTILE_RANGE = (0.05, 0.5)
# Tolerance of the percentile, and number of reference identities that it is measured on.
TOLERANCE = 0.12
NUM_REFERENCES = 1000
# Of nullface-tiny, chosen on validation people: the angle in degrees at which results come to a
# percentile, on average (intercept and slope), and the rise of the similarity per degree.
FIRST_ANGLE = (20.0, 20.0)
SIMILARITY_PER_DEGREE = 0.006
# Shortest and longest step in degrees while all angles are on one side of the target.
STEP_RANGE = (5.0, 40.0)


@dataclass(frozen=True, eq=False)
class IdentityPrior:
    """Distribution of a recognizer's embeddings over people: normal, projected to unit norm.

    Attributes:
        mean (`torch.Tensor`): (D,) float32.
        axes (`torch.Tensor`): (K, D) float32, orthogonal, each as long as the standard deviation
            along it.
        rest (`float`): standard deviation along every other direction.
    """

    mean: torch.Tensor
    axes: torch.Tensor
    rest: float

    @classmethod
    def fit(cls, embeddings: torch.Tensor, count: int) -> "IdentityPrior":
        """Fit to (N, D) embeddings of N people, with `count` axes."""
        embeddings = embeddings.double()
        mean = embeddings.mean(dim=0)
        _, singular, directions = torch.linalg.svd(embeddings - mean, full_matrices=False)
        deviations = singular / (len(embeddings) - 1) ** 0.5
        others = embeddings.shape[1] - count
        rest = (deviations[count:].square().sum() / others).sqrt().item() if others else 0.0
        return cls(mean.float(), (deviations[:count, None] * directions[:count]).float().contiguous(), rest)

    def save(self, path: Path) -> None:
        """Write to a file in half precision, for `load_identity_prior`."""
        np.savez(path, mean=self.mean.half().numpy(), axes=self.axes.half().numpy(), rest=np.float32(self.rest))

    @cached_property
    def references(self) -> torch.Tensor:
        """(`NUM_REFERENCES`, D) fixed identities that results are compared with; not secret."""
        return self.sample(NUM_REFERENCES, torch.Generator().manual_seed(0))

    @classmethod
    def uniform(cls, size: int = EMBEDDING_SIZE) -> "IdentityPrior":
        """Uniform over all directions, for a recognizer without a fitted prior."""
        return cls(torch.zeros(size), torch.zeros(0, size), 1.0)

    def sample(self, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """(`count`, D) float32 synthetic identities of unit norm."""
        size, axes = self.mean.shape[0], len(self.axes)
        draw = torch.randn(count, axes + size, generator=generator)
        others = draw[:, axes:]
        directions = F.normalize(self.axes, dim=-1)
        others = others - others @ directions.T @ directions
        return F.normalize(self.mean + draw[:, :axes] @ self.axes + self.rest * others, dim=-1)


def load_identity_prior(analyser: FaceAnalyser) -> IdentityPrior:
    """The identity prior in the folder of an analyser's recognizer, or a uniform one."""
    recognizer = getattr(analyser, "models", {}).get("recognition")
    file = getattr(recognizer, "model_file", None)
    path = None if file is None else Path(file).parent / PRIOR_FILE
    if path is None or not path.is_file():
        return IdentityPrior.uniform()
    with np.load(path) as arrays:
        mean, axes = (torch.from_numpy(arrays[name].astype(np.float32)) for name in ("mean", "axes"))
        return IdentityPrior(mean, axes, float(arrays["rest"]))


def rotate_identity(embeds: torch.Tensor, random_identities: torch.Tensor, degrees: Sequence[float]) -> torch.Tensor:
    """Rotate -e towards a random identity: 0 degrees is the opposite, 180 degrees is the person.

    Args:
        embeds (`torch.Tensor`): (B, D), the people; only the direction is used.
        random_identities (`torch.Tensor`): (B, D); only the component orthogonal to `embeds` is
            used.
        degrees: B angles.

    Returns:
        `torch.Tensor`: (B, D) float32, unit norm.
    """
    embeds, random_identities = F.normalize(embeds.float(), dim=-1), random_identities.float()
    along = (random_identities * embeds).sum(dim=-1, keepdim=True)
    orthogonal = F.normalize(random_identities - along * embeds, dim=-1)
    angles = torch.deg2rad(torch.as_tensor(degrees, dtype=torch.float32, device=embeds.device))[:, None]
    return -angles.cos() * embeds + angles.sin() * orthogonal


class AngleSearch:
    """Search for the angle that brings a result to a random target percentile.

    The percentile is the share of reference identities that are less similar to the result than the
    person is. An attacker with the result and this recognizer can measure it.

    Args:
        person (`torch.Tensor`): (D,) unit norm.
        prior (`IdentityPrior`): of the recognizer.
        generator (`torch.Generator`, *optional*): secret; draws the random identity and the target.
        min_angle (`float`): smallest angle in degrees. From 90 on, the identity has no component
            of the opposite.

    Attributes:
        random_identity (`torch.Tensor`): (D,) unit norm, the identity to rotate towards.
        target (`float`): target percentile, in [0, 1].
        tried (`list[tuple[float, float, float]]`): angle in degrees, excess similarity, percentile.
    """

    def __init__(
        self,
        person: torch.Tensor,
        prior: IdentityPrior,
        generator: torch.Generator | None = None,
        min_angle: float = 0.0,
    ) -> None:
        self.person = person
        self.min_angle = min_angle
        self.random_identity = prior.sample(1, generator)[0]
        low, high = PERCENTILE_RANGE
        self.target = low + (high - low) * float(torch.rand(1, generator=generator))
        self.references = prior.references
        self.tried: list[tuple[float, float, float]] = []

    def add(self, angle: float, result: torch.Tensor) -> None:
        """Record the (D,) unit-norm embedding of the result of an angle."""
        similarity, others = float(self.person @ result), self.references @ result
        wanted = float(torch.quantile(others, self.target))
        self.tried.append((angle, similarity - wanted, float((others < similarity).float().mean())))

    @property
    def best(self) -> int:
        """Index of the attempt that came closest to the target."""
        return min(range(len(self.tried)), key=lambda index: abs(self.tried[index][2] - self.target))

    @property
    def is_done(self) -> bool:
        """Whether an attempt is within the tolerance, or no other angle comes closer."""
        if not self.tried:
            return False
        is_close = abs(self.tried[self.best][2] - self.target) <= TOLERANCE
        return is_close or self.angle in {angle for angle, _, _ in self.tried}

    @property
    def angle(self) -> float:
        """The angle to try next, in degrees."""
        angle = FIRST_ANGLE[0] + FIRST_ANGLE[1] * self.target
        if self.tried:
            angle = next_angle([(angle, excess) for angle, excess, _ in self.tried])
        # Whole degrees, so that rounding differences between machines do not become another
        # picture.
        return max(self.min_angle, float(round(angle)))


def next_angle(tried: Sequence[tuple[float, float]]) -> float:
    """Next angle of a bracketing search for excess similarity zero; it rises with the angle.

    Args:
        tried: angles in degrees with their excess similarity; at least one.

    Returns:
        `float`: in [0, 180]. Linear interpolation between the two angles that bracket zero, kept
            away from both. While all are on one side, a step beyond the outermost one.
    """
    low = max(((angle, excess) for angle, excess in tried if excess <= 0.0), default=None)
    high = min(((angle, excess) for angle, excess in tried if excess > 0.0), default=None)
    if low is None:
        angle, excess = min(tried)
        return max(0.0, angle - step_length(excess))
    if high is None:
        angle, excess = max(tried)
        return min(180.0, angle + step_length(excess))
    share = low[1] / (low[1] - high[1]) if low[0] < high[0] else 0.5
    return low[0] + min(max(share, 0.15), 0.85) * (high[0] - low[0])


def step_length(excess: float) -> float:
    """Degrees by which the similarity is expected to change by an excess."""
    return min(max(abs(excess) / SIMILARITY_PER_DEGREE, STEP_RANGE[0]), STEP_RANGE[1])
