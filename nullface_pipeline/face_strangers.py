"""New identities that say nothing of the person: strangers who do not exist, and how far to turn towards one.

The paper's c_id = -lambda_id * e (section 3.3) is a known direction. Whoever knows it looks for the person who is *least*
like the result. Here the identity is turned from -e towards a random stranger, as far as it takes for the result to be as
like the person as people are who have nothing to do with each other: then the person stands anywhere in the ranking of
somebody who has the result and this recognizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .photo_records import EMBEDDING_SIZE


# Beside a recognizer's own file: how its embeddings of people are spread.
PEOPLE_FILE = "people.npz"

# Where the person may stand in the ranking, as shares of all people: not at its ends, and in the half that is less like
# the result, because other recognizers see a little more of the person than the one that steers.
PLACES = (0.05, 0.5)
# How close to its place a result has to come; how many strangers say where it stands.
CLOSE = 0.1
OTHERS = 1000
# Degrees.
FIRST_ANGLE = 20.0
STEP = 25.0


@dataclass(frozen=True, eq=False)
class People:
    """How a recognizer's embeddings of different people are spread: a normal distribution, brought to unit norm.

    Attributes:
        mean (`torch.Tensor`): (D,) float32.
        axes (`torch.Tensor`): (K, D) float32, at right angles to each other, each as long as the standard deviation along it.
        rest (`float`): standard deviation along every other direction.
    """

    mean: torch.Tensor
    axes: torch.Tensor
    rest: float

    @classmethod
    def of(cls, embeddings: torch.Tensor, count: int) -> "People":
        """Measured on (N, D) embeddings of N people, with `count` axes."""
        embeddings = embeddings.double()
        mean = embeddings.mean(dim=0)
        _, singular, directions = torch.linalg.svd(embeddings - mean, full_matrices=False)
        deviations = singular / (len(embeddings) - 1) ** 0.5
        others = embeddings.shape[1] - count
        rest = (deviations[count:].square().sum() / others).sqrt().item() if others else 0.0
        return cls(mean.float(), (deviations[:count, None] * directions[:count]).float().contiguous(), rest)

    def save(self, path: Path) -> None:
        """To a file of half precision, for `load_people`."""
        np.savez(path, mean=self.mean.half().numpy(), axes=self.axes.half().numpy(), rest=np.float32(self.rest))

    @cached_property
    def others(self) -> torch.Tensor:
        """(`OTHERS`, D): whom results are compared with. Always the same, which need not be secret."""
        return self.draw(OTHERS, torch.Generator().manual_seed(0))

    @classmethod
    def anybody(cls, size: int = EMBEDDING_SIZE) -> "People":
        """Where nothing is known of the recognizer: every direction is as likely."""
        return cls(torch.zeros(size), torch.zeros(0, size), 1.0)

    def draw(self, count: int, generator: torch.Generator | None = None) -> torch.Tensor:
        """(`count`, D) float32 embeddings of unit norm, of people who do not exist."""
        size, axes = self.mean.shape[0], len(self.axes)
        draw = torch.randn(count, axes + size, generator=generator)
        others = draw[:, axes:]
        directions = F.normalize(self.axes, dim=-1)
        others = others - others @ directions.T @ directions
        return F.normalize(self.mean + draw[:, :axes] @ self.axes + self.rest * others, dim=-1)


def load_people(analyser: Any) -> People:
    """How the embeddings of an analyser's recognizer are spread, as its folder says, or in any direction."""
    recognizer = getattr(analyser, "models", {}).get("recognition")
    file = getattr(recognizer, "model_file", None)
    path = None if file is None else Path(file).parent / PEOPLE_FILE
    if path is None or not path.is_file():
        return People.anybody()
    with np.load(path) as arrays:
        mean, axes = (torch.from_numpy(arrays[name].astype(np.float32)) for name in ("mean", "axes"))
        return People(mean, axes, float(arrays["rest"]))


def towards_strangers(embeds: torch.Tensor, strangers: torch.Tensor, degrees: Sequence[float]) -> torch.Tensor:
    """-e, turned towards a stranger: 0 degrees is the opposite, 90 tells nothing, 180 is the person.

    Args:
        embeds (`torch.Tensor`): (B, D), the people; only the direction is used.
        strangers (`torch.Tensor`): (B, D); only what is at right angles to the people is used.
        degrees: B angles.

    Returns:
        `torch.Tensor`: (B, D) float32, unit norm.
    """
    embeds, strangers = F.normalize(embeds.float(), dim=-1), strangers.float()
    across = F.normalize(strangers - (strangers * embeds).sum(dim=-1, keepdim=True) * embeds, dim=-1)
    angles = torch.deg2rad(torch.as_tensor(degrees, dtype=torch.float32, device=embeds.device))[:, None]
    return -angles.cos() * embeds + angles.sin() * across


class AngleSearch:
    """Finds how far to turn one person's identity towards a stranger.

    The result is to stand at a random place among strangers: so far up in the ranking of all people by their likeness to
    it, which is what somebody sees who has the result and this recognizer.

    Args:
        person (`torch.Tensor`): (D,) unit norm.
        people (`People`): of the recognizer.
        generator (`torch.Generator`, *optional*): secret; draws the stranger and the place.

    Attributes:
        stranger (`torch.Tensor`): (D,) unit norm, whom to turn to.
        place (`float`): the share of strangers that the result is to be less like than the person.
        tried (`list[tuple[float, float, float]]`): angle in degrees, similarity above the one that is wanted, place.
    """

    def __init__(self, person: torch.Tensor, people: People, generator: torch.Generator | None = None) -> None:
        self.person = person
        self.stranger = people.draw(1, generator)[0]
        low, high = PLACES
        self.place = low + (high - low) * float(torch.rand(1, generator=generator))
        self.others = people.others
        self.tried: list[tuple[float, float, float]] = []

    def add(self, angle: float, result: torch.Tensor) -> None:
        """Note what (D,) unit-norm embedding the result of an angle has."""
        similarity, strangers = float(self.person @ result), self.others @ result
        wanted = float(torch.quantile(strangers, self.place))
        self.tried.append((angle, similarity - wanted, float((strangers < similarity).float().mean())))

    @property
    def best(self) -> int:
        """The number of the try that came closest."""
        return min(range(len(self.tried)), key=lambda number: abs(self.tried[number][2] - self.place))

    @property
    def is_done(self) -> bool:
        """Whether one came close enough."""
        return bool(self.tried) and abs(self.tried[self.best][2] - self.place) <= CLOSE

    @property
    def angle(self) -> float:
        """The angle to try next, in degrees."""
        if not self.tried:
            return FIRST_ANGLE
        # Whole degrees: what rounds differently on another machine must not become another picture.
        return float(round(next_angle([(angle, excess) for angle, excess, _ in self.tried])))


def next_angle(tried: Sequence[tuple[float, float]]) -> float:
    """Where the result is neither too like the person nor too unlike: more degrees make it more like.

    Args:
        tried: angles in degrees, and by how much the similarity was too high; at least one.

    Returns:
        `float`: in [0, 180], where a straight line between the two angles on both sides crosses zero, not too close to
        either; while all are on one side, `STEP` beyond the last of them.
    """
    low = max(((angle, excess) for angle, excess in tried if excess <= 0.0), default=None)
    high = min(((angle, excess) for angle, excess in tried if excess > 0.0), default=None)
    if low is None:
        return max(0.0, min(angle for angle, _ in tried) - STEP)
    if high is None:
        return min(180.0, max(angle for angle, _ in tried) + STEP)
    share = low[1] / (low[1] - high[1]) if low[0] < high[0] else 0.5
    return low[0] + min(max(share, 0.15), 0.85) * (high[0] - low[0])
