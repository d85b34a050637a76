"""One run per output folder, and nothing of a living one is deleted."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nullface_pipeline.runs.atomic_files import TEMPORARY_PATTERN
from nullface_pipeline.runs.lock import LOCK_NAME, hold_folder, is_held, remove_leftovers


HOLD = """
import sys, time
from pathlib import Path
from nullface_pipeline.runs.lock import hold_folder
with hold_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Callable[[Path], subprocess.Popen[bytes]]]:
    """Another process that holds a folder."""
    started = []

    def hold(folder: Path) -> subprocess.Popen[bytes]:
        run = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE)
        started.append(run)
        assert run.stdout.readline() == b"held\n"
        return run

    yield hold
    for run in started:
        run.kill()
        run.wait()


def leftover(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / TEMPORARY_PATTERN.replace("*", "0123")
    path.write_bytes(b"half")
    return path


def test_a_second_run_is_told_so_until_the_first_is_killed(tmp_path, holder):
    output = tmp_path / "out"
    run = holder(output)
    for folder in (output, output / "sub", tmp_path / "link" / "sub"):
        if not (tmp_path / "link").exists():
            (tmp_path / "link").symlink_to(output)
        with pytest.raises(BlockingIOError), hold_folder(folder):
            pass
        assert not (output / "sub").exists(), "nothing is left behind"
    run.send_signal(signal.SIGKILL)
    run.wait()
    with hold_folder(output):
        assert is_held(output)
    assert not is_held(output) and list(output.iterdir()) == []


def test_what_another_run_writes_below_is_let_alone(tmp_path, holder):
    output = tmp_path / "out"
    mine, other = leftover(output), leftover(output / "sub")
    free = leftover(output / "free")
    notes = output / "notes.part"
    notes.write_text("")
    holder(output / "sub")
    with hold_folder(output):
        remove_leftovers({output, output / "sub", output / "free"}, output)
    assert not mine.exists() and not free.exists()
    assert other.exists() and notes.exists()


def test_folders_that_stay_empty_are_not_left_behind(tmp_path):
    with pytest.raises(KeyError), hold_folder(tmp_path / "a" / "b"):
        raise KeyError
    assert not list(tmp_path.iterdir())
    with hold_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "x").write_text("")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x"]
    (tmp_path / "empty").mkdir()
    with hold_folder(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").exists(), "it was there before"


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / LOCK_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError), hold_folder(tmp_path):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_a_disk_without_locks_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*arguments):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OSError, match="out"), hold_folder(tmp_path / "out"):
        pass


def test_a_second_run_in_the_same_process_is_refused(tmp_path):
    with hold_folder(tmp_path):
        with pytest.raises(BlockingIOError), hold_folder(tmp_path):
            pass
        assert is_held(tmp_path), "the refused run has not released the lock"


def test_a_lock_file_of_a_killed_run_is_deleted_by_the_next(tmp_path, holder):
    run = holder(tmp_path)
    run.kill()
    run.wait()
    assert (tmp_path / LOCK_NAME).exists() and not is_held(tmp_path)
    with hold_folder(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_many_runs_one_after_the_other(tmp_path):
    code = HOLD.replace("time.sleep(60)", "time.sleep(0.05)")
    runs = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "out"], stderr=subprocess.DEVNULL) for _ in "123"]
    assert 0 in [run.wait() for run in runs]
    assert not (tmp_path / "out" / LOCK_NAME).exists()
