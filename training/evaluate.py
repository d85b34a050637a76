"""Evaluate nullface-tiny on unseen people: the tables, trends and pictures of its model card.

    python -m training.evaluate table
    python -m training.evaluate trends
    python -m training.evaluate masks
    python -m training.evaluate sheet

dlib's recognizer, which no training used, identifies finished photos among the originals of all
validation portraits. nullface-tiny's recognizer and its teacher do so too, but are not independent.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import torch
from rich.progress import track

from nullface_pipeline.evaluation.baselines import pixelate
from nullface_pipeline.evaluation.recognizers import InsightFaceRecognizer, OnnxRecognizer, contains
from nullface_pipeline.face_crops import FaceCrop, edge_feather
from nullface_pipeline.face_identity import DetectedFace, FaceLocation, embed_face, locate_faces
from nullface_pipeline.face_masks import MASK_MARGIN, mask_picture
from nullface_pipeline.face_parsing import anonymization_mask, region_mask
from nullface_pipeline.face_target import make_target
from nullface_pipeline.identity_choices import RandomIdentity
from nullface_pipeline.pipeline import StableDiffusionNullFacePipeline
from training.expression import HeadPose, compare
from training.latent_cache import CROP_SIZE, has_real_colour
from training.loop import option_parser
from training.portraits import Portrait, load_portraits
from training.verifier import Verifier


BATCH = 8
PAPER_SETTINGS: dict[str, Any] = {"num_inference_steps": 100, "skip": 0.7, "guidance_scale": 10.0}
KEPT = ("eyes", "mouth")


@dataclass(frozen=True)
class Subject:
    """Validation portrait with its aligned face, embedding and parsing."""

    portrait: Portrait
    photo: np.ndarray  # (H, W, 3) uint8 RGB
    crop: FaceCrop
    aligned: np.ndarray  # (S, S, 3) uint8 RGB, S the pipeline's size
    embedding: np.ndarray  # (512,) float32, by nullface-tiny's recognizer
    labels: np.ndarray  # (S, S) int64 labels of the face parser


def load_model_set(folder: Path, device: str) -> StableDiffusionNullFacePipeline:
    """Load a model set of nullface-tiny's layout from any folder."""
    pipe = StableDiffusionNullFacePipeline.from_pretrained(folder / "model").to(device)
    pipe.load_face_adapter(folder / "face_adapter.safetensors")
    pipe.load_face_models(folder / "face_models", folder / "face_parser")
    return pipe


def load_subjects(pipe: Any, portraits: list[Portrait]) -> list[Subject]:
    """Align, embed and parse the faces of portraits."""
    subjects, size = [], pipe.unet.config.sample_size * pipe.vae_scale_factor
    for portrait in track(portraits, "reading portraits"):
        photo, crop = portrait.image(), portrait.face_crop(size)
        aligned = crop.crop_image(photo)
        embedding = embed_face(pipe.face_analyser, photo, portrait.keypoints())
        subjects.append(Subject(portrait, photo, crop, aligned, embedding, pipe.face_parser(aligned)))
    return subjects


class Anonymizer:
    """Runs the pipeline on aligned faces; reuses the inversions of the latest settings."""

    def __init__(self, pipe: Any, subjects: list[Subject]):
        self.pipe, self.subjects = pipe, subjects
        self.inversions: dict[tuple[int, float], list[Any]] = {}

    def __call__(
        self, keep: Sequence[str] | None = (), num_inference_steps: int = 100, skip: float = 0.7, **settings: Any
    ) -> list[np.ndarray]:
        """(S, S, 3) uint8 results with `keep` unchanged; None also changes the surroundings."""
        results = []
        inversions = self._invert(num_inference_steps, skip)
        for start, inversion in zip(range(0, len(self.subjects), BATCH), track(inversions, f"{keep} {settings}")):
            batch = self.subjects[start : start + BATCH]
            masks = None if keep is None else [mask_picture(change_mask(self.pipe, s, keep)) for s in batch]
            images = self.pipe(
                [PIL.Image.fromarray(subject.aligned) for subject in batch],
                identity_embeds=torch.from_numpy(np.stack([subject.embedding for subject in batch])),
                mask_image=masks,
                inversion=inversion,
                **settings,
            ).images
            results += [np.asarray(image) for image in images]
        return results

    def _invert(self, num_inference_steps: int, skip: float) -> list[Any]:
        key = num_inference_steps, skip
        if key not in self.inversions:
            self.inversions = {
                key: [
                    self.pipe.invert(
                        [PIL.Image.fromarray(subject.aligned) for subject in self.subjects[start : start + BATCH]],
                        num_inference_steps=num_inference_steps,
                        skip=skip,
                        inversion_batch_size=32,
                        generator=[
                            torch.Generator().manual_seed(index)
                            for index in range(start, min(start + BATCH, len(self.subjects)))
                        ],
                    )
                    for start in track(range(0, len(self.subjects), BATCH), f"inverting, skip {skip}")
                ]
            }
        return self.inversions[key]


def change_mask(pipe: Any, subject: Subject, keep: Sequence[str]) -> np.ndarray:
    """(S, S) float32 mask in [0, 1] of what changes when the regions `keep` are kept."""
    return anonymization_mask(subject.labels, pipe.face_parser.labels, keep, margin=MASK_MARGIN)


def paste(subject: Subject, face: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """Paste an aligned result into the photo, within an optional mask."""
    weight = edge_feather(subject.crop.size)
    return subject.crop.paste(subject.photo, face, weight if mask is None else weight * mask)


def finish(
    pipe: Any, subjects: list[Subject], faces: list[np.ndarray], keep: Sequence[str] | None
) -> list[np.ndarray]:
    """Paste all results into their photos; if `keep` is None, paste the whole crops."""
    masks = [None if keep is None else change_mask(pipe, subject, keep) for subject in subjects]
    return [paste(*args) for args in zip(subjects, faces, masks)]


def anonymize_by_default(pipe: Any, subjects: list[Subject], keep: Sequence[str]) -> list[np.ndarray]:
    """Finished photos with the default options of the commands, first attempt only."""
    photos = []
    for start in track(range(0, len(subjects), BATCH), f"{keep} by default"):
        batch = subjects[start : start + BATCH]
        faces = [DetectedFace(s.portrait.box, s.portrait.keypoints(), 1.0, s.embedding) for s in batch]
        targets = [
            make_target(pipe, subject.photo, face, [face], tuple(keep), None, seed)
            for seed, (subject, face) in enumerate(zip(batch, faces), start=start)
        ]
        results = RandomIdentity().new_faces(pipe, targets, pipe.presets["standard"])
        photos += [replace(t, result=result).paste(s.photo) for s, t, result in zip(batch, targets, results)]
    return photos


def reconstruct(pipe: Any, subjects: list[Subject]) -> list[np.ndarray]:
    """Encode and decode the aligned faces without any change."""
    faces = []
    with torch.no_grad():
        for subject in subjects:
            pixels = pipe.prepare_image(PIL.Image.fromarray(subject.aligned))
            decoded = pipe.decode_latents(pipe.encode_image(pixels))
            faces.append(np.asarray(pipe.image_processor.postprocess(decoded)[0]))
    return faces


class PhotoMetrics:
    """Privacy and utility metrics of finished photos."""

    def __init__(self, pipe: Any, portraits: list[Portrait], models: Path) -> None:
        self.pipe, self.pose = pipe, HeadPose(models / "head_pose_66.onnx")
        self.verifier = Verifier(portraits)
        self.student = Verifier(portraits, InsightFaceRecognizer("student", pipe.face_analyser))
        self.teacher = Verifier(portraits, OnnxRecognizer("teacher", models / "face_recognizer_512.onnx"))

    def __call__(self, subjects: list[Subject], photos: list[np.ndarray]) -> dict[str, float]:
        portraits, originals = [s.portrait for s in subjects], [s.photo for s in subjects]
        row = self.verifier(portraits, photos)
        row |= {f"student_{name}": value for name, value in self.student(portraits, photos).items()}
        row["teacher_rank1"] = self.teacher(portraits, photos)["rank1"]
        row |= compare(portraits, originals, photos, self.pose)
        row["detected"] = 100.0 * float(np.mean([self.is_detected(*pair) for pair in zip(photos, portraits)]))
        row["background_change"] = background_change(self.pipe, subjects, photos)
        return row

    def is_detected(self, photo: np.ndarray, portrait: Portrait) -> bool:
        """Whether the detector finds a face that contains the tip of the nose."""
        return any(contains(face, portrait.landmarks[30]) for face in locate_faces(self.pipe.face_analyser, photo))


def background_change(pipe: Any, subjects: list[Subject], photos: list[np.ndarray]) -> float:
    """Mean absolute change (of 255) of crop pixels outside the face mask."""
    changes = []
    for subject, photo in zip(subjects, photos):
        outside = change_mask(pipe, subject, ()) < 1 / 255
        difference = np.abs(subject.crop.crop_image(photo).astype(int) - subject.aligned)
        if outside.any():
            changes.append(difference[outside].mean())
    return float(np.mean(changes))


def make_table(pipe: Any, portraits: list[Portrait], measure: PhotoMetrics) -> list[dict[str, Any]]:
    """One row of metrics per method."""
    subjects = load_subjects(pipe, portraits)
    rows = []

    def add(name: str, photos: list[np.ndarray]) -> None:
        rows.append({"name": name, "count": len(subjects), **measure(subjects, photos)})
        print(json.dumps(rows[-1]), flush=True)

    add("original", [subject.photo for subject in subjects])
    add("reconstruction only", [paste(s, face) for s, face in zip(subjects, reconstruct(pipe, subjects))])
    faces = [FaceLocation(s.portrait.box, s.portrait.keypoints(), 1.0) for s in subjects]
    add("pixelated", [pixelate(s.photo, face) for s, face in zip(subjects, faces)])
    kept_regions = (("whole face", ()), ("eyes and mouth kept", KEPT))
    for name, keep in kept_regions:
        add(f"{name}, by default", anonymize_by_default(pipe, subjects, keep))
    anonymize = Anonymizer(pipe, subjects)
    for title, settings in (("straight away", pipe.presets["standard"]), ("paper's settings", PAPER_SETTINGS)):
        for name, keep in kept_regions:
            add(f"{name}, {title}", finish(pipe, subjects, anonymize(keep=keep, **settings), keep))
    return rows


def make_trends(pipe: Any, portraits: list[Portrait], metrics: PhotoMetrics) -> dict[str, list[dict[str, float]]]:
    """The paper's sweeps: metrics by setting and value."""
    subjects = load_subjects(pipe, portraits)
    anonymize = Anonymizer(pipe, subjects)

    def measure(value: float, keep: Sequence[str] | None = None, **settings: Any) -> dict[str, float]:
        faces = anonymize(keep=keep, **settings)
        photos = finish(pipe, subjects, faces, keep)
        pairs = list(zip(subjects, faces))
        point = {"value": value, **metrics.verifier([subject.portrait for subject in subjects], photos)}
        point["image_change"] = float(np.mean([np.abs(face.astype(int) - s.aligned).mean() for s, face in pairs]))
        point["kept_change"] = float(np.mean([kept_change(pipe, *pair) for pair in pairs]))
        print(json.dumps(point), flush=True)
        return point

    keeps = ((), ("mouth",), ("eyes",), KEPT, (*KEPT, "nose"))
    return {
        "identity_scale": [measure(v, **PAPER_SETTINGS, identity_scale=v) for v in (0.0, 0.33, 0.67, 1.0)],
        "guidance_scale": [measure(v, **{**PAPER_SETTINGS, "guidance_scale": v}) for v in (2.5, 5.0, 7.5, 10.0)],
        "kept_regions": [measure(len(keep), keep, **PAPER_SETTINGS, mask_start=0.7) for keep in keeps],
        "mask_start": [measure(v, KEPT, **PAPER_SETTINGS, mask_start=v) for v in (0.7, 0.8, 0.9, 1.0)],
        "skip": [measure(v, **{**PAPER_SETTINGS, "skip": v}) for v in (0.0, 0.3, 0.5, 0.7, 0.9)],
    }


def make_mask_table(pipe: Any, portraits: list[Portrait], measure: PhotoMetrics) -> list[dict[str, Any]]:
    """Metrics with the mask applied from the start, and from 0.8 of the steps on."""
    subjects = load_subjects(pipe, portraits)
    anonymize = Anonymizer(pipe, subjects)
    rows = []
    for name, settings in (("paper's", PAPER_SETTINGS), ("nullface-tiny's", pipe.presets["standard"])):
        for start in (settings["skip"], 0.8):
            photos = finish(pipe, subjects, anonymize(keep=(), **settings, mask_start=start), ())
            row = {"name": f"{name} settings", "mask_start": start, "count": len(subjects)}
            rows.append(row | measure(subjects, photos))
            rows[-1]["seam"] = float(np.mean([seam(pipe, *args) for args in zip(subjects, photos)]))
            print(json.dumps(rows[-1]), flush=True)
    return rows


def seam(pipe: Any, subject: Subject, photo: np.ndarray) -> float:
    """Increase of the gradient along the mask's edge, in grey values (of 255) per pixel."""
    mask = change_mask(pipe, subject, ())
    edge = (mask > 0.02) & (mask < 0.98)
    after, before = (gradient_norm(image)[edge].mean() for image in (subject.crop.crop_image(photo), subject.aligned))
    return float(after - before)


def gradient_norm(image: np.ndarray) -> np.ndarray:
    """(H, W) float32 gradient norm of the grey values of an (H, W, 3) uint8 RGB image."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return np.hypot(cv2.Sobel(grey, -1, 1, 0, ksize=1), cv2.Sobel(grey, -1, 0, 1, ksize=1)) / 2.0


def kept_change(pipe: Any, subject: Subject, face: np.ndarray) -> float:
    """Mean absolute change (of 255) of eyes and mouth in the model's output."""
    kept = region_mask(subject.labels, pipe.face_parser.labels, KEPT)
    return float(np.abs(face.astype(int) - subject.aligned)[kept].mean()) if kept.any() else 0.0


def plot_trends(trends: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Plot one panel per sweep of `make_trends`."""
    panels = (
        ("identity_scale", "similarity", "λ_id", "similarity to the person"),
        ("guidance_scale", "similarity", "λ_cfg", "similarity to the person"),
        ("skip", "image_change", "skip", "change of the image, of 255"),
        ("kept_regions", "similarity", "regions kept", "similarity to the person"),
        ("mask_start", "kept_change", "mask_start", "change of what is kept, of 255"),
    )
    matplotlib.use("Agg")
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3), layout="constrained")
    for axis, (name, quantity, xlabel, ylabel) in zip(axes, panels):
        points = trends[name]
        values = range(len(points)) if name == "kept_regions" else [point["value"] for point in points]
        axis.plot(values, [point[quantity] for point in points], marker="o")
        axis.set(xlabel=xlabel, ylabel=ylabel)
        axis.grid(alpha=0.3)
        if name == "kept_regions":
            axis.set_xticks(range(len(points)), ["none", "mouth", "eyes", "both", "+ nose"])
    figure.savefig(path, dpi=110)


def make_sheet(pipe: Any, portraits: list[Portrait]) -> np.ndarray:
    """Picture of originals, reconstructions and results, in blocks of twelve portraits."""
    subjects = load_subjects(pipe, portraits)
    rows = [[subject.aligned for subject in subjects], reconstruct(pipe, subjects)]
    for keep in ((), KEPT):
        photos = anonymize_by_default(pipe, subjects, keep)
        rows.append([subject.crop.crop_image(photo) for subject, photo in zip(subjects, photos)])
    blocks = [
        np.concatenate([np.concatenate(row[start : start + 12], axis=1) for row in rows])
        for start in range(0, len(subjects), 12)
    ]
    gap = np.full((12, blocks[0].shape[1], 3), 255, dtype=np.uint8)
    return np.concatenate([part for block in blocks for part in (block, gap)][:-1])


def choose_good(portraits: list[Portrait], count: int) -> list[Portrait]:
    """Evenly spaced colour photographs with crops of at least about 100 px per side."""
    crops = [(portrait, portrait.face_crop(CROP_SIZE)) for portrait in portraits if portrait.colour]
    large = [(portrait, crop.crop_image(portrait.image())) for portrait, crop in crops if crop.scale <= 1.25]
    good = [portrait for portrait, crop in large if has_real_colour(portrait, crop)]
    return spread(good, count)


def spread(portraits: list[Portrait], count: int) -> list[Portrait]:
    """Up to `count` portraits, evenly spaced in the list."""
    return [portraits[index] for index in np.linspace(0, len(portraits) - 1, min(count, len(portraits))).astype(int)]


def main() -> None:
    default_counts = {"table": None, "trends": 48, "masks": 48, "sheet": 24}
    shared = ("data", "model", "models", "device", "threads")
    parser = option_parser(__doc__, *shared, output=Path("docs/nullface-tiny"))
    parser.add_argument("part", choices=list(default_counts))
    parser.add_argument(
        "--people", default="all", choices=["all", "even", "odd"], help="part of the validation people"
    )
    parser.add_argument("--count", type=int, help="number of portraits (table: all, trends and masks: 48, sheet: 24)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.output.mkdir(parents=True, exist_ok=True)
    portraits = load_portraits(args.data, "validation")
    pipe = load_model_set(args.model, args.device)
    pipe.set_progress_bar_config(disable=True)
    chosen = {"all": portraits, "even": portraits[::2], "odd": portraits[1::2]}[args.people]
    count = args.count or default_counts[args.part] or len(chosen)
    if args.part == "sheet":
        PIL.Image.fromarray(make_sheet(pipe, choose_good(chosen, count))).save(args.output / "faces.jpg", quality=88)
        return
    measure, chosen = PhotoMetrics(pipe, portraits, args.models), spread(chosen, count)
    make = {"table": make_table, "trends": make_trends, "masks": make_mask_table}[args.part]
    figures: Any = make(pipe, chosen, measure)
    (args.output / f"{args.part}.json").write_text(json.dumps(figures, indent=1) + "\n")
    if args.part == "trends":
        plot_trends(figures, args.output / "trends.png")


if __name__ == "__main__":
    main()
