import pytest
import torch

from .tiny_parts import make_pipeline


# The parts are so small that threads only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory):
    """What runs remember of each other stays among the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def shared_pipe():
    """One pipeline for all tests that leave it as it was; the others make their own."""
    return make_pipeline()
