"""Tables that lie in files: the same numbers, and nothing left of them."""

import os

import numpy as np
import pytest

from nullface_pipeline.evaluation.tables import BLOCK, normalized, normalized_table, scratch_table
from nullface_pipeline.runs.records import state_folder


def test_tables_are_zeros_that_can_be_written_and_leave_no_file():
    scratch_table(1, 1)  # makes the folder
    there = os.listdir(state_folder())
    table = scratch_table(3, 4)
    assert table.dtype == np.float32 and not table.any()
    table[1] = 2.0
    assert table.sum() == 8.0
    assert os.listdir(state_folder()) == there


def test_a_normalized_table_is_what_all_at_once_gives():
    raw = np.random.default_rng(0).standard_normal((2 * BLOCK + 3, 8)).astype(np.float32)
    mean = raw.mean(axis=0)
    assert np.array_equal(normalized_table(raw, mean), normalized(raw - mean))
    rows = np.array([5, BLOCK + 1, 5])
    assert np.array_equal(normalized_table(raw, mean, rows), normalized(raw[rows] - mean))
    assert normalized_table(raw, mean, np.array([], int)).shape == (0, 8)
    assert np.linalg.norm(normalized_table(raw), axis=1) == pytest.approx(1.0, abs=1e-6)
