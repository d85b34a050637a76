"""Re-identification by an attacker who has another photo of the person: Labeled Faces in the Wild.

    python -m benchmarks.lfw results --runs /tmp/lfw --method default opposite
    python -m benchmarks.lfw controls --runs /tmp/lfw
    python -m benchmarks.lfw report --runs /tmp/lfw --recognizer dlib --method default opposite

`results` anonymizes the first photo of each person with nullface-tiny. A stopped run continues.
`controls` paints either the face or everything else grey. `report` searches all of them in the
same-photo gallery (the first photos) and in the different-photo gallery (the second photos). For
each `--method` it also trains the learned linear attack on fewer people. Photos and embeddings stay
in `--runs`.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import torch
from rich.progress import track

from nullface_pipeline.evaluation.attacks import ridge
from nullface_pipeline.evaluation.baselines import BASELINES
from nullface_pipeline.evaluation.cache import Cache
from nullface_pipeline.evaluation.cached_models import CachedModels
from nullface_pipeline.evaluation.pairs import Method, Picture, file_picture
from nullface_pipeline.evaluation.rates import Gallery, Rate, mated_ranks, normalized
from nullface_pipeline.evaluation.recognizers import Detector, Recognizer, contains, load_recognizer
from nullface_pipeline.evaluation.results import DIFFERENT_PHOTO, Evaluation
from nullface_pipeline.evaluation.run import evaluate
from nullface_pipeline.face_crops import edge_feather
from nullface_pipeline.face_identity import DetectedFace
from nullface_pipeline.face_target import make_target
from nullface_pipeline.model_sets import load_model_set
from nullface_pipeline.photo_records import PhotoRefusedError
from nullface_pipeline.protocols import NullFacePipeline


METHODS: dict[str, dict[str, Any]] = {
    "default": {},
    "opposite": {"identity": "opposite"},
    "kept": {"keep": ("eyes", "mouth")},
    "strong": {"preset": "strong"},
    "private": {"preset": "private"},
}
COLOURS = dict(zip(METHODS, ("tab:blue", "tab:red", "tab:green", "tab:purple", "black")))
GREY = 127
NUM_FOLDS = 15
TRAINING_SIZES = (25, 50, 100, 200, 300)


def write_people(data: Path, folder: Path, detector: Detector) -> None:
    """Write `originals/` and `gallery/`: people whose face is the largest one in both photos."""
    rows = pq.read_table(data).to_pylist()
    excluded = []
    for row in track(rows, "people"):
        paths = {"originals": row["probe"], "gallery": row["gallery"]}
        for name, jpeg in paths.items():
            path = folder / name / f"{row['person']:03}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg)
        if not all(shows_person(folder / name / f"{row['person']:03}.jpg", detector) for name in paths):
            excluded.append(row["person"])
            for name in paths:
                (folder / name / f"{row['person']:03}.jpg").unlink()
    (folder / "people.json").write_text(json.dumps({"people": len(rows), "excluded": excluded}) + "\n")


def shows_person(path: Path, detector: Detector) -> bool:
    """Whether the largest face is in the middle of the photo, where LFW has the person."""
    pixels = file_picture(path).pixels
    face = detector.largest(pixels)
    return face is not None and contains(face, np.array(pixels.shape[1::-1]) / 2)


def make_results(pipe: NullFacePipeline, folder: Path, name: str, seed: int) -> None:
    """Anonymize all originals with one method, as `nullface anonymize` does."""
    target = folder / f"{name}-{seed}"
    target.mkdir(exist_ok=True)
    records = target / "records.jsonl"
    for path in track(sorted((folder / "originals").glob("*.jpg")), target.name):
        result = target / f"{path.stem}.png"
        if result.exists():
            continue
        try:
            made = pipe.anonymize(path, seed=1000 * int(path.stem) + seed, **METHODS[name])
        except PhotoRefusedError as error:
            with records.open("a") as lines:
                lines.write(json.dumps({"photo": path.stem, "refused": str(error)}) + "\n")
            continue
        with records.open("a") as lines:
            faces = [[*face.box, face.method, face.attempts] for face in made.faces]
            lines.write(json.dumps({"photo": path.stem, "faces": faces}) + "\n")
        made.image.save(result.with_suffix(".part"), format="png")
        result.with_suffix(".part").rename(result)


def face_weight(pipe: NullFacePipeline, models: CachedModels, picture: Picture) -> np.ndarray | None:
    """(H, W, 1) float32 in [0, 1]: replaced share of each pixel; None without a face."""
    face = models.face(picture)
    if face is None:
        return None
    pixels = picture.pixels
    detected = DetectedFace(face.box, face.landmarks, face.score, np.zeros(512, np.float32))
    target = make_target(pipe, pixels, detected, [detected], (), None, 0)
    white = np.full_like(target.aligned, 255)
    painted = target.crop.paste(np.zeros_like(pixels), white, target.mask * edge_feather(target.crop.size))
    return painted[..., :1].astype(np.float32) / 255.0


def grey_out(pixels: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Replace (H, W, 3) uint8 pixels by grey where an (H, W, 1) weight is 1."""
    return (pixels + weight * (GREY - pixels.astype(np.float32))).round().astype(np.uint8)


def write_controls(pipe: NullFacePipeline, models: CachedModels, folder: Path, seed: int) -> None:
    """Write photos with only the face, and photos with only its surroundings."""
    face_only = {"originals": "originals"} | {name: f"{name}-{seed}" for name in METHODS}
    for path in track(sorted((folder / "originals").glob("*.jpg")), "controls"):
        weight = face_weight(pipe, models, file_picture(path))
        if weight is None:
            continue
        write_photo(
            folder / "control, originals, surroundings only", path, grey_out(file_picture(path).pixels, weight)
        )
        for name, source in face_only.items():
            shown = next((folder / source).glob(f"{path.stem}.*"), None)
            if shown is not None:
                pixels = grey_out(file_picture(shown).pixels, 1.0 - weight)
                write_photo(folder / f"control, {name}, face only", path, pixels)


def write_photo(folder: Path, original: Path, pixels: np.ndarray) -> None:
    """Write a photo with the name of its original."""
    folder.mkdir(exist_ok=True)
    PIL.Image.fromarray(pixels).save(folder / f"{original.stem}.png")


def outcomes(folder: Path) -> dict[str, int]:
    """Numbers of photos refused, and of largest faces replaced, retried and covered."""
    records = folder / "records.jsonl"
    lines = [json.loads(line) for line in records.read_text().splitlines()] if records.exists() else []
    counts = {"replaced": 0, "retried": 0, "covered": 0, "refused": 0}
    # A stopped run may have recorded its last photo twice.
    for line in {line["photo"]: line for line in lines}.values():
        if "refused" in line:
            counts["refused"] += 1
            continue
        *_, method, attempts = max(line["faces"], key=lambda face: (face[2] - face[0]) * (face[3] - face[1]))
        counts[method] += 1
        counts["retried"] += method == "replaced" and attempts > 1
    return counts


def methods_in(folder: Path) -> list[Method]:
    """All methods and controls with results in a folder, then the baselines."""
    made = [Method(path.name, path) for path in sorted(folder.iterdir()) if next(path.glob("*.png"), None)]
    return made + [Method(name) for name in BASELINES]


def figures_of(evaluation: Evaluation) -> dict[str, Any]:
    """Rank-1 rates in % by method, gallery, recognizer and attack; without names of photos."""
    other = evaluation.galleries[DIFFERENT_PHOTO]
    found = {name: percent(search.ranks.rate()) for name, search in other.originals.items()}
    methods = {
        method.name: {
            "results": len(method.results),
            "leaks": method.leaks,
            "linkage": {
                recognizer: percent(search.ranks.rate())
                for recognizer, search in method.linkage.get(DIFFERENT_PHOTO, {}).items()
            },
            **{
                gallery: {
                    recognizer: {attack: percent(ranks.rate()) for attack, ranks in recognition.attacks.items()}
                    for recognizer, recognition in of.items()
                }
                for gallery, of in method.recognitions.items()
            },
        }
        for method in evaluation.methods
    }
    return {"people": len(evaluation.originals), "gallery": other.size, "originals": found, "methods": methods}


def percent(rate: Rate) -> dict[str, float]:
    """A rate and its Wilson interval in %."""
    low, high = rate.interval
    return {
        "percent": round(100.0 * rate.value, 1),
        "low": round(100.0 * low, 1),
        "high": round(100.0 * high, 1),
        "count": rate.count,
    }


def learned_by_size(
    probes: np.ndarray, originals: np.ndarray, gallery: np.ndarray, sizes: Sequence[int], seed: int = 0
) -> dict[int, Rate]:
    """Rank 1 of the learned linear attack by the number of people it trains on.

    Args:
        probes, originals, gallery (`np.ndarray`): (N, D) unit norm, one row per person.
        sizes (`Sequence[int]`): numbers of training people; those above the fold size are skipped.
    """
    rng = np.random.default_rng(seed)
    mean = gallery.mean(axis=0)
    targets, searched = normalized(originals - mean), normalized(gallery - mean)
    largest = len(probes) - max(len(test) for _, test in folds(len(probes), rng))
    rates = {}
    for size in (size for size in sizes if size <= largest):
        predicted = np.zeros_like(searched)
        for train, test in folds(len(probes), np.random.default_rng(seed)):
            chosen = rng.permutation(train)[:size]
            middle, weights = ridge(probes[chosen], targets[chosen])
            predicted[test] = (probes[test] - middle) @ weights
        rates[size] = mated_ranks(normalized(predicted), searched).rate()
    return rates


def folds(count: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield training and test rows of each fold."""
    parts = np.array_split(rng.permutation(count), NUM_FOLDS)
    for number, test in enumerate(parts):
        yield np.concatenate(parts[:number] + parts[number + 1 :]), test


def embeddings_of(
    folder: Path, method: str, models: CachedModels, recognizer: Recognizer
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N, D) unit-norm embeddings of the results, and of their originals and other photos."""
    raw: list[list[np.ndarray]] = [[], [], []]
    for path in sorted((folder / method).glob("*.png")):
        original, other = (file_picture(folder / name / f"{path.stem}.jpg") for name in ("originals", "gallery"))
        face, other_face = models.face(original), models.face(other)
        if face is None or other_face is None:
            continue
        # Results are aligned by the original's landmarks, as in `nullface evaluate`.
        shown = ((file_picture(path), face), (original, face), (other, other_face))
        for rows, (picture, at) in zip(raw, shown):
            rows.append(models.embedding(recognizer, picture, at.landmarks))
    results, originals, others = (np.array(rows, np.float32) for rows in raw)
    gallery = Gallery.of(others, recognizer.centred)
    return gallery.probes(results), gallery.probes(originals), gallery.embeddings


def draw_learning(rates: dict[str, dict[str, dict[str, Any]]], people: int, path: Path) -> None:
    """Plot the rank-1 rate by the number of people the attack trains on, a panel per recognizer.

    Args:
        rates (`dict`): rates by recognizer, by method and gallery, and by number of people.
        people (`int`): size of the gallery, for the chance level.
        path (`Path`): file of the plot.
    """
    matplotlib.use("Agg")
    figure, axes = plt.subplots(1, len(rates), figsize=(1 + 3.2 * len(rates), 3.6), sharey=True, layout="constrained")
    for axis, (recognizer, lines) in zip(np.atleast_1d(axes), rates.items()):
        for label, by_size in lines.items():
            sizes, found = [int(size) for size in by_size], list(by_size.values())
            value, low, high = (np.array([rate[end] for rate in found]) for end in ("percent", "low", "high"))
            style = "-" if label.endswith("same photo") else "--"
            colour = COLOURS[label.split(",")[0]]
            axis.errorbar(sizes, value, [value - low, high - value], fmt=f"o{style}", color=colour, label=label)
        axis.axhline(100.0 / people, color="0.5", linewidth=0.8, linestyle=":")
        axis.set(title=recognizer, xlabel="people trained on", ylim=(0.0, None))
    np.atleast_1d(axes)[0].set_ylabel("identified at rank 1, %")
    np.atleast_1d(axes)[0].legend(fontsize=8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def report(args: argparse.Namespace, models: CachedModels) -> None:
    """Write `figures.json` and `learning.png`."""
    recognizers = [load_recognizer(name) for name in args.recognizer]
    methods = methods_in(args.runs)
    evaluation = evaluate(
        args.runs / "originals", methods, recognizers, models, skip_missing=True, gallery=args.runs / "gallery"
    )
    figures = figures_of(evaluation) | {"recognizers": {each.name: each.description for each in recognizers}}
    for method in methods:
        if method.folder is not None and (method.folder / "records.jsonl").exists():
            figures["methods"][method.name]["outcomes"] = outcomes(method.folder)
    learning: dict[str, dict[str, Any]] = {}
    for recognizer in recognizers:
        for name in args.method:
            results, originals, others = embeddings_of(args.runs, f"{name}-{args.seed}", models, recognizer)
            for title, gallery in (("same photo", originals), ("different photo", others)):
                rates = learned_by_size(results, originals, gallery, TRAINING_SIZES)
                by_size = {str(size): percent(rate) for size, rate in rates.items()}
                learning.setdefault(recognizer.name, {})[f"{name}, {title}"] = by_size
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "figures.json").write_text(json.dumps(figures | {"learning": learning}, indent=1) + "\n")
    draw_learning(learning, figures["gallery"], args.output / "learning.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["results", "controls", "report"])
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/lfw_pairs.parquet"))
    parser.add_argument("--method", nargs="+", choices=list(METHODS), default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recognizer", action="append", help="as for `nullface evaluate`; default: dlib, tiny")
    parser.add_argument("--output", type=Path, default=Path("docs/evidence/other-photos"))
    args = parser.parse_args()
    args.recognizer = args.recognizer or ["dlib", "tiny"]
    torch.set_num_threads(1)
    args.runs.mkdir(mode=0o700, parents=True, exist_ok=True)
    models = CachedModels(Detector("tiny"), Cache(args.runs / "cache.sqlite"), quiet=True)
    if not (args.runs / "people.json").exists():
        write_people(args.data, args.runs, models.detector)
    if args.part == "results":
        pipe = load_model_set("tiny")
        for name in args.method:
            make_results(pipe, args.runs, name, args.seed)
    elif args.part == "controls":
        write_controls(load_model_set("tiny"), models, args.runs, args.seed)
    else:
        report(args, models)


if __name__ == "__main__":
    main()
