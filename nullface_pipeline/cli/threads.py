"""CPU threads of the command: threads that spin while they wait take the cores from other programs."""

import os


def let_waiting_threads_sleep() -> None:
    """Set the wait policy of OpenMP, unless the user has. It only takes effect before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The same for Intel's and LLVM's OpenMP, which torch uses on macOS and Windows.
    os.environ.setdefault("KMP_BLOCKTIME", "0")


def threads_for(model: str) -> int:
    """One thread for nullface-tiny, whose layers are too small to share; otherwise as many as torch has.

    The environment variable OMP_NUM_THREADS takes precedence.
    """
    import torch

    return 1 if model == "tiny" and "OMP_NUM_THREADS" not in os.environ else torch.get_num_threads()


def limit_threads(model: str) -> None:
    """Set torch's number of threads for a model, before its face models are loaded: they use as many."""
    import torch

    torch.set_num_threads(threads_for(model))
