"""Train the face parser of nullface-tiny, a tiny SegFormer for 128 px aligned crops.

It predicts one of CelebAMask-HQ's 19 labels per pixel of the crops of `FaceCrop.from_landmarks`.
The ground truth are polygons through the 68 landmarks. They cover ten labels only: glasses, ears,
hair, hats, neck and clothes are background. `l_` means the image's left side, `r_` its right side.

    python -m training.parser --minutes 28             # train, export, evaluate; resumes
    python -m training.parser export
    python -m training.parser evaluate
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import SegformerConfig, SegformerForSemanticSegmentation, SegformerImageProcessor

from nullface_pipeline.face_crops import FaceCrop
from training import augmentation
from training.loop import Budget, LossLog, cosine_rate, option_parser, resume, run_tasks, save_checkpoint
from training.portraits import Portrait, load_portraits


# CelebAMask-HQ's labels in the order of public face parsers.
LABELS = (
    "background skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip "
    "hair hat ear_r neck_l neck cloth"
).split()
TRAINED = ("background", "skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")
SMALL_LABEL_WEIGHT = 2.0

# Height of the forehead above each of the ten brow points, in distances from nose base to brows.
FOREHEAD = np.array([0.65, 0.85, 0.93, 0.95, 0.95, 0.95, 0.95, 0.93, 0.85, 0.65])

SIZE = 128
MARGIN = 16  # px around the crop, so that rotated and shifted crops stay inside
OUTPUT = Path("nullface_pipeline/tiny/face_parser")

logger = logging.getLogger("training.parser")


def face_polygons(points: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Label names and outlines of (68, 2) iBUG landmarks, in drawing order.

    Three outlines that the landmarks lack are estimated. The forehead ends about where hair begins:
    at the brows raised by up to 0.95 of their distance from the base of the nose, less at the
    temples. The brows reach down a quarter of the way to the eyes. The sides of the nose are
    fractions of the distance between the outer ends of the nostrils.
    """
    brows, nose_base = points[17:27], points[33]
    forehead = brows + FOREHEAD[:, None] * (brows.mean(axis=0) - nose_base)
    skin = cv2.convexHull(np.concatenate([points[:17], forehead]).astype(np.float32))[:, 0]
    polygons = [("skin", skin), ("nose", _nose(points))]
    for label, brow, eye in (("l_brow", points[17:22], points[36:42]), ("r_brow", points[22:27], points[42:48])):
        down = eye.mean(axis=0) - brow.mean(axis=0)
        polygons.append((label, np.concatenate([brow - 0.08 * down, (brow + 0.25 * down)[::-1]])))
    polygons += [("l_eye", points[36:42]), ("r_eye", points[42:48])]
    polygons.append(("mouth", points[60:68]))
    polygons.append(("u_lip", points[[48, 49, 50, 51, 52, 53, 54, 64, 63, 62, 61, 60]]))
    polygons.append(("l_lip", points[[54, 55, 56, 57, 58, 59, 48, 60, 67, 66, 65, 64]]))
    return polygons


def _nose(points: np.ndarray) -> np.ndarray:
    """Outline of the nose from the bridge over the wings to the base."""
    side = points[35] - points[31]
    bridge, middle, tip, left, right = points[27], points[29], points[30], points[31], points[35]
    return np.stack(
        [
            bridge - 0.25 * side,
            middle - 0.35 * side,
            tip - 0.62 * side,
            left - 0.15 * side,
            points[33] + 0.1 * (points[33] - tip),
            right + 0.15 * side,
            tip + 0.62 * side,
            middle + 0.35 * side,
            bridge + 0.25 * side,
        ]
    )


def label_map(points: np.ndarray, size: int = SIZE) -> np.ndarray:
    """(size, size) uint8 label numbers of (68, 2) landmarks in crop pixels."""
    labels = np.zeros((size, size), np.uint8)
    for name, outline in face_polygons(points):
        # OpenCV takes fixed-point coordinates with four fractional bits.
        cv2.fillPoly(labels, [np.rint(16.0 * outline).astype(np.int32)], LABELS.index(name), shift=4)
    return labels


def wide_crop(portrait: Portrait) -> tuple[np.ndarray, np.ndarray]:
    """(160, 160, 3) uint8 aligned crop with `MARGIN` px on every side, and its landmarks."""
    crop = portrait.face_crop(SIZE)
    wide = FaceCrop(crop.matrix + [[0, 0, MARGIN], [0, 0, MARGIN]], SIZE + 2 * MARGIN)
    return wide.crop_image(portrait.image()), wide.points_to_crop(portrait.landmarks)


def random_sample(image: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Augmented and misaligned (128, 128, 3) uint8 crop, and its label map."""
    if rng.random() < 0.5:
        image, points = augmentation.mirrored(image, points)
    centre = (image.shape[1] / 2, image.shape[0] / 2)
    matrix = augmentation.random_similarity(rng, centre, degrees=5, log_scale=0.06, shift=2.5)
    matrix[:, 2] -= MARGIN
    view = cv2.warpAffine(image, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT_101)
    labels = label_map(points @ matrix[:, :2].T + matrix[:, 2])
    return augmentation.random_damage(augmentation.random_style(view, rng), rng), labels


def to_input(images: list[np.ndarray], device: torch.device) -> Tensor:
    """Stack (128, 128, 3) uint8 crops to (N, 3, 128, 128) float32 in [-1, 1]."""
    batch = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)
    return (batch.float() - 127.5) / 127.5


def image_processor() -> SegformerImageProcessor:
    """Preprocessor that is saved with the network."""
    return SegformerImageProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_reduce_labels=False
    )


def parser_network() -> SegformerForSemanticSegmentation:
    """SegFormer of about a million parameters; the first stride is 2, as eyes are 4 px high."""
    config = SegformerConfig(
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
        hidden_sizes=[16, 32, 80, 160],
        depths=[1, 1, 2, 2],
        num_attention_heads=[1, 1, 2, 4],
        strides=[2, 2, 2, 2],
        patch_sizes=[5, 3, 3, 3],
        sr_ratios=[8, 4, 2, 1],
        mlp_ratios=[2, 2, 2, 2],
        decoder_hidden_size=32,
        hidden_act="relu",
        classifier_dropout_prob=0.0,
        drop_path_rate=0.0,
        image_size=SIZE,
    )
    return SegformerForSemanticSegmentation(config)


def full_logits(network: SegformerForSemanticSegmentation, batch: Tensor) -> Tensor:
    """(N, 19, 128, 128) logits, upsampled from the network's 64 x 64."""
    return F.interpolate(network(pixel_values=batch).logits, size=SIZE, mode="bilinear", align_corners=False)


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus Dice loss, in which all trained labels have equal weight.

    Args:
        logits (`Tensor`): (N, 19, H, W).
        target (`Tensor`): (N, H, W) int64 label numbers.
    """
    numbers = [LABELS.index(name) for name in TRAINED]
    weights = torch.full((len(LABELS),), SMALL_LABEL_WEIGHT, device=logits.device)
    weights[[LABELS.index(name) for name in ("background", "skin", "nose")]] = 1.0
    found = logits.softmax(dim=1)[:, numbers]
    truth = torch.stack([(target == number).float() for number in numbers], dim=1)
    both = (found * truth).sum(dim=(0, 2, 3))
    dice = (2.0 * both + 1.0) / (found.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3)) + 1.0)
    return F.cross_entropy(logits, target, weights) + 1.0 - dice.mean()


def train(args: argparse.Namespace) -> None:
    """Train until the budget is spent; resume from a checkpoint if there is one."""
    device = torch.device(args.device)
    faces = [wide_crop(portrait) for portrait in load_portraits(args.data, "train")]
    torch.manual_seed(args.seed)
    network = parser_network().to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=0.01)
    parts, checkpoint = {"network": network, "optimizer": optimizer}, args.runs / "parser.pt"
    progress = resume(checkpoint, parts, device)
    step = progress.get("step", 0)
    budget, log = Budget(args.minutes, progress.get("spent", 0.0)), LossLog(logger)
    rng = np.random.default_rng((args.seed, step))
    network.train()
    while budget.fraction < 1.0:
        optimizer.param_groups[0]["lr"] = cosine_rate(args.lr, budget.fraction, step)
        rows = rng.integers(0, len(faces), args.batch_size)
        images, labels = zip(*(random_sample(faces[row][0], faces[row][1], rng) for row in rows))
        target = torch.from_numpy(np.stack(labels)).long().to(device)
        loss = segmentation_loss(full_logits(network, to_input(list(images), device)), target)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step += 1
        if log(budget.fraction, f"step {step}", loss=loss):
            save_checkpoint(checkpoint, parts, spent=budget.spent, step=step)
    save_checkpoint(checkpoint, parts, spent=budget.spent, step=step)


def export(args: argparse.Namespace) -> None:
    """Export the checkpoint as a folder for `from_pretrained`."""
    network = parser_network()
    network.load_state_dict(torch.load(args.runs / "parser.pt", map_location="cpu", weights_only=True)["network"])
    network.eval().save_pretrained(args.output)
    image_processor().save_pretrained(args.output)
    size = sum(file.stat().st_size for file in args.output.iterdir())
    logger.info("wrote %s, %.2f MB", args.output, size / 1e6)


@torch.inference_mode()
def evaluate(args: argparse.Namespace) -> None:
    """Measure the exported parser: IoU of labels and regions over all validation crops."""
    network = SegformerForSemanticSegmentation.from_pretrained(args.output).eval()
    processor = SegformerImageProcessor.from_pretrained(args.output)
    counts = np.zeros((len(LABELS), len(LABELS)), np.int64)
    for portrait in load_portraits(args.data, "validation"):
        crop = portrait.face_crop(SIZE)
        batch = processor(crop.crop_image(portrait.image()), return_tensors="pt")["pixel_values"]
        found = full_logits(network, batch).argmax(dim=1)[0].numpy()
        target = label_map(crop.points_to_crop(portrait.landmarks))
        np.add.at(counts, (target.ravel(), found.ravel()), 1)
    metrics: dict[str, Any] = {"iou": {name: _iou(counts, [LABELS.index(name)]) for name in TRAINED}}
    metrics["mean_iou"] = float(np.mean(list(metrics["iou"].values())))
    groups = {
        "skin": ["skin"],
        "nose": ["nose"],
        "eyes": ["l_eye", "r_eye"],
        "brows": ["l_brow", "r_brow"],
        "mouth": ["mouth", "u_lip", "l_lip"],
        "background": ["background"],
    }
    metrics["region_iou"] = {
        region: _iou(counts, [LABELS.index(name) for name in names]) for region, names in groups.items()
    }
    metrics["mean_region_iou"] = float(np.mean(list(metrics["region_iou"].values())))
    metrics["parameters"] = network.num_parameters()
    (args.runs / "parser_metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))


def _iou(counts: np.ndarray, labels: list[int]) -> float:
    """Intersection over union of merged labels, from a (target, found) table of pixel counts."""
    target, found = counts[labels].sum(), counts[:, labels].sum()
    both = counts[np.ix_(labels, labels)].sum()
    return float(both / max(1, target + found - both))


def main() -> None:
    tasks = {"train": train, "export": export, "evaluate": evaluate}
    defaults = {"output": OUTPUT, "minutes": 28.0, "batch_size": 16, "lr": 2e-3}
    parser = option_parser(__doc__, "data", "runs", "device", "seed", "threads", **defaults)
    parser.add_argument("task", nargs="?", default="all", choices=["all", *tasks])
    run_tasks(parser.parse_args(), tasks)


if __name__ == "__main__":
    main()
