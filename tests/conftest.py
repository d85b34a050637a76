"""Fixtures of all tests.

Torch and diffusers are imported by the fixtures: the process that distributes tests among workers
also reads this file, and needs neither.
"""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest


if TYPE_CHECKING:
    from nullface_pipeline import StableDiffusionNullFacePipeline


# For this process, before it imports torch, and for processes that tests start. The models are so
# small that threads only wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Limits torch to one thread."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps the records of runs inside the temporary folder of the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def remember_detections(detector: Any) -> None:
    """Keep the detector's result for each image: most tests search the same few photos."""
    detect, known = detector.detect, {}

    def remembered(image: Any) -> Any:
        key = image.shape, hashlib.blake2b(image).digest(), detector.det_thresh
        if key not in known:
            known[key] = detect(image)
        return copy.deepcopy(known[key])

    detector.detect = remembered


@pytest.fixture(scope="session")
def pipe() -> StableDiffusionNullFacePipeline:
    """nullface-tiny, for tests that do not change it. The others take `own_pipe`."""
    from nullface_pipeline.tiny_model import load_nullface_tiny

    pipe = load_nullface_tiny()
    pipe.set_progress_bar_config(disable=True)
    remember_detections(pipe.face_analyser.det_model)
    return pipe


@pytest.fixture
def own_pipe(pipe: StableDiffusionNullFacePipeline) -> StableDiffusionNullFacePipeline:
    """A pipeline with the weights of `pipe` whose components may be replaced."""
    own = copy.copy(pipe)
    own.face_analyser = copy.copy(pipe.face_analyser)
    return own


@pytest.fixture
def loaded_once(pipe: StableDiffusionNullFacePipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands and workers in this process get `pipe` when they load nullface-tiny with the default
    arguments.
    """
    import torch

    from nullface_pipeline.tiny_model import load_nullface_tiny

    def shared(load: Callable[..., Any], defaults: tuple[Any, ...]) -> Callable[..., Any]:
        return lambda *arguments: pipe if arguments in ((), defaults) else load(*arguments)

    defaults = ("cpu", torch.float32, 0.3)
    for module in ("tiny_model", "model_sets"):
        monkeypatch.setattr(f"nullface_pipeline.{module}.load_nullface_tiny", shared(load_nullface_tiny, defaults))
    yield
    pipe.unet._forward_hooks.clear()  # of progress bars


@pytest.fixture(scope="session")
def shared_pipe() -> StableDiffusionNullFacePipeline:
    """A pipeline with random weights, for tests that do not change it."""
    from .tiny_parts import make_pipeline

    return make_pipeline()
