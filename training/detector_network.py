"""Network of nullface-tiny's detector, with the outputs of an SCRFD at strides 8, 16 and 32."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


STRIDES = (8, 16, 32)
ANCHORS = 2
ANCHOR_SIZES = ((16, 32), (64, 128), (256, 512))  # face sides in px of the anchors of each stride
SCORE_SHIFT = -1.8  # of the exported logits, so that a threshold of 0.5 gives about 2 % false boxes in training
OUTPUT_WIDTHS = {"score": 1, "box": 4, "keypoints": 10}


def convolution(channels_in: int, channels: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """3 x 3 convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """Residual block of one 3 x 3 convolution."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv = convolution(channels, channels, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Head(nn.Module):
    """Head of one stride: logits, boxes and keypoints, with distances in units of the stride.

    Internally, distances are in units of the anchor's size, so that all sizes have similar targets.
    """

    unit: Tensor

    def __init__(self, channels: int, stride: int, anchor_sizes: tuple[int, int]) -> None:
        super().__init__()
        self.features = convolution(channels, channels)
        # Keypoints need more capacity than scores; at stride 8, it would cost too much time.
        self.shape = Residual(channels) if stride > STRIDES[0] else nn.Identity()
        self.outputs = nn.ModuleDict(
            {name: nn.Conv2d(channels, ANCHORS * width, 1) for name, width in OUTPUT_WIDTHS.items()}
        )
        nn.init.constant_(self.outputs["score"].get_parameter("bias"), -4.0)
        nn.init.constant_(self.outputs["box"].get_parameter("bias"), 0.5)
        self.register_buffer("unit", torch.tensor(anchor_sizes).float() / stride, persistent=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) to {name: (N, H * W * 2, width)}, cell by cell with adjacent anchors."""
        features = self.features(x)
        shape = self.shape(features)
        result = {}
        for name, width in OUTPUT_WIDTHS.items():
            y = self.outputs[name](features if name == "score" else shape).permute(0, 2, 3, 1)
            if name != "score":
                y = y * self.unit.repeat_interleave(width)
            result[name] = y.reshape(x.shape[0], -1, width)
        return result


class DetectorNetwork(nn.Module):
    """(N, 3, H, W) float32 RGB in about [-1, 1], sides multiples of 32, to outputs by stride."""

    def __init__(self, widths: tuple[int, ...] = (32, 48, 96, 160), neck: int = 64) -> None:
        super().__init__()
        # One strided convolution: a stage at higher resolution would double the time.
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 7, stride=4, padding=3, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.stage8 = nn.Sequential(convolution(widths[0], widths[1], stride=2), Residual(widths[1]))
        self.stage16 = nn.Sequential(
            convolution(widths[1], widths[2], stride=2), Residual(widths[2]), Residual(widths[2])
        )
        self.stage32 = nn.Sequential(
            convolution(widths[2], widths[3], stride=2),
            Residual(widths[3]),
            Residual(widths[3], dilation=2),
            Residual(widths[3], dilation=3),
            Residual(widths[3]),
        )
        self.laterals = nn.ModuleList(nn.Conv2d(width, neck, 1) for width in widths[1:])
        self.heads = nn.ModuleList(Head(neck, stride, sizes) for stride, sizes in zip(STRIDES, ANCHOR_SIZES))

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        c8 = self.stage8(self.stem(x))
        c16 = self.stage16(c8)
        p8, p16, p32 = (lateral(c) for lateral, c in zip(self.laterals, (c8, c16, self.stage32(c16))))
        p16 = p16 + F.interpolate(p32, scale_factor=2.0, mode="nearest")
        p8 = p8 + F.interpolate(p16, scale_factor=2.0, mode="nearest")
        return [head(p) for head, p in zip(self.heads, (p8, p16, p32))]


class ExportedDetector(nn.Module):
    """Network with InsightFace's nine outputs: scores, boxes, keypoints, each by stride."""

    def __init__(self, network: DetectorNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        levels = self.network(x)
        return tuple(
            ((level[name] + SCORE_SHIFT).sigmoid() if name == "score" else level[name]).reshape(-1, width)
            for name, width in OUTPUT_WIDTHS.items()
            for level in levels
        )
