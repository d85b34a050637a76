"""Train the face detector of nullface-tiny, an SCRFD network for InsightFace's `SCRFD` class.

It has nine outputs: scores, boxes and five keypoints at strides 8, 16 and 32, with two anchors per
cell. Training scenes are composed of portraits at many sizes.

    python -m training.detector --minutes 42           # train, export, evaluate; resumes
    python -m training.detector export
    python -m training.detector evaluate
"""

import argparse
import json
import logging
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from insightface.model_zoo.scrfd import SCRFD
from skimage import data as skimage_data
from torch import Tensor, nn
from torch.nn import functional as F

from training.detector_network import ANCHOR_SIZES, ANCHORS, OUTPUT_WIDTHS, STRIDES, DetectorNetwork, ExportedDetector
from training.detector_scenes import MIN_FACE, Scene, SceneComposer, bounding_box, face_outline
from training.loop import Budget, LossLog, Stateful, cosine_rate, option_parser, resume, run_tasks, save_checkpoint
from training.muon import MixedOptimizer
from training.onnx_export import export_onnx
from training.portraits import load_portraits


PIXEL_MEAN, PIXEL_STD = 127.5, 128.0  # of InsightFace's SCRFD class

# Scene side in px, batch size on a CPU and probability; all batches cost about the same.
SCENES = ((192, 24, 0.2), (256, 12, 0.3), (320, 8, 0.2), (448, 4, 0.15), (640, 2, 0.15))

PICTURES = (
    "astronaut",
    "camera",
    "chelsea",
    "coffee",
    "rocket",
)  # of scikit-image: one face, one in profile, three without
OUTPUT = Path("nullface_pipeline/tiny/face_models/detector.onnx")

logger = logging.getLogger("training.detector")


@dataclass
class Targets:
    """Training targets of a batch; A counts the anchors of all strides.

    Attributes:
        score (`Tensor`): (N, A) float32: 1 face, 0 background, -1 ignored.
        box (`Tensor`): (N, A, 4) float32 x0, y0, x1, y1 in px, valid where the score is 1.
        keypoints (`Tensor`): (N, A, 10) float32 px, valid where the score is 1.
    """

    score: Tensor
    box: Tensor
    keypoints: Tensor


@lru_cache
def anchor_grid(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centres (A, 2), strides (A,) and anchor sizes (A,) in px for a (size, size) image."""
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
    """Target scores (A,), boxes (A, 4) and keypoints (A, 10) of one scene.

    A face is assigned to anchors near its centre whose size is within a factor of 1.6 of its own.
    Anchors slightly beyond these limits are ignored.
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
        assigned = (distance <= near) & (ratio <= np.log(1.6))
        ignored = (distance <= 2.0 * near) & (ratio <= np.log(2.5)) & (score == 0)
        score[ignored] = -1.0
        if visible and side >= MIN_FACE:
            score[assigned], boxes[assigned], keypoints[assigned] = 1.0, box, points.ravel()
    return score, boxes, keypoints


def batch_targets(scenes: list[Scene], device: torch.device) -> Targets:
    """Stack the targets of scenes of one size."""
    parts = zip(*(scene_targets(scene) for scene in scenes))
    return Targets(*(torch.from_numpy(np.stack(part)).to(device) for part in parts))


def detection_loss(levels: list[dict[str, Tensor]], targets: Targets, size: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Focal loss of scores, IoU and L1 loss of boxes, L1 loss of keypoints: the sum and its parts.

    The focal exponent is 0.5. With the usual 2, boxes that are hardly ever faces score 0.3 to 0.5.
    """
    device = targets.score.device
    centres, strides, _ = (torch.from_numpy(part).to(device) for part in anchor_grid(size))
    logits = torch.cat([level["score"] for level in levels], dim=1)[..., 0]
    target, counted = targets.score.clamp(min=0.0), targets.score >= 0
    error = (torch.sigmoid(logits.detach()) - target).abs()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    faces = targets.score == 1
    count = faces.sum().clamp(min=1)
    score_loss = (entropy * error.sqrt() * counted).sum() / count

    pick = faces.nonzero(as_tuple=True)
    at, stride = centres[pick[1]], strides[pick[1], None]
    distances = torch.cat([level["box"] for level in levels], dim=1)[pick] * stride
    box = torch.cat([at - distances[:, :2], at + distances[:, 2:]], dim=1)
    points = torch.cat([level["keypoints"] for level in levels], dim=1)[pick] * stride + at.repeat(1, 5)
    true_box, true_points = targets.box[pick], targets.keypoints[pick]
    side = (true_box[:, 2:] - true_box[:, :2]).prod(dim=1, keepdim=True).sqrt()
    iou_loss = (1.0 - overlap(box, true_box)).sum() / count
    box_loss = F.smooth_l1_loss(box / side, true_box / side, reduction="sum", beta=0.05) / count
    point_loss = F.smooth_l1_loss(points / side, true_points / side, reduction="sum", beta=0.005) / count
    parts = {"score": score_loss, "iou": iou_loss, "box": box_loss, "keypoints": point_loss}
    return score_loss + iou_loss + box_loss + 5.0 * point_loss, parts


def overlap(boxes: Tensor, others: Tensor) -> Tensor:
    """(N,) intersection over union of pairs of (N, 4) boxes."""
    inside = (torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2])).clamp(min=0)
    areas = [(b[:, 2:] - b[:, :2]).clamp(min=0).prod(dim=1) for b in (boxes, others)]
    shared = inside.prod(dim=1)
    return shared / (areas[0] + areas[1] - shared).clamp(min=1e-6)


def to_input(images: list[np.ndarray], device: torch.device) -> Tensor:
    """Stack (S, S, 3) uint8 images to the network's (N, 3, S, S) float32 input."""
    batch = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)
    return ((batch.float() - PIXEL_MEAN) / PIXEL_STD).contiguous(memory_format=torch.channels_last)


def network_optimizer(network: nn.Module, rate: float) -> MixedOptimizer:
    """Muon for the 3 x 3 convolutions, AdamW for the rest."""
    inner = [
        module.weight for module in network.modules() if isinstance(module, nn.Conv2d) and module.padding != (0, 0)
    ]
    matrices = [weight for weight in inner if weight.shape[1] > 3]
    chosen = {id(weight) for weight in matrices}
    return MixedOptimizer(matrices, {1.0: [p for p in network.parameters() if id(p) not in chosen]}, rate)


def train(args: argparse.Namespace) -> None:
    """Train until the budget is spent; resume from a checkpoint if there is one."""
    device = torch.device(args.device)
    composer = SceneComposer(load_portraits(args.data, "train"))
    torch.manual_seed(args.seed)
    network = DetectorNetwork().to(device).to(memory_format=torch.channels_last)
    optimizer = network_optimizer(network, args.lr)
    parts: dict[str, Stateful] = {"network": network, "optimizer": optimizer}
    checkpoint = args.runs / "detector.pt"
    progress = resume(checkpoint, parts, device)
    step = progress.get("step", 0)
    budget, log = Budget(args.minutes, progress.get("spent", 0.0)), LossLog(logger)
    rng = np.random.default_rng((args.seed, step))
    network.train()
    while budget.fraction < 1.0:
        size, count, _ = SCENES[rng.choice(len(SCENES), p=[share for _, _, share in SCENES])]
        scenes = [composer.training_scene(size, rng) for _ in range(count * args.batch_factor)]
        with torch.autocast(device.type, torch.bfloat16):
            levels = network(to_input([scene.image for scene in scenes], device))
        levels = [{name: output.float() for name, output in level.items()} for level in levels]
        loss, losses = detection_loss(levels, batch_targets(scenes, device), size)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.set_rate(cosine_rate(1.0, budget.fraction, step))
        optimizer.step()
        step += 1
        if log(budget.fraction, f"step {step}", **losses):
            save_checkpoint(checkpoint, parts, spent=budget.spent, step=step)
    save_checkpoint(checkpoint, parts, spent=budget.spent, step=step)


def export(args: argparse.Namespace) -> None:
    """Export the checkpoint as an SCRFD-type ONNX file with a variable input size."""
    network = DetectorNetwork()
    network.load_state_dict(torch.load(args.runs / "detector.pt", map_location="cpu", weights_only=True)["network"])
    names = [f"{name}_{stride}" for name in OUTPUT_WIDTHS for stride in STRIDES]
    axes = {"input": {2: "height", 3: "width"}} | {name: {0: f"anchors_{name}"} for name in names}
    export_onnx(ExportedDetector(network), torch.zeros(1, 3, 320, 256), args.output, names, axes, logger)


def evaluate(args: argparse.Namespace) -> None:
    """Measure the exported file with InsightFace's SCRFD class on portraits and on scenes."""
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
    """Detection metrics at three score thresholds; faces that are mostly cut off are ignored.

    Returns:
        `dict`: `recall_x` at IoU 0.5; `false_percent_x`, false boxes in % of the faces;
        `keypoint_error_percent`, the mean error in % of the eye distance, at a threshold of 0.5.
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
    tasks = {"train": train, "export": export, "evaluate": evaluate}
    shared = ("data", "runs", "device", "seed", "threads")
    parser = option_parser(__doc__, *shared, output=OUTPUT, minutes=42.0, lr=2e-3)
    parser.add_argument("task", nargs="?", default="all", choices=["all", *tasks])
    parser.add_argument("--batch-factor", type=int, default=1, help="multiplies the batch sizes, for a GPU")
    run_tasks(parser.parse_args(), tasks)


if __name__ == "__main__":
    main()
