"""Cuts: found where a shot ends, and nowhere else."""

from collections import deque
from collections.abc import Iterable

import numpy as np
import pytest

from nullface_pipeline.video.shots import LOOK_BACK, find_shots, frame_changes, thumbnail

from .clips import background


def changes(frames: Iterable[np.ndarray]) -> np.ndarray:
    before, found = deque(maxlen=LOOK_BACK), []
    for frame in frames:
        small = thumbnail(frame)
        found.append(frame_changes(small, before))
        before.appendleft(small)
    return np.stack(found)


def still(seed: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    scene = background(90, 160, seed)
    return [np.clip(scene + rng.normal(0, 3, scene.shape), 0, 255).astype(np.uint8) for _ in range(count)]


def test_shots_begin_at_cuts():
    frames = still(1, 10) + still(2, 6) + still(3, 12)
    assert find_shots(changes(frames)) == [(0, 10), (10, 16), (16, 28)]


@pytest.mark.parametrize("length", [1, 2])
def test_a_flash_is_no_cut(length):
    frames = still(1, 20)
    for number in range(8, 8 + length):
        frames[number] = np.full_like(frames[number], 255)
    assert find_shots(changes(frames)) == [(0, 20)]


def test_a_pan_is_no_cut():
    wide = background(90, 2000, 4)
    frames = [wide[:, 45 * n : 45 * n + 160] for n in range(40)]
    assert find_shots(changes(frames)) == [(0, 40)]


def test_a_large_person_who_leaves_is_not_a_cut():
    """Half of the picture changes from one frame to the next, and stays so."""
    frames = still(1, 20)
    for frame in frames[:9]:
        frame[:, :100] = (230, 210, 190)
    assert find_shots(changes(frames)) == [(0, 20)]


def test_a_cut_at_the_very_end_and_the_shortest_videos():
    assert find_shots(changes(still(1, 10) + still(2, 1))) == [(0, 10), (10, 11)]
    assert find_shots(changes(still(1, 1))) == [(0, 1)]
