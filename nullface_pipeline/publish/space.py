"""Folder of a Hugging Face Space: the page, with the package beside it or installed from a Git
repository."""

import tomllib
from pathlib import PurePath

from nullface_pipeline.publish.hub import CLONE, PACKAGE, clone_folder, files_below


# Of page, package and nullface-tiny. A photo that lies in one of these folders must not go to the Hub with them.
SUFFIXES = frozenset(
    {".css", ".html", ".jinja", ".js", ".json", ".md", ".npz", ".onnx", ".py", ".safetensors", ".txt"}
)
NAMES = frozenset({"SHA256SUMS"})
EXTRAS = ("space", "video")


def space_files(git: str | None = None) -> dict[str, bytes]:
    """Files of a Space.

    Args:
        git (`str`, *optional*): address and revision, "https://host/org/name@v1", that pip takes the package from. By
            default the Space carries it, and needs no other place than the Python Package Index.

    Returns:
        `dict[str, bytes]`: contents by path in the Space.

    Raises:
        FileNotFoundError: if the package is installed without its clone.
    """
    page = clone_folder("space")
    project = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    files = files_below(page, tuple(path.name for path in page.iterdir()))
    if git is None:
        files |= files_below(CLONE, (PACKAGE.name,))
        extras = project["optional-dependencies"]
        needed = sum((extras[extra] for extra in EXTRAS), start=list(project["dependencies"]))
    else:
        needed = [f"{project['name']}[{','.join(EXTRAS)}] @ git+{git}"]
    return {
        **{
            name: content
            for name, content in files.items()
            if PurePath(name).suffix in SUFFIXES or PurePath(name).name in NAMES
        },
        "LICENSE": (CLONE / "LICENSE").read_bytes(),
        "requirements.txt": "".join(f"{requirement}\n" for requirement in needed).encode(),
    }
