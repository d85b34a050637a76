"""How a picture fares where nothing should have changed, and how natural a set of pictures looks.

Measures are as in `measures.PairMeasure` and `measures.SetMeasure`. Their packages come with the extra `evaluation`, their
weights with nobody: FILE is what the reader of the licence has fetched.
"""

from collections.abc import Callable, Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.metrics import structural_similarity

from nullface_pipeline.evaluation.recognizers import MissingModelError
from nullface_pipeline.fetch_weights import file_hash


INCEPTION = "weights-inception-2015-12-05-6726825d.pth"
ALEXNET = "alexnet-owt-7be5be79.pth"
# Largest subset of KID, torchmetrics' default. Subsets hold at most half of a set: equal ones would have no spread.
KID_SUBSET = 1000
SMALLEST_SET = 4


class SSIM:
    """Structural similarity outside the mask; 1 is the same."""

    name = "SSIM outside the face"
    fingerprint = f"{name} 1"

    def __call__(self, original: np.ndarray, anonymized: np.ndarray, mask: np.ndarray) -> float:
        """See `measures.PairMeasure`. NaN where the mask covers everything."""
        similarity = structural_similarity(original, unmasked(original, anonymized, mask), channel_axis=-1, full=True)[
            1
        ]
        return outside(similarity.mean(axis=-1), mask)


class LPIPS:
    """Learned perceptual distance (AlexNet) outside the mask; 0 is the same.

    Args:
        path (`Path`, *optional*): torchvision's ImageNet weights of AlexNet; by default what torch's cache holds.

    Raises:
        MissingModelError: if the package `lpips` or the weights are not there.
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
    """Fréchet and kernel Inception distance between originals and results; 0 is the same set.

    FID grows as sets shrink: compare only sets of one size. KID does not, and comes with its spread over subsets.

    Args:
        path (`Path`, *optional*): torch-fidelity's Inception weights; by default what torch's cache holds.

    Raises:
        MissingModelError: if torchmetrics, torch-fidelity or the weights are not there.
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
        """See `measures.SetMeasure`: "FID", "KID" and "KID spread"; empty for fewer than four pictures."""
        features = [inception_features(self.network, images) for images in (originals, anonymized)]
        return distances(*features)


class MUSIQ:
    """Image quality by MUSIQ through pyiqa, which is for noncommercial use and which the user has installed.

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
    """The anonymized picture with the original's pixels wherever the mask reaches, so that no window looks into it."""
    return np.where(mask[..., None] > 0.0, original, anonymized)


def outside(values: np.ndarray, mask: np.ndarray) -> float:
    """The mean of an (H, W) map where the mask is 0; NaN if it is nowhere."""
    free = mask <= 0.0
    return float(values[free].mean()) if free.any() else float("nan")


@torch.no_grad()
def inception_features(network: Any, images: Iterable[np.ndarray]) -> torch.Tensor:
    """(N, 2048) float64 features of (H, W, 3) uint8 images of any sizes, one after the other."""
    features = [network(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])[0] for image in images]
    return torch.stack(features).double()


def distances(originals: torch.Tensor, anonymized: torch.Tensor) -> dict[str, float]:
    """FID and KID between (N, D) and (M, D) features, by torchmetrics."""
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    smallest = min(len(originals), len(anonymized))
    if smallest < SMALLEST_SET:
        return {}
    # Both are told features in place of pictures, so that each picture is looked at once.
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
    """(N,) what a network of pyiqa says of (H, W, 3) uint8 images."""
    pixels = (torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255.0 for image in images)
    with torch.no_grad():
        return np.array([float(network(picture)) for picture in pixels])


def quality_change(name: str, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """The paper's distance, which is that of the means, so that errors of opposite sign cancel, and that of the pairs.

    Args:
        before, after (`np.ndarray`): (N,) scores of the originals and of the anonymized pictures, in one order.
    """
    return {
        name: float(after.mean()),
        f"{name} of the originals": float(before.mean()),
        f"{name} distance of the means": float(abs(after.mean() - before.mean())),
        f"{name} mean distance": float(np.abs(after - before).mean()),
    }


def require(module: str, packages: str) -> None:
    """Raises MissingModelError unless a package is installed."""
    if find_spec(module) is None:
        raise MissingModelError(f"needs packages: pip install {packages}")


def weights_file(path: Path | str | None, name: str, option: str) -> Path:
    """The file given, or that in torch's cache.

    Raises:
        MissingModelError: if it is not there.
    """
    file = Path(path) if path is not None else Path(torch.hub.get_dir()) / "checkpoints" / name
    if not file.is_file():
        raise MissingModelError(
            f"needs {name}: --weights {option}=FILE" + ("" if path is None else f" ({path} is not a file)")
        )
    return file
