"""The driver killed at any moment: after the next run no row is lost, doubled or original, whatever
the engine.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from .samples import colour, make_parquet, make_photos, painted, results


def arguments(source: Path, target: Path, seed: Path, *more: str) -> list[str]:
    command = [sys.executable, "-m", "tests.dataset.driver", str(source), "-o", str(target)]
    return [*command, "--seed-file", str(seed), "--id-column", "id", "--columns", "id", "--shard-size", "7", *more]


def write_seed(folder: Path) -> Path:
    seed = folder / "seed"
    seed.touch(mode=0o600)
    seed.write_text("7")
    return seed


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)


def check_rows(folder: Path, count: int) -> None:
    """Each row once, in the colour of its own seed or refused."""
    table = [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    assert [row["id"] for row in table] == [f"row {number}" for number in range(count)]
    for row in table:
        if row["image"] is None:
            assert row["refused"]
        else:
            assert painted(row["image"]["bytes"]) == colour(row["id"])
    assert sum(row["image"] is None for row in table) == 2
    assert not [name for name in results(folder) if not name.endswith(".parquet")], "nothing half-written"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["parquet", "photos"])
def test_a_local_run_killed_again_and_again(tmp_path, kind):
    seed = write_seed(tmp_path)
    source = make_parquet(tmp_path / "in", 210, 7) if kind == "parquet" else make_photos(tmp_path / "in", 210)
    out, reports = tmp_path / "out", tmp_path / "out-reports"
    for done in (1, 4, 9, 15, 22):
        run = subprocess.Popen(arguments(source, out, seed), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for(lambda done=done: len(list(reports.glob("*.report.parquet"))) >= done, run)
        # Somewhere in a shard.
        time.sleep(0.013 * done)
        assert run.poll() is None, run.communicate()
        os.kill(run.pid, signal.SIGKILL)
        run.communicate()
        made = results(out)
        assert made and b"John" not in b"".join(made.values())
    last = subprocess.run(arguments(source, out, seed), capture_output=True, text=True)
    assert last.returncode in (0, 4), last.stderr
    assert len(list(reports.glob("*.report.parquet"))) == 30
    if kind == "parquet":
        check_rows(out, 210)
    else:
        assert {name: painted(data) for name, data in results(out).items()} == {
            name: colour(name) for name in results(source)
        }
