"""Repositories for the Hugging Face Hub: the pipeline's code, or a model repository of nullface-
tiny.

The cards, the page and the documentation are not part of an installed package, so exporting needs a clone.
"""

import json
import re
import shutil
import tempfile
from pathlib import Path

from nullface_pipeline.publish.single_file import CORE, single_file_source


PACKAGE = Path(__file__).parents[1]
CLONE = PACKAGE.parent

# The names under which the cards' examples load the two repositories.
PIPELINE_REPOSITORY = "nullface/nullface"
SDXL_REPOSITORY = "nullface/nullface-xl"
MODEL_REPOSITORY = "nullface/nullface-tiny"

COMPONENTS = ("scheduler", "text_encoder", "tokenizer", "unet", "vae")


# What the card of Stable Diffusion XL's pipeline says in other words than that of Stable Diffusion 1.5's.
SDXL_CARD = {
    "stable-diffusion-v1-5/stable-diffusion-v1-5": "stabilityai/stable-diffusion-xl-base-1.0",
    "Stable Diffusion 1.5": "Stable Diffusion XL",
    "  - stable-diffusion\n": "  - stable-diffusion-xl\n",
    "CreativeML OpenRAIL-M": "CreativeML Open RAIL++-M",
    "ip-adapter-faceid_sd15.bin": "ip-adapter-faceid_sdxl.bin",
    "512 × 512": "1024 × 1024",
    "How well the real weights hide people is what the paper reports, not\nsomething that this project has measured.": (
        "How well they hide people nobody has\nmeasured: the paper's model is another."
    ),
}


def pipeline_files(repository: str = PIPELINE_REPOSITORY, pipeline: str = "pipeline") -> dict[str, bytes]:
    """Files of a Hub repository that is loaded with `custom_pipeline=`.

    Args:
        repository (`str`): its name on the Hub, for the examples in its card.
        pipeline (`str`): which of `single_file.PIPELINES`. The Hub's loader knows it as pipeline.py only.

    Returns:
        `dict[str, bytes]`: contents by path in the repository.

    Raises:
        FileNotFoundError: if the package is installed without its clone.
    """
    cards = clone_folder("model_card")
    card = (cards / "README.md").read_text(encoding="utf-8").replace("../", "")
    if pipeline == "pipeline_sdxl":
        for words, others in SDXL_CARD.items():
            card = card.replace(words, others)
    return {
        "README.md": _named(card, PIPELINE_REPOSITORY, repository).encode(),
        "demo.jpg": (cards / "demo.jpg").read_bytes(),
        "similarities.png": (cards / "similarities.png").read_bytes(),
        **{f"{module}.py": (PACKAGE / f"{module}.py").read_bytes() for module in CORE},
        "pipeline.py": (PACKAGE / f"{pipeline}.py").read_bytes(),
        **_shared_files(),
    }


def model_files(repository: str = MODEL_REPOSITORY) -> dict[str, bytes]:
    """Files of a Hub repository of nullface-tiny: code, components, FaceID adapter and face models.

    Args, returns and raises as `pipeline_files`.
    """
    cards = clone_folder("model_card") / "nullface-tiny"
    card = (cards / "README.md").read_text(encoding="utf-8").replace("../../", "")
    return {
        "README.md": _named(card, MODEL_REPOSITORY, repository).encode(),
        "LICENSE.md": (cards / "LICENSE.md").read_bytes(),
        "model_index.json": _model_index().encode(),
        # One file: with a model, diffusers fetches pipeline.py from the Hub and nothing that it imports.
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
            f"The folder {name} is not part of the installed package. Export from a clone of the repository, installed "
            "with `pip install -e .`."
        )
    return folder


def write_repository(files: dict[str, bytes], folder: Path) -> None:
    """Write a repository's files to a folder that is new, empty, or an earlier export, which is replaced as a whole.

    Args:
        files (`dict[str, bytes]`): contents by path, as `pipeline_files`, `model_files` and `space.space_files` return
            them.
        folder (`Path`): the folder; its parent must exist.

    Raises:
        ValueError: if the parent does not exist, or the folder holds anything that is not of an export.
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
        raise ValueError(f"{folder} is a file; name a folder.")
    paths = (path for path in folder.rglob("*") if not path.is_dir() and not _is_compiled(path))
    there = {path.relative_to(folder).as_posix() for path in paths}
    main_file = "app.py" if "app.py" in files else "pipeline.py"
    foreign = sorted(there - set(files)) or ([] if not there or main_file in there else sorted(there))
    if foreign:
        raise ValueError(f"{folder} holds what is not of an earlier export, {foreign[0]} for one. Name a new folder.")


def push_repository(files: dict[str, bytes], repository: str, kind: str = "model") -> str:
    """Upload a repository's files to the Hub in one commit, with the token of `hf auth login` or HF_TOKEN.

    Files that are there and not among them stay.

    Args:
        files (`dict[str, bytes]`): contents by path.
        repository (`str`): its name, "org/name"; made if it does not exist.
        kind (`str`): "model" or "space".

    Returns:
        `str`: address of the commit.

    Raises:
        HTTPError: (of httpx2) if the Hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    api.create_repo(repository, repo_type=kind, space_sdk="gradio" if kind == "space" else None, exist_ok=True)
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()]
    return api.create_commit(repository, operations, commit_message="NullFace", repo_type=kind).commit_url


def _model_index() -> str:
    """Index of nullface-tiny, with the class in pipeline.py, its components and its presets."""
    index = json.loads((PACKAGE / "tiny" / "model" / "model_index.json").read_text())
    named = {
        "_class_name": ["pipeline", "StableDiffusionNullFacePipeline"],
        "_diffusers_version": index["_diffusers_version"],
        **{component: index[component] for component in COMPONENTS},
        "presets": index["presets"],
    }
    return json.dumps(named, indent=2) + "\n"


def _shared_files() -> dict[str, bytes]:
    documents = ("nullface-tiny.md", "nullface-tiny")
    return {
        "LICENSE": (CLONE / "LICENSE").read_bytes(),
        **{f"docs/{name}": content for name, content in files_below(CLONE / "docs", documents).items()},
    }


def files_below(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    """Files by name, and all files in the named folders except compiled ones, by path below
    `folder`."""
    paths = [path for name in names for path in (folder / name, *sorted((folder / name).rglob("*")))]
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in paths
        if path.is_file() and not _is_compiled(path)
    }


def _is_compiled(path: Path) -> bool:
    return path.parent.name == "__pycache__"


def _named(card: str, default: str, repository: str) -> str:
    """Card with the repository's own name in its examples."""
    return re.sub(rf"\b{re.escape(default)}(?![\w-])", lambda _: repository, card)
