"""The direction of imports: core, then models, then jobs, then commands; each knows only those
before it.
"""

import ast
import functools
import graphlib
import itertools
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from nullface_pipeline.publish import single_file
from nullface_pipeline.publish.hub import PACKAGE


CORE = frozenset(single_file.CORE) | set(single_file.PIPELINES)
MODELS = frozenset({"fetch_weights", "model_options", "model_sets", "tiny_model", "weights"})
LAYERS = {**dict.fromkeys(CORE, 0), **dict.fromkeys(MODELS, 1), "runs": 1, "cli": 3, "__main__": 3}
JOBS = 2
WITHOUT_TORCH = ("photo_files", "publish", "photo_records", "colour_profile")

# dlib-bin installs the distribution dlib. Users install pyiqa themselves, because of its licence.
ELSEWHERE = {"dlib", "pyiqa"}

FILES = sorted(PACKAGE.rglob("*.py"))


def place(path: Path) -> str:
    """The module of the core, or the room, that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def layer(name: str) -> int:
    return LAYERS.get(name, JOBS)


@functools.cache
def nodes_of(path: Path, at_import_only: bool = False) -> list[ast.AST]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_import_only else ast.walk(tree)
    return [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]


def imported(path: Path, at_import_only: bool = False) -> set[str]:
    """Dotted names that a file imports, those of this package from the package on."""
    names: set[str] = set()
    for node in nodes_of(path, at_import_only):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_imports_point_down(path):
    if path.name == "__init__.py" and path.parent == PACKAGE:
        return
    mine = place(path)
    for name in imported(path):
        if name.startswith("."):
            assert layer(mine) == 0 and name.startswith(".") and not name.startswith(".."), "only the core is relative"
            assert name[1:] in CORE, f"{mine} is core and imports {name}"
        elif name.startswith("nullface_pipeline."):
            assert layer(mine) > 0, f"{mine} is core: its imports are relative, {name} is not"
            other = name.split(".")[1]
            assert layer(other) <= layer(mine), f"{mine} imports {name}"


def module(path: Path) -> str:
    """The dotted name of a file, from the package on."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path) for path in FILES}


def imported_files(path: Path) -> set[str]:
    """Modules of this package that a file of a room imports, wherever the import stands."""
    found: set[str] = set()
    for node in nodes_of(path):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("nullface_pipeline"):
            named = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (named & MODULES) | ({str(node.module)} if named - MODULES else set())
    return found


@pytest.mark.parametrize("of", [module, place], ids=["modules", "rooms"])
def test_imports_have_no_circle(of):
    edges: dict[str, set[str]] = {}
    named = {module(path): path for path in FILES}
    for path in FILES:
        others = {of(named[name]) for name in imported_files(path)}
        edges.setdefault(of(path), set()).update(others - {of(path)})
    order = graphlib.TopologicalSorter(edges)
    order.prepare()


@pytest.mark.parametrize("path", [PACKAGE / "pipeline.py", PACKAGE / "pipeline_sdxl.py"], ids=lambda path: path.name)
def test_a_pipelines_file_names_the_whole_core(path):
    """diffusers' local loader copies only what this file names."""
    named = {name[1:] for name in imported(path) if name.startswith(".")}
    assert named == CORE - {"pipeline", "pipeline_sdxl"}


def test_nobody_is_left_out():
    flat = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert flat == CORE | {
        "__main__",
        "albums",
        "fetch_weights",
        "model_options",
        "model_sets",
        "tiny_model",
        "weights",
    }


@pytest.mark.parametrize("room", WITHOUT_TORCH)
def test_what_answers_quickly_imports_no_torch(room):
    paths = [path for path in FILES if place(path) == room]
    assert paths
    for path in paths:
        assert not {name.split(".")[0] for name in imported(path, at_import_only=True)} & {"torch", "diffusers"}


def test_optional_packages_are_not_in_the_core():
    """The Hub's loader demands every package that it reads in these files, wherever the import
    stands.
    """
    allowed = {"PIL", "cv2", "diffusers", "numpy", "torch", "transformers"} | set(sys.stdlib_module_names)
    for path in FILES:
        if layer(place(path)) == 0:
            found = {name.split(".")[0] for name in imported(path) if name and not name.startswith(".")}
            assert found <= allowed, path.name


def test_every_imported_package_is_declared():
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    declared = {canonicalize_name(Requirement(each).name) for each in requirements}
    distributions = packages_distributions()
    for path in FILES:
        for name in {each.split(".")[0] for each in imported(path) if not each.startswith(".")}:
            if name in sys.stdlib_module_names or name == PACKAGE.name:
                continue
            owners = {canonicalize_name(owner) for owner in distributions.get(name, [name])}
            assert owners & (declared | ELSEWHERE), (
                f"{path.relative_to(PACKAGE)} imports {name}, which pyproject.toml does not name"
            )
