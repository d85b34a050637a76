"""Quality outside the face and of sets, with random weights in the published layouts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from nullface_pipeline.evaluation.quality import LPIPS, MUSIQ, SSIM, FIDAndKID, distances, quality_change, scores
from nullface_pipeline.evaluation.recognizers import MissingModelError


PHOTO = data.astronaut()[:96, 160:288]
MASK = np.zeros(PHOTO.shape[:2], dtype=np.float32)
MASK[20:70, 30:90] = 1.0


def changed(inside: bool) -> np.ndarray:
    """The photo with noise in the mask, or beside it."""
    noise = np.random.default_rng(0).integers(0, 256, PHOTO.shape, dtype=np.uint8)
    return np.where((MASK[..., None] > 0) == inside, noise, PHOTO)


@pytest.fixture(scope="module")
def alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """AlexNet's convolutions with random weights."""
    from torchvision.models import alexnet

    with torch.device("meta"):
        shapes = {name: value.shape for name, value in alexnet(weights=None).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: 0.05 * torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
        if name.startswith("features.")
    }
    path = tmp_path_factory.mktemp("alexnet") / "alexnet.pth"
    torch.save(weights, path)
    return path


@pytest.fixture(scope="module")
def lpips(alexnet: Path) -> LPIPS:
    pytest.importorskip("lpips")
    return LPIPS(alexnet)


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


def test_ssim_looks_outside_the_mask_only():
    assert SSIM()(PHOTO, changed(inside=True), MASK) == pytest.approx(1.0)
    assert SSIM()(PHOTO, changed(inside=False), MASK) < 0.5
    assert np.isnan(SSIM()(PHOTO, PHOTO, np.ones_like(MASK)))


def test_lpips_looks_outside_the_mask_only(lpips):
    assert lpips(PHOTO, changed(inside=True), MASK) == pytest.approx(0.0, abs=1e-6)
    assert lpips(PHOTO, changed(inside=False), MASK) > 0.01


def test_lpips_uses_the_backbone_it_is_given(alexnet, lpips, tmp_path):
    backbone = torch.load(alexnet)
    backbone["features.0.weight"] *= 3.0
    torch.save(backbone, tmp_path / "other.pth")
    results = [each(PHOTO, changed(inside=False), MASK) for each in (lpips, LPIPS(tmp_path / "other.pth"))]
    assert results[0] != pytest.approx(results[1], rel=1e-3)


def test_the_fingerprint_of_lpips_depends_on_its_weights(alexnet, tmp_path):
    pytest.importorskip("lpips")
    backbone = torch.load(alexnet)
    backbone["features.0.weight"] *= 3.0
    torch.save(backbone, tmp_path / "other.pth")
    assert LPIPS(alexnet).fingerprint == LPIPS(alexnet).fingerprint != LPIPS(tmp_path / "other.pth").fingerprint


@pytest.mark.parametrize("measure", [LPIPS, FIDAndKID])
def test_without_weights_a_measure_says_what_it_needs(measure, empty_cache):
    pytest.importorskip("lpips")
    pytest.importorskip("torch_fidelity")
    with pytest.raises(MissingModelError, match="pth"):
        measure()
    with pytest.raises(MissingModelError, match="not/there.pth"):
        measure("not/there.pth")


def test_musiq_is_for_the_user_to_install():
    try:
        import pyiqa  # noqa: F401
    except ImportError:
        with pytest.raises(MissingModelError, match="pyiqa"):
            MUSIQ()


def test_the_papers_distance_cancels_and_the_other_does_not():
    change = quality_change("MUSIQ", np.array([60.0, 64.0]), np.array([64.0, 60.0]))
    assert change["MUSIQ"] == 62.0
    assert change["MUSIQ distance of the means"] == 0.0
    assert change["MUSIQ mean distance"] == 4.0


def test_scores_are_of_pixels_in_0_1():
    pictures = [np.full((4, 6, 3), 255, dtype=np.uint8), np.zeros((3, 3, 3), dtype=np.uint8)]
    assert scores(lambda pixels: pixels.mean(), pictures).tolist() == [1.0, 0.0]


class TestDistances:
    @pytest.fixture(autouse=True)
    def needs_torchmetrics(self) -> None:
        pytest.importorskip("torchmetrics")

    def features(self, seed: int, count: int = 60, shift: float = 0.0) -> torch.Tensor:
        return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift

    def test_the_same_set_is_at_no_distance(self):
        same = distances(self.features(0), self.features(0))
        assert same["FID"] == pytest.approx(0.0, abs=1e-6)

    def test_fid_of_two_normal_distributions_is_what_the_formula_says(self):
        """Equal covariances: the squared distance of the means, 8 * 2^2."""
        found = distances(self.features(0, 1000), self.features(1, 1000, shift=2.0))
        assert found["FID"] == pytest.approx(32.0, rel=0.06)
        assert found["KID"] > 0.0

    def test_kid_of_a_small_set_has_a_spread(self):
        found = distances(self.features(0, 200), self.features(1, 200, shift=0.5))
        assert 1e-6 < found["KID spread"] < found["KID"]

    @pytest.mark.parametrize("count", [1, 3])
    def test_a_few_pictures_are_not_a_set(self, count):
        assert distances(self.features(0, count), self.features(1)) == {}


@pytest.mark.slow
def test_inception_features_of_pictures(tmp_path):
    pytest.importorskip("torch_fidelity")
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:  # there is no way to make one without its published weights
        patch.setattr("torch.load", lambda *_, **__: None)
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], "random")
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    pictures = [np.roll(PHOTO, shift, axis=1) for shift in range(0, 80, 20)]
    found = FIDAndKID(tmp_path / "inception.pth")(pictures, pictures)
    assert found["FID"] == pytest.approx(0.0, abs=1e-4)
