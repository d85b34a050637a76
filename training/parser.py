"""The face parser of nullface-tiny: a tiny SegFormer that labels skin, brows, eyes, nose and mouth in aligned crops.

It sees the 128 px crops of `FaceCrop.from_landmarks` and says one of CelebAMask-HQ's 19 labels for each pixel. Its
teacher are polygons through the 68 landmarks, so only ten of the labels are ever said: glasses, ears, hair, hats, neck
and clothes are background. `l_` means the picture's left side, `r_` its right side.

    python -m training.parser --minutes 28             # train, export, evaluate; goes on where it stopped
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
from training.loop import Budget, Every, cosine_rate, part_parser, resume, run_part, save_checkpoint
from training.portraits import Portrait, load_portraits


# CelebAMask-HQ's labels in the order all public face parsers use.
LABELS = (
    "background skin nose eye_g l_eye r_eye l_brow r_brow l_ear r_ear mouth u_lip l_lip hair hat ear_r neck_l neck cloth"
).split()
TRAINED = ("background", "skin", "nose", "l_eye", "r_eye", "l_brow", "r_brow", "mouth", "u_lip", "l_lip")
SMALL_LABEL_WEIGHT = 2.0

# How far each of the ten brow points is raised to the top of the forehead, in distances from nose base to brows.
FOREHEAD = np.array([0.65, 0.85, 0.93, 0.95, 0.95, 0.95, 0.95, 0.93, 0.85, 0.65])

SIZE = 128
MARGIN = 16  # px around the crop, so that turned and shifted crops need no filling
OUTPUT = Path("nullface_pipeline/tiny/face_parser")

logger = logging.getLogger("training.parser")


# --- labels ----------------------------------------------------------------------------------------------------------


def face_polygons(points: np.ndarray) -> list[tuple[str, np.ndarray]]:
    """Label names and outlines from (68, 2) iBUG landmarks, in the order they are to be painted.

    The landmarks lack three things. The forehead: the brows raised by up to 0.95 of the distance from the base of the
    nose, which is about where hair begins, less at the temples. The brows' thickness: a quarter of the way down to the eyes. The nose's
    sides: fractions of the distance between the outer ends of the nostrils.
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
    """Outline from the bridge between the eyes over the wings to the base."""
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
    """(size, size) uint8 label numbers from (68, 2) landmarks in crop pixels."""
    labels = np.zeros((size, size), np.uint8)
    for name, outline in face_polygons(points):
        # OpenCV takes fixed-point coordinates with four fractional bits.
        cv2.fillPoly(labels, [np.rint(16.0 * outline).astype(np.int32)], LABELS.index(name), shift=4)
    return labels


# --- data ------------------------------------------------------------------------------------------------------------


def wide_crop(portrait: Portrait) -> tuple[np.ndarray, np.ndarray]:
    """The aligned crop with `MARGIN` px more on every side, (160, 160, 3) uint8, and the landmarks in its frame."""
    crop = portrait.face_crop(SIZE)
    wide = FaceCrop(crop.matrix + [[0, 0, MARGIN], [0, 0, MARGIN]], SIZE + 2 * MARGIN)
    return wide.crop_image(portrait.image()), wide.points_to_crop(portrait.landmarks)


def random_sample(image: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A randomly changed (128, 128, 3) uint8 crop, as a careless detector would cut it, and its label map."""
    if rng.random() < 0.5:
        image, points = augmentation.mirrored(image, points)
    centre = (image.shape[1] / 2, image.shape[0] / 2)
    matrix = augmentation.random_similarity(rng, centre, degrees=5, log_scale=0.06, shift=2.5)
    matrix[:, 2] -= MARGIN
    view = cv2.warpAffine(image, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REFLECT_101)
    labels = label_map(points @ matrix[:, :2].T + matrix[:, 2])
    return augmentation.random_damage(augmentation.random_style(view, rng), rng), labels


def to_input(images: list[np.ndarray], device: torch.device) -> Tensor:
    """Stack (128, 128, 3) uint8 crops to (N, 3, 128, 128) float32 in [-1, 1], as the saved image processor does."""
    batch = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)
    return (batch.float() - 127.5) / 127.5


def image_processor() -> SegformerImageProcessor:
    """What has to be done to a crop before the network sees it."""
    return SegformerImageProcessor(
        size={"height": SIZE, "width": SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3, do_reduce_labels=False
    )


# --- network ---------------------------------------------------------------------------------------------------------


def parser_network() -> SegformerForSemanticSegmentation:
    """A SegFormer of about a million parameters whose first stage halves the picture only once: eyes are 4 px high."""
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
    """(N, 19, 128, 128) logits: the network's, which are half as large, enlarged."""
    return F.interpolate(network(pixel_values=batch).logits, size=SIZE, mode="bilinear", align_corners=False)


def segmentation_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy plus one minus the Dice overlap, in which an eye counts as much as the skin.

    Args:
        logits (`Tensor`): (N, 19, H, W).
        wanted (`Tensor`): (N, H, W) int64 label numbers.
    """
    numbers = [LABELS.index(name) for name in TRAINED]
    weights = torch.full((len(LABELS),), SMALL_LABEL_WEIGHT, device=logits.device)
    weights[[LABELS.index(name) for name in ("background", "skin", "nose")]] = 1.0
    found = logits.softmax(dim=1)[:, numbers]
    truth = torch.stack([(wanted == number).float() for number in numbers], dim=1)
    both = (found * truth).sum(dim=(0, 2, 3))
    dice = (2.0 * both + 1.0) / (found.sum(dim=(0, 2, 3)) + truth.sum(dim=(0, 2, 3)) + 1.0)
    return F.cross_entropy(logits, wanted, weights) + 1.0 - dice.mean()


# --- training --------------------------------------------------------------------------------------------------------


def train(args: argparse.Namespace) -> None:
    """Train for `args.minutes` of wall-clock time in all, counted over stops and resumes."""
    device = torch.device(args.device)
    faces = [wide_crop(portrait) for portrait in load_portraits(args.data, "train")]
    torch.manual_seed(args.seed)
    network = parser_network().to(device)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.learning_rate, weight_decay=0.01)
    checkpoint = args.runs / "parser.pt"
    spent, step = resume(checkpoint, network, optimizer, device)

    def save() -> None:
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(checkpoint, state | {"spent": budget.spent, "step": step})

    budget, log, losses = Budget(args.minutes, spent), Every(30), []
    rng = np.random.default_rng((args.seed, step))
    network.train()
    while budget.fraction < 1.0:
        optimizer.param_groups[0]["lr"] = cosine_rate(args.learning_rate, budget.fraction, step)
        rows = rng.integers(0, len(faces), args.batch_size)
        images, labels = zip(*(random_sample(faces[row][0], faces[row][1], rng) for row in rows))
        wanted = torch.from_numpy(np.stack(labels)).long().to(device)
        loss = segmentation_loss(full_logits(network, to_input(list(images), device)), wanted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
        step += 1
        if log():
            mean_loss = torch.stack(losses).mean().item()
            logger.info("%5.1f %%  step %d  loss %.4f", 100.0 * budget.fraction, step, mean_loss)
            save()
            losses.clear()
    save()


# --- export and evaluation -------------------------------------------------------------------------------------------


def export(args: argparse.Namespace) -> None:
    """Save the checkpoint as a folder that `from_pretrained` reads."""
    network = parser_network()
    network.load_state_dict(torch.load(args.runs / "parser.pt", map_location="cpu", weights_only=True)["network"])
    network.eval().save_pretrained(args.output)
    image_processor().save_pretrained(args.output)
    size = sum(file.stat().st_size for file in args.output.iterdir())
    logger.info("wrote %s, %.2f MB", args.output, size / 1e6)


@torch.inference_mode()
def evaluate(args: argparse.Namespace) -> None:
    """Intersection over union of each trained label over all validation crops together, read as a user would."""
    network = SegformerForSemanticSegmentation.from_pretrained(args.output).eval()
    processor = SegformerImageProcessor.from_pretrained(args.output)
    counts = np.zeros((len(LABELS), len(LABELS)), np.int64)
    for portrait in load_portraits(args.data, "validation"):
        crop = portrait.face_crop(SIZE)
        batch = processor(crop.crop_image(portrait.image()), return_tensors="pt")["pixel_values"]
        found = full_logits(network, batch).argmax(dim=1)[0].numpy()
        wanted = label_map(crop.points_to_crop(portrait.landmarks))
        np.add.at(counts, (wanted.ravel(), found.ravel()), 1)
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
    """Intersection over union of some labels taken together, from a (wanted, found) table of pixel counts."""
    wanted, found = counts[labels].sum(), counts[:, labels].sum()
    both = counts[np.ix_(labels, labels)].sum()
    return float(both / max(1, wanted + found - both))


def main() -> None:
    parser = part_parser("Train, export and evaluate the face parser.", OUTPUT)
    parser.add_argument("--minutes", type=float, default=28.0, help="wall-clock budget of the training")
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()
    run_part(args, args.runs, train=train, export=export, evaluate=evaluate)


if __name__ == "__main__":
    main()
