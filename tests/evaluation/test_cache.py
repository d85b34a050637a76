"""Embeddings are remembered by all that they are made from, and can be forgotten."""

import os
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest

from nullface_pipeline.evaluation.cache import Cache, cache_path, clear_cache


def count_makes(cache: Cache, *made_from: str | bytes) -> int:
    made = []

    def make() -> np.ndarray:
        made.append(1)
        return np.arange(4, dtype=np.float16)

    assert np.array_equal(cache.remember(made_from, make), np.arange(4))
    return len(made)


def test_what_was_made_is_remembered_and_nothing_else(tmp_path):
    cache = Cache(tmp_path / "cache.sqlite")
    assert count_makes(cache, "picture", "weights", b"landmarks") == 1
    assert count_makes(cache, "picture", "weights", b"landmarks") == 0
    assert count_makes(cache, "picture", "weights", b"landmarkt") == 1, "one changed byte"
    assert count_makes(cache, "picture", "weightslandmarks", b"") == 1, "nor do parts run into each other"
    cache.close()
    assert count_makes(Cache(tmp_path / "cache.sqlite"), "picture", "weights", b"landmarks") == 0


def test_it_lies_among_the_users_own_files_and_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert not clear_cache()
    cache = Cache()
    count_makes(cache, "picture")
    assert cache_path().is_relative_to(tmp_path / "state")
    if os.name == "posix":
        assert stat.S_IMODE(cache_path().stat().st_mode) == 0o600
    cache.close()
    assert clear_cache()
    assert not [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert count_makes(Cache(), "picture") == 1


def test_a_damaged_file_is_told_with_the_remedy(tmp_path):
    path = tmp_path / "cache.sqlite"
    path.write_bytes(b"no database at all, but long enough to have a header of one" * 20)
    with pytest.raises(OSError, match="--clear-cache"):
        Cache(path)


KILLED = """
import sys
from pathlib import Path
import numpy as np
from nullface_pipeline.evaluation.cache import Cache
cache = Cache(Path(sys.argv[1]))
for number in range(1000):
    cache.remember((str(number),), lambda: np.array([number]))
    print(number, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_run_goes_on_where_it_was(tmp_path):
    path = tmp_path / "cache.sqlite"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) == 20:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    cache = Cache(path)
    for number in range(21):
        value = cache.remember((str(number),), lambda: pytest.fail("made again"))
        assert value.tolist() == [number]
