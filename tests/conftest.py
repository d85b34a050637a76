import os

import pytest
import torch

from nullface_pipeline.tiny_model import load_nullface_tiny

from .tiny_parts import make_pipeline


# The parts are so small that threads only wait for each other.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"  # for processes that tests start


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory):
    """What runs remember of each other stays among the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="module")
def pipe():
    """nullface-tiny, for tests that leave it as it was."""
    pipe = load_nullface_tiny()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def shared_pipe():
    """One pipeline for all tests that leave it as it was; the others make their own."""
    return make_pipeline()
