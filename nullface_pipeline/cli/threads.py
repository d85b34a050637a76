"""CPU threads of the commands."""

import os


def set_passive_waiting() -> None:
    """Let idle OpenMP threads sleep, unless set by the user. Call before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # For the OpenMP of Intel and LLVM, which torch uses on macOS and Windows.
    os.environ.setdefault("KMP_BLOCKTIME", "0")


def threads_for(model: str) -> int:
    """Number of CPU threads: one for nullface-tiny, whose layers are small, else torch's default.

    The environment variable OMP_NUM_THREADS takes precedence.
    """
    import torch

    return 1 if model == "tiny" and "OMP_NUM_THREADS" not in os.environ else torch.get_num_threads()


def limit_threads(model: str) -> None:
    """Set torch's number of threads. Call before the face models are loaded, which use it too."""
    import torch

    torch.set_num_threads(threads_for(model))
