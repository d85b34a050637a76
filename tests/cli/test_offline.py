"""Without a network: one sentence, soon, and nothing of the libraries."""

import logging
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nullface_pipeline import fetch_weights, weights
from nullface_pipeline.model_sets import load_model_set

from .test_anonymize import astronaut_png, invoke_as_main


@pytest.fixture(autouse=True)
def unreachable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Servers that refuse connections, empty caches, and no retries."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        for name in ("snapshot_download", "http_get"):
            monkeypatch.setattr(
                fetch_weights, name, lambda *_, **__: pytest.fail("This would retry for half a minute.")
            )
        pack = replace(weights.BUFFALO_L, source=f"{url}/all.zip", place=tmp_path / "models" / "buffalo_l")
        monkeypatch.setitem(weights.WEIGHT_SETS, "sd15", (weights.SD15, weights.FACEID_SD15, pack))
        monkeypatch.setitem(weights.WEIGHT_SETS, "faces", (pack,))
        yield


@pytest.mark.parametrize("model", ["sd15", "OWNER/NAME"])
@pytest.mark.parametrize("offline", [False, True])
def test_one_line_says_what_is_missing(tmp_path, monkeypatch, caplog, model, offline):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    (tmp_path / "photo.png").write_bytes(astronaut_png())
    with caplog.at_level(logging.WARNING):
        result = invoke_as_main("anonymize", tmp_path / "photo.png", "-o", tmp_path / "out", "--model", model)
    errors = [line for line in result.stderr.splitlines() if not line.startswith("Notice:")]
    assert result.exit_code == 1 and len(errors) == 1 and not caplog.records, result.stderr
    missing = [model] if model != "sd15" else [part.name for part in weights.WEIGHT_SETS["sd15"]]
    assert all(name in errors[0] for name in missing)
    assert ("HF_HUB_OFFLINE" in errors[0]) == offline and "tiny" in errors[0]


def test_a_folder_needs_only_the_face_models(tmp_path):
    with pytest.raises(OSError, match="buffalo_l.*`nullface fetch faces`"):
        load_model_set(str(tmp_path))


def test_fetch(tmp_path):
    result = invoke_as_main("fetch", "sd15", "--accept-licences")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "cannot be reached" in result.stderr


def test_the_detector_of_an_evaluation(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(astronaut_png())
    arguments = ("evaluate", "--originals", tmp_path / "photos", "--method", "blur", "-o", tmp_path / "report")
    result = invoke_as_main(*arguments, "--recognizer", "tiny", "--detector", "buffalo_l")
    assert result.exit_code == 1 and "`nullface fetch faces`" in result.stderr
