"""Weights come from a Hub on this machine: whole, compared, from where an earlier fetch stopped,
and not at all.
"""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nullface_pipeline import weights
from nullface_pipeline.face_identity import FACEID_RECOGNIZER, recognizer_name
from nullface_pipeline.face_parsing import bisenet_path
from nullface_pipeline.fetch_weights import fetch_missing, fetch_pack, fetch_weights, unverified_files
from nullface_pipeline.model_sets import load_model_set
from nullface_pipeline.pipeline import FACEID_WEIGHTS
from nullface_pipeline.publish.hub import PACKAGE

from .local_hub import COMMIT, LocalHub
from .test_model_card import bisenet, faceid  # noqa: F401


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, faceid: Path) -> dict[str, Path]:  # noqa: F811
    """nullface-tiny as Stable Diffusion 1.5, with a safety checker as it is published with;
    adapter; face models.
    """
    folder = tmp_path_factory.mktemp("published")
    shutil.copytree(PACKAGE / "tiny" / "model", folder / "sd15")
    index = json.loads((folder / "sd15" / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "sd15" / "model_index.json").write_text(json.dumps(index))
    (folder / "sd15" / "safety_checker").mkdir()
    (folder / "sd15" / "safety_checker" / "model.safetensors").write_bytes(b"a gigabyte")
    (folder / "releases").mkdir()
    with zipfile.ZipFile(folder / "releases" / "buffalo_l.zip", "w") as archive:
        for name, published in (("detector", "det_10g"), ("recognizer", "w600k_r50")):
            archive.write(PACKAGE / "tiny" / "face_models" / f"{name}.onnx", f"{published}.onnx")
    (folder / "releases" / "parser.pth").write_bytes(b"parser")
    return {
        weights.SD15.source: folder / "sd15",
        weights.FACEID_REPOSITORY: faceid,
        "releases/all": folder / "releases",
    }


@pytest.fixture
def hub(published: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """The Hub and the releases on this machine, and an empty home folder."""
    with LocalHub(published) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        for module in ("constants", "file_download"):
            monkeypatch.setattr(f"huggingface_hub.{module}.HUGGINGFACE_CO_URL_TEMPLATE", hub.url + URL, raising=False)
        yield hub


URL = "/{repo_id}/resolve/{revision}/{filename}"


def of_this_hub(published: dict[str, Path], on_the_hub: weights.HubWeights) -> weights.HubWeights:
    """Weights of the Hub with the commit and the hashes of the Hub on this machine."""
    folder = published[on_the_hub.source]
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in on_the_hub.files}
    return replace(on_the_hub, revision=COMMIT, files=files)


def released(
    hub: LocalHub, published: dict[str, Path], place: Path, name: str = "buffalo_l.zip"
) -> weights.ReleaseWeights:
    """Weights of a release on this machine."""
    content = (published["releases/all"] / name).read_bytes()
    return replace(
        weights.BUFFALO_L,
        source=f"{hub.url}/releases/all/resolve/main/{name}",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        place=place,
        unpacked=unpacked_hashes(content) if name.endswith(".zip") else {},
    )


def unpacked_hashes(archive: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: hashlib.sha256(opened.read(name)).hexdigest() for name in opened.namelist()}


def test_from_the_hub_without_the_safety_checker(hub, published):
    sd15 = of_this_hub(published, weights.SD15)
    fetch_weights(sd15)
    folder = sd15.path
    assert folder is not None and (folder / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert (folder / "tokenizer" / "tokenizer.json").is_file() and not (folder / "safety_checker").exists()


def test_a_changed_file_is_deleted_and_fetched_again(hub, published):
    adapter = of_this_hub(published, weights.FACEID_SD15)
    fetch_weights(adapter)
    content = adapter.path.read_bytes()
    adapter.path.write_bytes(content[:-1] + b"?")
    with pytest.raises(OSError, match="hash"):
        fetch_weights(adapter)
    assert adapter.path is None
    fetch_weights(adapter)
    assert adapter.path.read_bytes() == content


def test_the_hub_cannot_vouch_for_its_own_weights(hub, published):
    """A file and its hash come from one server, so only the hash in this package is trusted."""
    adapter = replace(weights.FACEID_SD15, revision=COMMIT)
    with pytest.raises(OSError, match="hash"):
        fetch_weights(adapter)
    assert adapter.path is None


def test_files_without_a_hash_in_this_package_are_named(hub, published):
    sd15 = of_this_hub(published, weights.SD15)
    fetch_weights(sd15)
    unverified = unverified_files(sd15)
    assert "model_index.json" in unverified and not set(unverified) & set(sd15.files)


@pytest.mark.parametrize("name", ["det_10g.onnx", "another.onnx"])
def test_a_changed_or_foreign_file_of_an_unpacked_archive_is_refused(hub, published, tmp_path, name):
    pack = released(hub, published, tmp_path / "buffalo_l")
    fetch_weights(pack)
    fetch_weights(pack)
    (pack.place / name).write_bytes(b"somebody's")
    with pytest.raises(OSError, match=name):
        fetch_weights(pack)


def test_a_pack_of_which_no_hash_is_known_is_not_fetched(hub, published, tmp_path, monkeypatch):
    monkeypatch.setattr("nullface_pipeline.fetch_weights.BUFFALO_L", replace(weights.BUFFALO_L, place=tmp_path / "l"))
    pack = released(hub, published, tmp_path / "buffalo_s")
    monkeypatch.setitem(weights.PACKS, "buffalo_s", replace(pack, sha256="0" * 64))
    for name in ("raccoon_l", "buffalo_s"):
        with pytest.raises(OSError):
            fetch_pack(name)
    assert not list(tmp_path.glob("*/*.onnx"))
    monkeypatch.setitem(weights.PACKS, "buffalo_s", pack)
    fetch_pack("buffalo_s")
    assert pack.path is not None
    fetch_pack(str(pack.place))


@pytest.mark.parametrize("failed", ["before", "while fetching", "while unpacking", "as another file"])
def test_a_release_is_fetched_from_where_it_stopped(hub, published, tmp_path, failed):
    pack = released(hub, published, tmp_path / "models" / "buffalo_l")
    archive = (published["releases/all"] / "buffalo_l.zip").read_bytes()
    part = tmp_path / "models" / "buffalo_l.part"
    if failed == "while unpacking":
        pack.place.mkdir(parents=True)  # as InsightFace leaves it
    elif failed != "before":
        part.parent.mkdir()
        part.write_bytes(archive[:1000] if failed == "while fetching" else archive + b"?")
    fetch_weights(pack)
    assert sorted(path.name for path in pack.path.iterdir()) == ["det_10g.onnx", "w600k_r50.onnx"]
    assert hub.ranges == (["bytes=1000-"] if failed == "while fetching" else [])
    assert list(pack.place.parent.iterdir()) == [pack.place], "nothing half is left"


def test_another_file_than_was_published_is_not_taken(hub, published, tmp_path):
    parser = replace(released(hub, published, tmp_path / "parser.pth", "parser.pth"), sha256="0" * 64)
    with pytest.raises(OSError, match="hash"):
        fetch_weights(parser)
    assert parser.path is None
    parser.place.write_bytes(b"somebody's")
    with pytest.raises(OSError, match="hash"):
        fetch_weights(parser)
    assert not list(tmp_path.glob("parser*"))


def test_without_a_network_one_sentence_says_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    parts = (weights.SD15, weights.FACEID_SD15)
    monkeypatch.setitem(weights.WEIGHT_SETS, "sd15", parts)
    with pytest.raises(OSError, match="4.4 GB") as raised:
        load_model_set("sd15")
    assert "`nullface fetch sd15`" in str(raised.value)
    assert all(part.name in str(raised.value) for part in parts)


def test_what_was_fetched_is_loaded_without_a_network(hub, published, tmp_path, monkeypatch, bisenet):  # noqa: F811
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    pack = released(hub, published, tmp_path / "home" / ".insightface" / "models" / "buffalo_l")
    bisenet_path().parent.mkdir(parents=True)
    bisenet_path().symlink_to(bisenet)
    monkeypatch.setitem(
        weights.WEIGHT_SETS,
        "sd15",
        (*(of_this_hub(published, each) for each in (weights.SD15, weights.FACEID_SD15)), pack),
    )
    fetch_missing("sd15")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    pipe = load_model_set("sd15", device="cpu")
    assert pipe._face_adapter_weights == FACEID_WEIGHTS and recognizer_name(pipe.face_analyser) == FACEID_RECOGNIZER
