"""Strangers who do not exist, and how far to turn towards one."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nullface_pipeline.face_identity import embed_face
from nullface_pipeline.identity_prior import (
    PERCENTILE_RANGE,
    PRIOR_FILE,
    TOLERANCE,
    AngleSearch,
    IdentityPrior,
    load_identity_prior,
    next_angle,
    rotate_identity,
)
from training.portraits import load_portraits


PORTRAITS = Path(__file__).parents[2] / "shared" / "data" / "portraits.parquet"
SIZE = 64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def embeddings() -> torch.Tensor:
    """Of 4000 people: most of what tells them apart lies in 24 directions, and they have a mean in
    common.
    """
    spread = torch.cat([torch.linspace(1.0, 0.2, 24), torch.full((SIZE - 24,), 0.05)])
    rotation = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator(1))).Q
    return F.normalize(0.1 + (torch.randn(4000, SIZE, generator=generator(2)) * spread) @ rotation, dim=-1)


def test_people_who_do_not_exist_are_as_alike_as_people_who_do(embeddings):
    drawn = IdentityPrior.fit(embeddings, 24).sample(4000, generator(3))
    assert torch.allclose(drawn.norm(dim=-1), torch.ones(4000), atol=1e-5)
    real, made = (rows[:2000] @ rows[2000:].T for rows in (embeddings, drawn))
    for share in (0.05, 0.5, 0.95):
        assert abs(float(real[:500].quantile(share)) - float(made[:500].quantile(share))) < 0.04


def test_where_nothing_is_known_every_direction_is_as_likely():
    drawn = IdentityPrior.uniform(SIZE).sample(5000, generator())
    assert drawn.mean(dim=0).norm() < 0.05
    assert abs(float((drawn[:2000] @ drawn[2000:4000].T).std()) - SIZE**-0.5) < 0.005


def test_people_are_read_from_beside_the_recognizer(tmp_path, embeddings):
    class Analyser:
        class Model:
            model_file = str(tmp_path / "recognizer.onnx")

        models = {"recognition": Model()}

    assert len(load_identity_prior(Analyser()).axes) == 0
    people = IdentityPrior.fit(embeddings, 24)
    people.save(tmp_path / PRIOR_FILE)
    assert torch.allclose(load_identity_prior(Analyser()).axes, people.axes, atol=1e-3)


@pytest.mark.skipif(not PORTRAITS.exists(), reason="needs the portraits beside the repository")
def test_nullface_tinys_file_is_of_its_recognizer(pipe):
    """Strangers among people nobody was trained on are as alike as those that are drawn. If not:
    python -m training.people
    """
    portraits = load_portraits(PORTRAITS, "validation")[::6]
    real = torch.from_numpy(np.stack([embed_face(pipe.face_analyser, p.image(), p.keypoints()) for p in portraits]))
    others = load_identity_prior(pipe.face_analyser).sample(1000, generator())
    pairs = (real @ real.T)[~torch.eye(len(real), dtype=torch.bool)]
    for share in (0.05, 0.5, 0.95):
        assert abs(float(pairs.quantile(share)) - float((real @ others.T).quantile(share))) < 0.08


def test_from_the_opposite_over_a_stranger_to_the_person(embeddings):
    people, strangers = embeddings[:3], embeddings[3:6]
    turned = rotate_identity(people, strangers, [0.0, 90.0, 180.0])
    assert torch.allclose((turned * people).sum(dim=-1), torch.tensor([-1.0, 0.0, 1.0]), atol=1e-5)
    assert torch.allclose(turned.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert float(turned[1] @ strangers[1]) > 0.0
    alone = rotate_identity(people[1:2], strangers[1:2], [90.0])
    assert torch.allclose(alone[0], turned[1], atol=1e-6)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_the_search_ends_where_the_person_is_to_stand(embeddings, place):
    """With a pipeline that shows two thirds of what it is told, and a third of the person."""
    search = AngleSearch(embeddings[0], IdentityPrior.fit(embeddings, 24), generator(4))
    search.target = place
    while not search.is_done and len(search.tried) < 8:
        angle = search.angle
        rotated = rotate_identity(embeddings[:1], search.random_identity[None], [angle])[0]
        search.add(angle, F.normalize(2.0 * rotated + embeddings[0], dim=-1))
    assert search.is_done
    assert abs(search.tried[search.best][2] - place) <= TOLERANCE


def test_the_search_ends_where_no_angle_is_close_enough(embeddings):
    search = AngleSearch(embeddings[0], IdentityPrior.fit(embeddings, 24), generator(4))
    while not search.is_done and len(search.tried) < 8:
        search.add(search.angle, embeddings[0])  # a result that always shows the person
    assert search.tried[-1][0] == 0.0 and len({angle for angle, *_ in search.tried}) == len(search.tried) < 8


def test_no_angle_is_below_the_smallest(embeddings):
    search = AngleSearch(embeddings[0], IdentityPrior.fit(embeddings, 24), generator(4), min_angle=90.0)
    assert search.angle == 90.0
    search.add(90.0, embeddings[0])  # too similar: a smaller angle would be tried without the bound
    assert search.is_done and search.angle == 90.0
    search.tried.clear()
    search.add(90.0, -embeddings[0])
    assert not search.is_done and search.angle > 90.0


def test_places_and_strangers_are_secret_and_follow_from_the_seed(embeddings):
    people = IdentityPrior.fit(embeddings, 24)
    first, again, other = (AngleSearch(embeddings[0], people, generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(first.random_identity, again.random_identity) and first.target == again.target
    assert not torch.equal(first.random_identity, other.random_identity) and first.target != other.target
    places = [AngleSearch(embeddings[0], people, generator(seed)).target for seed in range(200)]
    assert PERCENTILE_RANGE[0] <= min(places) and max(places) <= PERCENTILE_RANGE[1]
    assert np.std(places) > 0.25 * (PERCENTILE_RANGE[1] - PERCENTILE_RANGE[0])


def test_the_next_angle_closes_in():
    assert next_angle([(75.0, 0.12)]) == pytest.approx(55.0), "0.006 a degree"
    assert next_angle([(75.0, -0.12)]) == pytest.approx(95.0)
    assert next_angle([(75.0, 0.001)]) == 70.0 and next_angle([(75.0, 0.5)]) == 35.0
    assert next_angle([(10.0, 0.2)]) == 0.0 and next_angle([(170.0, -0.2)]) == 180.0
    assert next_angle([(75.0, 0.3), (50.0, 0.12)]) == pytest.approx(30.0)
    assert next_angle([(75.0, 0.1), (50.0, -0.1)]) == pytest.approx(62.5)
    assert next_angle([(75.0, 0.001), (50.0, -0.3)]) == pytest.approx(71.25)
