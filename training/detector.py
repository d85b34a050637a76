"""The face detector of nullface-tiny: an SCRFD-type network that InsightFace's own `SCRFD` class runs.

Nine outputs: scores, boxes and five keypoints at strides 8, 16 and 32, two anchors a cell. The training scenes are
composed: portraits at many sizes, whole or cut out, one to eight in a scene, on clothing, flags, textures and clutter.

    python -m training.detector --minutes 42           # train, export, evaluate; goes on where it stopped
    python -m training.detector export
    python -m training.detector evaluate
"""

import argparse
import json
import logging
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from insightface.model_zoo.scrfd import SCRFD
from rich.progress import track
from skimage import data as skimage_data
from torch import Tensor, nn
from torch.nn import functional as F

from training import augmentation
from training.loop import Budget, Every, cosine_rate, part_parser, resume, run_part, save_checkpoint
from training.onnx_weights import store_as_half
from training.portraits import Portrait, five_points, load_portraits


STRIDES = (8, 16, 32)
ANCHORS = 2
ANCHOR_SIZES = ((16, 32), (64, 128), (256, 512))  # side in px of the faces each anchor of each stride is for
SMALLEST_FACE = 13.0  # side in px; smaller ones are neither wanted nor wrong
SCORE_SHIFT = -1.8  # of the exported logits: at 0.5, false boxes are then about 2 % of the faces on training portraits
OUTPUT_WIDTHS = {"score": 1, "box": 4, "keypoints": 10}
PIXEL_MEAN, PIXEL_STD = 127.5, 128.0  # as InsightFace's SCRFD feeds its network

# Scene side in px, scenes in a batch on a CPU, how often: all batches cost about the same.
SCENES = ((192, 24, 0.2), (256, 12, 0.3), (320, 8, 0.2), (448, 4, 0.15), (640, 2, 0.15))

PICTURES = ("astronaut", "camera", "chelsea", "coffee", "rocket")  # one face, one in profile, and three without
TEXTURES = ("brick", "grass", "gravel", "page", "moon", "hubble_deep_field", "immunohistochemistry")
OUTPUT = Path("nullface_pipeline/tiny/face_models/detector.onnx")

logger = logging.getLogger("training.detector")


# --- network ---------------------------------------------------------------------------------------------------------


def convolution(channels_in: int, channels: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    """3 x 3 convolution, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
    )


class Residual(nn.Module):
    """One 3 x 3 convolution beside the identity."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.conv = convolution(channels, channels, dilation=dilation)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Head(nn.Module):
    """Scores (logits), boxes and keypoints of one stride; distances in units of the stride.

    The raw box and keypoint channels are in units of each anchor's size, so that their targets are alike at all sizes.
    """

    unit: Tensor

    def __init__(self, channels: int, stride: int, anchor_sizes: tuple[int, int]) -> None:
        super().__init__()
        self.features = convolution(channels, channels)
        self.outputs = nn.ModuleDict(
            {name: nn.Conv2d(channels, ANCHORS * width, 1) for name, width in OUTPUT_WIDTHS.items()}
        )
        nn.init.constant_(self.outputs["score"].get_parameter("bias"), -4.0)
        nn.init.constant_(self.outputs["box"].get_parameter("bias"), 0.5)
        self.register_buffer("unit", torch.tensor(anchor_sizes).float() / stride, persistent=False)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) to {name: (N, H * W * 2, width)}, cells row by row, their two anchors side by side."""
        x = self.features(x)
        result = {}
        for name, width in OUTPUT_WIDTHS.items():
            y = self.outputs[name](x).permute(0, 2, 3, 1)
            if name != "score":
                y = y * self.unit.repeat_interleave(width)
            result[name] = y.reshape(x.shape[0], -1, width)
        return result


class DetectorNetwork(nn.Module):
    """(N, 3, H, W) float32 RGB in about [-1, 1], H and W multiples of 32, to the outputs of the three strides."""

    def __init__(self, widths: tuple[int, ...] = (32, 48, 96, 128), neck: int = 48) -> None:
        super().__init__()
        # One strided convolution: a finer stage would cost as much time as all the rest.
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
    """One image in, the nine outputs in the order InsightFace reads them: scores, boxes, keypoints, each by stride."""

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


# --- scenes ----------------------------------------------------------------------------------------------------------


def face_outline(landmarks: np.ndarray, forehead: float = 0.7) -> np.ndarray:
    """(27, 2) outline of a face: jaw line, and the brows raised towards the hairline.

    The iBUG points stop at the brows. Hairline to brow is about as far as brow to the base of the nose; the detector's
    box, like those of WIDER FACE, goes up to 0.7 of that.
    """
    up = landmarks[17:27].mean(axis=0) - landmarks[33]
    return np.concatenate([landmarks[:17], landmarks[17:27] + forehead * up])


def bounding_box(points: np.ndarray) -> np.ndarray:
    """(4,) x0, y0, x1, y1 of (N, 2) points."""
    return np.concatenate([points.min(axis=0), points.max(axis=0)])


@dataclass
class Scene:
    """A composed training picture.

    Attributes:
        image (`np.ndarray`): (S, S, 3) uint8 RGB.
        boxes, keypoints (`list`): (4,) and (5, 2) float of every face, px, from forehead to chin.
        visible (`list`): False for faces that are cut off too much to be either wanted or wrong.
    """

    image: np.ndarray
    boxes: list[np.ndarray] = field(default_factory=list)
    keypoints: list[np.ndarray] = field(default_factory=list)
    visible: list[bool] = field(default_factory=list)


class SceneComposer:
    """Draws training scenes from decoded portraits."""

    def __init__(self, portraits: list[Portrait]) -> None:
        self.images = [portrait.image() for portrait in track(portraits, "decoding")]
        self.landmarks = [portrait.landmarks for portrait in portraits]
        self.textures = [
            cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image[..., :3]
            for image in (getattr(skimage_data, name)() for name in TEXTURES)
        ]

    def scene(self, size: int, rng: np.random.Generator) -> Scene:
        """One scene of `size` px with 0 to 8 faces."""
        scene = Scene(self._background(size, rng))
        if rng.random() < 0.4:
            # A portrait as it is: the face takes much of the picture.
            self._place(scene, rng, size * rng.uniform(0.25, 0.95), whole=True)
        elif rng.random() < 0.9:
            largest = size * rng.uniform(0.15, 0.6)
            for _ in range(int(rng.integers(1, 9))):
                self._place(
                    scene, rng, np.exp(rng.uniform(np.log(SMALLEST_FACE), np.log(largest))), rng.random() < 0.4
                )
        return self._finish(scene, rng)

    def _place(self, scene: Scene, rng: np.random.Generator, face_size: float, whole: bool) -> None:
        """Paste a portrait, all of it or only the head, so that its face is `face_size` px; give up if in the way."""
        size = scene.image.shape[0]
        number = int(rng.integers(len(self.images)))
        image, landmarks = self.images[number], self.landmarks[number]
        if rng.random() < 0.5:
            image, landmarks = augmentation.mirrored(image, landmarks)
        box = bounding_box(face_outline(landmarks))
        scale = face_size / np.sqrt(np.prod(box[2:] - box[:2]))
        if scale < 0.7:
            shrunk = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            factor = np.array(shrunk.shape[1::-1]) / image.shape[1::-1]
            image, landmarks, scale = shrunk, (landmarks + 0.5) * factor - 0.5, 1.0
        if not whole:
            image, landmarks = head_only(image, landmarks)
        matrix = cv2.getRotationMatrix2D((0, 0), float(np.clip(rng.normal(0.0, 14.0), -40, 40)), scale)
        centre = matrix[:, :2] @ bounding_box(face_outline(landmarks)).reshape(2, 2).mean(axis=0)
        reach = 0.5 * min(face_size, size) if rng.random() < 0.85 else 0.1 * face_size
        matrix[:, 2] = rng.uniform(min(reach, size / 2), max(size - reach, size / 2), size=2) - centre

        points = landmarks @ matrix[:, :2].T + matrix[:, 2]
        new_box = bounding_box(face_outline(points))
        corners = np.array([[0, 0], [image.shape[1], 0], [image.shape[1], image.shape[0]], [0, image.shape[0]]])
        tile = bounding_box(corners @ matrix[:, :2].T + matrix[:, 2])
        if any(covered_share(box, tile) > 0.05 for box in scene.boxes):
            return
        if not whole or rng.random() < 0.3:
            image = augmentation.random_style(image, rng)
        paste(scene.image, image, matrix, head_mask(image, landmarks) if not whole else None)
        scene.boxes.append(new_box)
        scene.keypoints.append(five_points(points))
        scene.visible.append(covered_share(new_box, np.array([0, 0, size, size])) > 0.7)

    def _background(self, size: int, rng: np.random.Generator) -> np.ndarray:
        """(size, size, 3) uint8 without a face: plain, a texture, a face-free part of a portrait, or a mosaic."""
        kind = rng.random()
        if kind < 0.15:
            canvas: np.ndarray = np.zeros((size, size, 3), np.uint8)  # InsightFace pads with black
        elif kind < 0.3:
            coarse = rng.integers(0, 256, (int(rng.integers(2, 24)),) * 2 + (3,), dtype=np.uint8)
            canvas = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_LINEAR)
        elif kind < 0.45:
            canvas = random_part(self.textures[int(rng.integers(len(self.textures)))], (size, size), rng)
        else:
            canvas = self._mosaic(size, rng, parts=int(np.exp(rng.uniform(0.0, np.log(30.0)))))
        if rng.random() < 0.5:
            clutter(canvas, rng)
        return canvas

    def _mosaic(self, size: int, rng: np.random.Generator, parts: int) -> np.ndarray:
        canvas = self._faceless_part((size, size), rng)
        for _ in range(parts - 1):
            # Small pieces keep their detail; large ones are enlarged and soft.
            w, h = (int(side) for side in np.exp(rng.uniform(np.log(12.0), np.log(size), size=2)))
            x, y = int(rng.integers(0, size - w + 1)), int(rng.integers(0, size - h + 1))
            canvas[y : y + h, x : x + w] = self._faceless_part((w, h), rng)
        return canvas

    def _faceless_part(self, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
        """What is below, left or right of a face in some portrait, enlarged to (width, height)."""
        number = int(rng.integers(len(self.images)))
        image = self.images[number]
        x0, y0, x1, y1 = bounding_box(face_outline(self.landmarks[number], forehead=1.5)).astype(int)
        gap = (y1 - y0) // 10
        parts = [image[y1 + gap :], image[:, : max(0, x0 - gap)], image[:, x1 + gap :]]
        parts = [part for part in parts if min(part.shape[:2]) >= 24]
        if not parts:
            return np.full((size[1], size[0], 3), rng.integers(0, 256, 3), np.uint8)
        return random_part(parts[int(rng.integers(len(parts)))], size, rng)

    def _finish(self, scene: Scene, rng: np.random.Generator) -> Scene:
        """Changes of the whole picture."""
        image = augmentation.random_style(scene.image, rng) if rng.random() < 0.5 else scene.image
        if rng.random() < 0.15:
            image = augmentation.blur(image, rng, largest_sigma=1.2)
        if rng.random() < 0.15:
            image = augmentation.noise(image, rng)
        if rng.random() < 0.15:
            image = augmentation.jpeg(image, rng)
        scene.image = image
        return scene


def head_only(image: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut the part of the picture that `head_mask` needs."""
    x0, y0, x1, y1 = bounding_box(face_outline(landmarks, forehead=1.6))
    reach = 0.25 * (x1 - x0)
    height, width = image.shape[:2]
    left, top = int(max(0, x0 - reach)), int(max(0, y0 - 0.4 * reach))
    right, bottom = int(min(width, x1 + reach)), int(min(height, y1 + reach))
    return image[top:bottom, left:right], landmarks - (left, top)


def head_mask(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(H, W) float32: 1 on face and hair, falling softly to 0 around them and at the picture's edge."""
    outline = face_outline(landmarks, forehead=1.3)
    centre = outline.mean(axis=0)
    mask = np.zeros(image.shape[:2], np.float32)
    cv2.fillConvexPoly(mask, cv2.convexHull((centre + 1.12 * (outline - centre)).astype(np.int32)), 1.0)
    return cv2.GaussianBlur(mask, (0, 0), max(0.6, 0.03 * image.shape[1]), borderType=cv2.BORDER_CONSTANT)


def paste(canvas: np.ndarray, image: np.ndarray, matrix: np.ndarray, mask: np.ndarray | None) -> None:
    """Warp `image` onto `canvas` in place; without a mask all of it."""
    height, width = image.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) @ matrix[:, :2].T + matrix[:, 2]
    low = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
    high = np.minimum(np.ceil(corners.max(axis=0)).astype(int), canvas.shape[1::-1])
    if (high <= low).any():
        return
    local = matrix.copy()
    local[:, 2] -= low
    size = tuple(int(side) for side in high - low)
    mask = np.ones((height, width), np.float32) if mask is None else mask
    weight = cv2.warpAffine(mask, local, size)
    warped = cv2.warpAffine(image, local, size, borderMode=cv2.BORDER_REPLICATE)
    region = canvas[low[1] : high[1], low[0] : high[0]]
    region[:] = cv2.blendLinear(warped, np.ascontiguousarray(region), weight, 1.0 - weight)


def covered_share(box: np.ndarray, cover: np.ndarray) -> float:
    """Share of `box` that lies under the box `cover`."""
    inside = np.minimum(box[2:], cover[2:]) - np.maximum(box[:2], cover[:2])
    return float(np.prod(np.maximum(inside, 0.0)) / np.prod(box[2:] - box[:2]))


def random_part(image: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A random part of a picture, perhaps mirrored, scaled to (width, height)."""
    h, w = (int(side * rng.uniform(0.4, 1.0)) for side in image.shape[:2])
    y, x = int(rng.integers(0, image.shape[0] - h + 1)), int(rng.integers(0, image.shape[1] - w + 1))
    part = image[y : y + h, x : x + w]
    flip = int(rng.integers(0, 3))
    part = part if flip == 0 else part[:, ::-1] if flip == 1 else part[::-1]
    shrinking = w > size[0]
    return cv2.resize(part, size, interpolation=cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR)


def clutter(canvas: np.ndarray, rng: np.random.Generator) -> None:
    """Draw shapes, lines and letters on the canvas, some of them as skin-coloured and round as faces."""
    size = canvas.shape[0]
    for _ in range(int(rng.integers(1, 16))):
        colour = rng.integers(0, 256, 3).tolist()
        if rng.random() < 0.4:
            colour = (np.array([224, 172, 140]) * rng.uniform(0.3, 1.1)).clip(0, 255).tolist()
        at = tuple(rng.integers(0, size, 2).tolist())
        extent = tuple(rng.integers(2, size // 4, 2).tolist())
        kind = int(rng.integers(4))
        if kind == 0:
            cv2.ellipse(canvas, at, extent, float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
            for _ in range(int(rng.integers(0, 5))):  # badges, cups, wheels
                inner = [
                    (int(a + e * rng.normal(0.0, 0.4)), max(1, int(e * rng.uniform(0.1, 0.7))))
                    for a, e in zip(at, extent)
                ]
                colour = rng.integers(0, 256, 3).tolist()
                centre, axes = zip(*inner)
                cv2.ellipse(
                    canvas, centre, axes, float(rng.uniform(0, 180)), 0, 360, colour, int(rng.integers(-1, 4)) or 1
                )
        elif kind == 1:
            cv2.rectangle(canvas, at, (at[0] + extent[0], at[1] + extent[1]), colour, -1)
        elif kind == 2:
            cv2.line(canvas, at, tuple(rng.integers(0, size, 2).tolist()), colour, int(rng.integers(1, 8)))
        else:
            word = "".join(chr(c) for c in rng.integers(33, 127, int(rng.integers(1, 12))))
            cv2.putText(canvas, word, at, int(rng.integers(8)), rng.uniform(0.3, 3.0), colour, int(rng.integers(1, 5)))


# --- targets and loss ------------------------------------------------------------------------------------------------


@dataclass
class Targets:
    """What the network should say about one batch, anchors of all strides in one row of length A.

    Attributes:
        score (`Tensor`): (N, A) float32: 1 face, 0 none, -1 does not matter.
        box (`Tensor`): (N, A, 4) float32, x0, y0, x1, y1 in px; meaningful where the score is 1.
        keypoints (`Tensor`): (N, A, 10) float32, px.
    """

    score: Tensor
    box: Tensor
    keypoints: Tensor


@lru_cache
def anchor_grid(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (A, 2), strides (A,) and anchor sizes (A,) in px of a (size, size) picture, in the outputs' order."""
    centres, strides, sizes = [], [], []
    for stride, anchor_sizes in zip(STRIDES, ANCHOR_SIZES):
        cells = size // stride
        y, x = np.mgrid[:cells, :cells]
        grid = np.stack([x, y], axis=-1).reshape(-1, 2) * stride
        centres.append(np.repeat(grid, ANCHORS, axis=0))
        strides.append(np.full(cells * cells * ANCHORS, stride))
        sizes.append(np.tile(anchor_sizes, cells * cells))
    parts = (np.concatenate(part).astype(np.float32) for part in (centres, strides, sizes))
    return next(parts), next(parts), next(parts)


def scene_targets(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores (A,), boxes (A, 4) and keypoints (A, 10) wanted for one scene.

    A face belongs to the anchors near its centre whose size is within a factor 1.6 of its own; anchors a little
    further away, in place or size, do not matter.
    """
    centres, strides, sizes = anchor_grid(scene.image.shape[0])
    score = np.zeros(len(sizes), np.float32)
    boxes = np.zeros((len(sizes), 4), np.float32)
    keypoints = np.zeros((len(sizes), 10), np.float32)
    for box, points, visible in zip(scene.boxes, scene.keypoints, scene.visible):
        side = np.sqrt(np.prod(box[2:] - box[:2]))
        distance = np.abs(centres - (box[:2] + box[2:]) / 2).max(axis=1)
        ratio = np.abs(np.log(sizes / side))
        near = np.maximum(0.6 * strides, 0.15 * side)
        mine = (distance <= near) & (ratio <= np.log(1.6))
        around = (distance <= 2.0 * near) & (ratio <= np.log(2.5)) & (score == 0)
        score[around] = -1.0
        if visible and side >= SMALLEST_FACE:
            score[mine], boxes[mine], keypoints[mine] = 1.0, box, points.ravel()
    return score, boxes, keypoints


def batch_targets(scenes: list[Scene], device: torch.device) -> Targets:
    parts = zip(*(scene_targets(scene) for scene in scenes))
    return Targets(*(torch.from_numpy(np.stack(part)).to(device) for part in parts))


def detection_loss(levels: list[dict[str, Tensor]], targets: Targets, size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Focal loss on the scores, IoU and distance loss on boxes, distance loss on keypoints.

    The focal exponent is only 0.5: with the usual 2, boxes that are hardly ever faces still score 0.3 to 0.5.
    """
    device = targets.score.device
    centres, strides, _ = (torch.from_numpy(part).to(device) for part in anchor_grid(size))
    logits = torch.cat([level["score"] for level in levels], dim=1)[..., 0]
    wanted, matters = targets.score.clamp(min=0.0), targets.score >= 0
    error = (torch.sigmoid(logits.detach()) - wanted).abs()
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    faces = targets.score == 1
    count = faces.sum().clamp(min=1)
    score_loss = (entropy * error.sqrt() * matters).sum() / count

    pick = faces.nonzero(as_tuple=True)
    at, stride = centres[pick[1]], strides[pick[1], None]
    distances = torch.cat([level["box"] for level in levels], dim=1)[pick] * stride
    box = torch.cat([at - distances[:, :2], at + distances[:, 2:]], dim=1)
    points = torch.cat([level["keypoints"] for level in levels], dim=1)[pick] * stride + at.repeat(1, 5)
    true_box, true_points = targets.box[pick], targets.keypoints[pick]
    side = (true_box[:, 2:] - true_box[:, :2]).prod(dim=1, keepdim=True).sqrt()
    iou_loss = (1.0 - overlap(box, true_box)).sum() / count
    box_loss = F.smooth_l1_loss(box / side, true_box / side, reduction="sum", beta=0.05) / count
    point_loss = F.smooth_l1_loss(points / side, true_points / side, reduction="sum", beta=0.02) / count
    parts = {"score": score_loss, "iou": iou_loss, "box": box_loss, "keypoints": point_loss}
    return score_loss + iou_loss + box_loss + 3.0 * point_loss, parts


def overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """(N,) intersection over union of (N, 4) boxes, pair by pair."""
    inside = (torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2])).clamp(min=0)
    areas = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(dim=1) for b in (boxes, others)]
    shared = inside.prod(dim=1)
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-6)


# --- training --------------------------------------------------------------------------------------------------------


def to_input(images: list[np.ndarray], device: torch.device) -> Tensor:
    """Stack (S, S, 3) uint8 pictures to the network's (N, 3, S, S) float32 input."""
    batch = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)
    return ((batch.float() - PIXEL_MEAN) / PIXEL_STD).contiguous(memory_format=torch.channels_last)


def train(args: argparse.Namespace) -> None:
    """Train for `args.minutes` of wall-clock time in all, counted over stops and resumes."""
    device = torch.device(args.device)
    composer = SceneComposer(load_portraits(args.data, "train"))
    torch.manual_seed(args.seed)
    network = DetectorNetwork().to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.learning_rate, weight_decay=0.01)
    checkpoint = args.runs / "detector.pt"
    spent, step = resume(checkpoint, network, optimizer, device)

    def save() -> None:
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(checkpoint, state | {"spent": budget.spent, "step": step})

    budget, log, history = Budget(args.minutes, spent), Every(30), []
    rng = np.random.default_rng((args.seed, step))
    network.train()
    while budget.fraction < 1.0:
        optimizer.param_groups[0]["lr"] = cosine_rate(args.learning_rate, budget.fraction, step)
        size, count, _ = SCENES[rng.choice(len(SCENES), p=[share for _, _, share in SCENES])]
        scenes = [composer.scene(size, rng) for _ in range(count * args.batch_factor)]
        levels = network(to_input([scene.image for scene in scenes], device))
        loss, parts = detection_loss(levels, batch_targets(scenes, device), size)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        history.append(torch.stack([part.detach() for part in parts.values()]))
        step += 1
        if log():
            figures = zip(parts, torch.stack(history).mean(dim=0).tolist())
            shown = "  ".join(f"{name} {value:.3f}" for name, value in figures)
            logger.info("%5.1f %%  step %d  %s", 100.0 * budget.fraction, step, shown)
            save()
            history.clear()
    save()


# --- export ----------------------------------------------------------------------------------------------------------


def export(args: argparse.Namespace) -> None:
    """Write the checkpoint as an SCRFD-type ONNX file with a free input size."""
    network = DetectorNetwork()
    network.load_state_dict(torch.load(args.runs / "detector.pt", map_location="cpu", weights_only=True)["network"])
    args.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.output.with_suffix(".part")
    names = [f"{name}_{stride}" for name in OUTPUT_WIDTHS for stride in STRIDES]
    torch.onnx.export(
        ExportedDetector(network).eval(),
        (torch.zeros(1, 3, 320, 256),),
        str(temporary),
        input_names=["input"],
        output_names=names,
        dynamic_axes={"input": {2: "height", 3: "width"}} | {name: {0: f"anchors_{name}"} for name in names},
        dynamo=False,
    )
    model = store_as_half(onnx.load(temporary))
    onnx.checker.check_model(model)
    onnx.save(model, temporary)
    os.replace(temporary, args.output)
    logger.info("wrote %s, %.2f MB", args.output, args.output.stat().st_size / 1e6)


# --- evaluation ------------------------------------------------------------------------------------------------------


def evaluate(args: argparse.Namespace) -> None:
    """Run InsightFace's SCRFD class with the exported file on validation portraits and composed scenes."""
    portraits = load_portraits(args.data, "validation")
    single = [
        Scene(face.image(), [bounding_box(face_outline(face.landmarks))], [face.keypoints()], [True])
        for face in portraits
    ]
    composer, rng = SceneComposer(portraits), np.random.default_rng(args.seed)
    groups = [composer.scene(640, rng) for _ in range(150)]
    detector = SCRFD(str(args.output))
    metrics: dict[str, Any] = {}
    for name, scenes in (("portraits", single), ("groups", groups)):
        for sizes_name, sizes in (("640", (640, 640)), ("default", (0, 0))):
            detector.prepare(-1, input_size=sizes, det_thresh=0.3)
            metrics[f"{name}_{sizes_name}"] = measure(detector, scenes)
    metrics["pictures"] = {name: picture_scores(detector, name) for name in PICTURES}
    metrics["file_bytes"] = args.output.stat().st_size
    (args.runs / "detector_metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))


def picture_scores(detector: SCRFD, name: str) -> list[float]:
    """Scores above 0.3 on a picture of scikit-image, at InsightFace's default sizes, best first."""
    image = getattr(skimage_data, name)()
    image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image
    detector.prepare(-1, input_size=(0, 0), det_thresh=0.3)
    boxes, _ = detector.detect(np.ascontiguousarray(image[..., ::-1]))
    return [round(float(score), 3) for score in boxes[:, 4]]


def measure(detector: SCRFD, scenes: list[Scene]) -> dict[str, float]:
    """Recall at IoU 0.5 and false boxes (in % of the faces) at three thresholds, and the keypoints' mean error.

    The keypoint error is in % of the eye distance, over the faces found at 0.5. Cut-off faces count neither way.
    """
    found_scores, false_scores, errors = [], [], []
    for scene in scenes:
        boxes, points = detector.detect(np.ascontiguousarray(scene.image[..., ::-1]))
        taken = np.zeros(len(boxes), bool)
        for true_box, true_points, visible in zip(scene.boxes, scene.keypoints, scene.visible):
            true = torch.from_numpy(true_box).float().expand(len(boxes), 4)
            ious = overlap(torch.from_numpy(boxes[:, :4]).float(), true).numpy() if len(boxes) else np.zeros(0)
            best = int(ious.argmax()) if len(ious) else -1
            hit = best >= 0 and ious[best] >= 0.5
            taken |= ious > (0.4 if visible else 0.1)
            if visible:
                found_scores.append(boxes[best, 4] if hit else 0.0)
                if hit and boxes[best, 4] >= 0.5:
                    eyes = np.linalg.norm(true_points[0] - true_points[1])
                    errors.append(np.linalg.norm(points[best] - true_points, axis=1).mean() / eyes)
        false_scores.extend(boxes[~taken, 4])
    found, false = np.array(found_scores), np.array(false_scores)
    result = {"faces": len(found), "keypoint_error_percent": 100.0 * float(np.mean(errors))}
    for threshold in (0.3, 0.5, 0.7):
        result[f"recall_{threshold}"] = float((found >= threshold).mean())
        result[f"false_percent_{threshold}"] = 100.0 * float((false >= threshold).sum() / len(found))
    return result


def main() -> None:
    parser = part_parser("Train, export and evaluate the detector.", OUTPUT)
    parser.add_argument("--minutes", type=float, default=42.0, help="wall-clock budget of the training")
    parser.add_argument("--batch-factor", type=int, default=1, help="multiplies the batch sizes, for a GPU")
    args = parser.parse_args()
    run_part(args, args.runs, train=train, export=export, evaluate=evaluate)


if __name__ == "__main__":
    main()
