"""Workflows run only actions that are pinned to a commit: a tag can be moved to other code. One of
them installs the oldest versions that pyproject.toml allows.
"""

import itertools
import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from nullface_pipeline.publish.hub import CLONE


WORKFLOWS = sorted((CLONE / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_commits(path):
    used = re.findall(r"uses: *(.+)", path.read_text(encoding="utf-8"))
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", action)] == []


def test_the_oldest_versions_are_the_lower_bounds():
    project = tomllib.loads((CLONE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # CI installs neither the docs nor the page, a GPU's packages or Ray with the oldest versions.
    extras = [
        of for name, of in project["optional-dependencies"].items() if name not in ("docs", "gpu", "ray", "space")
    ]
    lines = (CLONE / ".github" / "oldest.txt").read_text(encoding="utf-8").splitlines()
    oldest = {canonicalize_name(name): Version(version) for name, version in (line.split("==") for line in lines[1:])}
    for requirement in map(Requirement, itertools.chain(project["dependencies"], *extras)):
        bounds = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
        assert [oldest[canonicalize_name(requirement.name)]] == bounds, requirement
