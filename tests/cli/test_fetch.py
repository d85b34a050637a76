"""Weights by the command: the licences first."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nullface_pipeline import weights
from nullface_pipeline.cli import app

from ..local_hub import LocalHub
from ..test_fetch_weights import bisenet, faceid, hub, published, released  # noqa: F401


@pytest.fixture
def pack(
    hub: LocalHub,  # noqa: F811
    published: dict[str, Path],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> weights.ReleaseWeights:
    """The face models of a set, on a server of this machine."""
    pack = released(hub, published, tmp_path / "buffalo_l")
    monkeypatch.setitem(weights.WEIGHT_SETS, "faces", (pack,))
    return pack


def fetch(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["fetch", *arguments], env={"COLUMNS": "200"})


def test_nothing_is_fetched_before_the_licences_are_accepted(pack):
    result = fetch("faces")
    assert result.exit_code == 2 and "--accept-licences" in result.stderr
    assert "MB: research only, non-commercial" in result.stdout and pack.licence_page in result.stdout
    assert not list(pack.place.parent.iterdir())


@pytest.mark.parametrize(("answer", "code"), [("n\n", 1), ("y\n", 0)])
def test_on_a_terminal_it_asks(pack, monkeypatch, answer, code):
    # The package's `fetch` is the command, not its module.
    monkeypatch.setattr(sys.modules["nullface_pipeline.cli.fetch"], "on_a_terminal", lambda: True)
    result = CliRunner().invoke(app, ["fetch", "faces"], input=answer)
    assert result.exit_code == code and "Do you accept these licences?" in result.stdout
    assert (pack.path is None) == (code == 1)


def test_what_is_here_is_not_asked_for_again(pack):
    for _ in range(2):
        result = fetch("faces", "--accept-licences")
        assert result.exit_code == 0 and "InsightFace buffalo_l: complete." in result.stdout
    assert "licence" not in fetch("faces").stdout


def test_a_failure_is_one_line_that_says_how_to_go_on(pack):
    weights.WEIGHT_SETS["faces"] = (replace(pack, sha256="0" * 64),)
    result = fetch("faces", "--accept-licences")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "could not be downloaded" in result.stderr and "to resume" in result.stderr
