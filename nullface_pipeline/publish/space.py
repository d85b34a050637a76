"""A folder for a Hugging Face Space: the page, with the package beside it or fetched by pip from a Git repository."""

import tomllib

from nullface_pipeline.publish.hub import CLONE, PACKAGE, clone_folder, files_below


def space_files(git: str | None = None) -> dict[str, bytes]:
    """What a Space holds.

    Args:
        git (`str`, *optional*): address and revision, "https://host/org/name@v1", that pip takes the package from. By
            default the Space carries it, and needs no other place than the Python Package Index.

    Returns:
        `dict[str, bytes]`: contents by path in the Space.

    Raises:
        FileNotFoundError: if the package is installed without its clone.
    """
    page = clone_folder("space")
    names = tuple(path.name for path in page.iterdir() if path.suffix != ".pyi")
    files = {**files_below(page, names), "LICENSE": (CLONE / "LICENSE").read_bytes()}
    project = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    if git is not None:
        needed = [f"{project['name']}[space] @ git+{git}"]
    else:
        files |= files_below(CLONE, (PACKAGE.name,))
        needed = [*project["dependencies"], *project["optional-dependencies"]["space"]]
    return {**files, "requirements.txt": "".join(f"{requirement}\n" for requirement in needed).encode()}
