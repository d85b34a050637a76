"""Train the recognizer of nullface-tiny, a small residual network distilled from the teacher.

The student gets strongly augmented views of the faces that the teacher embeds, so that its
embeddings depend on the person and not on light, tone and print. Training has few people with one
photo each. New faces are therefore blended from two, whole or by regions, and embedded by the
teacher on the fly.

    python -m training.recognizer                      # train, export, evaluate; resumes
    python -m training.recognizer export
    python -m training.recognizer evaluate
"""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nullface_pipeline.face_identity import SAME_PERSON_KEY
from training import augmentation
from training.checkpoint import load_weights
from training.latent_cache import LatentCache
from training.loop import (
    Every,
    LossLog,
    Stateful,
    cached_array,
    level_rate,
    option_parser,
    resume,
    run_tasks,
    save_checkpoint,
)
from training.muon import MixedOptimizer
from training.onnx_export import export_onnx
from training.portraits import load_portraits
from training.sampling import Sampling
from training.teacher import EMBEDDING_SIZE, TeacherEmbeddings, TeacherNetwork, to_teacher
from training.views import INPUT_SIZE, aligned_crop, clean_view, random_change, random_view, shifted_view


BLENDED_SHARE = 0.6
EVEN_SHARE = 0.5  # share of faces drawn uniformly; the others are drawn with the denoiser's weights
OUTPUT = Path("nullface_pipeline/tiny/face_models/recognizer.onnx")
# Threshold with a false match rate of 1 %.
SAME_PERSON_SIMILARITY = 0.39

logger = logging.getLogger("training.recognizer")


class Block(nn.Module):
    """Residual block of two 3 x 3 convolutions."""

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
    """(N, 3, 112, 112) RGB in [-1, 1] to (N, 512) float32 in the centred identity space."""

    def __init__(self, widths: tuple[int, ...] = (64, 128, 256), depths: tuple[int, ...] = (2, 3, 2)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 32, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, widths[0], 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
        )
        blocks = []
        channels = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths)):
            for index in range(depth):
                blocks.append(Block(channels, width, stride=2 if index == 0 and stage > 0 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        # One weight per cell and channel instead of a mean: positions matter in aligned faces.
        cells = INPUT_SIZE // 4 // 2 ** (len(widths) - 1)
        self.pool = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, cells, groups=channels, bias=False), nn.BatchNorm2d(2 * channels)
        )
        self.head = nn.Linear(2 * channels, EMBEDDING_SIZE)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1)).float()


class ExportedRecognizer(nn.Module):
    """Recognizer network with unit-norm embeddings."""

    def __init__(self, network: RecognizerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.network(x))


def blend(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blend two aligned (S, S, 3) uint8 faces with a random smooth mask."""
    mask = cv2.resize(augmentation.smooth_mask(64, rng), first.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.blendLinear(first, second, mask, 1.0 - mask)


class Faces:
    """Draws training faces: portraits, and blends of two."""

    def __init__(self, data: Path, runs: Path) -> None:
        portraits = load_portraits(data, "train")
        self.crops = cached_array(runs / "aligned_train.npy", lambda: np.stack([aligned_crop(p) for p in portraits]))
        drawn = dict(zip(Sampling.load(runs).ids, Sampling.load(runs).weights))
        weights = np.array([drawn.get(portrait.id, 0.0) for portrait in portraits], dtype=np.float64)
        self.probabilities = EVEN_SHARE / len(portraits) + (1.0 - EVEN_SHARE) * weights / weights.sum()

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw (N, 112, 112, 3) uint8 views for the teacher, and augmented ones for the student."""
        first, second = rng.choice(len(self.crops), size=(2, count), p=self.probabilities)
        views, changed = [], []
        for a, b in zip(first, second):
            crop = blend(self.crops[a], self.crops[b], rng) if rng.random() < BLENDED_SHARE else self.crops[a]
            view = shifted_view(crop, rng)
            views.append(view)
            changed.append(random_change(view, rng))
        return np.stack(views), np.stack(changed)


def to_input(views: np.ndarray | Sequence[np.ndarray]) -> Tensor:
    """Convert (N, 112, 112, 3) uint8 to InsightFace's (N, 3, 112, 112) float32 in [-1, 1]."""
    batch = torch.from_numpy(np.ascontiguousarray(np.asarray(views))).permute(0, 3, 1, 2)
    return ((batch.float() - 127.5) / 127.5).contiguous(memory_format=torch.channels_last)


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 0.1, contrast: float = 0.15) -> Tensor:
    """Cosine distance to the teacher, plus a contrastive loss with the teacher's similarities.

    Args:
        student (`Tensor`): (N, 512) embeddings of any norm.
        teacher (`Tensor`): (N, 512) unit-norm embeddings.
        temperature (`float`): temperature of the softmax over the batch.
        contrast (`float`): weight of the contrastive loss.
    """
    student = F.normalize(student)
    cosine = 1.0 - (student * teacher).sum(dim=1).mean()
    target = F.softmax(teacher @ teacher.T / temperature, dim=1)
    predicted = F.log_softmax(student @ teacher.T / temperature, dim=1)
    return cosine + contrast * F.kl_div(predicted, target, reduction="batchmean")


class CentredTeacher:
    """Teacher with centred embeddings."""

    def __init__(self, path: Path, runs: Path, device: torch.device) -> None:
        self.network = TeacherNetwork(path).to(device)
        self.mean = torch.from_numpy(Sampling.load(runs).mean).to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, views: np.ndarray) -> Tensor:
        """(N, 512) float32 unit-norm centred embeddings of (N, 112, 112, 3) uint8 views."""
        pixels = to_teacher(views).to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            raw = self.network(pixels)
        return F.normalize(F.normalize(raw.float()) - self.mean)


def build_optimizer(network: nn.Module, rate: float) -> MixedOptimizer:
    """Muon for all convolutions except the first and the pooling layer, AdamW for the rest."""
    named = dict(network.named_parameters())
    matrices = {name for name, weight in named.items() if weight.ndim == 4 and not name.startswith(("stem.0", "pool"))}
    others = [weight for name, weight in named.items() if name not in matrices]
    return MixedOptimizer([named[name] for name in sorted(matrices)], {1.0: others}, rate)


def train(args: argparse.Namespace) -> None:
    """Train on `--samples` faces over all runs; resume from a checkpoint if there is one."""
    device = torch.device(args.device)
    faces, teacher = Faces(args.data, args.runs), CentredTeacher(args.teacher, args.runs, device)
    validation = ValidationFaces(args)
    torch.manual_seed(args.seed)
    network = RecognizerNetwork().to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network, args.lr)
    parts: dict[str, Stateful] = {"network": network, "optimizer": optimizer}
    checkpoint = args.runs / "recognizer.pt"
    progress = resume(checkpoint, parts, device)
    step, samples = progress.get("step", 0), progress.get("samples", 0)
    if args.start and not progress:
        network.load_state_dict(load_weights(args.start))

    def save() -> None:
        save_checkpoint(checkpoint, parts, step=step, samples=samples)
        logger.info("validation: %s", validation.quick_report(network))

    log, report = LossLog(logger), Every(240)
    rng = np.random.default_rng((args.seed, step))
    network.train()
    while samples < args.samples:
        views, changed = faces.draw(args.batch_size, rng)
        with torch.autocast(device.type, torch.bfloat16):
            found = network(to_input(changed).to(device))
        loss = distillation_loss(found.float(), teacher(views))
        loss.backward()
        optimizer.set_rate(level_rate(samples / args.samples, step, decay=0.7))
        optimizer.step()
        step, samples = step + 1, samples + args.batch_size
        log(samples / args.samples, f"{samples} samples", loss=loss)
        if report():
            save()
    save()


class ValidationFaces:
    """Clean and augmented 112 px views of the validation portraits, and teacher embeddings."""

    def __init__(self, args: argparse.Namespace) -> None:
        portraits = load_portraits(args.data, "validation")
        crops = [aligned_crop(portrait) for portrait in portraits]
        rng = np.random.default_rng(args.seed)
        self.clean = [clean_view(crop) for crop in crops]
        self.changed = [random_view(crop, rng) for crop in crops]
        self.colour = np.array([portrait.colour for portrait in portraits])
        ids = np.array([portrait.id for portrait in portraits])
        raw = TeacherEmbeddings.load(args.runs, "validation").select(ids)
        self.teacher = Sampling.load(args.runs).centre(raw[:, 0])
        self.photographs = LatentCache.load(args.runs, "validation").real_colour

    @torch.inference_mode()
    def quick_report(self, network: RecognizerNetwork) -> str:
        """Main metrics for the log of the training."""
        device = next(network.parameters()).device
        network.eval()
        clean, changed = (
            torch.cat([F.normalize(network(to_input(views[i : i + 64]).to(device))) for i in range(0, len(views), 64)])
            for views in (self.clean, self.changed)
        )
        network.train()
        metrics = self.metrics(clean.cpu().numpy(), changed.cpu().numpy())
        watched = ("correlation", "colour_correlation", "agreement", "rank1", "stranger_mean")
        return "  ".join(f"{key} {metrics[key]:.3f}" for key in watched)

    def metrics(self, clean: np.ndarray, changed: np.ndarray) -> dict[str, float]:
        """Metrics of (N, D) unit-norm embeddings of the clean and of the augmented views.

        Returns:
            `dict`: `correlation` of the student's with the teacher's impostor scores,
                `colour_correlation` for colour photographs; `agreement`, the mean cosine to the
                teacher; `rank1`, the rate of augmented views identified; for a false accept rate x,
                `threshold_far_x` and the share `genuine_accepted_far_x` above it; and others.
        """
        pairs = np.triu_indices(len(clean), 1)
        strangers, expected = (clean @ clean.T)[pairs], (self.teacher @ self.teacher.T)[pairs]
        colour = self.photographs[pairs[0]] & self.photographs[pairs[1]]
        cross = changed @ clean.T
        genuine, impostor = np.diag(cross), cross[~np.eye(len(cross), dtype=bool)]
        result = {
            "correlation": np.corrcoef(strangers, expected)[0, 1],
            "colour_correlation": np.corrcoef(strangers[colour], expected[colour])[0, 1],
            "agreement": (clean * self.teacher).sum(axis=1).mean(),
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
    """Measure the exported file with InsightFace's preprocessing, and write the metrics."""
    validation = ValidationFaces(args)
    session = onnxruntime.InferenceSession(str(args.output), providers=["CPUExecutionProvider"])

    def embed(views: list[np.ndarray]) -> np.ndarray:
        return session.run(None, {"input": to_input(views).contiguous().numpy()})[0]

    clean = embed(validation.clean)
    metrics = validation.metrics(clean, embed(validation.changed))
    flipped = embed([view[:, ::-1] for view in validation.clean])
    grey = embed([augmentation.grayscale(view) for view in validation.clean])
    metrics["mirrored_mean"] = float((clean * flipped).sum(axis=1).mean())
    metrics["greyed_mean"] = float((clean * grey).sum(axis=1)[validation.colour].mean())
    metrics["file_bytes"] = args.output.stat().st_size
    (args.runs / "recognizer_metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2))


def export(args: argparse.Namespace) -> None:
    """Export an ArcFace-type ONNX file: `input` (N, 3, 112, 112) to `embedding` (N, 512)."""
    network = RecognizerNetwork()
    network.load_state_dict(torch.load(args.runs / "recognizer.pt", map_location="cpu")["network"])
    export_onnx(
        ExportedRecognizer(network),
        torch.zeros(2, 3, INPUT_SIZE, INPUT_SIZE),
        args.output,
        ["embedding"],
        {"input": {0: "batch"}, "embedding": {0: "batch"}},
        logger,
        {SAME_PERSON_KEY: str(SAME_PERSON_SIMILARITY)},
    )


def main() -> None:
    tasks = {"train": train, "export": export, "evaluate": evaluate}
    shared = ("data", "runs", "teacher", "device", "seed", "threads")
    parser = option_parser(__doc__, *shared, output=OUTPUT, lr=2e-3, batch_size=64)
    parser.add_argument("task", nargs="?", default="all", choices=["all", *tasks])
    parser.add_argument("--from", dest="start", type=Path, help="file of initial weights")
    parser.add_argument("--samples", type=int, default=150_000, help="faces over all runs")
    run_tasks(parser.parse_args(), tasks)


if __name__ == "__main__":
    main()
