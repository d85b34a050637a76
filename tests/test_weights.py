"""What is on this machine, and how large, in the words of the command."""

from pathlib import Path

import pytest

from nullface_pipeline.weights import (
    FACEID_SD15,
    PACKS,
    SD15,
    SDXL,
    WEIGHT_SETS,
    HubWeights,
    missing_weights,
    readable_size,
)

from .local_hub import fill_cache


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with an empty cache of the Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    return tmp_path


def test_a_model_is_here_with_its_last_file(cache, tmp_path):
    repository = tmp_path / "repository"
    fill_cache(cache, "models", SD15.source, repository, SD15.revision)
    for file in ("model_index.json", *SD15.files):
        assert SD15.path is None
        (repository / file).parent.mkdir(parents=True, exist_ok=True)
        (repository / file).touch()
    folder = SD15.path
    assert folder is not None and (folder / "model_index.json").is_file()
    assert SDXL.path is None


def test_an_adapter_is_its_own_file(cache, tmp_path):
    fill_cache(cache, "models", FACEID_SD15.source, tmp_path / "faceid", FACEID_SD15.revision)
    assert FACEID_SD15 in missing_weights("sd15")
    (tmp_path / "faceid").mkdir()
    (tmp_path / "faceid" / next(iter(FACEID_SD15.files))).touch()
    assert FACEID_SD15.path is not None and FACEID_SD15.path.name in FACEID_SD15.files


def test_another_commit_does_not_count(cache, tmp_path):
    (tmp_path / "faceid").mkdir()
    (tmp_path / "faceid" / next(iter(FACEID_SD15.files))).touch()
    fill_cache(cache, "models", FACEID_SD15.source, tmp_path / "faceid")
    assert FACEID_SD15.path is None


def test_every_file_of_weights_has_a_hash_and_every_repository_a_commit():
    for weights in {**{each.name: each for name in WEIGHT_SETS for each in WEIGHT_SETS[name]}, **PACKS}.values():
        if isinstance(weights, HubWeights):
            assert len(weights.revision) == 40 and int(weights.revision, 16)
            hashes = list(weights.files.values())
        else:
            hashes = [weights.sha256, *weights.unpacked.values()]
        assert hashes and all(len(each) == 64 and int(each, 16) for each in hashes)
        assert len(set(hashes)) == len(hashes)
    assert all(weights.licence_page.startswith("https://") for name in WEIGHT_SETS for weights in WEIGHT_SETS[name])


@pytest.mark.parametrize(
    ("size", "words"), [(53_289_463, "53 MB"), (999_499_999, "999 MB"), (999_500_000, "1.0 GB"), (4.27e9, "4.3 GB")]
)
def test_sizes_in_words(size, words):
    assert readable_size(size) == words
