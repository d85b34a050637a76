"""Strangers who do not exist, and how far to turn towards one."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nullface_pipeline.face_identity import embed_face
from nullface_pipeline.face_strangers import (
    CLOSE,
    PEOPLE_FILE,
    PLACES,
    AngleSearch,
    People,
    load_people,
    next_angle,
    towards_strangers,
)
from training.portraits import load_portraits


PORTRAITS = Path(__file__).parents[2] / "shared" / "data" / "portraits.parquet"
SIZE = 64


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def embeddings():
    """Of 4000 people: most of what tells them apart lies in 24 directions, and they have a mean in common."""
    spread = torch.cat([torch.linspace(1.0, 0.2, 24), torch.full((SIZE - 24,), 0.05)])
    rotation = torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator(1))).Q
    return F.normalize(0.1 + (torch.randn(4000, SIZE, generator=generator(2)) * spread) @ rotation, dim=-1)


def test_people_who_do_not_exist_are_as_alike_as_people_who_do(embeddings):
    drawn = People.of(embeddings, 24).draw(4000, generator(3))
    assert torch.allclose(drawn.norm(dim=-1), torch.ones(4000), atol=1e-5)
    real, made = (rows[:2000] @ rows[2000:].T for rows in (embeddings, drawn))
    for share in (0.05, 0.5, 0.95):
        assert abs(float(real[:500].quantile(share)) - float(made[:500].quantile(share))) < 0.04


def test_where_nothing_is_known_every_direction_is_as_likely():
    drawn = People.anybody(SIZE).draw(5000, generator())
    assert drawn.mean(dim=0).norm() < 0.05
    assert abs(float((drawn[:2000] @ drawn[2000:4000].T).std()) - SIZE**-0.5) < 0.005


def test_people_are_read_from_beside_the_recognizer(tmp_path, embeddings):
    class Analyser:
        class Model:
            model_file = str(tmp_path / "recognizer.onnx")

        models = {"recognition": Model()}

    assert len(load_people(Analyser()).axes) == 0
    people = People.of(embeddings, 24)
    people.save(tmp_path / PEOPLE_FILE)
    assert torch.allclose(load_people(Analyser()).axes, people.axes, atol=1e-3)


@pytest.mark.skipif(not PORTRAITS.exists(), reason="needs the portraits beside the repository")
def test_nullface_tinys_file_is_of_its_recognizer(pipe):
    """Strangers among people nobody was trained on are as alike as those that are drawn. If not: python -m training.people"""
    portraits = load_portraits(PORTRAITS, "validation")[::6]
    real = torch.from_numpy(np.stack([embed_face(pipe.face_analyser, p.image(), p.keypoints()) for p in portraits]))
    others = load_people(pipe.face_analyser).draw(1000, generator())
    pairs = (real @ real.T)[~torch.eye(len(real), dtype=torch.bool)]
    for share in (0.05, 0.5, 0.95):
        assert abs(float(pairs.quantile(share)) - float((real @ others.T).quantile(share))) < 0.08


def test_from_the_opposite_over_a_stranger_to_the_person(embeddings):
    people, strangers = embeddings[:3], embeddings[3:6]
    turned = towards_strangers(people, strangers, [0.0, 90.0, 180.0])
    assert torch.allclose((turned * people).sum(dim=-1), torch.tensor([-1.0, 0.0, 1.0]), atol=1e-5)
    assert torch.allclose(turned.norm(dim=-1), torch.ones(3), atol=1e-5)
    assert float(turned[1] @ strangers[1]) > 0.0
    alone = towards_strangers(people[1:2], strangers[1:2], [90.0])
    assert torch.allclose(alone[0], turned[1], atol=1e-6)


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_the_search_ends_where_the_person_is_to_stand(embeddings, place):
    """With a pipeline that shows two thirds of what it is told, and a third of the person."""
    search = AngleSearch(embeddings[0], People.of(embeddings, 24), generator(4))
    search.place = place
    while not search.is_done and len(search.tried) < 8:
        angle = search.angle
        told = towards_strangers(embeddings[:1], search.stranger[None], [angle])[0]
        search.add(angle, F.normalize(2.0 * told + embeddings[0], dim=-1))
    assert search.is_done
    assert abs(search.tried[search.best][2] - place) <= CLOSE


def test_places_and_strangers_are_secret_and_follow_from_the_seed(embeddings):
    people = People.of(embeddings, 24)
    first, again, other = (AngleSearch(embeddings[0], people, generator(seed)) for seed in (5, 5, 6))
    assert torch.equal(first.stranger, again.stranger) and first.place == again.place
    assert not torch.equal(first.stranger, other.stranger) and first.place != other.place
    places = [AngleSearch(embeddings[0], people, generator(seed)).place for seed in range(200)]
    assert PLACES[0] <= min(places) and max(places) <= PLACES[1]
    assert np.std(places) > 0.25 * (PLACES[1] - PLACES[0])


def test_the_next_angle_closes_in():
    assert next_angle([(75.0, 0.2)]) == 50.0
    assert next_angle([(75.0, -0.2)]) == 100.0
    assert next_angle([(10.0, 0.2)]) == 0.0
    assert next_angle([(75.0, 0.1), (50.0, -0.1)]) == pytest.approx(62.5)
    assert next_angle([(75.0, 0.001), (50.0, -0.3)]) == pytest.approx(71.25)
