"""A network and process namespace of the test's own, in which Ray finds nothing but loopback and
ends with it.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest


CLONE = Path(__file__).parents[2]
UNSHARE = ["unshare", "--map-root-user", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
RAY = Path(sys.executable).with_name("ray")
ADDRESS = "127.0.0.1:6400"


def needs_namespace() -> None:
    """Skip where the machine lets tests have none."""
    pytest.importorskip("ray")
    found = subprocess.run([*UNSHARE, "ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip(f"needs the right to make namespaces: {found.stderr.strip()}")


def run_inside(script: str, folder: Path, timeout: float = 280) -> str:
    """Run a Python script in there, with its home, Ray's files and the token in a folder; returns
    its standard output.
    """
    (folder / "home").mkdir()
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(os.urandom(16).hex())
    # Names of sockets must be short.
    temporary = Path(f"/tmp/nullface-{os.getpid()}-{folder.name[-8:]}")
    temporary.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(CLONE),
        "HOME": str(folder / "home"),
        "XDG_STATE_HOME": str(folder / "home"),
        "RAY_TMPDIR": str(temporary),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    try:
        run = subprocess.run(
            [*UNSHARE, sys.executable, "-c", f"from tests.dataset.inside import *\nloopback_up()\n{script}"],
            cwd=CLONE,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    finally:
        subprocess.run(["rm", "-r", str(temporary)], check=True)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-3000:]
    return run.stdout
