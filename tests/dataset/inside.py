"""What scripts use in the namespace: nodes of a Ray cluster, runs of the command, and killing of
either.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from .namespace import ADDRESS, RAY


def loopback_up() -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def start_node(cpus: int, head: bool = False) -> int:
    """A node of its own; returns its raylet's process id."""
    before = set(processes("raylet/raylet"))
    place = ["--head", "--port=6400", "--include-dashboard=false"] if head else [f"--address={ADDRESS}"]
    subprocess.run(
        [RAY, "start", *place, "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}", "--object-store-memory=80000000"],
        check=True,
        capture_output=True,
        timeout=100,
    )
    (raylet,) = set(processes("raylet/raylet")) - before
    return raylet


def processes(title: str) -> list[int]:
    """Ids of the processes of this namespace whose command line begins with or holds a title."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if title in words[0]:
            found.append(int(path.parent.name))
    return found


def start(source: Path, target: Path, *more: object, painted: bool = True) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.dataset.driver", source, "-o", target, "--seed-file", "SEED"]
    command[command.index("SEED")] = str(Path(target).parent / "seed")
    model = [] if painted else ["--with-the-model"]
    command += ["--engine", "ray", "--address", ADDRESS, *more, *model]
    return subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(run: subprocess.Popen[str], timeout: float = 200) -> tuple[int, str]:
    output, _ = run.communicate(timeout=timeout)
    return run.returncode, output


def wait_for_shards(target: Path, count: int, run: subprocess.Popen[str], timeout: float = 100) -> None:
    end = time.monotonic() + timeout
    while len(list(Path(f"{target}-reports").glob("*.report.parquet"))) < count:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < end, "too slow"
        time.sleep(0.02)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
