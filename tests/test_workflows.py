"""Workflows run only actions that are pinned to a commit: a tag can be moved to other code."""

import re

import pytest

from nullface_pipeline.publish.hub import CLONE


WORKFLOWS = sorted((CLONE / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_to_commits(path):
    used = re.findall(r"uses: *(.+)", path.read_text(encoding="utf-8"))
    assert used
    assert [action for action in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40} # v[\d.]+", action)] == []
