"""Image quality metrics outside the face, and of whole sets.

They implement `measures.PairMeasure` and `measures.SetMeasure`. The extra `evaluation` installs
their packages. Users download the weights under the licences of these.
"""

from collections.abc import Callable, Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from skimage.metrics import structural_similarity

from nullface_pipeline.evaluation.recognizers import MissingModelError
from nullface_pipeline.fetch_weights import file_hash


INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
ALEXNET = "alexnet-owt-7be5be79.pth"
# Largest subset of KID, torchmetrics' default. A subset has at most half of the set, because equal
# subsets would have no spread.
KID_SUBSET = 1000
SMALLEST_SET = 4


class SSIM:
    """Structural similarity outside the mask; 1 for identical images."""

    name = "SSIM outside the face"
    fingerprint = f"{name} 1"

    def __call__(self, original: np.ndarray, anonymized: np.ndarray, mask: np.ndarray) -> float:
        """See `measures.PairMeasure`. NaN where the mask covers everything."""
        similarity = structural_similarity(original, unmasked(original, anonymized, mask), channel_axis=-1, full=True)[
            1
        ]
        return outside(similarity.mean(axis=-1), mask)


class LPIPS:
    """Learned perceptual distance (AlexNet) outside the mask; 0 for identical images.

    Args:
        path (`Path`, *optional*): torchvision's ImageNet weights of AlexNet; by default those in
            torch's cache.

    Raises:
        MissingModelError: if the package `lpips` or the weights are missing.
    """

    name = "LPIPS outside the face"

    def __init__(self, path: Path | str | None = None) -> None:
        require("lpips", "lpips")
        weights = weights_file(path, ALEXNET, "lpips")
        # The package holds the weights of the layers on top.
        self.fingerprint = f"{self.name} 1 {version('lpips')} {file_hash(weights)}"
        backbone = torch.load(weights, map_location="cpu", weights_only=True)
        import lpips

        self.network = lpips.LPIPS(net="alex", spatial=True, pnet_rand=True, verbose=False).requires_grad_(False)
        for name, slices in self.network.net.named_children():
            for number, layer in slices.named_children():
                layer.load_state_dict(
                    {key: backbone[f"features.{number}.{key}"] for key in layer.state_dict()}, strict=True
                )

    @torch.no_grad()
    def __call__(self, original: np.ndarray, anonymized: np.ndarray, mask: np.ndarray) -> float:
        """See `measures.PairMeasure`. NaN where the mask covers everything."""
        first, second = (
            torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1.0
            for image in (original, unmasked(original, anonymized, mask))
        )
        return outside(self.network(first, second)[0, 0].numpy(), mask)


class FIDAndKID:
    """Fréchet and kernel Inception distance between originals and results; 0 for identical sets.

    FID grows as sets shrink, so compare only sets of the same size. KID does not; its spread over
    subsets is reported.

    Args:
        path (`Path`, *optional*): torch-fidelity's Inception weights; by default those in torch's
            cache.

    Raises:
        MissingModelError: if torchmetrics, torch-fidelity or the weights are missing.
    """

    name = "FID and KID"

    def __init__(self, path: Path | str | None = None) -> None:
        require("torchmetrics", "torchmetrics torch-fidelity")
        require("torch_fidelity", "torchmetrics torch-fidelity")
        weights = weights_file(path, INCEPTION, "inception")
        torch.load(weights, map_location="cpu", weights_only=True)  # torchmetrics would also run code from the file
        from torchmetrics.image.fid import NoTrainInceptionV3

        self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(weights))

    def __call__(self, originals: Iterable[np.ndarray], anonymized: Iterable[np.ndarray]) -> dict[str, float]:
        """Returns "FID", "KID" and "KID spread", or nothing for fewer than 4 photos."""
        features = [inception_features(self.network, images) for images in (originals, anonymized)]
        return distances(*features)


class MUSIQ:
    """Image quality by MUSIQ through pyiqa, which is licensed for noncommercial use.

    Args:
        path (`Path`, *optional*): its weights; by default pyiqa fetches them.

    Raises:
        MissingModelError: if pyiqa is not installed.
    """

    name = "MUSIQ"

    def __init__(self, path: Path | str | None = None) -> None:
        if find_spec("pyiqa") is None:
            raise MissingModelError("needs pyiqa, which is for noncommercial use: pip install pyiqa")
        import pyiqa

        options = {} if path is None else {"pretrained_model_path": str(path)}
        self.network = pyiqa.create_metric("musiq", device="cpu", **options)

    def __call__(self, originals: Iterable[np.ndarray], anonymized: Iterable[np.ndarray]) -> dict[str, float]:
        """See `measures.SetMeasure`."""
        return quality_change(self.name, *(scores(self.network, images) for images in (originals, anonymized)))


def unmasked(original: np.ndarray, anonymized: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The anonymized image with the original's pixels inside the mask."""
    return np.where(mask[..., None] > 0.0, original, anonymized)


def outside(values: np.ndarray, mask: np.ndarray) -> float:
    """Mean of an (H, W) map where the mask is 0; NaN if the mask covers all of it."""
    free = mask <= 0.0
    return float(values[free].mean()) if free.any() else float("nan")


@torch.no_grad()
def inception_features(network: torch.nn.Module, images: Iterable[np.ndarray]) -> torch.Tensor:
    """Compute (N, 2048) float64 Inception features of (H, W, 3) uint8 images of any size."""
    features = [network(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])[0] for image in images]
    return torch.stack(features).double()


def distances(originals: torch.Tensor, anonymized: torch.Tensor) -> dict[str, float]:
    """Compute FID and KID of (N, D) and (M, D) features with torchmetrics."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    smallest = min(len(originals), len(anonymized))
    if smallest < SMALLEST_SET:
        return {}
    # Both take features instead of images, so that Inception runs once an image.
    features = torch.nn.Identity()
    features.num_features = torch.tensor(originals.shape[1])
    fid = FrechetInceptionDistance(features).set_dtype(torch.float64)
    kid = KernelInceptionDistance(features, subset_size=min(KID_SUBSET, smallest // 2))
    for metric in (fid, kid):
        metric.update(originals, real=True)
        metric.update(anonymized, real=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # of its subsets
        kid_mean, kid_spread = kid.compute()
    return {"FID": float(fid.compute()), "KID": float(kid_mean), "KID spread": float(kid_spread)}


def scores(network: Callable[[torch.Tensor], torch.Tensor], images: Iterable[np.ndarray]) -> np.ndarray:
    """Score (H, W, 3) uint8 images with a network of pyiqa; (N,)."""
    pixels = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255.0 for image in images)
    with torch.no_grad():
        return np.array([float(network(picture)) for picture in pixels])


def quality_change(name: str, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Distance of the mean scores, as in the paper, and mean distance of the pairs.

    Args:
        before, after (`np.ndarray`): (N,) scores of the originals and of their results.
    """
    return {
        name: float(after.mean()),
        f"{name} of the originals": float(before.mean()),
        f"{name} distance of the means": float(abs(after.mean() - before.mean())),
        f"{name} mean distance": float(np.abs(after - before).mean()),
    }


def require(module: str, packages: str) -> None:
    """Raise MissingModelError unless a package is installed."""
    if find_spec(module) is None:
        raise MissingModelError(f"needs packages: pip install {packages}")


def weights_file(path: Path | str | None, name: str, option: str) -> Path:
    """Path of the weights: the given file, or the one in torch's cache.

    Raises:
        MissingModelError: if it is missing.
    """
    file = Path(path) if path is not None else Path(torch.hub.get_dir()) / "checkpoints" / name
    if not file.is_file():
        raise MissingModelError(
            f"needs {name}: --weights {option}=FILE" + ("" if path is None else f" ({path} is not a file)")
        )
    return file
