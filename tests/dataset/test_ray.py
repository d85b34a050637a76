"""Ray on loopback, in a namespace of the test's own: actors, nodes and drivers killed, and clusters
that do not do.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from .namespace import needs_namespace, run_inside
from .samples import make_parquet
from .test_killed import check_rows, write_seed


pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture
def inside(tmp_path: Path) -> Callable[[str], str]:
    """Runs a script beside a data set of 210 rows in 30 files, and returns what it prints."""
    needs_namespace()
    write_seed(tmp_path)
    source = make_parquet(tmp_path / "in", 210, 7)

    def run(script: str) -> str:
        paths = f"source, out = {str(source)!r}, {str(tmp_path / 'out')!r}"
        return run_inside(f"{paths}\nname = ('--id-column', 'id', '--columns', 'id')\n{script}", tmp_path)

    return run


def test_killed_actors(inside, tmp_path):
    inside("""
start_node(4, head=True)
run = start(source, out, *name, "--workers", 2)
for done in (2, 12):
    wait_for_shards(out, done, run)
    kill(processes("ray::MapWorker")[0])
code, output = finish(run)
assert code == 4, output
""")
    check_rows(tmp_path / "out", 210)


def test_a_killed_node(inside, tmp_path):
    inside("""
start_node(2, head=True)
second = start_node(2)
run = start(source, out, *name, "--workers", 2)
wait_for_shards(out, 4, run)
kill(second)
code, output = finish(run)
assert code == 4, output
""")
    check_rows(tmp_path / "out", 210)


def test_a_driver_killed_at_five_moments(inside, tmp_path):
    inside("""
start_node(6, head=True)
for done in (1, 5, 11, 18, 25):
    run = start(source, out, *name)
    wait_for_shards(out, done, run)
    time.sleep(0.01 * done)
    kill(run.pid)
    finish(run)
code, output = finish(start(source, out, *name))
assert code in (0, 3), output
""")
    check_rows(tmp_path / "out", 210)


def test_what_cannot_work_is_said_within_seconds(inside, tmp_path):
    inside("""
start_node(3, head=True)
def says(message, *more, seconds=60, **how):
    started = time.monotonic()
    code, output = finish(start(source, out, *name, *more, **how))
    # Ray itself may print more, but the last line says it.
    assert code == 1 and message in output.strip().splitlines()[-1], output
    assert time.monotonic() - started < seconds, time.monotonic() - started
says("3 worker(s) need 4 CPUs", "--workers", 3, seconds=40)
says("No Ray cluster answers", "--address", "127.0.0.1:6999", seconds=40)
says("A worker could not go on: OSError", "--model", source, "--preset", "light", painted=False, seconds=120)
""")
    assert not (tmp_path / "out").exists()
