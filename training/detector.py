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
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import torch
from insightface.model_zoo.scrfd import SCRFD
from skimage import data as skimage_data
from torch import Tensor, nn
from torch.nn import functional as F

from training.detector_network import ANCHOR_SIZES, ANCHORS, OUTPUT_WIDTHS, STRIDES, DetectorNetwork, ExportedDetector
from training.detector_scenes import SMALLEST_FACE, Scene, SceneComposer, bounding_box, face_outline
from training.loop import Budget, Every, cosine_rate, part_parser, resume, run_part, save_checkpoint
from training.muon import MixedOptimizer
from training.onnx_weights import store_as_half
from training.portraits import load_portraits


PIXEL_MEAN, PIXEL_STD = 127.5, 128.0  # as InsightFace's SCRFD feeds its network

# Scene side in px, scenes in a batch on a CPU, how often: all batches cost about the same.
SCENES = ((192, 24, 0.2), (256, 12, 0.3), (320, 8, 0.2), (448, 4, 0.15), (640, 2, 0.15))

PICTURES = ("astronaut", "camera", "chelsea", "coffee", "rocket")  # one face, one in profile, and three without
OUTPUT = Path("nullface_pipeline/tiny/face_models/detector.onnx")

logger = logging.getLogger("training.detector")


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
    point_loss = F.smooth_l1_loss(points / side, true_points / side, reduction="sum", beta=0.005) / count
    parts = {"score": score_loss, "iou": iou_loss, "box": box_loss, "keypoints": point_loss}
    return score_loss + iou_loss + box_loss + 5.0 * point_loss, parts


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


def network_optimizer(network: nn.Module, rate: float) -> MixedOptimizer:
    """Muon for the 3 x 3 convolutions, AdamW for the rest."""
    inner = [
        module.weight for module in network.modules() if isinstance(module, nn.Conv2d) and module.padding != (0, 0)
    ]
    matrices = [weight for weight in inner if weight.shape[1] > 3]
    chosen = {id(weight) for weight in matrices}
    return MixedOptimizer(matrices, {1.0: [p for p in network.parameters() if id(p) not in chosen]}, rate)


def train(args: argparse.Namespace) -> None:
    """Train for `args.minutes` of wall-clock time in all, counted over stops and resumes."""
    device = torch.device(args.device)
    composer = SceneComposer(load_portraits(args.data, "train"))
    torch.manual_seed(args.seed)
    network = DetectorNetwork().to(device).to(memory_format=torch.channels_last)
    optimizer = network_optimizer(network, args.learning_rate)
    checkpoint = args.runs / "detector.pt"
    spent, step = resume(checkpoint, network, optimizer, device)

    def save() -> None:
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(checkpoint, state | {"spent": budget.spent, "step": step})

    budget, log, history = Budget(args.minutes, spent), Every(30), []
    rng = np.random.default_rng((args.seed, step))
    network.train()
    while budget.fraction < 1.0:
        size, count, _ = SCENES[rng.choice(len(SCENES), p=[share for _, _, share in SCENES])]
        scenes = [composer.training_scene(size, rng) for _ in range(count * args.batch_factor)]
        with torch.autocast(device.type, torch.bfloat16):
            levels = network(to_input([scene.image for scene in scenes], device))
        levels = [{name: output.float() for name, output in level.items()} for level in levels]
        loss, parts = detection_loss(levels, batch_targets(scenes, device), size)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.set_rate(cosine_rate(1.0, budget.fraction, step))
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
