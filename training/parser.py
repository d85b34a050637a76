"""Train the face parser of nullface-tiny, a tiny SegFormer for 128 px aligned crops.

It predicts one of CelebAMask-HQ's 19 labels per pixel of the crops of `FaceCrop.from_landmarks`.
The ground truth are polygons through the 68 landmarks, hair over the forehead by its colour, and
synthetic fringes, hats and glasses. Real glasses have no labels; they are ignored once the network
recognizes them. Ears, neck and clothes are background.

    python -m training.parser --minutes 28             # train, export, evaluate; resumes
    python -m training.parser --from FOLDER            # train on, from exported weights
    python -m training.parser export
    python -m training.parser evaluate
"""

import argparse
import functools
import json
import logging
from dataclasses import dataclass
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
from training.face_labels import GLASSES, IGNORED, LABELS, label_map
from training.face_overlays import add_fringe, add_glasses, add_hat
from training.hair_labels import FaceFrame, hair_labels
from training.loop import Budget, LossLog, cosine_rate, option_parser, resume, run_tasks, save_checkpoint
from training.portraits import Portrait, load_portraits


TRAINED = (
    *("background", "skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip"),
    *("hair", "hat", "eye_g"),
)
LARGE = ("background", "skin", "nose", "hair", "hat", "eye_g")  # labels of normal weight
SMALL_LABEL_WEIGHT = 2.0

# Shares of the samples with a synthetic fringe, hat or glasses.
FRINGES, HATS, GLASSES_WORN = 0.3, 0.12, 0.45

# After this share of the budget, glasses that the network finds in a portrait without drawn ones
# are taken for real if they have at least this many pixels.
REAL_GLASSES_FROM, REAL_GLASSES_SIZE = 0.35, 450

SIZE = 128
MARGIN = 16  # px around the crop, so that rotated and shifted crops stay inside
OUTPUT = Path("nullface_pipeline/tiny/face_parser")

logger = logging.getLogger("training.parser")


def wide_crop(portrait: Portrait) -> tuple[np.ndarray, np.ndarray]:
    """(160, 160, 3) uint8 aligned crop with `MARGIN` px on every side, and its landmarks."""
    crop = portrait.face_crop(SIZE)
    wide = FaceCrop(crop.matrix + [[0, 0, MARGIN], [0, 0, MARGIN]], SIZE + 2 * MARGIN)
    return wide.crop_image(portrait.image()), wide.points_to_crop(portrait.landmarks)


@dataclass(eq=False)
class LabelledFace:
    """Wide crop of a portrait, its (68, 2) landmarks and its second label map."""

    image: np.ndarray
    points: np.ndarray
    others: np.ndarray

    @classmethod
    def of(cls, portrait: Portrait) -> "LabelledFace":
        """Face of a portrait with pseudo-labels of hair, and without glasses."""
        image, points = wide_crop(portrait)
        return cls(image, points, hair_labels(image, points))


def random_sample(face: LabelledFace, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Augmented and misaligned (128, 128, 3) uint8 crop, and its label map."""
    image, points, others = face.image, face.points, face.others
    if rng.random() < 0.5:
        image, points = augmentation.mirrored(image, points)
        others = np.ascontiguousarray(others[:, ::-1])
    image, others = with_overlays(image, points, others, rng)
    centre = (image.shape[1] / 2, image.shape[0] / 2)
    matrix = augmentation.random_similarity(rng, centre, degrees=5, log_scale=0.06, shift=2.5)
    matrix[:, 2] -= MARGIN
    view = cv2.warpAffine(image, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT_101)
    others = cv2.warpAffine(
        others, matrix, (SIZE, SIZE), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=IGNORED
    )
    labels = label_map(points @ matrix[:, :2].T + matrix[:, 2], SIZE, others)
    return augmentation.random_damage(augmentation.random_style(view, rng), rng), labels


def with_overlays(
    image: np.ndarray, points: np.ndarray, others: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Add a fringe or a hat, and glasses, to a share of the crops."""
    if rng.random() < GLASSES_WORN:
        image, others = add_glasses(image, points, others, rng)
    draw = rng.random()
    if draw < FRINGES:
        image, others = add_fringe(image, points, others, rng)
    elif draw < FRINGES + HATS:
        image, others = add_hat(image, points, others, rng)
    return image, others


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


def ignore_real_glasses(logits: Tensor, target: Tensor) -> Tensor:
    """Ignore the pixels of glasses that the network finds in portraits without drawn glasses.

    Args:
        logits (`Tensor`): (N, 19, H, W).
        target (`Tensor`): (N, H, W) int64 label numbers.
    """
    found = logits.argmax(dim=1) == GLASSES
    real = (found.sum(dim=(1, 2)) >= REAL_GLASSES_SIZE) & ~(target == GLASSES).any(dim=2).any(dim=1)
    return target.masked_fill(found & real[:, None, None], IGNORED)


def segmentation_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy plus Dice loss, in which all trained labels have equal weight.

    Args:
        logits (`Tensor`): (N, 19, H, W).
        target (`Tensor`): (N, H, W) int64 label numbers, or `IGNORED`.
    """
    numbers = [LABELS.index(name) for name in TRAINED]
    weights = torch.full((len(LABELS),), SMALL_LABEL_WEIGHT, device=logits.device)
    weights[[LABELS.index(name) for name in LARGE]] = 1.0
    logarithms = logits.log_softmax(dim=1)
    found = logarithms[:, numbers].exp() * (target != IGNORED)[:, None]
    truth = torch.stack([(target == number).float() for number in numbers], dim=1)
    both = (found * truth).sum(dim=(0, 2, 3))
    dice = (2.0 * both + 1.0) / (found.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3)) + 1.0)
    return F.nll_loss(logarithms, target, weights, ignore_index=IGNORED) + 1.0 - dice.mean()


def train(args: argparse.Namespace) -> None:
    """Train until the budget is spent; resume from a checkpoint if there is one."""
    device = torch.device(args.device)
    portraits = load_portraits(args.data, "train")

    @functools.cache
    def labelled_face(row: int) -> LabelledFace:
        return LabelledFace.of(portraits[row])

    torch.manual_seed(args.seed)
    network = parser_network().to(device)
    if args.start:
        network.load_state_dict(SegformerForSemanticSegmentation.from_pretrained(args.start).state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=0.01)
    parts, checkpoint = {"network": network, "optimizer": optimizer}, args.runs / "parser.pt"
    progress = resume(checkpoint, parts, device)
    step = progress.get("step", 0)
    budget, log = Budget(args.minutes, progress.get("spent", 0.0)), LossLog(logger)
    rng = np.random.default_rng((args.seed, step))
    network.train()
    while budget.fraction < 1.0:
        optimizer.param_groups[0]["lr"] = cosine_rate(args.lr, budget.fraction, step)
        rows = rng.integers(0, len(portraits), args.batch_size).tolist()
        images, labels = zip(*(random_sample(labelled_face(row), rng) for row in rows))
        target = torch.from_numpy(np.stack(labels)).long().to(device)
        logits = full_logits(network, to_input(list(images), device))
        if budget.fraction > REAL_GLASSES_FROM:
            target = ignore_real_glasses(logits, target)
        loss = segmentation_loss(logits, target)
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
    """Measure the exported parser on all validation crops: as they are, and with overlays."""
    network = SegformerForSemanticSegmentation.from_pretrained(args.output).eval()
    processor = SegformerImageProcessor.from_pretrained(args.output)
    shape = len(LABELS), len(LABELS)
    plain, hair, hats, glasses, below = (np.zeros(shape, np.int64) for _ in range(5))
    inner = slice(MARGIN, MARGIN + SIZE)

    def count(table: np.ndarray, image: np.ndarray, target: np.ndarray, where: np.ndarray) -> None:
        """Add the (target, found) labels of known pixels `where` to a table."""
        batch = processor(image[inner, inner], return_tensors="pt")["pixel_values"]
        found = full_logits(network, batch).argmax(dim=1)[0].numpy()
        where = where[inner, inner] & (target[inner, inner] != IGNORED)
        np.add.at(table, (target[inner, inner][where], found[where]), 1)

    for number, portrait in enumerate(load_portraits(args.data, "validation")):
        face, rng = LabelledFace.of(portrait), np.random.default_rng((args.seed, number))
        image, points, size = face.image, face.points, len(face.image)
        everywhere, polygons = np.ones((size, size), bool), label_map(points, size)
        above = FaceFrame.of(points, size).above_brows
        count(plain, image, label_map(points, size, face.others), everywhere)
        count(below, image, polygons, (polygons > 0) & ~above)
        for table, add in ((hair, add_fringe), (hats, add_hat)):
            covered, others = add(image, points, face.others, rng)
            count(table, covered, label_map(points, size, others), (polygons > 0) & above)
        covered, others = add_glasses(image, points, face.others, rng)
        count(glasses, covered, label_map(points, size, others), everywhere)

    known = [name for name in TRAINED if name not in ("hat", "eye_g")]
    metrics: dict[str, Any] = {"iou": {name: _iou(plain, [LABELS.index(name)]) for name in known}}
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
        region: _iou(plain, [LABELS.index(name) for name in names]) for region, names in groups.items()
    }
    metrics["mean_region_iou"] = float(np.mean(list(metrics["region_iou"].values())))
    metrics["overlays"] = {
        "hair on the forehead": _precision_and_recall(hair, [LABELS.index("hair"), LABELS.index("hat")]),
        "hat on the forehead": _precision_and_recall(hats, [LABELS.index("hair"), LABELS.index("hat")]),
        "glasses": _precision_and_recall(glasses, [GLASSES]),
    }
    outside = [number for number, name in enumerate(LABELS) if name in ("background", "hair", "hat")]
    metrics["face_below_brows_lost"] = float(below[:, outside].sum() / below.sum())
    metrics["parameters"] = network.num_parameters()
    (args.runs / "parser_metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))


def _precision_and_recall(counts: np.ndarray, labels: list[int]) -> dict[str, float]:
    """Precision and recall of merged labels, from a (target, found) table of pixel counts."""
    both = counts[np.ix_(labels, labels)].sum()
    return {
        "precision": float(both / max(1, counts[:, labels].sum())),
        "recall": float(both / max(1, counts[labels].sum())),
    }


def _iou(counts: np.ndarray, labels: list[int]) -> float:
    """Intersection over union of merged labels, from a (target, found) table of pixel counts."""
    target, found = counts[labels].sum(), counts[:, labels].sum()
    both = counts[np.ix_(labels, labels)].sum()
    return float(both / max(1, target + found - both))


def main() -> None:
    tasks = {"train": train, "export": export, "evaluate": evaluate}
    defaults = {"output": OUTPUT, "minutes": 28.0, "batch_size": 16, "lr": 2e-3}
    parser = option_parser(__doc__, "data", "runs", "device", "seed", "threads", **defaults)
    parser.add_argument("--from", dest="start", type=Path, help="folder of exported weights to start from")
    parser.add_argument("task", nargs="?", default="all", choices=["all", *tasks])
    run_tasks(parser.parse_args(), tasks)


if __name__ == "__main__":
    main()
