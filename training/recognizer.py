"""The recognizer of nullface-tiny: a small residual network that says of a face what the teacher says of it.

Distillation: the student sees the face that the teacher sees, but under strong changes of light, tone and print, so that
its embedding says who it is and not how the photo was made. There is one photo a person and there are few persons, so
new faces are made up all the time by blending two (whole, or by regions); the teacher is asked about each as it comes.

    python -m training.recognizer                      # train, export, evaluate; goes on where it stopped
    python -m training.recognizer export
    python -m training.recognizer evaluate
"""

import argparse
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from nullface_pipeline.face_identity import SAME_PERSON_KEY
from training import augmentation
from training.checkpoint import kept
from training.latent_cache import LatentCache
from training.loop import Every, level_rate, part_parser, run_part, save_checkpoint
from training.muon import MixedOptimizer
from training.onnx_weights import store_as_half
from training.portraits import load_portraits
from training.sampling import Sampling
from training.teacher import EMBEDDING_SIZE, TEACHER, TeacherEmbeddings, TeacherNetwork, to_teacher
from training.views import INPUT_SIZE, aligned_crop, clean_view, random_change, random_view, shifted_view


BLENDED_SHARE = 0.6
EVEN_SHARE = 0.5  # of the faces are drawn evenly from all portraits, the rest as the UNet draws them
OUTPUT = Path("nullface_pipeline/tiny/face_models/recognizer.onnx")
# At this value one pair of strangers in a hundred counts as the same person.
SAME_PERSON_SIMILARITY = 0.39

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
    """(N, 3, 112, 112) RGB in [-1, 1] to (N, 512) float32, a direction in the teacher's centred space."""

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
        # A weight for every cell and channel instead of a mean: where in an aligned face something is matters.
        cells = INPUT_SIZE // 4 // 2 ** (len(widths) - 1)
        self.pool = nn.Sequential(
            nn.Conv2d(channels, 2 * channels, cells, groups=channels, bias=False), nn.BatchNorm2d(2 * channels)
        )
        self.head = nn.Linear(2 * channels, EMBEDDING_SIZE)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.blocks(self.stem(x))).flatten(1)).float()


class ExportedRecognizer(nn.Module):
    """The network with unit-norm embeddings."""

    def __init__(self, network: RecognizerNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.network(x))


# --- data ------------------------------------------------------------------------------------------------------------


def blend(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mix two aligned (S, S, 3) uint8 faces by a random smooth mask."""
    mask = cv2.resize(augmentation.smooth_mask(64, rng), first.shape[1::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.blendLinear(first, second, mask, 1.0 - mask)


class Faces:
    """Training faces: portraits, and blends of two."""

    def __init__(self, data: Path, runs: Path) -> None:
        portraits = load_portraits(data, "train")
        self.crops = aligned_crops(portraits, runs / "aligned_train.npy")
        drawn = dict(zip(Sampling.load(runs).ids, Sampling.load(runs).weights))
        weights = np.array([drawn.get(portrait.id, 0.0) for portrait in portraits], dtype=np.float64)
        self.probabilities = EVEN_SHARE / len(portraits) + (1.0 - EVEN_SHARE) * weights / weights.sum()

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """What the teacher sees and what the student sees of `count` faces, both (count, 112, 112, 3) uint8."""
        first, second = rng.choice(len(self.crops), size=(2, count), p=self.probabilities)
        seen, changed = [], []
        for a, b in zip(first, second):
            crop = blend(self.crops[a], self.crops[b], rng) if rng.random() < BLENDED_SHARE else self.crops[a]
            view = shifted_view(crop, rng)
            seen.append(view)
            changed.append(random_change(view, rng))
        return np.stack(seen), np.stack(changed)


def aligned_crops(portraits: list, cache: Path) -> np.ndarray:
    """(N, 160, 160, 3) uint8 aligned crops; cut once, then read from `cache`."""
    if not cache.exists():
        temporary = cache.with_suffix(".part.npy")
        np.save(temporary, np.stack([aligned_crop(portrait) for portrait in portraits]))
        temporary.replace(cache)
    return np.load(cache, mmap_mode="r")


def to_input(views: np.ndarray | Sequence[np.ndarray]) -> Tensor:
    """(N, 112, 112, 3) uint8 views to the network's (N, 3, 112, 112) float32 input in [-1, 1], as InsightFace does."""
    batch = torch.from_numpy(np.ascontiguousarray(np.asarray(views))).permute(0, 3, 1, 2)
    return ((batch.float() - 127.5) / 127.5).contiguous(memory_format=torch.channels_last)


# --- training --------------------------------------------------------------------------------------------------------


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 0.1, contrast: float = 0.15) -> Tensor:
    """Cosine distance to the teacher, plus in-batch contrast whose soft targets are the teacher's own similarities.

    Args:
        student, teacher: (N, 512), any norm / unit norm.
    """
    student = F.normalize(student)
    cosine = 1.0 - (student * teacher).sum(dim=1).mean()
    wanted = F.softmax(teacher @ teacher.T / temperature, dim=1)
    found = F.log_softmax(student @ teacher.T / temperature, dim=1)
    return cosine + contrast * F.kl_div(found, wanted, reduction="batchmean")


class CentredTeacher:
    """The teacher's word in the identity space."""

    def __init__(self, path: Path, runs: Path, device: torch.device) -> None:
        self.network = TeacherNetwork(path).to(device)
        self.mean = torch.from_numpy(Sampling.load(runs).mean).to(device)
        self.device = device

    @torch.no_grad()
    def __call__(self, views: np.ndarray) -> Tensor:
        """(N, 112, 112, 3) uint8 views to (N, 512) float32 unit-norm centred embeddings."""
        pixels = to_teacher(views).to(self.device).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            raw = self.network(pixels)
        return F.normalize(F.normalize(raw.float()) - self.mean)


def build_optimizer(network: nn.Module, rate: float) -> MixedOptimizer:
    """Muon for all convolutions but the first and the pooling ones, AdamW for the rest."""
    named = dict(network.named_parameters())
    matrices = {name for name, weight in named.items() if weight.ndim == 4 and not name.startswith(("stem.0", "pool"))}
    others = [weight for name, weight in named.items() if name not in matrices]
    return MixedOptimizer([named[name] for name in sorted(matrices)], {1.0: others}, rate)


def train(args: argparse.Namespace) -> None:
    """Train on `args.samples` faces in all, counted over stops and resumes."""
    device = torch.device(args.device)
    faces, teacher = Faces(args.data, args.runs), CentredTeacher(args.teacher, args.runs, device)
    validation = ValidationFaces(args)
    torch.manual_seed(args.seed)
    network = RecognizerNetwork().to(device).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network, args.learning_rate)
    checkpoint, step, samples = args.runs / "recognizer.pt", 0, 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        step, samples = state["step"], state["samples"]
    elif args.start:
        network.load_state_dict(kept(args.start))

    def save() -> None:
        state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
        save_checkpoint(checkpoint, state | {"step": step, "samples": samples})
        logger.info("validation: %s", validation.quick_report(network))

    log, report, losses = Every(30), Every(240), []
    rng = np.random.default_rng((args.seed, step))
    network.train()
    while samples < args.samples:
        seen, changed = faces.draw(args.batch_size, rng)
        with torch.autocast(device.type, torch.bfloat16):
            found = network(to_input(changed).to(device))
        loss = distillation_loss(found.float(), teacher(seen))
        loss.backward()
        optimizer.set_rate(level_rate(samples / args.samples, step, decay=0.7))
        optimizer.step()
        losses.append(loss.item())
        step, samples = step + 1, samples + args.batch_size
        if log():
            logger.info("%5.1f %%  %d samples  loss %.4f", 100.0 * samples / args.samples, samples, np.mean(losses))
            losses.clear()
        if report():
            save()
    save()


# --- evaluation ------------------------------------------------------------------------------------------------------


class ValidationFaces:
    """The validation portraits as clean 112 px crops and as randomly changed ones, and the teacher's similarities."""

    def __init__(self, args: argparse.Namespace) -> None:
        portraits = load_portraits(args.data, "validation")
        crops = [aligned_crop(portrait) for portrait in portraits]
        rng = np.random.default_rng(args.seed)
        self.clean = [clean_view(crop) for crop in crops]
        self.changed = [random_view(crop, rng) for crop in crops]
        self.colour = np.array([portrait.colour for portrait in portraits])
        raw = TeacherEmbeddings.load("validation", args.runs).of(np.array([portrait.id for portrait in portraits]))
        self.teacher = Sampling.load(args.runs).centre(raw[:, 0])
        self.photographs = LatentCache.load("validation", args.runs).real_colour

    @torch.inference_mode()
    def quick_report(self, network: RecognizerNetwork) -> str:
        """The figures worth watching while training."""
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
        """Figures from (N, D) unit-norm embeddings of the clean and of the changed crops.

        correlation: of the student's with the teacher's cosines over all pairs of strangers, colour_correlation over
        those of colour photographs; agreement: mean cosine of the student's with the teacher's embedding; rank1:
        changed photos whose nearest original is the right person; threshold_far_x: cosine above which a share x of
        stranger pairs lies, and genuine_accepted_far_x the share of changed photos accepted there.
        """
        pairs = np.triu_indices(len(clean), 1)
        strangers, wanted = (clean @ clean.T)[pairs], (self.teacher @ self.teacher.T)[pairs]
        colour = self.photographs[pairs[0]] & self.photographs[pairs[1]]
        cross = changed @ clean.T
        genuine, impostor = np.diag(cross), cross[~np.eye(len(cross), dtype=bool)]
        result = {
            "correlation": np.corrcoef(strangers, wanted)[0, 1],
            "colour_correlation": np.corrcoef(strangers[colour], wanted[colour])[0, 1],
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
    """Measure the exported file as InsightFace would run it, and write the figures."""
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


# --- export ----------------------------------------------------------------------------------------------------------


def export(args: argparse.Namespace) -> None:
    """Write the checkpoint as an ArcFace-type ONNX file: `input` (N, 3, 112, 112) to `embedding` (N, 512)."""
    network = RecognizerNetwork()
    network.load_state_dict(torch.load(args.runs / "recognizer.pt", map_location="cpu")["network"])
    exported = ExportedRecognizer(network).eval()
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
    onnx.helper.set_model_props(model, {SAME_PERSON_KEY: str(SAME_PERSON_SIMILARITY)})
    onnx.checker.check_model(model)
    onnx.save(model, temporary)
    os.replace(temporary, args.output)
    logger.info("wrote %s, %.2f MB", args.output, args.output.stat().st_size / 1e6)


def main() -> None:
    parser = part_parser("Train, export and evaluate the recognizer.", OUTPUT)
    parser.add_argument("--from", dest="start", type=Path, help="kept weights to start from")
    parser.add_argument("--teacher", type=Path, default=TEACHER)
    parser.add_argument("--samples", type=int, default=150_000, help="faces in all, over all runs")
    parser.add_argument("--batch-size", type=int, default=64)
    args = parser.parse_args()
    run_part(args, args.runs, train=train, export=export, evaluate=evaluate)


if __name__ == "__main__":
    main()
