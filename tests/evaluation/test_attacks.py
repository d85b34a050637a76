"""The matching attacks on embeddings whose secret is known."""

import numpy as np
import pytest

from nullface_pipeline.evaluation.attacks import MATCHING_ATTACKS, STRENGTHS, matching_attacks, ridge, worst_attack
from nullface_pipeline.evaluation.rates import normalized


def random_faces(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    return normalized(np.random.default_rng(seed).standard_normal((count, size)))


def rank1(attack: str, *arguments: np.ndarray) -> float:
    return matching_attacks(*arguments)[attack].found_within(1).mean()


def test_copies_are_most_similar_and_negatives_least_similar():
    faces = random_faces(200)
    assert rank1("most_similar", faces, faces) == 1.0
    assert rank1("most_similar", -faces, faces) == 0.0
    assert rank1("least_similar", -faces, faces) == 1.0
    assert rank1("least_similar", faces, faces) == 0.0
    for probes in (faces, -faces):
        assert rank1("most_or_least_similar", probes, faces) == 1.0


def rotated(faces: np.ndarray, noise: float = 0.05) -> np.ndarray:
    """The faces in another basis, with noise."""
    size = faces.shape[1]
    rotation = np.linalg.qr(np.random.default_rng(1).standard_normal((size, size)))[0].astype(np.float32)
    return normalized(faces @ rotation + noise * np.random.default_rng(2).standard_normal(faces.shape))


def test_a_rotation_is_learned_from_other_people():
    faces = random_faces(400)
    assert rank1("most_similar", rotated(faces), faces) < 0.05
    assert rank1("learned_linear", rotated(faces), faces) > 0.95


def test_nothing_is_learned_from_unrelated_faces():
    assert rank1("learned_linear", random_faces(300, seed=3), random_faces(300)) < 0.03


def other_photos(faces: np.ndarray) -> np.ndarray:
    return normalized(faces + 0.1 * np.random.default_rng(4).standard_normal(faces.shape))


def test_the_learned_attack_trains_on_originals_and_searches_other_photos():
    """Trained on the other photos it would learn nothing here: they are paired with the wrong
    people.
    """
    faces = random_faces(400)
    order = np.random.default_rng(5).permutation(400)
    gallery, mates = other_photos(faces)[order], np.argsort(order)
    assert rank1("learned_linear", rotated(faces), gallery, mates, faces) > 0.9
    assert rank1("learned_linear", rotated(faces), gallery, mates, faces[order]) < 0.05


def test_people_missing_in_the_gallery_are_trained_on_and_not_ranked():
    faces = random_faces(400)
    mates = np.full(400, -1)
    mates[:40] = np.arange(40)
    ranks = matching_attacks(rotated(faces), other_photos(faces[:40]), mates, faces)
    assert all(len(of.greater) == 40 for of in ranks.values())
    assert ranks["learned_linear"].rate().value > 0.95
    alone = matching_attacks(rotated(faces)[:40], other_photos(faces[:40]), mates[:40], faces[:40])
    assert alone["learned_linear"].rate().value < 0.8, "32 people are too few to learn from"


def test_the_ridge_solves_its_equation():
    probes, targets = random_faces(60, size=24, seed=7) + 0.2, random_faces(60, size=16, seed=8)
    mean, weights = ridge(probes, targets)
    assert mean == pytest.approx(probes.mean(axis=0), abs=1e-6)
    x = (probes - probes.mean(axis=0)).astype(np.float64)
    largest = np.linalg.svd(x, compute_uv=False)[0] ** 2
    solutions = [np.linalg.solve(x.T @ x + share * largest * np.eye(24), x.T @ targets) for share in STRENGTHS]
    assert min(np.abs(solution - weights).max() for solution in solutions) < 1e-5


def test_attacks_take_probes_of_any_rows():
    faces = random_faces(60)
    mates = np.random.default_rng(4).permutation(60)[:40]
    for probes, gallery_rows in ((faces[mates], mates), (faces[:1], np.array([0]))):
        ranks = matching_attacks(probes, faces, gallery_rows)
        assert list(ranks) == list(MATCHING_ATTACKS)
        assert {of.greater.shape for of in ranks.values()} == {(len(probes),)}


def test_the_worst_attack_has_the_highest_rank_1_of_all_recognizers():
    faces = random_faces(100)
    embedded = {"unrelated": (random_faces(100, seed=6), faces), "negated": (-faces, faces)}
    worst = worst_attack({name: matching_attacks(*pair) for name, pair in embedded.items()})
    assert (worst.recognizer, worst.rate.value) == ("negated", 1.0)
    assert worst.attack in ("least_similar", "most_or_least_similar", "learned_linear")
