"""Ranks, rates, thresholds: against numbers known by hand, and in memory that does not grow with
the square.
"""

import tracemalloc

import numpy as np
import pytest

from nullface_pipeline.evaluation.rates import (
    Gallery,
    ImpostorScores,
    Mean,
    Rate,
    cumulative_matches,
    genuine_scores,
    mated_ranks,
    normalized,
    three_rates,
)


def random_faces(count: int, size: int = 32, seed: int = 0) -> np.ndarray:
    return normalized(np.random.default_rng(seed).standard_normal((count, size)))


def at_angles(*degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_ranks_of_faces_placed_by_hand():
    gallery = at_angles(0, 10, 50, 120)
    probes = at_angles(2, 1, 110, 0)
    ranks = mated_ranks(probes, gallery)
    assert ranks.middle.tolist() == [1.0, 2.0, 2.0, 4.0]
    assert mated_ranks(probes, gallery, score=np.negative).middle.tolist() == [4.0, 3.0, 3.0, 1.0]
    assert [ranks.found_within(k).mean() for k in (1, 2, 3, 4)] == [0.25, 0.75, 0.75, 1.0]
    assert cumulative_matches(ranks.found_within, 4) == [0.25, 0.75, 0.75, 1.0]
    assert genuine_scores(probes, gallery) == pytest.approx(np.cos(np.radians([2, 9, 60, 120])), abs=1e-6)


def test_ties_are_broken_by_chance():
    """A recognizer that says the same of everybody finds nobody more often than a guess."""
    gallery = np.repeat(at_angles(30), 5, axis=0)
    ranks = mated_ranks(gallery, gallery)
    assert ranks.found_within(1) == pytest.approx(0.2)
    assert ranks.found_within(3) == pytest.approx(0.6)
    assert ranks.found_within(5) == pytest.approx(1.0)
    assert ranks.middle.tolist() == [3.0] * 5


def test_probes_may_belong_to_any_row():
    gallery = random_faces(50)
    own = np.array([7, 3, 3])
    assert mated_ranks(gallery[own], gallery, own).middle.tolist() == [1.0, 1.0, 1.0]
    assert genuine_scores(gallery[own], gallery, own) == pytest.approx(1.0)


def test_blocks_change_nothing(monkeypatch):
    probes, gallery = random_faces(70, seed=1), random_faces(70, seed=2)
    whole, pairs = mated_ranks(probes, gallery), ImpostorScores.of(gallery)
    monkeypatch.setattr("nullface_pipeline.evaluation.rates.BLOCK", 16)
    blocks = mated_ranks(probes, gallery)
    assert np.array_equal(blocks.greater, whole.greater) and np.array_equal(blocks.equal, whole.equal)
    # A cosine on the edge of two steps may fall to either.
    assert np.abs(np.cumsum(ImpostorScores.of(gallery).counts - pairs.counts)).max() <= 1


def test_wilson_intervals_are_those_of_the_papers_counts():
    """10 of 4,852 and 1 of 1,000, as in published tables; 0 of 1,000 still allows 0.38 %."""
    assert Rate(10, 4852).interval == pytest.approx((0.00112, 0.00379), abs=1e-5)
    assert Rate(1, 1000).interval == pytest.approx((0.00018, 0.00564), abs=1e-5)
    low, high = Rate(0, 1000).interval
    assert low == pytest.approx(0.0, abs=1e-12) and high == pytest.approx(0.00383, abs=1e-5)
    assert Rate(1000, 1000).interval[1] == 1.0


@pytest.mark.parametrize("count", [1250, 2500, 10_000])
def test_an_interval_holds_its_rate(count):
    """Rounding once put the whole of 1,250 outside, which no plot takes."""
    for hits in (0, 1, count - 1, count):
        low, high = Rate(hits, count).interval
        assert 0.0 <= low <= hits / count <= high <= 1.0


def test_intervals_of_fractional_hits_hold_their_rate():
    """Ties count as fractions of a hit; SciPy takes whole numbers."""
    low, high = Rate(2.4, 12).interval
    assert 0.0 < low < 0.2 < high < 0.6


def test_rows_are_normalized_and_zeros_stay():
    rows = normalized(np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert rows.dtype == np.float32 and rows == pytest.approx(np.array([[0.6, 0.8], [0.0, 0.0]]))


def test_no_cases_say_nothing():
    assert Rate(0, 0).interval == (0.0, 1.0) and np.isnan(Rate(0, 0).value)


def test_thresholds_are_calibrated_on_strangers():
    gallery = random_faces(300)
    impostors = ImpostorScores.of(gallery)
    upper = np.triu_indices(300, 1)
    cosines = (gallery @ gallery.T)[upper]
    assert impostors.pairs == len(cosines) == 300 * 299 // 2
    for far in (0.01, 0.001):
        threshold = impostors.threshold(far)
        reached = (cosines >= threshold).mean()
        assert reached <= far and (cosines >= threshold - 2e-5).mean() >= far - 2 / len(cosines)
    assert impostors.threshold(1e-5) is None, "44,850 pairs say nothing of one in a hundred thousand"
    assert impostors.coarse().sum() == impostors.pairs


def test_undetected_faces_move_only_their_denominators():
    gt_aligned = np.array([1.0, 1.0, 0.0, 0.0])
    redetected = np.array([1.0, 0.0, 0.0, 0.0])
    every = three_rates(gt_aligned, redetected, np.array([True, True, True, True]))
    fewer = three_rates(gt_aligned, redetected, np.array([True, False, True, False]))
    assert every["gt_aligned"] == fewer["gt_aligned"] == Rate(2.0, 4)
    assert every["redetected"] == fewer["redetected"] == Rate(1.0, 4)
    assert every["detected_only"] == Rate(1.0, 4) and fewer["detected_only"] == Rate(1.0, 2)
    none = three_rates(gt_aligned, redetected, np.zeros(4, dtype=bool))
    assert none["detected_only"].count == 0 and none["redetected"] == Rate(0.0, 4)


def test_a_gallery_is_centred_with_its_probes():
    common = 5 * np.ones((1, 32))
    raw = common + np.random.default_rng(0).standard_normal((100, 32))
    plain, centred = Gallery.of(raw, centred=False), Gallery.of(raw, centred=True)
    assert plain.impostor_scores.threshold(0.5) > 0.9 > 0.1 > centred.impostor_scores.threshold(0.5)
    assert centred.probes(raw[:3]) == pytest.approx(centred.embeddings[:3])


def test_means_leave_out_what_could_not_be_measured():
    mean = Mean.of(np.array([1.0, 2.0, np.nan, 3.0]))
    assert (mean.value, mean.count) == (2.0, 3)
    assert mean.half_width == pytest.approx(1.96 / np.sqrt(3), abs=1e-3)
    assert Mean.of(np.array([np.nan])).count == 0


def peak_memory(count: int) -> int:
    faces = random_faces(count, size=8)
    tracemalloc.start()
    mated_ranks(faces, faces)
    ImpostorScores.of(faces)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_similarities_need_no_more_memory_for_more_people():
    assert peak_memory(6000) < 1.2 * peak_memory(2000)
