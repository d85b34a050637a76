"""A self-test names the part that is wrong: broken copies of nullface-tiny, one part each."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from nullface_pipeline.selftest import checks, files, run_selftest
from nullface_pipeline.selftest.findings import Finding, at_least, at_most, part_of_file
from nullface_pipeline.selftest.people import find_people
from nullface_pipeline.selftest.run import Selftest
from nullface_pipeline.tiny_model import TINY_FOLDER
from nullface_pipeline.weights import BUFFALO_L


LIST_IT_AGAIN = (
    "(cd nullface_pipeline/tiny && find * -type f ! -name SHA256SUMS | LC_ALL=C sort | xargs sha256sum > SHA256SUMS)"
)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nullface-tiny in a folder of its own, which is what is loaded and checked."""
    folder = tmp_path / "tiny"
    shutil.copytree(TINY_FOLDER, folder)
    monkeypatch.setattr("nullface_pipeline.tiny_model.TINY_FOLDER", folder)
    monkeypatch.setattr("nullface_pipeline.selftest.files.TINY_FOLDER", folder)
    return folder


def list_again(folder: Path) -> None:
    """The list has the hashes of the broken files, so that only their behaviour gives them away."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != files.HASH_LIST]
    sums = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder).as_posix()}" for path in paths
    ]
    (folder / files.HASH_LIST).write_text("\n".join(sums))


def shuffle_adapter(folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    path = folder / "face_adapter.safetensors"
    weights = {
        name: value.flatten()[torch.randperm(value.numel(), generator=generator)].view(value.shape)
        if name.startswith("image_proj")
        else value
        for name, value in load_file(path).items()
    }
    save_file(weights, path)


def shuffle_recognizer(folder: Path) -> None:
    rng = np.random.default_rng(0)
    path = folder / "face_models" / "recognizer.onnx"
    model = onnx.load(path)
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.size > 64 and np.issubdtype(values.dtype, np.floating):
            shuffled = rng.permutation(values.ravel()).reshape(values.shape)
            weight.CopyFrom(numpy_helper.from_array(shuffled, weight.name))
    onnx.save(model, path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


@pytest.mark.slow
def test_nullface_tiny_passes_and_every_part_is_looked_at():
    reported: list[Finding] = []
    result = run_selftest("tiny", device="cpu", report=reported.append)
    assert result.passed, [finding for finding in result.findings if not finding.passed]
    assert reported == result.findings
    parts = {finding.part for finding in reported}
    assert parts >= {"files", "detector", "recognizer", "parser", "autoencoder", "denoiser", "adapter", "portrait"}
    assert result.seconds["one portrait"] > 0 and result.peak_bytes


@pytest.mark.parametrize(
    "breaks, part, listed",
    [
        pytest.param(shuffle_adapter, "adapter", False, marks=pytest.mark.slow),
        pytest.param(shuffle_adapter, "adapter", True, marks=pytest.mark.slow),
        pytest.param(shuffle_recognizer, "recognizer", False, marks=pytest.mark.slow),
        (shuffle_recognizer, "recognizer", True),
    ],
)
def test_shuffled_weights_are_named(copy, breaks, part, listed):
    """By what they do; and by their hash, unless the hash is listed again."""
    breaks(copy)
    if listed:
        list_again(copy)
    result = run_selftest("tiny", device="cpu")
    assert result.failed_parts == [part]
    wrong = [finding.quantity for finding in result.findings if not finding.passed and finding.part == part]
    assert len(wrong) == (1 if listed else 2)


@pytest.mark.parametrize(
    "file, parts",
    [
        ("face_adapter.safetensors", ["adapter"]),
        ("model/unet/diffusion_pytorch_model.safetensors", ["model", "denoiser"]),
        ("face_models/recognizer.onnx", ["detector or recognizer", "recognizer"]),
        ("face_parser/model.safetensors", ["parser"]),
    ],
)
def test_a_truncated_file_is_named(copy, file, parts):
    truncate(copy / file)
    result = run_selftest("tiny", device="cpu")
    assert result.failed_parts == parts
    assert any(file in finding.value for finding in result.findings)


def test_a_missing_file_is_named(copy):
    (copy / "model/scheduler/scheduler_config.json").unlink()
    result = run_selftest("tiny", device="cpu")
    assert "scheduler" in result.failed_parts


def test_the_list_of_hashes_is_up_to_date():
    assert not [finding for finding in files.check_files("tiny") if not finding.passed], (
        f"List it again: {LIST_IT_AGAIN}"
    )
    listed = {path for path, _ in files.tiny_hashes()}
    there = {path for path in TINY_FOLDER.rglob("*") if path.is_file()}
    assert listed == there - {TINY_FOLDER / files.HASH_LIST}, f"List it again: {LIST_IT_AGAIN}"


class TestHubCache:
    """Files in the Hub's cache are named after their hashes."""

    @pytest.fixture(autouse=True)
    def cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setattr(files, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(files, "bisenet_path", lambda: tmp_path / "not_there.pth")
        monkeypatch.setattr(files, "BUFFALO_L", replace(BUFFALO_L, place=tmp_path / "buffalo_l"))
        return tmp_path

    def store(self, cache: Path, name: str, data: bytes, blob: str) -> Path:
        folder = cache / "models--h94--IP-Adapter-FaceID"
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        (folder / "blobs" / blob).write_bytes(data)
        path = folder / "snapshots" / "abc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(f"../../blobs/{blob}")
        return path

    def test_whole_files_pass_and_a_truncated_one_is_named(self, cache):
        data = bytes(range(256)) * 40
        small = b'{"a": 1}\n'
        self.store(cache, "ip-adapter-faceid_other.bin", data, hashlib.sha256(data).hexdigest())
        git = hashlib.sha1(b"blob %d\0" % len(small) + small).hexdigest()
        self.store(cache, "config.json", small, git)
        assert all(finding.passed for finding in files.check_files("sd15"))
        self.store(cache, "ip-adapter-faceid_sdxl.bin", data[:-1], hashlib.sha256(data + b"x").hexdigest())
        wrong = [finding for finding in files.check_files("sd15") if not finding.passed]
        assert [finding.part for finding in wrong] == ["adapter", "files"]
        assert "ip-adapter-faceid_sdxl.bin" in wrong[0].value

    def test_the_hash_in_this_package_counts_more_than_the_hubs(self, cache):
        data = b"another adapter"
        self.store(cache, "ip-adapter-faceid_sd15.bin", data, hashlib.sha256(data).hexdigest())
        wrong = [finding for finding in files.check_files("sd15") if not finding.passed]
        assert "ip-adapter-faceid_sd15.bin" in wrong[0].value

    def test_another_file_among_the_unpacked_face_models_is_named(self, cache):
        (cache / "buffalo_l").mkdir()
        (cache / "buffalo_l" / "another.onnx").write_bytes(b"detector")
        wrong = [finding for finding in files.check_files("sd15") if not finding.passed]
        assert "another.onnx" in wrong[0].value

    def test_an_empty_cache_is_no_proof(self):
        assert list(files.check_files("sd15")) == []


def test_parts_of_files():
    assert part_of_file("model/unet/config.json") == "denoiser"
    assert part_of_file("face_models/recognizer.onnx") == "recognizer"
    assert part_of_file("snapshots/abc/ip-adapter-faceid_sd15.bin") == "adapter"
    assert part_of_file("model_index.json") == "model"


def test_bounds_do_not_let_nan_pass():
    assert not at_least("a", "b", float("nan"), 0.0).passed
    assert not at_most("a", "b", float("nan"), 0.0).passed


def test_the_cause_comes_before_the_portrait():
    findings = [Finding("files", "", "", False), Finding("adapter", "", "", False), Finding("portrait", "", "", False)]
    assert Selftest(findings).failed_parts == ["adapter"]
    assert Selftest(findings[:1]).failed_parts == ["files"]
    assert not Selftest().passed


def test_a_recognizer_that_is_not_the_published_ones(pipe):
    """Its file's name is known, though its hash is not."""
    findings = list(checks.check_recognizer(pipe.face_analyser, find_people(pipe.face_analyser)[:1], published=True))
    assert [finding.passed for finding in findings] == [False, True]
    assert "w600k_r50.onnx" in findings[0].value
