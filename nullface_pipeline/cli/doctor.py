"""`nullface doctor`: installed versions, devices, and weights with their licences."""

import importlib.metadata
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from rich.table import Table

from nullface_pipeline.cli.console import console, fail, quiet_libraries
from nullface_pipeline.cli.options import flag
from nullface_pipeline.cli.threads import threads_for


PACKAGES = (
    "nullface-pipeline",
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "insightface",
    "onnxruntime",
    "onnxruntime-gpu",
    "facexlib",
    "huggingface_hub",
    "pillow",
    "pillow-heif",
    "opencv-python",
)
OPTIONAL = frozenset({"onnxruntime", "onnxruntime-gpu"})


def doctor(as_json: Annotated[bool, flag("--json", "Print one JSON object.")] = False) -> None:
    """Show installed versions, devices and weights.

    Weights are listed with their sizes and licences. Nothing is downloaded.
    """
    versions = find_versions()
    if not as_json:
        console.print(versions_table(versions))
    try:
        quiet_libraries()
        devices, weights = find_devices(), find_weights()
    except ImportError as error:
        fail(f"{error}. Install the missing packages with `pip install nullface-pipeline`.")
    if as_json:
        print(
            json.dumps(
                {"versions": versions, "devices": devices, "weights": [asdict(part) for part in weights]}, indent=2
            )
        )
    else:
        console.print(devices_table(devices))
        console.print(weights_table(weights))


def find_versions() -> dict[str, str | None]:
    """Installed versions by package; `None` if a package is missing."""
    return {"Python": platform.python_version(), **{name: installed_version(name) for name in PACKAGES}}


def installed_version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def find_devices() -> dict[str, str]:
    """Devices by name, with a description."""
    import onnxruntime
    import torch

    threads = f"{threads_for('tiny')} for nullface-tiny, {threads_for('sd15')} for other models"
    devices = {"CPU": f"{os.cpu_count()} cores; threads: {threads}"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices[f"CUDA {index}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        devices["MPS"] = "Apple's GPU"
    elif not torch.cuda.is_available():
        devices["GPU"] = "none: faces are anonymized on the CPU"
    return devices | {"ONNX Runtime": ", ".join(onnxruntime.get_available_providers())}


@dataclass(frozen=True)
class InstalledWeights:
    """Weights with their path and size in bytes on this machine; `None` if missing."""

    name: str
    path: str | None
    bytes: int | None
    source: str
    licence: str


def find_weights() -> list[InstalledWeights]:
    """Find the weights of all model sets on this machine."""
    from nullface_pipeline.tiny_model import TINY_FOLDER
    from nullface_pipeline.weights import FACE_WEIGHTS, FACEID_SD15, FACEID_SDXL, SD15, SDXL

    licence = "Apache-2.0; for demonstration and research"
    parts: list[tuple[str, Path | None, str, str]] = [("nullface-tiny", TINY_FOLDER, "this package", licence)]
    for weights in (SD15, FACEID_SD15, SDXL, FACEID_SDXL, *FACE_WEIGHTS):
        parts.append((weights.name, weights.path, weights.source, weights.licence))
    return [
        InstalledWeights(
            name,
            path=None if path is None else str(path),
            bytes=None if path is None else size(path),
            source=source,
            licence=licence,
        )
        for name, path, source, licence in parts
    ]


def size(path: Path) -> int:
    """Size in bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def versions_table(versions: dict[str, str | None]) -> Table:
    table = Table("package", "version", title="Versions", title_justify="left")
    for name, version in versions.items():
        missing = "not installed" if name in OPTIONAL else "[red]missing[/red]"
        table.add_row(name, version or missing)
    return table


def devices_table(devices: dict[str, str]) -> Table:
    table = Table("", "", title="Devices", title_justify="left", show_header=False)
    for name, description in devices.items():
        table.add_row(name, description)
    return table


def weights_table(weights: list[InstalledWeights]) -> Table:
    """Table of the weights. Only `--json` also shows their sources."""
    from nullface_pipeline.weights import readable_size

    table = Table("weights", "here", "licence", title="Weights", title_justify="left")
    for part in weights:
        here = "[yellow]no[/yellow]" if part.bytes is None else readable_size(part.bytes)
        table.add_row(part.name, here, part.licence)
    return table
