"""Random values for every option of the command: never a traceback, never a success with an
unchanged face.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skimage import data
from typer.testing import CliRunner

from nullface_pipeline import StableDiffusionNullFacePipeline, model_sets
from nullface_pipeline.cli import UsageError, app

from .test_anonymize import FACE, astronaut_png


NUMBERS = st.one_of(
    st.sampled_from(
        ["nan", "-nan", "inf", "-inf", "1e400", "0", "-0.0", "-1", "1", "0.3", "5", "400", "", "x", "1_0"]
    ),
    st.floats().map(str),
    st.integers(-(2**70), 2**70).map(str),
)
WORDS = st.one_of(
    st.sampled_from(
        [
            "",
            "eyes",
            "eyes,mouth",
            "light",
            "strong",
            "cover",
            "skip-file",
            "blur",
            "tiny",
            "float32",
            "cpu",
            "cuda",
            ".",
        ]
    ),
    st.text(st.characters(exclude_characters="\0"), max_size=8),
)
FILES = st.sampled_from(
    ["", ".", "out", "photo.png", "out/photo.png", "r.jsonl", "s.png", "S.PNG", "photo.png/x.png", "\0"]
)
OPTIONS = {
    **dict.fromkeys(
        ("--seed", "--similarity-threshold", "--detection-threshold", "--min-face", "--batch-faces"), NUMBERS
    ),
    **dict.fromkeys(
        ("--num-inference-steps", "--skip", "--guidance-scale", "--identity-scale", "--identity-angle"), NUMBERS
    ),
    **dict.fromkeys(("--keep", "--preset", "--device", "--dtype", "--on-failure", "--cover", "--model"), WORDS),
    **dict.fromkeys(("--report", "--contact-sheet", "--keep-mask", "--skip-face"), FILES),
}
FLAGS = ("--dry-run", "--no-resume", "--overwrite", "--keep-metadata", "--identity", "opposite")


@st.composite
def arguments(draw: st.DrawFn) -> list[str]:
    options = draw(st.lists(st.sampled_from(list(OPTIONS)), max_size=4, unique=True))
    given = [word for option in options for word in (f"{option}={draw(OPTIONS[option])}",)]
    return [*given, *draw(st.lists(st.sampled_from(FLAGS), max_size=2, unique=True))]


@pytest.fixture(scope="module")
def quick_models(pipe: StableDiffusionNullFacePipeline) -> Iterator[None]:
    """nullface-tiny with few steps; nothing else is a stand-in."""

    def load(
        name: str, device: str | None = None, dtype: str | None = None, detection_threshold: float = 0.3
    ) -> StableDiffusionNullFacePipeline:
        if device not in (None, "", "cpu"):
            raise RuntimeError(f"Invalid device string: {device!r}")
        return pipe

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_sets, "load_model_set", load)
        patch.setattr(model_sets, "load_detector", lambda name, detection_threshold: pipe.face_analyser)
        quick = {"num_inference_steps": 3, "skip": 0.4, "guidance_scale": 6.0}
        patch.setattr(type(pipe), "presets", dict.fromkeys(pipe.presets, quick))
        yield


@pytest.mark.slow
@pytest.mark.timeout(900)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(more=arguments())
def test_any_arguments(quick_models, tmp_path_factory, more):
    check(tmp_path_factory.mktemp("any"), more)


@pytest.mark.parametrize("option", list(OPTIONS))
@pytest.mark.parametrize("value", ["nan", "", "9" * 40, "\ud800"])
def test_one_strange_value(quick_models, tmp_path, option, value):
    check(tmp_path, [f"{option}={value}", "--dry-run"])


def check(folder: Path, more: list[str]) -> None:
    photo, result = folder / "photo.png", folder / "out" / "photo.png"
    photo.write_bytes(astronaut_png())
    before = photo.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = CliRunner().invoke(app, ["anonymize", "photo.png", "-o", "out", *more], standalone_mode=False)
    if isinstance(run.exception, UsageError):
        code = 2
    else:
        assert run.exception is None, (more, run.exception)
        code = run.return_value or 0
    assert code in (0, 1, 2, 3, 4) and "Traceback" not in run.output
    assert photo.read_bytes() == before
    if code in (1, 2):
        assert sorted(path.name for path in folder.iterdir()) == ["photo.png"], more
    if result.exists():
        new = np.asarray(PIL.Image.open(result).convert("RGB")).astype(int)
        assert np.abs(new - data.astronaut())[FACE].mean() > 1, more
    elif code in (0, 3):
        assert "--dry-run" in more
