"""Values that are wrong before any work: exit code 2, and no file is left."""

from pathlib import Path

import pytest
import typer

from nullface_pipeline.cli import options, usage_message
from nullface_pipeline.model_sets import check_device, load_model_set
from nullface_pipeline.photo_records import OptionError
from nullface_pipeline.runs.records import ResultRecord
from nullface_pipeline.tiny_model import TINY_FOLDER

from .test_anonymize import astronaut_png, contents, invoke_as_main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Current folder with a photo, an empty folder and a text; the state folder is inside."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "photo.png").write_bytes(astronaut_png())
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--verifier", "raccoon_l"], "raccoon_l"),
        (["--verifier", "empty"], "empty"),
        (["--verifier", "notes.txt"], "notes.txt"),
        (["--model", "empty"], "empty"),
        (["--model", "notes.txt"], "notes.txt"),
        (["--model", "./absent"], "absent"),
        (["--model", "a/b/c"], "a/b/c"),
        (["--model", ""], "--model"),
        (["-o", "x.gif"], "x.gif"),
        (["-o", "x.PDF"], "x.PDF"),
        (["-o", "x.mp4"], "x.mp4"),
        (["-o", "new/x.zip"], "x.zip"),
    ],
)
def test_wrong_values_leave_nothing(folder, arguments, named):
    before = contents(folder)
    result = invoke_as_main("anonymize", "photo.png", "-o", "out", *arguments)
    assert result.exit_code == 2 and named in result.output, result.output
    assert contents(folder) == before


@pytest.mark.parametrize("command", [("video", "clip.mp4"), ("demo",), ("dataset", "empty"), ("evaluate",)])
def test_an_output_folder_is_not_named_like_a_file(folder, command):
    before = contents(folder)
    result = invoke_as_main(*command, "-o", "x.mp4")
    assert result.exit_code == 2 and "x.mp4" in result.output
    assert contents(folder) == before


@pytest.mark.parametrize(
    "name", ["out", "out.v2", "2026.11.29", "photos.anonymized", "-", "x.JPG", "x.heic", "old.gif"]
)
def test_folders_and_photos_are_outputs(folder, name):
    (folder / "old.gif").mkdir()
    assert options.photo_output(name) == Path(name)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps", "gpu", "cuda:x", ""])
def test_a_device_that_is_not_here(folder, monkeypatch, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(OptionError) as raised:
        load_model_set(device=device)
    assert raised.value.option == "device"
    before = contents(folder)
    for command in (("anonymize", "photo.png", "-o", "out"), ("selftest",)):
        result = invoke_as_main(*command, "--device", device)
        assert result.exit_code == 2 and "--device" in result.output, result.output
    (folder / "state" / "nullface").rmdir()
    (folder / "state").rmdir()
    assert contents(folder) == before


def test_a_cuda_device_by_its_number(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for device in ("cpu", "cuda", "cuda:1"):
        check_device(device)
    with pytest.raises(OptionError):
        check_device("cuda:2")


def test_known_packs_and_folders_of_models(folder):
    (folder / ".insightface" / "models" / "mine").mkdir(parents=True)
    for pack in ("buffalo_l", "antelopev2", str(TINY_FOLDER / "face_models")):
        assert options.verifier_pack(pack) == pack
    for model in ("tiny", "sdxl", "OWNER/some-name_1.5", str(TINY_FOLDER / "model")):
        assert options.model_name(model) == model
    with pytest.raises(typer.BadParameter):
        options.model_name("sd14")


def test_a_record_of_nothing_is_not_left(tmp_path):
    record = ResultRecord(tmp_path / "state" / "record.jsonl")
    record.prepare()
    assert contents(tmp_path) == {tmp_path / "state": None}
    record.add_picture(b"x")
    record.prepare()
    assert record.path.stat().st_size > 0
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="XDG_STATE_HOME"):
        ResultRecord(tmp_path / "file" / "record.jsonl").prepare()


def test_a_data_set_is_not_begun_on_a_device_that_is_not_here(folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    before = contents(folder)
    result = invoke_as_main("dataset", ".", "-o", "../out", "--device", "cuda")
    assert result.exit_code == 2 and "--device" in result.output
    assert contents(folder) == before and not (folder.parent / "out-reports").exists()


@pytest.mark.parametrize("message", ["No such command. Did you mean 'anonymize'?", "It is missing."])
def test_a_usage_message_has_one_stop(message):
    assert usage_message(typer.BadParameter(message)).count("?.") == 0
    assert f"{message} See `nullface --help`." in usage_message(typer.BadParameter(message))
