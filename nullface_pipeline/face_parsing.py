"""Face parsing into named regions, and the mask of what may change."""

import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from .face_regions import CELEBAMASK_LABELS, FACE_REGIONS, REGIONS
from .protocols import FaceSegmenter


BISENET_URL = "https://github.com/xinntao/facexlib/releases/download/v0.2.0/parsing_bisenet.pth"
BISENET_SHA256 = "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567"
BISENET_SIZE = 512
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class FaceParser:
    """Semantic segmentation network with CelebAMask-HQ label names: an image in, labels out.

    Args:
        model (`torch.nn.Module`): takes (1, 3, size, size) float and returns logits of any
            resolution: a tensor, a tuple that begins with one (BiSeNet), or an object with
            `.logits` (transformers).
        labels (`Iterable[str]`): label names in the order of the logits' channels.
        size (`int`): side that pictures are scaled to.
        mean, std (`tuple[float, float, float]`): normalisation of RGB values in [0, 1].
    """

    def __init__(
        self,
        model: torch.nn.Module,
        labels: Iterable[str],
        size: int,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ):
        self.model = model.eval()
        self.labels = tuple(labels)
        self.size = size
        self.mean = torch.tensor(mean).view(1, 3, 1, 1)
        self.std = torch.tensor(std).view(1, 3, 1, 1)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Label every pixel of an (H, W, 3) uint8 RGB image; returns (H, W) int64 into `labels`."""
        height, width = image.shape[:2]
        parameter = next(self.model.parameters())
        scaled = Image.fromarray(image).resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(scaled)).permute(2, 0, 1)[None].float() / 255.0  # (1, 3, size, size)
        output = self.model(((pixels - self.mean) / self.std).to(parameter.device, parameter.dtype))
        if isinstance(output, (tuple, list)):
            output = output[0]
        logits: torch.Tensor = getattr(output, "logits", output)
        logits = torch.nn.functional.interpolate(logits.float(), (height, width), mode="bilinear")
        return logits.argmax(dim=1)[0].cpu().numpy()


def load_face_parser(
    source: str | Path | FaceSegmenter = "bisenet", device: str | torch.device = "cpu"
) -> FaceSegmenter:
    """Load a face parser, or return the ready one given.

    Args:
        source (`str`, `Path` or callable): "bisenet" for facexlib's BiSeNet, fetched once and
            checked against its SHA-256; a `.pth` file of its weights; a folder or Hub name of a
            transformers semantic-segmentation model with CelebAMask-HQ label names; or an object
            that works like `FaceParser`.

    Raises:
        ImportError: if facexlib is wanted and not installed.
        ValueError: if the model's labels are not CelebAMask-HQ's.
    """
    if not isinstance(source, (str, Path)):
        return source
    if str(source) == "bisenet" or Path(source).suffix == ".pth":
        return _load_bisenet(None if str(source) == "bisenet" else Path(source), device)
    return _load_transformers_parser(str(source), device)


def _load_bisenet(weights: Path | None, device: str | torch.device) -> FaceParser:
    if importlib.util.find_spec("facexlib") is None:
        raise ImportError("facexlib is needed for its face parser: `pip install facexlib`.")
    model = importlib.import_module("facexlib.parsing.bisenet").BiSeNet(num_class=len(CELEBAMASK_LABELS))
    state_dict = torch.load(weights or fetch_bisenet_weights(), map_location="cpu", weights_only=True)
    model.load_state_dict(state_dict)
    return FaceParser(model.to(device), CELEBAMASK_LABELS, BISENET_SIZE)


def bisenet_path() -> Path:
    """Path of facexlib's published weights in torch's cache."""
    return Path(torch.hub.get_dir()) / "checkpoints" / "parsing_bisenet.pth"


def fetch_bisenet_weights() -> Path:
    """Path of facexlib's BiSeNet weights in torch's cache; downloaded and verified when absent."""
    path = bisenet_path()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(BISENET_URL, str(path), hash_prefix=BISENET_SHA256)
    return path


def _load_transformers_parser(source: str, device: str | torch.device) -> FaceParser:
    transformers = importlib.import_module("transformers")
    processor = transformers.AutoImageProcessor.from_pretrained(source)
    model = transformers.AutoModelForSemanticSegmentation.from_pretrained(source).to(device)
    labels = [model.config.id2label[index] for index in range(model.config.num_labels)]
    unknown = {name for names in REGIONS.values() for name in names} - set(labels)
    if unknown:
        raise ValueError(
            f"The parser {source!r} lacks the CelebAMask-HQ labels {sorted(unknown)}. Use 'bisenet' or a "
            "segmentation model trained on CelebAMask-HQ."
        )
    return FaceParser(model, labels, processor.size["height"], tuple(processor.image_mean), tuple(processor.image_std))


def region_mask(labels: np.ndarray, label_names: Iterable[str], regions: Iterable[str]) -> np.ndarray:
    """Union of named regions.

    Args:
        labels (`np.ndarray`): (H, W) int label map.
        label_names (`Iterable[str]`): names in the order of the label indices.
        regions (`Iterable[str]`): keys of `REGIONS`.

    Returns:
        `np.ndarray`: (H, W) bool.
    """
    wanted = {name for region in regions for name in REGIONS[region]}
    return np.isin(labels, [index for index, name in enumerate(label_names) if name in wanted])


def anonymization_mask(
    labels: np.ndarray, label_names: Iterable[str], keep: Iterable[str], softness: float = 0.01, margin: float = 0.0
) -> np.ndarray:
    """M of Eq. 4: 1 where the face may change, 0 on kept regions and outside, soft in between.

    Args:
        labels (`np.ndarray`): (H, W) int label map of an aligned face.
        keep (`Iterable[str]`): keys of `REGIONS` to keep unchanged.
        softness (`float`): standard deviation of the blurred edge, as a share of the image's
            height.
        margin (`float`): margin of the mask beyond the face, as a share of the image's height.

    Returns:
        `np.ndarray`: (H, W) float32 in [0, 1].
    """
    label_names = tuple(label_names)
    sigma = max(softness * labels.shape[0], 0.1)
    kept = region_mask(labels, label_names, keep)
    face = _dilate(region_mask(labels, label_names, FACE_REGIONS), margin * labels.shape[0])
    # The soft edge lies outside the kept regions; otherwise a narrow eye would be half changed.
    change = face & ~_dilate(kept, 2.0 * sigma)
    mask = np.clip(cv2.GaussianBlur(change.astype(np.float32), (0, 0), sigma), 0.0, 1.0)
    mask[kept] = 0.0
    return mask


def face_part_masks(parser: FaceSegmenter, faces: Sequence[np.ndarray], keep: Sequence[str]) -> np.ndarray:
    """M of Eq. 4 for aligned faces, by a face parser.

    Args:
        parser: an object that works like `FaceParser`.
        faces (`Sequence[np.ndarray]`): B of (H, W, 3) uint8 RGB.

    Returns:
        `np.ndarray`: (B, H, W) float32 in [0, 1].

    Raises:
        ValueError: if nothing may change in one of them.
    """
    masks = [anonymization_mask(parser(face), parser.labels, keep) for face in faces]
    for number, mask in enumerate(masks):
        if mask.max() < 0.5:
            raise ValueError(
                f"The face parser finds nothing to change in image {number}. Use an aligned face, keep fewer regions, "
                "or pass `mask_image`."
            )
    return np.stack(masks)


def _dilate(mask: np.ndarray, pixels: float) -> np.ndarray:
    """Grow an (H, W) bool mask by a rounded number of pixels to every side."""
    side = 2 * round(pixels) + 1
    return cv2.dilate(mask.astype(np.uint8), cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))) > 0
