"""People across photos: the same in different ones, never two in one."""

from collections.abc import Sequence

import numpy as np
import pytest

from nullface_pipeline.albums import find_people, group_people, person_embeddings
from nullface_pipeline.face_search import search_faces

from .video.clips import astronaut
from .video.test_tracks import SAME, person, seen_as


def faces(counts: Sequence[int], likeness: float = 0.85) -> tuple[list[np.ndarray], np.ndarray]:
    """Embeddings of several people, as many of each as `counts` says, and whose they are."""
    rng = np.random.default_rng(0)
    whose = np.repeat(np.arange(len(counts)), counts)
    return [seen_as(person(100 + who), rng, likeness) for who in whose], whose


def same_grouping(first: np.ndarray, second: np.ndarray) -> bool:
    return np.array_equal(np.equal.outer(first, first), np.equal.outer(second, second))


def test_people_are_found_again():
    embeddings, whose = faces([4] * 12 + [1] * 20)
    apart = np.zeros((len(whose), len(whose)), dtype=bool)
    assert same_grouping(group_people(embeddings, apart, SAME), whose)


def test_two_faces_of_one_photo_are_two_people_however_alike():
    embeddings, whose = faces([6], likeness=0.99)
    photos = np.array([0, 0, 1, 1, 2, 2])
    groups = group_people(embeddings, np.equal.outer(photos, photos), SAME)
    assert len(set(groups.tolist())) == 2
    assert all(groups[photos == photo][0] != groups[photos == photo][1] for photo in (0, 1, 2))


def test_forbidden_pairs_hold_in_large_groups():
    embeddings, _ = faces([120], likeness=0.99)
    photos = np.arange(120)
    photos[:2] = 0
    groups = group_people(embeddings, np.equal.outer(photos, photos), SAME)
    assert groups[0] != groups[1]


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_faces(count):
    embeddings, _ = faces([count])
    groups = group_people(embeddings, np.ones((count, count), dtype=bool), SAME)
    people = person_embeddings(embeddings, groups)
    assert len(groups) == count and people.shape == (count, 512)


def test_a_person_is_the_mean_of_the_faces():
    embeddings, whose = faces([3, 2])
    people = person_embeddings(embeddings, whose)
    assert np.allclose(np.linalg.norm(people, axis=1), 1.0)
    assert people[1] @ person(101) > max(embedding @ person(101) for embedding in embeddings[3:])


def test_people_of_photos(pipe):
    """A picture and the same a little darker show the same people; an empty one shows nobody."""
    photo = astronaut().pixels
    count = len(search_faces(pipe.face_analyser, photo))
    people = find_people(pipe.face_analyser, [photo, np.full_like(photo, 128), photo - photo // 10])
    assert people.shape == (count, 512) and count >= 1
