"""Attacks on results with random and opposite identities, and the frontier of privacy and utility.

    python -m benchmarks.privacy run --identity opposite --half all --runs RUNS
    python -m benchmarks.privacy run --identity random --half all --runs RUNS
    python -m benchmarks.privacy run --half even --name "more guidance" --guidance 5 --runs RUNS
    python -m benchmarks.privacy originals --half all --runs RUNS
    python -m benchmarks.privacy swapped --half all --runs RUNS
    python -m benchmarks.privacy table --half all --runs RUNS --output docs/privacy

`run` anonymizes validation people in batches, for up to `--minutes`; a repeated command continues.
`originals` embeds mirrored originals, and originals reduced to eyes and mouth. `swapped` replaces
each face by another real one, warped to the landmarks and with the same tones, so that only the
geometry remains. `table` writes the worst attacks and the utility metrics, histograms of
similarities, and a frontier of all methods run on the even half. Settings are chosen on that half;
the table also has each method's metrics on the odd half. `--recognizer NAME=FILE.onnx,centred` adds
a recognizer; give the same recognizers to all parts.
"""

import argparse
import json
import pickle
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.progress import track

from nullface_pipeline.evaluation.attacks import MATCHING_ATTACKS, matching_attacks
from nullface_pipeline.evaluation.rates import Gallery, Rate, mated_ranks
from nullface_pipeline.evaluation.recognizers import InsightFaceRecognizer, OnnxRecognizer, Recognizer, load_recognizer
from nullface_pipeline.face_identity import DetectedFace, locate_faces
from nullface_pipeline.face_masks import face_masks
from nullface_pipeline.face_target import FaceTarget, make_target
from nullface_pipeline.identity_choices import IDENTITY_CHOICES
from nullface_pipeline.model_sets import load_model_set
from nullface_pipeline.photo_options import PRESETS, PhotoOptions
from training.expression import HeadPose, find_landmarks, landmark_drift
from training.face_swaps import swap_face
from training.latent_cache import CROP_SIZE
from training.portraits import Portrait, load_portraits


KEPT = ("eyes", "mouth")
BATCH = 12
PARTNERS = 10  # candidates for a face swap: people with the most similar landmarks
TITLES = {
    "tiny": "nullface-tiny's (guides the method)",
    "512": "its teacher",
    "dlib": "dlib",
    "mobileface": "MobileFace",
    "faceres": "VGGFace2 network",
}
UTILITY = ("landmarks", "pose", "evaluations")
LINES = (
    ("mirrored", "originals, mirrored", "black"),
    ("opposite", "results, opposite", "tab:red"),
    ("random", "results, random", "tab:blue"),
)


@dataclass(frozen=True, eq=False)
class Person:
    """Validation person whose face is detected."""

    portrait: Portrait
    photo: np.ndarray  # (H, W, 3) uint8 RGB
    face: DetectedFace
    embeddings: list[np.ndarray]  # (D,) by each recognizer
    points: np.ndarray  # (68, 2)
    pose: np.ndarray  # (3,) degrees


class FaceMetrics:
    """Recognizers, landmarks and head pose of a face."""

    def __init__(self, pipe: Any, models: Path, others: list[str]) -> None:
        self.pipe = pipe
        self.recognizers: list[Recognizer] = [
            InsightFaceRecognizer("tiny", pipe.face_analyser),
            OnnxRecognizer("512", models / "face_recognizer_512.onnx", centred=True, steered=True),
            load_recognizer("dlib"),
            *map(load_recognizer, others),
        ]
        self.pose = HeadPose(models / "head_pose_66.onnx")

    def embed(self, photo: np.ndarray, landmarks: np.ndarray) -> list[np.ndarray]:
        """(D,) embedding by each recognizer."""
        return [recognizer(photo, landmarks) for recognizer in self.recognizers]

    def person(self, portrait: Portrait) -> Person | None:
        """Measure an original; None if the portrait's face is not detected."""
        photo, nose = portrait.image(), portrait.landmarks[30]
        for face in locate_faces(self.pipe.face_analyser, photo):
            if (face.box[:2] < nose).all() and (nose < face.box[2:]).all():
                embeddings = self.embed(photo, face.landmarks)
                found = DetectedFace(face.box, face.landmarks, face.score, embeddings[0])
                points = find_landmarks(photo, portrait)
                return Person(portrait, photo, found, embeddings, points, self.pose(photo, portrait.box))
        return None

    def measure(self, person: Person, photo: np.ndarray) -> dict[str, Any]:
        """Embeddings, landmark drift in % and pose change in degrees of a result."""
        points = find_landmarks(photo, person.portrait)
        return {
            "embeddings": self.embed(photo, person.face.landmarks),
            "landmarks": landmark_drift(person.points, points),
            "pose": float(np.abs(self.pose(photo, person.portrait.box) - person.pose).mean()),
        }


@dataclass(frozen=True, eq=False)
class People:
    """All validation people whose face is detected, and the recognizers of their embeddings."""

    people: list[Person]
    names: list[str]  # of the recognizers
    centred: list[bool]


def load_people(metrics: FaceMetrics, data: Path, runs: Path) -> list[Person]:
    """Measure all validation people, cached on disk.

    Raises:
        ValueError: If the cache was made with other recognizers.
    """
    path, names = runs / "people.pkl", [recognizer.name for recognizer in metrics.recognizers]
    if path.exists():
        known: People = pickle.loads(path.read_bytes())
        if known.names != names:
            raise ValueError(f"{path} was made with the recognizers {known.names}, not {names}. Use another --runs.")
        return known.people
    people = [person for p in track(load_portraits(data, "validation"), "people") if (person := metrics.person(p))]
    centred = [recognizer.centred for recognizer in metrics.recognizers]
    write_atomically(path, pickle.dumps(People(people, names, centred)))
    return people


def chosen(people: list[Person], half: str) -> list[int]:
    """Indices of the people of a half, in a fixed random order."""
    first, step = {"even": (0, 2), "odd": (1, 2), "all": (0, 1)}[half]
    numbers = list(range(first, len(people), step))
    return [numbers[index] for index in np.random.default_rng(5).permutation(len(numbers))]


def anonymize(pipe: Any, people: list[Person], options: PhotoOptions, seeds: list[int]) -> list[FaceTarget]:
    """Replace the face of each person in a single attempt."""
    targets = [
        make_target(pipe, person.photo, person.face, [person.face], options.keep, None, seed)
        for person, seed in zip(people, seeds)
    ]
    results = IDENTITY_CHOICES[options.identity].new_faces(pipe, targets, options.settings(pipe.presets))
    return [replace(target, result=result) for target, result in zip(targets, results)]


def run(args: argparse.Namespace, pipe: Any, metrics: FaceMetrics) -> None:
    """Anonymize and measure people in batches, until the time is over."""
    people, end = load_people(metrics, args.data, args.runs), time.monotonic() + 60.0 * args.minutes
    settings = {"guidance_scale": args.guidance, "skip": args.skip, "identity_angle": args.angle}
    options = PhotoOptions(keep=KEPT if args.kept else (), identity=args.identity, preset=args.preset, **settings)
    numbers = chosen(people, args.half)[: args.count]
    folder = args.runs / f"{args.half}-{args.name or args.identity}{'-kept' * args.kept}-{args.seed}"
    evaluations: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda module, inputs: evaluations.append(len(inputs[0])))
    for batch in (numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH)):
        path = folder / f"{batch[0]}.pkl"
        if path.exists():
            continue
        if time.monotonic() > end:
            break
        evaluations.clear()
        some = [people[number] for number in batch]
        targets = anonymize(pipe, some, options, [args.seed + 1000 * number for number in batch])
        rows = []
        for number, person, target in zip(batch, some, targets):
            photo = target.paste(person.photo)
            row = {"number": number, "face": target.crop.crop_image(photo), **metrics.measure(person, photo)}
            rows.append({**row, "evaluations": sum(evaluations) / len(batch)})
        write_atomically(path, pickle.dumps(rows))
        print(path, flush=True)


def measure_originals(args: argparse.Namespace, pipe: Any, metrics: FaceMetrics) -> None:
    """Embed mirrored originals, and originals reduced to eyes and mouth."""
    people = load_people(metrics, args.data, args.runs)
    mirrored, alone = [], []
    for number in track(chosen(people, args.half)[: args.count], "originals"):
        person = people[number]
        flipped = person.face.landmarks[[1, 0, 2, 4, 3]] * (-1, 1) + (person.photo.shape[1] - 1, 0)
        mirror = np.ascontiguousarray(person.photo[:, ::-1])
        mirrored.append({"number": number, "embeddings": metrics.embed(mirror, flipped.astype(np.float32))})
        shown, points = eyes_and_mouth(pipe, person)
        alone.append({"number": number, "face": shown, "embeddings": metrics.embed(shown, points)})
    write_atomically(args.runs / f"{args.half}-mirrored-0" / "all.pkl", pickle.dumps(mirrored))
    write_atomically(args.runs / f"{args.half}-kept_alone-0" / "all.pkl", pickle.dumps(alone))


def eyes_and_mouth(pipe: Any, person: Person) -> tuple[np.ndarray, np.ndarray]:
    """(S, S, 3) uint8 aligned face, grey except for eyes and mouth, and (5, 2) landmarks."""
    target = make_target(pipe, person.photo, person.face, [person.face], (), None, 0)
    points = target.crop.points_to_crop(person.face.landmarks)
    kept_mask = face_masks(pipe.face_parser, target.aligned, points, KEPT)[0]
    shown = (target.mask - kept_mask).clip(0.0, 1.0)[..., None]
    return (127.0 + shown * (target.aligned - 127.0)).round().astype(np.uint8), points.astype(np.float32)


def measure_swapped(args: argparse.Namespace, pipe: Any, metrics: FaceMetrics) -> None:
    """Measure photos with a real face of similar landmarks swapped in, without any model."""
    people, rng = load_people(metrics, args.data, args.runs), np.random.default_rng(args.seed)
    crops = [person.portrait.face_crop(CROP_SIZE) for person in people]
    landmarks = np.stack([crop.points_to_crop(person.portrait.landmarks) for crop, person in zip(crops, people)])
    rows = []
    for number in track(chosen(people, args.half)[: args.count], "swapping"):
        person = people[number]
        similar = [other for other, of in enumerate(people) if of.portrait.colour == person.portrait.colour]
        nearest = np.square(landmarks[similar] - landmarks[number]).sum(axis=(1, 2)).argsort()[1 : 1 + PARTNERS]
        other = similar[int(rng.choice(nearest))]
        theirs = crops[other].crop_image(people[other].photo)
        target = make_target(pipe, person.photo, person.face, [person.face], (), None, args.seed)
        points = target.crop.points_to_crop(person.portrait.landmarks)
        result = swap_face(target.aligned, points, theirs, landmarks[other])
        photo = replace(target, result=result).paste(person.photo)
        rows.append({"number": number, "face": target.crop.crop_image(photo), **metrics.measure(person, photo)})
    write_atomically(args.runs / f"{args.half}-swapped-{args.seed}" / "all.pkl", pickle.dumps(rows))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file and its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".part").write_bytes(content)
    path.with_suffix(".part").rename(path)


class Results:
    """Measurements of each method by seed, and the galleries.

    Args:
        folder (`Path`): folder of the runs.
        half (`str`): half of the people that the runs used: `even`, `odd` or `all`.
        only (`str`): people to include: `odd`, the half not used to choose settings, or `all`.
    """

    def __init__(self, folder: Path, half: str, only: str = "all") -> None:
        known: People = pickle.loads((folder / "people.pkl").read_bytes())
        self.names = known.names
        self.galleries = [
            Gallery.of(np.stack([person.embeddings[index] for person in known.people]), centred)
            for index, centred in enumerate(known.centred)
        ]
        self.methods: dict[str, dict[int, dict[int, dict[str, Any]]]] = {}
        included = set(chosen(known.people, only))
        for path in sorted(folder.glob(f"{half}-*/*.pkl")):
            method, _, seed = path.parent.name.removeprefix(f"{half}-").rpartition("-")
            rows = self.methods.setdefault(method, {}).setdefault(int(seed), {})
            rows.update({row["number"]: row for row in pickle.loads(path.read_bytes()) if row["number"] in included})

    def probes(self, rows: dict[int, dict[str, Any]], index: int) -> np.ndarray:
        """(N, D) unit-norm embeddings by one recognizer."""
        return self.galleries[index].probes(np.stack([row["embeddings"][index] for row in rows.values()]))

    def similarities(self, method: str, index: int) -> np.ndarray:
        """Genuine scores of all results by one recognizer."""
        return np.concatenate(
            [
                (self.probes(rows, index) * self.galleries[index].embeddings[list(rows)]).sum(axis=1)
                for rows in self.methods[method].values()
            ]
        )

    def attacks(self, method: str) -> dict[str, dict[str, Rate]]:
        """Rank-1 rates by recognizer and attack, over all seeds."""
        rates: dict[str, dict[str, Rate]] = {}
        for index, name in enumerate(self.names):
            of_seeds = [
                matching_attacks(self.probes(rows, index), self.galleries[index].embeddings, np.array(list(rows)))
                for rows in self.methods[method].values()
            ]
            for attack in MATCHING_ATTACKS:
                hits = np.concatenate([ranks[attack].found_within(1) for ranks in of_seeds])
                rates.setdefault(name, {})[attack] = Rate(float(hits.sum()), len(hits))
        return rates

    def linkage(self, method: str) -> dict[str, Rate]:
        """Rank-1 rates of the linkage attack between two seeds, by recognizer."""
        seeds = list(self.methods[method].values())
        if len(seeds) < 2:
            return {}
        both = [number for number in seeds[0] if number in seeds[1]]
        rates = {}
        for index, name in enumerate(self.names):
            first, second = (self.probes({n: rows[n] for n in both}, index) for rows in seeds[:2])
            hits = mated_ranks(first, second).found_within(1)
            rates[name] = Rate(float(hits.sum()), len(hits))
        return rates

    def summary(self, method: str) -> dict[str, Any]:
        """All rates and utility metrics of a method."""
        rows = [row for rows in self.methods[method].values() for row in rows.values()]
        attacks = self.attacks(method)
        recognizer, attack = max(
            ((name, attack) for name in attacks for attack in attacks[name]),
            key=lambda at: attacks[at[0]][at[1]].value,
        )
        means = {name: float(np.mean([row[name] for row in rows])) for name in UTILITY if name in rows[0]}
        return {
            "results": len(rows),
            "seeds": len(self.methods[method]),
            "worst": {"recognizer": recognizer, "attack": attack, **percent(attacks[recognizer][attack])},
            "rank1": {name: {attack: percent(rate) for attack, rate in of.items()} for name, of in attacks.items()},
            "linked": {name: percent(rate) for name, rate in self.linkage(method).items()},
            "similarity": {name: float(self.similarities(method, i).mean()) for i, name in enumerate(self.names)},
            **means,
        }


def percent(rate: Rate) -> dict[str, float]:
    """A rate and its interval in %."""
    low, high = rate.interval
    return {"percent": 100.0 * rate.value, "low": 100.0 * low, "high": 100.0 * high}


def make_table(args: argparse.Namespace) -> None:
    """Write `table.json` and the plots."""
    results = Results(args.runs, args.half)
    on_odd, on_even = Results(args.runs, args.half, only="odd"), Results(args.runs, "even")
    figures: dict[str, Any] = {"chance": 100.0 / len(results.galleries[0].embeddings)}
    for part, of in (("ways", results), ("on_odd", on_odd), ("frontier", on_even)):
        figures[part] = {method: of.summary(method) for method in sorted(of.methods)}
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "table.json").write_text(json.dumps(rounded(figures), indent=1) + "\n")
    for part in ("ways", "on_odd", "frontier"):
        for method, row in figures[part].items():
            utility = f"{row.get('landmarks')} %, {row.get('pose')} degrees"
            print(f"{part} {method}: {row['results']}, worst {row['worst']}, {utility}")
    draw_similarities(results, args.output / "similarities.png")
    draw_frontier(figures["frontier"], args.output / "frontier.png")


def rounded(values: Any) -> Any:
    """Round all floats in nested dictionaries to three decimals."""
    if isinstance(values, dict):
        return {name: rounded(value) for name, value in values.items()}
    return round(values, 3) if isinstance(values, float) else values


def draw_similarities(results: Results, path: Path) -> None:
    """Plot impostor and genuine scores of originals and results, a panel per recognizer."""
    matplotlib.use("Agg")
    count = len(results.names)
    figure, axes = plt.subplots(1, count, figsize=(1 + 3.4 * count, 3.4), sharey=True, layout="constrained")
    edges = np.linspace(-1.0, 1.0, 51)
    for index, (axis, name) in enumerate(zip(axes, results.names)):
        gallery = results.galleries[index].embeddings
        strangers = (gallery @ gallery.T)[np.triu_indices(len(gallery), k=1)]
        axis.hist(strangers, edges, density=True, color="0.8", label="different people")
        for method, label, colour in LINES:
            if method in results.methods:
                own = results.similarities(method, index)
                axis.hist(own, edges, density=True, histtype="step", linewidth=1.6, color=colour, label=label)
        axis.set(title=TITLES.get(name, name), xlabel="similarity to the person", yticks=[])
    axes[0].legend(loc="upper left", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_frontier(methods: dict[str, dict[str, Any]], path: Path) -> None:
    """Plot the worst attack's rate and interval by landmark drift, one point per method."""
    matplotlib.use("Agg")
    figure, axis = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    for method, row in methods.items():
        x, worst = row["landmarks"], row["worst"]
        kind = method.split(",")[0]
        colour = {"random": "tab:blue", "swapped": "black"}.get(kind, "tab:red")
        bars = [[worst["percent"] - worst["low"]], [worst["high"] - worst["percent"]]]
        axis.errorbar(x, worst["percent"], bars, fmt="o", color=colour, elinewidth=0.6, alpha=0.8)
        label = method.removeprefix("random, ")
        axis.annotate(label, (x, worst["percent"]), fontsize=7, xytext=(4, 3), textcoords="offset points")
    axis.axhline(2.0, color="0.5", linewidth=0.8, linestyle=":")
    axis.axvline(6.0, color="0.5", linewidth=0.8, linestyle=":")
    axis.set(xlabel="drift of the landmarks, % of the eyes' distance", ylabel="worst attack, % found at rank 1")
    axis.set_ylim(bottom=0.0)
    axis.margins(x=0.12)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["run", "originals", "swapped", "table"])
    parser.add_argument("--identity", default="random", choices=["random", "opposite"])
    parser.add_argument("--name", help="name in the table, default: the identity")
    parser.add_argument("--preset", default="standard", choices=list(PRESETS))
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--skip", type=float)
    parser.add_argument("--angle", type=float, help="identity angle of --identity opposite")
    parser.add_argument("--kept", action="store_true", help="keep eyes and mouth")
    parser.add_argument("--half", default="odd", choices=["even", "odd", "all"], help="half of the validation people")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--bfloat16", action="store_true", help="dtype of the UNet, twice as fast with AMX")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/portraits.parquet"))
    parser.add_argument("--recognizer", action="append", default=[], help="additional one, as for `nullface evaluate`")
    parser.add_argument("--models", type=Path, default=Path("../shared/models"))
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("docs/privacy"))
    args = parser.parse_args()
    if args.part == "table":
        make_table(args)
        return
    torch.set_num_threads(1)
    pipe = load_model_set("tiny", dtype=torch.bfloat16 if args.bfloat16 else None)
    metrics = FaceMetrics(pipe, args.models, args.recognizer)
    {"run": run, "originals": measure_originals, "swapped": measure_swapped}[args.part](args, pipe, metrics)


if __name__ == "__main__":
    main()
