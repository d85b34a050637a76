"""The demo, the doctor, and the command without one."""

import inspect
import json
import platform
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from skimage import data
from typer.testing import CliRunner, Result

from nullface_pipeline import __version__
from nullface_pipeline.cli import anonymize, app, demo, doctor, evaluate, export, fetch, main, selftest, video
from nullface_pipeline.cli.anonymize import _print_skipped
from nullface_pipeline.cli.dataset import report, run
from nullface_pipeline.cli.demo import prepare_folder, side_by_side
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.photo_folder import FoundPhotos


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_demo_makes_its_pictures(tmp_path, pipe, monkeypatch):
    monkeypatch.setattr(type(pipe), "presets", {**pipe.presets, "standard": pipe.presets["preview"]})
    result = invoke("demo", "--output", tmp_path / "demo")
    assert result.exit_code == 0, result.output
    assert result.output.count("demonstration model") == 1 and "do not publish" in result.stderr
    pictures = {path.name: PIL.Image.open(path) for path in (tmp_path / "demo").iterdir()}
    assert set(pictures) == {"input.png", "anonymized.png", "side_by_side.png"}
    before, after = (np.asarray(pictures[name]).astype(int) for name in ("input.png", "anonymized.png"))
    assert np.array_equal(before, data.astronaut())
    assert np.abs(after - before)[60:180, 170:280].mean() > 5, "the face is another"
    assert np.array_equal(after[300:], before[300:])
    assert pictures["side_by_side.png"].width > 2 * before.shape[1]
    prepare_folder(tmp_path / "demo")  # a second demo may replace its own pictures


def test_a_demo_where_nothing_can_be_written(tmp_path):
    (tmp_path / "file").touch()
    result = invoke("demo", "--output", tmp_path / "file" / "demo")
    assert result.exit_code == 1 and "Not a directory" in result.stderr


@pytest.mark.parametrize("name", ["input.png", "anonymized.png", "side_by_side.png"])
def test_demo_replaces_nothing_that_it_did_not_write(tmp_path, monkeypatch, name):
    monkeypatch.setattr("nullface_pipeline.tiny_model.load_nullface_tiny", lambda: pytest.fail("is refused before"))
    mine = tmp_path / name
    PIL.Image.new("RGB", (8, 8), "red").save(mine)
    before = mine.read_bytes()
    result = invoke("demo", "--output", tmp_path)
    assert result.exit_code == 2 and str(mine) in result.stderr.replace("\n", "")
    assert mine.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == [name]


def test_a_wrong_choice_is_said_in_words():
    answer = subprocess.run(
        [sys.executable, "-m", "nullface_pipeline", "fetch", "sd2"], capture_output=True, text=True
    )
    expected = (
        "Error: Invalid value for 'NAME': 'sd2' is not one of 'sd15', 'sdxl', 'faces'. See `nullface fetch --help`.\n"
    )
    assert (answer.returncode, answer.stderr) == (2, expected)


def test_doctor():
    result = invoke("doctor")
    assert result.exit_code == 0, result.output
    for expected in ("Python", "diffusers", "cores", "nullface-tiny", "OpenRAIL-M", "BiSeNet"):
        assert expected in result.output


def test_doctor_for_programs():
    result = invoke("doctor", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.output)
    assert found["versions"]["Python"] == platform.python_version() and "CPU" in found["devices"]
    weights = {part["name"]: part for part in found["weights"]}
    assert weights["nullface-tiny"]["bytes"] > 20e6 and weights["Stable Diffusion 1.5"]["licence"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [([], "Commands"), (["-h"], "Commands"), (["--help"], "Commands"), (["fetch", "-h"], "--accept-licences")],
)
def test_help_is_no_error(arguments, words):
    result = invoke(*arguments)
    assert result.exit_code == 0 and words in result.stdout and not result.stderr


@pytest.mark.parametrize("command", [anonymize, video, evaluate, selftest, demo, fetch, doctor, export, run, report])
def test_help_fits_a_terminal_of_80_columns(command):
    """Lines of a docstring that are longer are broken, and begin again where the source does."""
    assert max(map(len, inspect.getdoc(command).splitlines())) <= 78


def test_the_module_is_the_command():
    run = subprocess.run([sys.executable, "-m", "nullface_pipeline", "--version"], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout == f"nullface {__version__}\n"


def test_side_by_side():
    first, second = PIL.Image.new("RGB", (100, 50), "red"), PIL.Image.new("RGB", (80, 50), "blue")
    sheet = side_by_side(first, second)
    assert sheet.size == (184, 50)
    assert sheet.getpixel((99, 20)) == (255, 0, 0) and sheet.getpixel((104, 20)) == (0, 0, 255)
    assert sheet.getpixel((101, 20)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("suffix", "code"), [(".gif", ExitCode.refused), (".cr2", ExitCode.refused), (".txt", ExitCode.ok)]
)
def test_pictures_that_are_skipped_are_not_a_success(suffix, code):
    assert _print_skipped(FoundPhotos([], [], {suffix: 2})) == code
    assert _print_skipped(FoundPhotos([], [])) == ExitCode.ok


@pytest.mark.parametrize("interrupt", ["by Typer", "by Python"])
def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys, interrupt):
    def stopped(standalone_mode):
        if interrupt == "by Typer":
            return 130
        raise KeyboardInterrupt

    monkeypatch.setattr("nullface_pipeline.cli.app", stopped)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == ExitCode.stopped == 130
    assert "again" in capsys.readouterr().err
