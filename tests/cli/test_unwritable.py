"""Places that cannot be written are named before any work, with what to do."""

import errno
import sys
from pathlib import Path

import PIL.Image
import pytest

from nullface_pipeline import model_sets
from nullface_pipeline.runs import atomic_files

from .test_anonymize import astronaut_png, contents, invoke_as_main


@pytest.fixture
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_sets, "load_model_set", lambda *_: pytest.fail("The model is loaded too early."))
    Path("photo.png").write_bytes(astronaut_png())
    return "photo.png"


@pytest.mark.parametrize("option", ["--report", "--contact-sheet"])
def test_other_files(photo, monkeypatch, option):
    def read_only(dir):
        if Path(dir).name == "locked":
            raise OSError(errno.EROFS, "Read-only file system", str(dir))
        return open("/dev/null" if sys.platform != "win32" else "nul", "rb")

    monkeypatch.setattr(atomic_files.tempfile, "TemporaryFile", read_only)
    Path("locked").mkdir()
    result = invoke_as_main("anonymize", photo, "-o", "out", option, "locked/new/x.png")
    assert result.exit_code == 1 and option in result.stderr and "Read-only" in result.stderr
    assert not Path("out").exists() and not Path("locked/new").exists()


def test_output_folder(photo, monkeypatch):
    def read_only(path, *_, **__):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "mkdir", read_only)
    result = invoke_as_main("anonymize", photo, "-o", "out")
    assert result.exit_code == 1 and "out cannot be created" in result.stderr and "choose another" in result.stderr


@pytest.mark.parametrize("command", [("demo", "-o"), ("export", "--single-file")])
def test_a_file_in_place_of_a_folder_and_a_folder_in_place_of_a_file(tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    Path("taken").touch() if command[0] == "demo" else Path("taken").mkdir()
    before = contents(tmp_path)
    result = invoke_as_main(*command, "taken")
    assert result.exit_code == 2 and "taken is a" in result.stderr
    assert contents(tmp_path) == before


def test_a_folder_of_unsupported_pictures(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    PIL.Image.new("RGB", (20, 20)).save("pictures/a.gif")
    result = invoke_as_main("anonymize", "pictures", "-o", "out")
    assert result.exit_code == 2 and "1 .gif" in result.stderr and "Convert" in result.stderr
