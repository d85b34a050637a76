"""The matching attacks on embeddings whose secret is known."""

import numpy as np
import pytest

from nullface_pipeline.evaluation.attacks import (
    MATCHING_ATTACKS,
    STRENGTHS,
    learned_linear,
    least_similar,
    linkage,
    most_or_least_similar,
    most_similar,
    ridge,
    worst_attack,
)
from nullface_pipeline.evaluation.tables import normalized


def random_faces(count, size=64, seed=0):
    return normalized(np.random.default_rng(seed).standard_normal((count, size)))


def rank1(ranks):
    return ranks.found_within(1).mean()


def test_copies_are_found_and_opposites_are_found_by_who_looks_for_them():
    faces = random_faces(200)
    assert rank1(most_similar(faces, faces)) == 1.0
    assert rank1(most_similar(-faces, faces)) == 0.0
    assert rank1(least_similar(-faces, faces)) == 1.0
    assert rank1(least_similar(faces, faces)) == 0.0
    for probes in (faces, -faces):
        assert rank1(most_or_least_similar(probes, faces)) == 1.0


def test_a_fixed_map_is_learnt_from_other_people():
    """Turned into another space, nobody is alike; a parrot learns the turn from people it is not asked about."""
    faces = random_faces(400)
    turn = np.linalg.qr(np.random.default_rng(1).standard_normal((64, 64)))[0].astype(np.float32)
    noise = 0.05 * np.random.default_rng(2).standard_normal(faces.shape).astype(np.float32)
    hidden = normalized(faces @ turn + noise)
    assert rank1(most_similar(hidden, faces)) < 0.05
    assert rank1(learned_linear(hidden, faces)) > 0.95


def test_a_parrot_learns_nothing_from_what_tells_nothing():
    assert rank1(learned_linear(random_faces(300, seed=3), random_faces(300))) < 0.03


@pytest.mark.parametrize("block", [7, 256])
def test_the_ridge_solves_its_equation(block, monkeypatch):
    """For one of its strengths, whatever the blocks, and on no one but those it was to learn from."""
    monkeypatch.setattr("nullface_pipeline.evaluation.attacks.BLOCK", block)
    probes, gallery = random_faces(120, size=24, seed=7) + 0.2, random_faces(120, size=16, seed=8)
    own = np.random.default_rng(9).permutation(120)
    learnt = np.arange(0, 120, 2)
    mean, weights = ridge(probes, gallery, learnt, own)
    assert mean == pytest.approx(probes[learnt].mean(axis=0), abs=1e-6)
    x, y = (probes[learnt] - probes[learnt].mean(axis=0)).astype(np.float64), gallery[own[learnt]]
    largest = np.linalg.svd(x, compute_uv=False)[0] ** 2
    solutions = [np.linalg.solve(x.T @ x + share * largest * np.eye(24), x.T @ y) for share in STRENGTHS]
    assert min(np.abs(solution - weights).max() for solution in solutions) < 1e-5


@pytest.mark.parametrize("attack", MATCHING_ATTACKS.values(), ids=MATCHING_ATTACKS)
def test_attacks_take_probes_of_any_rows(attack):
    faces = random_faces(60)
    own = np.random.default_rng(4).permutation(60)[:40]
    assert attack(faces[own], faces, own).greater.shape == (40,)
    assert attack(faces[:1], faces).greater.shape == (1,)


def test_one_person_twice_is_linked():
    first = random_faces(100)
    assert rank1(linkage(first, normalized(first + 0.01))) == 1.0
    assert rank1(linkage(first, random_faces(100, seed=5))) < 0.1


def test_the_worst_attack_is_named():
    """One recognizer knows nobody, the other knows opposites."""
    faces = random_faces(100)
    embedded = {"blind": (random_faces(100, seed=6), faces), "knowing": (-faces, faces)}
    worst = worst_attack(embedded)
    assert (worst.recognizer, worst.rate.value, worst.chance) == ("knowing", 1.0, 0.01)
    assert worst.attack in ("least_similar", "most_or_least_similar", "learned_linear")
    assert worst.rate.interval[0] > 0.95
