"""`nullface evaluate` with nullface-tiny's detector and recognizer, on two portraits."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from skimage import data
from typer.testing import CliRunner, Result

from nullface_pipeline.cli import app
from nullface_pipeline.cli.console import console


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    photo = data.astronaut()[:256, 96:352]
    for name, picture in (("first", photo), ("second", photo[:, ::-1])):
        PIL.Image.fromarray(picture).save(folder / f"{name}.png")
    return folder


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Wide enough that no word of the table is cut.
    monkeypatch.setattr(console, "width", 200)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_a_report_is_made(originals, tmp_path):
    report = tmp_path / "report"
    arguments = ["--originals", originals, "--method", "box", "--method", "blur", "--recognizer", "tiny"]
    result = invoke("evaluate", *arguments, "--output", report)
    assert result.exit_code == 0, result.output
    assert {path.name for path in report.iterdir()} == {"results.json", "table.csv", "per_image.csv", "index.html"}
    assert (
        "Same photo gallery: 2 people, chance level 50 % at rank 1." in result.output
        and "rank 1, tiny*" in result.output
    )
    record = json.loads((report / "results.json").read_text())
    assert record["originals"] == 2 and not record["recognizers"][0]["independent"]
    assert (tmp_path / "state").is_dir()
    cleared = invoke("evaluate", "--clear-cache")
    assert cleared.exit_code == 0 and "deleted" in cleared.output
    assert not [path for path in (tmp_path / "state").rglob("*") if path.is_file()]


@pytest.mark.slow
def test_galleries_of_other_photos_are_searched(originals, tmp_path):
    """A photo of a third person is ignored."""
    photos = {path.stem: np.asarray(PIL.Image.open(path)) for path in originals.iterdir()}
    (tmp_path / "gallery").mkdir()
    for name, photo in (("first", photos["first"]), ("second", photos["second"]), ("third", photos["first"])):
        PIL.Image.fromarray((0.8 * photo).astype(np.uint8)).save(tmp_path / "gallery" / f"{name}.jpg")
    arguments = ["--originals", originals, "--method", "blur", "--recognizer", "tiny", "-o", tmp_path / "report"]
    result = invoke("evaluate", *arguments, "--gallery", tmp_path / "gallery")
    assert result.exit_code == 0, result.output
    assert "Different photo gallery: 2 people" in result.output and "1 photos of the different photo" in result.output
    assert "rank 1, different photo, tiny*" in result.output
    galleries = json.loads((tmp_path / "report" / "results.json").read_text())["galleries"]
    assert galleries["different_photo"]["people"] == 2


def test_a_leak_is_told_and_changes_the_exit_code(originals, tmp_path):
    arguments = ["--originals", originals, "--method", f"copies={originals}", "--recognizer", "tiny"]
    result = invoke("evaluate", *arguments, "-o", tmp_path / "report")
    assert result.exit_code == 5, result.output
    assert "LEAK: 2 results of copies" in result.output and "100.0" in result.output and "[34-100]" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--originals"),
        (["--method", "box", "-o", "report"], "--originals"),
        (["--originals", "{originals}", "-o", "report"], "--method"),
        (["--originals", "absent", "--method", "box", "-o", "report"], "absent"),
        (["--originals", "{originals}", "--method", "box", "-o", "{originals}"], "--output"),
        (["--originals", "{originals}", "--method", "box", "-o", "{page}"], "--output"),
        (["--originals", "{originals}", "--method", "box", "-o", "{site}"], "index.html"),
        (["--originals", "{originals}", "--method", "box", "--table", "2", "-o", "r"], "--paper"),
        (["--originals", "{originals}", "--method", "mosaic", "-o", "report"], "mosaic"),
        (["--originals", "{originals}", "--method", "box", "--method", "box", "-o", "report"], "box"),
        (
            ["--originals", "{originals}", "--method", "box", "--second-run", "x={originals}", "-o", "report"],
            "--second-run x",
        ),
        (["--originals", "{originals}", "--method", "box", "--gallery", "{empty}", "-o", "report"], "empty"),
        (
            ["--originals", "{originals}", "--method", "box", "--gallery", "{originals}", "-o", "r"],
            "gallery contains",
        ),
        (["--originals", "{originals}", "--method", "box", "--pairs", "absent.csv", "-o", "report"], "absent.csv"),
        (
            ["--originals", "{originals}", "--method", "box", "--gallery-run", "x={originals}", "-o", "r"],
            "--gallery-run",
        ),
        (["--originals", "{originals}", "--method", "box", "--recognizer", "nobody", "-o", "report"], "nobody"),
        (["--originals", "{originals}", "--method", "a={empty}", "-o", "report"], "empty"),
        (["--originals", "{originals}", "--method", "a={one}", "-o", "report"], "--skip-missing"),
    ],
)
def test_wrong_usage_is_told_in_one_line(originals, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "one").mkdir()
    PIL.Image.fromarray(np.zeros((256, 256, 3), dtype=np.uint8)).save(tmp_path / "one" / "first.png")
    (tmp_path / "site").mkdir()
    page = tmp_path / "site" / "index.html"
    page.write_text("mine")
    places = {name: tmp_path / name for name in ("empty", "one", "site")} | {"originals": originals, "page": page}
    result = invoke("evaluate", *(argument.format(**places) for argument in arguments))
    assert result.exit_code == 2
    assert words in result.output and result.output.strip().splitlines()[-1].startswith("Error:")
    assert not (tmp_path / "report").exists() and page.read_text() == "mine"
