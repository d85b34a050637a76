"""Self-test of a model set, part by part in the order of their dependencies."""

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import PIL.Image
import torch

from nullface_pipeline.model_sets import load_model_set
from nullface_pipeline.photo_records import AnonymizedPhoto
from nullface_pipeline.pipeline import StableDiffusionNullFacePipeline
from nullface_pipeline.runs.messages import format_error
from nullface_pipeline.selftest import checks
from nullface_pipeline.selftest.files import check_files
from nullface_pipeline.selftest.findings import Finding
from nullface_pipeline.selftest.people import astronaut, find_people


# Parts by the function that loads them.
LOADERS = {
    "load_face_adapter": "adapter",
    "load_face_analyser": "detector or recognizer",
    "load_face_parser": "parser",
}


@dataclass
class Selftest:
    """Result of a self-test.

    Attributes:
        findings (`list[Finding]`): in the order of the checks.
        seconds (`dict[str, float]`): time by step.
        peak_bytes (`int` or `None`): peak memory of the CUDA device if used, else of this process.
    """

    findings: list[Finding] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None

    @property
    def failed_parts(self) -> list[str]:
        """Parts with a failed finding, in the order of the checks."""
        parts = dict.fromkeys(finding.part for finding in self.findings if not finding.passed)
        causes = [part for part in parts if part not in ("files", "portrait")]
        return causes or list(parts)

    @property
    def passed(self) -> bool:
        """Whether every finding passed."""
        return bool(self.findings) and not self.failed_parts


def run_selftest(
    name: str = "tiny",
    device: str | None = None,
    dtype: torch.dtype | None = None,
    report: Callable[[Finding], None] = lambda finding: None,
) -> Selftest:
    """Check every part of "tiny", "sd15" or "sdxl".

    A part is skipped if another part that it needs has failed, so that only the cause is reported.

    Args:
        report (`Callable`): called with each finding.
    """
    result = Selftest()
    for finding in check_parts(name, device, dtype, result):
        result.findings.append(finding)
        report(finding)
    return result


def check_parts(name: str, device: str | None, dtype: torch.dtype | None, result: Selftest) -> Iterator[Finding]:
    """Yield the findings one by one. Times and memory are stored in `result`."""
    started = time.perf_counter()
    try:
        pipe = load_model_set(name, device, dtype)
    # Libraries raise errors of any type for a damaged file.
    except Exception as error:
        yield Finding(part_that_failed(error), "loading", format_error(error), False)
        yield from guarded("files", lambda: check_files(name))
        return
    result.seconds["loading"] = time.perf_counter() - started
    yield Finding("files", "loading", "every part", True)
    yield from guarded("files", lambda: check_files(name))

    expected = checks.TINY if name == "tiny" else checks.PUBLISHED
    yield from guarded("detector", lambda: checks.check_detector(pipe.face_analyser))
    people = find_people(pipe.face_analyser) if has_passed(result, "detector") else []
    if people:
        some = people[: checks.DENOISER_PEOPLE]
        yield from guarded(
            "recognizer", lambda: checks.check_recognizer(pipe.face_analyser, people, published=name != "tiny")
        )
        yield from guarded("parser", lambda: checks.check_parser(pipe.face_parser, people[0]))
        yield from guarded("autoencoder", lambda: checks.check_autoencoder(pipe, some))
        if has_passed(result, "recognizer", "autoencoder"):
            yield from guarded("denoiser", lambda: checks.check_denoiser(pipe, some, expected))
        if has_passed(result, "denoiser", "recognizer", "autoencoder"):
            yield from guarded("denoiser", lambda: checks.check_inversion(pipe, people[0]))
    if not result.failed_parts:
        yield from guarded("portrait", lambda: checks.check_portrait(pipe, anonymize(pipe, name, result)))
    result.peak_bytes = peak_memory()


def anonymize(pipe: StableDiffusionNullFacePipeline, name: str, result: Selftest) -> AnonymizedPhoto:
    """Anonymize the astronaut with the preset "standard", and store the time."""
    started = time.perf_counter()
    photo = pipe.anonymize(PIL.Image.fromarray(astronaut()), seed=0)
    result.seconds["one portrait"] = time.perf_counter() - started
    return photo


def guarded(part: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check. An exception becomes a failed finding."""
    try:
        yield from check()
    except Exception as error:
        yield Finding(part, "running", format_error(error), False)


def has_passed(result: Selftest, *parts: str) -> bool:
    """Whether no finding of the given parts has failed so far."""
    return not any(finding.part in parts for finding in result.findings if not finding.passed)


def part_that_failed(error: Exception) -> str:
    """Name of the part whose loading failed; "model" for components of Stable Diffusion."""
    functions = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    return next((part for function, part in LOADERS.items() if function in functions), "model")


def peak_memory() -> int | None:
    """Peak memory in bytes of the CUDA device if used, else of this process; None if unknown."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
