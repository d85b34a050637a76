"""Repositories for the Hugging Face Hub: the pipeline's code, or the model nullface-tiny.

Exporting needs a clone, because an installed package has no cards, page and documentation.
"""

import json
import re
import shutil
import tempfile
from pathlib import Path

from nullface_pipeline.publish.single_file import CORE, single_file_source


PACKAGE = Path(__file__).parents[1]
CLONE = PACKAGE.parent

# Default names of the repositories, which the examples in the cards load.
PIPELINE_REPOSITORY = "nullface/nullface"
SDXL_REPOSITORY = "nullface/nullface-xl"
MODEL_REPOSITORY = "nullface/nullface-tiny"

COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")


# Replacements that turn the card of the Stable Diffusion 1.5 pipeline into that of SDXL.
SDXL_CARD = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "stabilityai/stable-diffusion-xl-base-1.0",
    "Stable Diffusion 1.5": "Stable Diffusion XL",
    "  - stable-diffusion\n": "  - stable-diffusion-xl\n",
    "CreativeML OpenRAIL-M": "CreativeML Open RAIL++-M",
    "ip-adapter-faceid_sd15.bin": "ip-adapter-faceid_sdxl.bin",
    "512 × 512": "1024 × 1024",
    "Only the paper reports how well they hide people.": (
        "How well they hide people has not been measured: the paper uses another model."
    ),
}


def pipeline_files(repository: str = PIPELINE_REPOSITORY, pipeline: str = "pipeline") -> dict[str, bytes]:
    """Files of a Hub repository that is loaded with `custom_pipeline=`.

    Args:
        repository (`str`): name on the Hub, for the examples in the card.
        pipeline (`str`): one of `single_file.PIPELINES`; written as pipeline.py, which the Hub's
            loader requires.

    Returns:
        `dict[str, bytes]`: contents by path in the repository.

    Raises:
        FileNotFoundError: if the package is not installed from a clone.
    """
    cards = clone_folder("model_card")
    card = (cards / "README.md").read_text(encoding="utf-8").replace("../", "")
    if pipeline == "pipeline_sdxl":
        for text, replacement in SDXL_CARD.items():
            card = card.replace(text, replacement)
    return {
        "README.md": _with_name(card, PIPELINE_REPOSITORY, repository).encode(),
        "demo.jpg": (cards / "demo.jpg").read_bytes(),
        "similarities.png": (cards / "similarities.png").read_bytes(),
        **{f"{module}.py": (PACKAGE / f"{module}.py").read_bytes() for module in CORE},
        "pipeline.py": (PACKAGE / f"{pipeline}.py").read_bytes(),
        **_shared_files(),
    }


def model_files(repository: str = MODEL_REPOSITORY) -> dict[str, bytes]:
    """Files of a Hub repository of nullface-tiny: code, components, FaceID adapter and face models.

    See `pipeline_files` for arguments, result and errors.
    """
    cards = clone_folder("model_card") / "nullface-tiny"
    card = (cards / "README.md").read_text(encoding="utf-8").replace("../../", "")
    return {
        "README.md": _with_name(card, MODEL_REPOSITORY, repository).encode(),
        "LICENSE.md": (cards / "LICENSE.md").read_bytes(),
        "model_index.json": _model_index().encode(),
        # A single file, because diffusers downloads pipeline.py without the modules it imports.
        "pipeline.py": single_file_source().encode(),
        **files_below(PACKAGE / "tiny" / "model", COMPONENTS),
        **files_below(PACKAGE / "tiny", ("face_adapter.safetensors", "face_models", "face_parser")),
        **_shared_files(),
    }


def clone_folder(name: str) -> Path:
    """Path of a folder beside the package; FileNotFoundError unless this is a clone."""
    folder = CLONE / name
    if not folder.is_dir():
        raise FileNotFoundError(
            f"The folder {name} is not part of the installed package. Clone the repository, install it with "
            "`pip install -e .`, and export from there."
        )
    return folder


def write_repository(files: dict[str, bytes], folder: Path) -> None:
    """Write a repository's files to a new or empty folder, or replace an earlier export.

    Args:
        files (`dict[str, bytes]`): contents by path, from `pipeline_files`, `model_files` or
            `space.space_files`.
        folder (`Path`): the folder; its parent must exist.

    Raises:
        ValueError: if the parent does not exist, or the folder contains files of no export.
    """
    folder = folder.resolve()
    _check_replaceable(files, folder)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, content in files.items():
            path = temporary / "new" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        if folder.exists():
            folder.rename(temporary / "old")
        (temporary / "new").rename(folder)
    finally:
        shutil.rmtree(temporary)


def _check_replaceable(files: dict[str, bytes], folder: Path) -> None:
    if not folder.parent.is_dir():
        raise ValueError(f"The folder {folder.parent} does not exist.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. Pass a folder.")
    paths = (path for path in folder.rglob("*") if not path.is_dir() and not _is_compiled(path))
    existing = {path.relative_to(folder).as_posix() for path in paths}
    main_file = "app.py" if "app.py" in files else "pipeline.py"
    foreign = sorted(existing - set(files)) or ([] if not existing or main_file in existing else sorted(existing))
    if foreign:
        raise ValueError(f"{folder} is not an earlier export: it contains {foreign[0]}. Pass a new folder.")


def push_repository(files: dict[str, bytes], repository: str, kind: str = "model") -> str:
    """Upload a repository's files to the Hub in one commit. Other files there are kept.

    Args:
        files (`dict[str, bytes]`): contents by path.
        repository (`str`): name, as "org/name"; created if it does not exist.
        kind (`str`): "model" or "space".

    Returns:
        `str`: URL of the commit.

    Raises:
        HTTPError: (of `fetch_weights`) if the Hub refuses the upload or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    api.create_repo(repository, repo_type=kind, space_sdk="gradio" if kind == "space" else None, exist_ok=True)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
    return api.create_commit(repository, operations, commit_message="NullFace", repo_type=kind).commit_url


def _model_index() -> str:
    """Index of nullface-tiny, with the class in pipeline.py, its components and its presets."""
    index = json.loads((PACKAGE / "tiny" / "model" / "model_index.json").read_text())
    hub_index = {
        "_class_name": ["pipeline", "StableDiffusionNullFacePipeline"],
        "_diffusers_version": index["_diffusers_version"],
        **{component: index[component] for component in COMPONENTS},
        "presets": index["presets"],
    }
    return json.dumps(hub_index, indent=2) + "\n"


def _shared_files() -> dict[str, bytes]:
    appendix = ("appendix/nullface-tiny-training.md", "appendix/nullface-tiny-experiments.md")
    documents = ("evidence/nullface-tiny.md", *appendix, "nullface-tiny")
    return {
        "LICENSE": (CLONE / "LICENSE").read_bytes(),
        **{f"docs/{name}": content for name, content in files_below(CLONE / "docs", documents).items()},
    }


def files_below(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Contents of the named files and folders below `folder`, by path, without compiled files."""
    paths = [path for name in names for path in (folder / name, *sorted((folder / name).rglob("*")))]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file() and not _is_compiled(path)
    }


def _is_compiled(path: Path) -> bool:
    return path.parent.name == "__pycache__"


def _with_name(card: str, default: str, repository: str) -> str:
    """Replace the default repository name in the examples of a card."""
    return re.sub(rf"\b{re.escape(default)}(?![\w-])", lambda _: repository, card)
