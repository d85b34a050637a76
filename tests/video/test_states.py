"""Three states, and no frame in between."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from nullface_pipeline.video.states import LARGEST, MARGIN, smooth, track_states
from nullface_pipeline.video.tracks import Track

from .test_tracks import ANN, FPS, box, landmarks


TIMES = np.arange(200) / FPS


def track(frames: Sequence[int], shot: tuple[int, int] = (0, 200), speed: float = 2.0, start: float = 50.0) -> Track:
    boxes = np.stack([box(start + speed * frame) for frame in frames])
    return Track(
        np.array(frames), boxes, np.stack([landmarks(each) for each in boxes]), np.ones(len(boxes)), shot, ANN
    )


def words(states: Any) -> str:
    return "".join("sgc"[state] for state in states.states)


def test_states_of_a_track():
    frames = [n for n in range(50, 100) if n not in (60, 61, 62, 70, 71, 72, 73)]
    states = track_states(track(frames), TIMES)
    # Half a second is 12 frames and a half.
    assert states.first == 38 and states.end == 112
    assert words(states) == "c" * 12 + "s" * 10 + "ggg" + "s" * 7 + "cccc" + "s" * 26 + "c" * 12


def test_nothing_beyond_a_cut():
    states = track_states(track(range(50, 100), shot=(45, 103)), TIMES)
    assert (states.first, states.end) == (45, 103)
    assert words(states) == "c" * 5 + "s" * 50 + "c" * 3


def test_patches_grow_and_hold_where_the_face_was_and_where_it_goes():
    states = track_states(track(range(50, 100)), TIMES)
    margins = states.margins[states.at(100) :]
    assert np.all(np.diff(margins) > 0) and margins[0] > MARGIN and margins[-1] <= LARGEST
    last, going = states.patches[-1], box(50 + 2.0 * 111)
    assert last[0] <= box(50 + 2.0 * 99)[0] and last[2] >= going[2] - 1e-3


def test_a_patch_in_a_gap_holds_both_ends():
    states = track_states(track([*range(50, 60), *range(75, 90)]), TIMES)
    middle = states.patches[states.at(67)]
    assert middle[0] <= box(50 + 2.0 * 59)[0] and middle[2] >= box(50 + 2.0 * 75)[2]


def behind(first: int, last: int, at: float = 50 + 2.0 * 60, shot: tuple[int, int] = (0, 200)) -> Track:
    """Somebody who stands in one place."""
    return track(range(first, last), shot, speed=0.0, start=at)


def test_who_may_be_hidden_is_covered_as_long_as_that_may_be():
    gone = track(range(50, 60))
    assert track_states(gone, TIMES).end == 72
    # Half a second after the other one left, and as far back in time.
    assert track_states(gone, TIMES, [behind(55, 130)]).end == 142
    came = track_states(track(range(100, 110), speed=0.0), TIMES, [behind(20, 120, at=50)])
    assert (came.first, came.end) == (8, 132)
    assert set(words(came)[: 100 - 8]) == {"c"}


def test_nobody_hides_who_is_far_away_or_comes_too_late():
    gone = track(range(50, 60))
    for other in (behind(0, 200, at=400), behind(80, 200)):
        assert track_states(gone, TIMES, [other]).end == 72


def test_a_head_is_larger_than_its_face():
    # Its face ends where the other box, 40 wide, is half of that away.
    gone = track(range(50, 60), speed=0.0)
    assert track_states(gone, TIMES, [behind(0, 200, at=50 + 55)]).end == 200
    assert track_states(gone, TIMES, [behind(0, 200, at=50 + 65)]).end == 72


def test_what_was_hardly_seen_is_not_covered_for_ever():
    assert track_states(track([50]), TIMES, [behind(0, 200, at=150)]).end == 50 + 50 + 12


def test_a_face_that_is_gone_is_not_thought_to_run_on_for_ever():
    states = track_states(track(range(50, 60)), TIMES, [behind(55, 180)])
    assert states.boxes[-1, 0] == pytest.approx(box(50 + 2.0 * (59 + 12.5))[0], abs=0.1)


@pytest.mark.parametrize("frames", [[50], [50, 51]])
def test_the_shortest_tracks_are_covered(frames):
    assert set(words(track_states(track(frames), TIMES))) == {"c"}


def test_what_cannot_be_anonymized_is_covered():
    assert set(words(track_states(track(range(50, 100)), TIMES, render=False))) == {"c"}


def test_there_is_always_a_frame_beyond_however_slow_the_video():
    slow = np.arange(20) * 2.0
    states = track_states(track([5, 6, 7, 8], shot=(0, 20)), slow)
    assert (states.first, states.end) == (4, 10) and words(states) == "cssssc"


def test_a_video_of_a_few_frames():
    assert words(track_states(track([0, 1, 2], shot=(0, 3)), TIMES[:3])) == "sss"
    assert words(track_states(track([0, 1, 2], shot=(0, 4)), TIMES[:4])) == "sssc"


@pytest.mark.parametrize("times", [TIMES[:60], np.cumsum(np.random.default_rng(0).uniform(0.02, 0.06, 60))])
def test_smoothing_takes_the_jitter_and_leaves_the_motion(times):
    path = np.stack([30 * np.sin(2 * times), 100 * times**2 - 40 * times], axis=1)
    true = np.repeat(path[:, None], 5, axis=1).astype(np.float32)
    noisy = true + np.random.default_rng(1).normal(0, 1.0, true.shape).astype(np.float32)
    smoothed = smooth(noisy, times)
    assert np.abs(smooth(true, times) - true).max() < 0.1
    assert np.std(smoothed - true) < 0.65
    assert np.std(np.diff(smoothed - true, axis=0)) < 0.4 * np.std(np.diff(noisy - true, axis=0))
