"""Linking: boxes and embeddings that are made up, so that it is known who is who."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nullface_pipeline.video.detections import FACE, FRAME, Detections
from nullface_pipeline.video.tracks import Track, find_occluders, find_parent_tracks, frontality, link_faces


SAME = 0.54
FPS = 25.0


def person(seed: int) -> np.ndarray:
    vector = np.random.default_rng(seed).normal(size=512)
    return vector / np.linalg.norm(vector)


ANN, BOB = person(1), person(2)


def seen_as(who: np.ndarray, rng: np.random.Generator, likeness: float = 0.8) -> np.ndarray:
    """An embedding of a person as one frame shows them."""
    other = rng.normal(size=512)
    other -= (other @ who) * who
    return (likeness * who + np.sqrt(1 - likeness**2) * other / np.linalg.norm(other)).astype(np.float32)


def box(x: float, y: float = 50.0, size: float = 40.0) -> np.ndarray:
    return np.array([x - size / 2, y - size / 2, x + size / 2, y + size / 2], dtype=np.float32)


def landmarks(place: np.ndarray) -> np.ndarray:
    x, y = (place[0] + place[2]) / 2, (place[1] + place[3]) / 2
    return np.array([[x - 8, y - 6], [x + 8, y - 6], [x, y + 2], [x - 6, y + 10], [x + 6, y + 10]], dtype=np.float32)


def made(frames: Any) -> tuple[Detections, list[np.ndarray]]:
    """A look and its embeddings, of a list of (box, who) for each frame."""
    rng = np.random.default_rng(0)
    faces = np.array([(place, landmarks(place), 0.9) for frame in frames for place, _ in frame], FACE)
    embeds = [np.stack([seen_as(who, rng) for _, who in f]) if f else np.zeros((0, 512), np.float32) for f in frames]
    entries = np.zeros(len(frames), FRAME)
    entries["faces"] = [len(frame) for frame in frames]
    return Detections(entries, faces, np.concatenate([[0], np.cumsum(entries["faces"])])), embeds


def link(frames: Any, shots: list[tuple[int, int]] | None = None) -> list[Track]:
    look, embeds = made(frames)
    times = np.arange(len(frames)) / FPS
    return link_faces(look, shots or [(0, len(frames))], times, embeds, SAME)


def whose(track: Track) -> str:
    return "ann" if track.embedding @ ANN > track.embedding @ BOB else "bob"


def test_two_people_who_cross_stay_themselves():
    frames = [[(box(40 + 4 * n), ANN), (box(200 - 4 * n, 60), BOB)] for n in range(40)]
    tracks = link(frames)
    assert [len(track.frames) for track in tracks] == [40, 40]
    ann = next(track for track in tracks if whose(track) == "ann")
    assert np.allclose(ann.boxes[:, 0], [20 + 4 * n for n in range(40)])


def test_single_misses_and_a_second_without_a_face_do_not_end_a_track():
    frames = [[] if n in (5, 6, 20) or 30 <= n < 55 else [(box(40 + n), ANN)] for n in range(80)]
    (track,) = link(frames)
    assert len(track.frames) == 80 - 3 - 25


def test_after_more_than_two_seconds_it_is_another_track():
    frames = [[] if 10 <= n < 70 else [(box(40), ANN)] for n in range(80)]
    assert [len(track.frames) for track in link(frames)] == [10, 10]


def test_another_person_in_the_same_place_after_a_gap_is_another_track():
    frames = [[] if 10 <= n < 16 else [(box(40), ANN if n < 10 else BOB)] for n in range(30)]
    assert [whose(track) for track in link(frames)] == ["ann", "bob"]


def test_no_track_goes_over_a_cut():
    frames = [[(box(40), ANN)] for _ in range(20)]
    tracks = link(frames, [(0, 8), (8, 20)])
    assert [track.shot for track in tracks] == [(0, 8), (8, 20)]
    assert [track.frames.tolist() for track in tracks] == [list(range(8)), list(range(8, 20))]


def test_every_face_is_in_one_track():
    rng = np.random.default_rng(3)
    frames = [
        [(box(*rng.uniform(20, 300, 2)), person(rng.integers(9))) for _ in range(rng.integers(0, 5))]
        for _ in range(30)
    ]
    tracks = link(frames)
    assert sum(len(track.frames) for track in tracks) == sum(map(len, frames))
    for track in tracks:
        assert len(set(track.frames.tolist())) == len(track.frames)


def test_backwards_the_tracks_are_the_same():
    frames = [[(box(40 + 3 * n), ANN)] * (n % 7 != 3) + [(box(160 - 3 * n), BOB)] * (n % 5 != 2) for n in range(30)]
    forwards = {whose(track): len(track.frames) for track in link(frames)}
    backwards = {whose(track): len(track.frames) for track in link(frames[::-1])}
    assert forwards == backwards == {"ann": 26, "bob": 24}


def test_faces_seen_best_say_who_it_is():
    front = np.array([[0, 0], [10, 0], [5, 5], [2, 9], [8, 9]], dtype=np.float32)
    aside = front.copy()
    aside[2, 0] = 9.5
    assert frontality(front) == pytest.approx(1.0) and frontality(aside) == pytest.approx(0.1)


def test_a_mouth_that_is_taken_for_a_face_is_part_of_one():
    frames = np.arange(10)
    face = Track(frames, np.stack([box(50, size=60)] * 10), np.zeros((10, 5, 2)), np.full(10, 0.9), (0, 10), ANN)
    mouth = Track(
        frames[2:5], np.stack([box(50, 60, size=20)] * 3), np.zeros((3, 5, 2)), np.full(3, 0.5), (0, 10), BOB
    )
    beside = Track(
        frames[2:5], np.stack([box(80, 60, size=20)] * 3), np.zeros((3, 5, 2)), np.full(3, 0.5), (0, 10), BOB
    )
    assert find_parent_tracks([face, mouth, beside]) == [None, 0, None]
    # A face that something larger and less like a face seems to surround is none.
    larger = replace(face, scores=np.full(10, 0.4))
    assert find_parent_tracks([larger, mouth]) == [None, None]


def standing(x: float, frames: Any, size: float = 40, shot: tuple[int, int] = (0, 10)) -> Track:
    frames = np.array(frames)
    boxes = np.stack([box(x, size=size)] * len(frames))
    return Track(frames, boxes, np.zeros((len(frames), 5, 2)), np.ones(len(frames)), shot, ANN)


def test_an_occluder_has_a_head_of_its_own():
    front, behind, elsewhere = standing(50, range(10)), standing(90, range(3)), standing(50, range(10), shot=(10, 20))
    assert find_occluders([front, behind, elsewhere], [None] * 3) == [[behind], [front], []]
    # The same head, found a second time in a larger box; and a part of it, which nobody hides.
    twice, mouth = standing(55, [4], size=90), standing(50, [2], size=10)
    assert find_occluders([front, twice, mouth], [None, None, 0]) == [[], [], []]
