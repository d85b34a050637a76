"""`nullface doctor`: what is installed, what it can run on, and which weights are there under which licence."""

import importlib.metadata
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from nullface_pipeline.cli.console import console, fail, quiet_libraries


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


FACEID_LICENCE = "research only, non-commercial"


@dataclass(frozen=True)
class Weights:
    """One file or folder of weights.

    Attributes:
        path (`Path` or `None`): where it is on this machine; `None` if it is not.
        source (`str`): where it comes from.
    """

    name: str
    path: Path | None
    source: str
    licence: str


def doctor() -> None:
    """Print versions, devices, and which weights are present under which licence. Fetches nothing."""
    console.print(versions_table())
    try:
        quiet_libraries()
        console.print(devices_table())
        console.print(weights_table(find_weights()))
    except ImportError as error:
        fail(f"{error}. Install what is missing: `pip install nullface-pipeline`.")


def versions_table() -> Table:
    table = Table("package", "version", title="Versions", title_justify="left")
    table.add_row("Python", platform.python_version())
    for name in PACKAGES:
        table.add_row(name, installed_version(name))
    return table


def installed_version(package: str) -> str:
    """The version of an installed package, or that it is missing."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed" if package in OPTIONAL else "[red]missing[/red]"


def devices_table() -> Table:
    import onnxruntime
    import torch

    table = Table("", "", title="Devices", title_justify="left", show_header=False)
    table.add_row("CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads used by torch")
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        table.add_row(f"CUDA {index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    if not torch.cuda.is_available():
        table.add_row("CUDA", "no device: faces are anonymized on the CPU")
    table.add_row("ONNX Runtime", ", ".join(onnxruntime.get_available_providers()))
    return table


def weights_table(weights: list[Weights]) -> Table:
    table = Table("weights", "here", "from", "licence", title="Weights", title_justify="left")
    for part in weights:
        here = "[yellow]no[/yellow]" if part.path is None else f"{size(part.path) / 1e6:,.0f} MB"
        table.add_row(part.name, here, part.source, part.licence)
    return table


def find_weights() -> list[Weights]:
    """All that the model sets load; nothing is fetched."""
    from nullface_pipeline.face_adapter import FACEID_REPOSITORY
    from nullface_pipeline.model_sets import FACE_MODELS, SD15, SDXL
    from nullface_pipeline.pipeline import FACEID_WEIGHTS
    from nullface_pipeline.pipeline_sdxl import FACEID_SDXL_WEIGHTS
    from nullface_pipeline.tiny_model import TINY_FOLDER

    return [
        Weights("nullface-tiny", TINY_FOLDER, "this package", "Apache-2.0; for demonstration and research"),
        Weights("Stable Diffusion 1.5", stable_diffusion(), SD15, "CreativeML OpenRAIL-M"),
        Weights("Stable Diffusion XL", stable_diffusion("sdxl"), SDXL, "CreativeML Open RAIL++-M"),
        *(
            Weights(f"IP-Adapter FaceID, {kind}", cached(FACEID_REPOSITORY, file), FACEID_REPOSITORY, FACEID_LICENCE)
            for kind, file in (("1.5", FACEID_WEIGHTS), ("XL", FACEID_SDXL_WEIGHTS))
        ),
        Weights(f"InsightFace {FACE_MODELS}", insightface_pack(), "InsightFace", "research only, non-commercial"),
        Weights(
            "BiSeNet face parser", bisenet(), "facexlib", "see facexlib; trained on CelebAMask-HQ, non-commercial"
        ),
    ]


def stable_diffusion(name: str = "sd15") -> Path | None:
    """The snapshot of a model of `MODELS` in the Hub's cache, if it holds the largest of its files."""
    from nullface_pipeline.model_sets import MODELS

    names = (f"unet/diffusion_pytorch_model{variant}" for variant in (".safetensors", ".fp16.safetensors", ".bin"))
    for path in (cached(MODELS[name], file) for file in names):
        if path is not None:
            return path.parents[1]
    return None


def cached(repository: str, file: str) -> Path | None:
    """A file of a Hub repository in the local cache."""
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(repository, file)
    return Path(path) if isinstance(path, str) else None


def insightface_pack() -> Path | None:
    from nullface_pipeline.model_sets import FACE_MODELS

    folder = Path("~/.insightface/models").expanduser() / FACE_MODELS
    return folder if list(folder.glob("*.onnx")) else None


def bisenet() -> Path | None:
    from nullface_pipeline.face_parsing import bisenet_path

    return bisenet_path() if bisenet_path().is_file() else None


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())
