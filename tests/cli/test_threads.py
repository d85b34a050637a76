"""Threads of the command: few for a small model, and none that spin while they wait."""

import os

import pytest
import torch

from nullface_pipeline.cli import main
from nullface_pipeline.cli.threads import limit_threads


POLICY = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}


@pytest.mark.parametrize("own", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_waiting_threads_sleep_unless_the_user_says_otherwise(monkeypatch, own):
    for name in POLICY:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.argv", ["nullface", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert {name: os.environ[name] for name in POLICY} == {**POLICY, **own}


@pytest.mark.parametrize(("model", "own", "expected"), [("tiny", None, 1), ("sd15", None, 2), ("tiny", "2", 2)])
def test_only_nullface_tiny_is_limited_to_one_thread(monkeypatch, model, own, expected):
    monkeypatch.delenv("OMP_NUM_THREADS")
    if own is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", own)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        limit_threads(model)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)
