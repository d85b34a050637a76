"""`nullface selftest`: check a model set on this machine, with output for a bug report."""

import importlib.metadata
import platform
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nullface_pipeline.cli.console import console, fail, quiet_libraries, show
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.options import with_options
from nullface_pipeline.cli.threads import limit_threads
from nullface_pipeline.model_options import ModelOptions


if TYPE_CHECKING:
    from nullface_pipeline.selftest.findings import Finding
    from nullface_pipeline.selftest.run import Selftest

PACKAGES = ("nullface-pipeline", "torch", "diffusers", "transformers", "insightface", "onnxruntime")


class ModelSet(StrEnum):
    tiny = "tiny"
    sd15 = "sd15"
    sdxl = "sdxl"


@with_options(ModelOptions, exclude=("model", "detection_threshold", "verifier"))
def selftest(
    model: Annotated[
        ModelSet, typer.Option(metavar="tiny|sd15|sdxl", help="Model set to check. sd15 and sdxl are downloaded once.")
    ] = ModelSet.tiny,
    **values: Any,
) -> None:
    """Check every part of a model set on this machine.

    Paste the output into a bug report.

    Exit code: 0 if every part passes, 1 if a part fails, 2 for wrong usage.
    """
    import torch

    from nullface_pipeline.model_sets import check_device
    from nullface_pipeline.selftest.run import run_selftest

    device, dtype = values["device"], values["dtype"]
    try:
        device = None if device is None else check_device(device)
    except ValueError as error:
        fail(error)
    quiet_libraries()
    limit_threads(model)
    for line in (f"nullface selftest --model {model}", versions(), machine(device, dtype)):
        console.print(line, soft_wrap=True)
    result = run_selftest(model, device, getattr(torch, dtype) if dtype else None, print_finding)
    console.print(show(costs(result)), soft_wrap=True)
    console.print(show(verdict(model, result)), style="bold", soft_wrap=True)
    raise typer.Exit(ExitCode.ok if result.passed else ExitCode.error)


def versions() -> str:
    """Versions of the packages, in one line."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)


def machine(device: str | None, dtype: str | None) -> str:
    """Platform, device and dtype."""
    import torch

    used = device or ("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(used) if used.startswith("cuda") and torch.cuda.is_available() else used
    kind = dtype or "its default dtype"
    return f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {name}, {kind}"


def print_finding(finding: "Finding") -> None:
    """Print the result of one check in one line."""
    mark = "ok   " if finding.passed else "[red]FAIL [/red]"
    line = f"{finding.part:<12} {finding.quantity:<44} {finding.value}"
    console.print(f"{mark} {show(line)}", soft_wrap=True)


def costs(result: "Selftest") -> str:
    """Time by step in seconds, and peak memory."""
    parts = [f"{name} {seconds:.1f} s" for name, seconds in result.seconds.items()]
    if result.peak_bytes is not None:
        parts.append(f"at most {result.peak_bytes / 2**30:.1f} GiB")
    return ", ".join(parts)


def verdict(model: str, result: "Selftest") -> str:
    """Verdict in one sentence."""
    if result.passed:
        return f"Verdict: {model} passed."
    return f"Verdict: {model} failed: {', '.join(result.failed_parts)}."
