"""Files of a Hugging Face Space: the page, and the package or its Git address."""

import tomllib
from pathlib import PurePath

from nullface_pipeline.publish.hub import CLONE, PACKAGE, clone_folder, files_below


# Files of page, package and nullface-tiny. A photo in these folders must not be uploaded with them.
SUFFIXES = frozenset(
    {".css", ".html", ".jinja", ".js", ".json", ".md", ".npz", ".onnx", ".py", ".safetensors", ".txt"}
)
NAMES = frozenset({"SHA256SUMS"})
EXTRAS = ("space", "video")


def space_files(git: str | None = None) -> dict[str, bytes]:
    """Files of a Space.

    Args:
        git (`str`, *optional*): URL and revision, "https://host/org/name@v1", from which pip
            installs the package. By default the Space contains the package.

    Returns:
        `dict[str, bytes]`: contents by path in the Space.

    Raises:
        FileNotFoundError: if the package is not installed from a clone.
    """
    page = clone_folder("space")
    project = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    files = files_below(page, tuple(path.name for path in page.iterdir()))
    if git is None:
        files |= files_below(CLONE, (PACKAGE.name,))
        extras = project["optional-dependencies"]
        requirements = sum((extras[extra] for extra in EXTRAS), start=list(project["dependencies"]))
    else:
        requirements = [f"{project['name']}[{','.join(EXTRAS)}] @ git+{git}"]
    return {
        **{
            name: content
            for name, content in files.items()
            if PurePath(name).suffix in SUFFIXES or PurePath(name).name in NAMES
        },
        "LICENSE": (CLONE / "LICENSE").read_bytes(),
        "requirements.txt": "".join(f"{requirement}\n" for requirement in requirements).encode(),
    }
