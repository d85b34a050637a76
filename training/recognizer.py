"""The recognizer of nullface-tiny: a small residual network that follows dlib's face recognizer.

Distillation: the teacher sees clean grey crops, the student the same faces under strong changes of light, tone, print
and alignment, so that its embedding says who it is and not how the photo was made. There is one photo a person and
there are few persons, so new faces are made up by blending two (whole, or by regions); the teacher says who they are.

    python -m training.recognizer --minutes 40         # prepare, train, export, evaluate; goes on where it stopped
    python -m training.recognizer export
    python -m training.recognizer evaluate
"""

import argparse
import json
import logging
import os
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from insightface.utils import face_align
from rich.progress import track
from torch import Tensor, nn
from torch.nn import functional as F

from training import augmentation
from training.dlib_network import face_chip, load_dlib_network
from training.loop import Budget, Every, cosine_rate, part_parser, resume, run_part, save_checkpoint
from training.onnx_weights import store_as_half
from training.portraits import Portrait, load_portraits
from training.teacher import DESCRIPTOR_SIZE, TeacherEmbeddings, TeacherSpace


INPUT_SIZE = 112
MARGIN = 24  # px around the aligned crop, so that turned and shifted crops need no filling
CROP_SIZE = INPUT_SIZE + 2 * MARGIN
BLENDS_PER_PORTRAIT = 2
RUN = Path("training/runs/recognizer")
METRICS = Path("training/runs/recognizer_metrics.json")
OUTPUT = Path("nullface_pipeline/tiny/face_models/recognizer.onnx")

logger = logging.getLogger("training.recognizer")


# --- network ---------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Two 3 x 3 convolutions and an identity path."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(channels_in, channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


class RecognizerNetwork(nn.Module):
    """(N, 3, 112, 112) float32 RGB in [-1, 1] to (N, 128) float32, a direction in the teacher's centred space."""

    def __init__(self, widths: tuple[int, ...] = (48, 96, 192), depths: tuple[int, ...] = (2, 3, 2)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, widths[0], 7, stride=4, padding=3, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        blocks = []
        channels = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths)):
            for index in range(depth):
                blocks.append(Block(channels, width, stride=2 if index == 0 and stage > 0 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.squeeze = nn.Sequential(nn.Conv2d(channels, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        cells = (INPUT_SIZE // 4 // 2 ** (len(widths) - 1)) ** 2
        self.head = nn.Linear(64 * cells, DESCRIPTOR_SIZE)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.squeeze(self.blocks(self.stem(x))).flatten(1))


class ExportedRecognizer(nn.Module):
    """The network with what turns its output into the (N, 512) unit-norm embeddings of the identity space."""

    map: Tensor

    def __init__(self, network: RecognizerNetwork, space_map: np.ndarray) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("map", torch.from_numpy(space_map.T.copy()))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.network(x)) @ self.map


# --- data ------------------------------------------------------------------------------------------------------------


def aligned_crop(portrait: Portrait) -> np.ndarray:
    """InsightFace's 112 px crop with `MARGIN` px more on every side, (160, 160, 3) uint8 RGB."""
    matrix = face_align.estimate_norm(portrait.keypoints(), INPUT_SIZE)
    matrix[:, 2] += MARGIN
    return cv2.warpAffine(portrait.image(), matrix, (CROP_SIZE, CROP_SIZE), borderMode=cv2.BORDER_REFLECT_101)


def blend(first: np.ndarray, second: np.ndarray, seed: int) -> np.ndarray:
    """Mix two aligned (S, S, 3) uint8 faces by the smooth mask of `seed`, the same at every crop size."""
    mask = augmentation.smooth_mask(64, np.random.default_rng(seed))
    mask = cv2.resize(mask, first.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.blendLinear(first, second, mask, 1.0 - mask)


class Faces:
    """Portraits and blends of two portraits, with the teacher's word on each.

    Attributes:
        crops (`np.ndarray`): (P, 160, 160, 3) uint8, the portraits' aligned crops.
        pairs (`np.ndarray`): (N, 3) int64: two portraits and the seed of their blend; the two are equal in the first
            P rows, which are the portraits themselves.
        targets (`np.ndarray`): (N, 128) float32 unit norm, the teacher's centred descriptors.
    """

    def __init__(self, crops: np.ndarray, pairs: np.ndarray, targets: np.ndarray) -> None:
        self.crops, self.pairs, self.targets = crops, pairs, targets

    def __len__(self) -> int:
        return len(self.pairs)

    def view(self, index: int, rng: np.random.Generator) -> np.ndarray:
        """One randomly changed (112, 112, 3) uint8 view of face `index`."""
        first, second, seed = self.pairs[index]
        crop = self.crops[first]
        if first != second:
            crop = augmentation.grayscale(blend(crop, self.crops[second], seed))
        return random_view(crop, rng)


def random_view(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(160, 160, 3) uint8 aligned crop to a randomly changed (112, 112, 3) one, as a careless detector would cut it."""
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    matrix = augmentation.random_similarity(rng, (CROP_SIZE / 2, CROP_SIZE / 2), degrees=4, log_scale=0.05, shift=1.8)
    matrix[:, 2] -= MARGIN
    view = cv2.warpAffine(
        np.ascontiguousarray(crop), matrix, (INPUT_SIZE, INPUT_SIZE), borderMode=cv2.BORDER_REFLECT_101
    )
    view = augmentation.random_damage(augmentation.random_style(view, rng), rng)
    return augmentation.cut_out(view, rng) if rng.random() < 0.3 else view


def to_input(views: list[np.ndarray], device: torch.device) -> Tensor:
    """Stack (112, 112, 3) uint8 views to the network's (N, 3, 112, 112) float32 input in [-1, 1]."""
    batch = torch.from_numpy(np.stack(views)).to(device).permute(0, 3, 1, 2)
    return (batch.float() - 127.5) / 127.5


def prepare_faces(data: Path, device: torch.device, seed: int) -> Faces:
    """Cut the training crops and ask the teacher about portraits and blends, or read both back from the run folder."""
    crops_file, targets_file = RUN / "crops.npy", RUN / "targets.npz"
    if not targets_file.exists():
        portraits = load_portraits(data, "train")
        np.save(crops_file, np.stack([aligned_crop(portrait) for portrait in portraits]))
        chips = [augmentation.grayscale(face_chip(face.image(), face.landmarks)) for face in portraits]
        pairs = _pairs(len(portraits), seed)
        raw = _teacher_descriptors(chips, pairs, device)
        colour = np.array([portrait.colour for portrait in portraits], dtype=np.float32)
        targets = _centred(raw, colour[pairs[:, :2]].mean(axis=1), len(portraits))
        np.savez(targets_file, pairs=pairs, targets=targets)
    with np.load(targets_file) as file:
        return Faces(np.load(crops_file), file["pairs"], file["targets"])


def _pairs(portraits: int, seed: int) -> np.ndarray:
    """(N, 3): every portrait with itself, then `BLENDS_PER_PORTRAIT` random partners of each."""
    rng = np.random.default_rng(seed)
    rows = [np.stack([np.arange(portraits), np.arange(portraits), np.zeros(portraits, int)], axis=1)]
    for _ in range(BLENDS_PER_PORTRAIT):
        partner = (np.arange(portraits) + rng.integers(1, portraits, portraits)) % portraits
        rows.append(np.stack([np.arange(portraits), partner, rng.integers(0, 2**31, portraits)], axis=1))
    return np.concatenate(rows)


@torch.inference_mode()
def _teacher_descriptors(chips: list[np.ndarray], pairs: np.ndarray, device: torch.device) -> np.ndarray:
    """(N, 128) raw descriptors; those of portraits are averaged over the chip and its mirror image."""
    teacher = load_dlib_network().to(device).to(memory_format=torch.channels_last)
    result = []
    for start in track(range(0, len(pairs), 64), "asking the teacher"):
        rows = pairs[start : start + 64]
        faces = [chips[a] if a == b else blend(chips[a], chips[b], seed) for a, b, seed in rows]
        batch = torch.from_numpy(np.stack(faces)).to(device).permute(0, 3, 1, 2).float()
        raw = teacher(batch)
        if (rows[:, 0] == rows[:, 1]).all():
            raw = (raw + teacher(batch.flip(3))) / 2
        result.append(raw.cpu().numpy())
    return np.concatenate(result)


def _centred(raw: np.ndarray, colour: np.ndarray, portraits: int) -> np.ndarray:
    """Take the mean descriptor off, separately for colour and for monochrome photos, and normalise.

    Even of grey chips the teacher knows which came from a modern colour photo; that must not be part of an identity.
    """
    own, is_colour = raw[:portraits], colour[:portraits] > 0.5
    grey_mean, colour_mean = own[~is_colour].mean(axis=0), own[is_colour].mean(axis=0)
    centred = raw - grey_mean - colour[:, None] * (colour_mean - grey_mean)
    return (centred / np.linalg.norm(centred, axis=1, keepdims=True)).astype(np.float32)


# --- training --------------------------------------------------------------------------------------------------------


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 0.1, contrast: float = 0.15) -> Tensor:
    """Cosine distance to the teacher, plus in-batch contrast whose soft targets are the teacher's own similarities.

    Args:
        student, teacher: (N, 128), any norm / unit norm.
    """
    student = F.normalize(student)
    cosine = 1.0 - (student * teacher).sum(dim=1).mean()
    wanted = F.softmax(teacher @ teacher.T / temperature, dim=1)
    found = F.log_softmax(student @ teacher.T / temperature, dim=1)
    return cosine + contrast * F.kl_div(found, wanted, reduction="batchmean")


def train(args: argparse.Namespace) -> None:
    """Train for `args.minutes` of wall-clock time in all, counted over stops and resumes."""
    device = torch.device(args.device)
    faces = prepare_faces(args.data, device, args.seed)
    validation = ValidationFaces(args.data, args.seed)
    torch.manual_seed(args.seed)
    network = RecognizerNetwork().to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=args.learning_rate, weight_decay=0.05)
    checkpoint = RUN / "checkpoint.pt"
    spent, step = resume(checkpoint, network, optimizer, device)

    def save() -> None:
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(checkpoint, state | {"spent": budget.spent, "step": step})

    budget, log, report, losses = Budget(args.minutes, spent), Every(30), Every(180), []
    rng = np.random.default_rng((args.seed, step))
    network.train()
    while budget.fraction < 1.0:
        optimizer.param_groups[0]["lr"] = cosine_rate(args.learning_rate, budget.fraction, step)
        rows = rng.integers(0, len(faces), args.batch_size)
        batch = to_input([faces.view(row, rng) for row in rows], device)
        teacher = torch.from_numpy(faces.targets[rows]).to(device)
        loss = distillation_loss(network(batch.contiguous(memory_format=torch.channels_last)), teacher)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        step += 1
        if log():
            mean_loss = torch.stack(losses).mean().item()
            logger.info("%5.1f %%  step %d  loss %.4f", 100.0 * budget.fraction, step, mean_loss)
            losses.clear()
        if report():
            save()
            logger.info("validation: %s", validation.quick_report(network))
    save()


# --- evaluation ------------------------------------------------------------------------------------------------------


class ValidationFaces:
    """The validation portraits as clean 112 px crops and as randomly changed ones, and the teacher's similarities."""

    def __init__(self, data: Path, seed: int) -> None:
        portraits = load_portraits(data, "validation")
        crops = [aligned_crop(portrait) for portrait in portraits]
        rng = np.random.default_rng(seed)
        inner = slice(MARGIN, MARGIN + INPUT_SIZE)
        self.clean = [crop[inner, inner] for crop in crops]
        self.changed = [random_view(crop, rng) for crop in crops]
        self.colour = np.array([portrait.colour for portrait in portraits])
        self.teacher = self._teacher_embeddings(portraits)

    @staticmethod
    def _teacher_embeddings(portraits: list[Portrait]) -> np.ndarray:
        teacher = TeacherEmbeddings.load("validation")
        assert list(teacher.ids) == [portrait.id for portrait in portraits]
        return teacher.embeddings

    @torch.inference_mode()
    def quick_report(self, network: RecognizerNetwork) -> str:
        """The two figures worth watching while training."""
        device = next(network.parameters()).device
        network.eval()
        clean, changed = (
            torch.cat([F.normalize(network(to_input(views[i : i + 64], device))) for i in range(0, len(views), 64)])
            for views in (self.clean, self.changed)
        )
        network.train()
        metrics = self.metrics(clean.cpu().numpy(), changed.cpu().numpy())
        return "  ".join(f"{key} {metrics[key]:.3f}" for key in ("correlation", "rank1", "stranger_mean"))

    def metrics(self, clean: np.ndarray, changed: np.ndarray) -> dict[str, float]:
        """Figures from (N, D) unit-norm embeddings of the clean and of the changed crops.

        correlation: of the students' with the teacher's cosines over all pairs of strangers; rank1: changed photos
        whose nearest original is the right person; threshold_far_x: cosine above which a share x of stranger pairs
        lies, and genuine_accepted_far_x the share of changed photos accepted there.
        """
        pairs = np.triu_indices(len(clean), 1)
        strangers = (clean @ clean.T)[pairs]
        cross = changed @ clean.T
        genuine, impostor = np.diag(cross), cross[~np.eye(len(cross), dtype=bool)]
        result = {
            "correlation": np.corrcoef(strangers, (self.teacher @ self.teacher.T)[pairs])[0, 1],
            "rank1": (cross.argmax(axis=1) == np.arange(len(cross))).mean(),
            "stranger_mean": strangers.mean(),
            "stranger_std": strangers.std(),
            "colour_gap": np.linalg.norm(clean[self.colour].mean(axis=0) - clean[~self.colour].mean(axis=0)),
            "genuine_mean": genuine.mean(),
            "genuine_5th_percentile": np.quantile(genuine, 0.05),
            "impostor_mean": impostor.mean(),
            "impostor_std": impostor.std(),
        }
        for rate in (1e-2, 1e-3):
            threshold = np.quantile(impostor, 1.0 - rate)
            result[f"threshold_far_{rate:g}"] = threshold
            result[f"genuine_accepted_far_{rate:g}"] = (genuine > threshold).mean()
        return {key: float(value) for key, value in result.items()}


def evaluate(args: argparse.Namespace) -> None:
    """Measure the exported file as InsightFace would run it, and write the figures."""
    validation = ValidationFaces(args.data, args.seed)
    session = onnxruntime.InferenceSession(str(args.output), providers=["CPUExecutionProvider"])

    def embed(views: list[np.ndarray]) -> np.ndarray:
        return session.run(None, {"input": to_input(views, torch.device("cpu")).numpy()})[0]

    clean = embed(validation.clean)
    metrics = validation.metrics(clean, embed(validation.changed))
    flipped = embed([view[:, ::-1] for view in validation.clean])
    grey = embed([augmentation.grayscale(view) for view in validation.clean])
    metrics["mirrored_mean"] = float((clean * flipped).sum(axis=1).mean())
    metrics["greyed_mean"] = float((clean * grey).sum(axis=1)[validation.colour].mean())
    metrics["file_bytes"] = args.output.stat().st_size
    METRICS.write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))


# --- export ----------------------------------------------------------------------------------------------------------


def export(args: argparse.Namespace) -> None:
    """Write the checkpoint as an ArcFace-type ONNX file: `input` (N, 3, 112, 112) to `embedding` (N, 512)."""
    network = RecognizerNetwork()
    network.load_state_dict(torch.load(RUN / "checkpoint.pt", map_location="cpu", weights_only=True)["network"])
    exported = ExportedRecognizer(network, TeacherSpace.load().map).eval()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.output.with_suffix(".part")
    torch.onnx.export(
        exported,
        (torch.zeros(2, 3, INPUT_SIZE, INPUT_SIZE),),
        str(temporary),
        input_names=["input"],
        output_names=["embedding"],
        dynamic_axes={"input": {0: "batch"}, "embedding": {0: "batch"}},
        dynamo=False,
    )
    model = store_as_half(onnx.load(temporary))
    onnx.checker.check_model(model)
    onnx.save(model, temporary)
    os.replace(temporary, args.output)
    logger.info("wrote %s, %.2f MB", args.output, args.output.stat().st_size / 1e6)


def main() -> None:
    parser = part_parser("Train, export and evaluate the recognizer.", OUTPUT, minutes=40.0)
    parser.add_argument("--batch-size", type=int, default=64)
    run_part(parser.parse_args(), RUN, train=train, export=export, evaluate=evaluate)


if __name__ == "__main__":
    main()
