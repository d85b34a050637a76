"""What somebody who knows the method finds out: both ways of hiding a face, and every attack on them.

    python -m benchmarks.privacy run --way opposite --half all --runs /tmp/privacy
    python -m benchmarks.privacy run --way stranger --half all --runs /tmp/privacy
    python -m benchmarks.privacy run --way stranger --half even --name "more guidance" --guidance 5 --runs /tmp/privacy
    python -m benchmarks.privacy originals --half all --runs /tmp/privacy
    python -m benchmarks.privacy swapped --half all --runs /tmp/privacy
    python -m benchmarks.privacy table --half all --runs /tmp/privacy --output docs/privacy

`run` goes through validation people in batches and remembers each; it may be stopped, or ends by itself after `--minutes`, and
goes on where it was. `originals` embeds them mirrored, and what eyes and mouth alone show. `swapped` puts another real person's face in,
warped to the landmarks and in the same tones: what is left to find where nothing of a face but its geometry stays. `table` writes worst attacks and costs,
a picture of similarities, and a frontier of all ways that were run on the even half. Settings are chosen on that half; the
table holds each way for the odd one alone besides. `--recognizer NAME=FILE.onnx,centred` asks further recognizers; give the
same ones to every part.
"""

import argparse
import json
import pickle
import time
from collections.abc import Iterator
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
PARTNERS = 10  # people with the most similar landmarks, of whom one's face is put in
TITLES = {"tiny": "nullface-tiny's, which steers", "512": "its teacher", "dlib": "dlib's"}
COSTS = ("landmarks", "pose", "evaluations")
LINES = (
    ("mirrored", "originals, mirrored", "black"),
    ("opposite", "results, straight away from the person", "tab:red"),
    ("stranger", "results, turned to a stranger", "tab:blue"),
)


@dataclass(frozen=True, eq=False)
class Person:
    """One validation person whose face is found."""

    portrait: Portrait
    photo: np.ndarray  # (H, W, 3) uint8 RGB
    face: DetectedFace
    embeddings: list[np.ndarray]  # (D,) of each recognizer
    points: np.ndarray  # (68, 2)
    pose: np.ndarray  # (3,) degrees


class Examiner:
    """The recognizers and what measures a face."""

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
        return [recognizer(photo, landmarks) for recognizer in self.recognizers]

    def person(self, portrait: Portrait) -> Person | None:
        photo, nose = portrait.image(), portrait.landmarks[30]
        for face in locate_faces(self.pipe.face_analyser, photo):
            if (face.box[:2] < nose).all() and (nose < face.box[2:]).all():
                embeddings = self.embed(photo, face.landmarks)
                found = DetectedFace(face.box, face.landmarks, face.score, embeddings[0])
                points = find_landmarks(photo, portrait)
                return Person(portrait, photo, found, embeddings, points, self.pose(photo, portrait.box))
        return None

    def look(self, person: Person, photo: np.ndarray) -> dict[str, Any]:
        """What is asked of a result: embeddings where the person's landmarks align it, landmarks in %, pose in degrees."""
        points = find_landmarks(photo, person.portrait)
        return {
            "embeddings": self.embed(photo, person.face.landmarks),
            "landmarks": landmark_drift(person.points, points),
            "pose": float(np.abs(self.pose(photo, person.portrait.box) - person.pose).mean()),
        }


@dataclass(frozen=True, eq=False)
class Everybody:
    """Every validation person whose face is found, and who embedded them."""

    people: list[Person]
    names: list[str]  # of the recognizers
    centred: list[bool]


def everybody(examiner: Examiner, data: Path, runs: Path) -> list[Person]:
    """Remembered; raises ValueError if it was other recognizers that embedded those."""
    path, names = runs / "people.pkl", [recognizer.name for recognizer in examiner.recognizers]
    if path.exists():
        known: Everybody = pickle.loads(path.read_bytes())
        if known.names != names:
            raise ValueError(f"{path} was made with the recognizers {known.names}, not {names}: take another folder.")
        return known.people
    people = [person for p in track(load_portraits(data, "validation"), "people") if (person := examiner.person(p))]
    centred = [recognizer.centred for recognizer in examiner.recognizers]
    write_whole(path, pickle.dumps(Everybody(people, names, centred)))
    return people


def chosen(people: list[Person], half: str) -> list[int]:
    """Numbers of the people of a half, in an order of its own."""
    first, step = {"even": (0, 2), "odd": (1, 2), "all": (0, 1)}[half]
    numbers = list(range(first, len(people), step))
    return [numbers[index] for index in np.random.default_rng(5).permutation(len(numbers))]


def batches(numbers: list[int]) -> Iterator[list[int]]:
    return (numbers[start : start + BATCH] for start in range(0, len(numbers), BATCH))


def hide(pipe: Any, people: list[Person], options: PhotoOptions, seeds: list[int]) -> list[FaceTarget]:
    """The first attempt at each."""
    targets = [
        make_target(pipe, person.photo, person.face, [person.face], options.keep, None, seed)
        for person, seed in zip(people, seeds)
    ]
    results = IDENTITY_CHOICES[options.identity].new_faces(pipe, targets, options.settings(pipe.presets))
    return [replace(target, result=result) for target, result in zip(targets, results)]


def run(args: argparse.Namespace, pipe: Any, examiner: Examiner) -> None:
    people, end = everybody(examiner, args.data, args.runs), time.monotonic() + 60.0 * args.minutes
    asked = {"guidance_scale": args.guidance, "skip": args.skip, "identity_angle": args.angle}
    options = PhotoOptions(keep=KEPT if args.kept else (), identity=args.way, preset=args.preset, **asked)
    evaluations: list[int] = []
    pipe.unet.register_forward_pre_hook(lambda module, inputs: evaluations.append(len(inputs[0])))
    for batch in batches(chosen(people, args.half)[: args.count]):
        path = args.runs / f"{args.half}-{args.name or args.way}{'-kept' * args.kept}-{args.seed}" / f"{batch[0]}.pkl"
        if path.exists():
            continue
        if time.monotonic() > end:
            break
        evaluations.clear()
        some = [people[number] for number in batch]
        targets = hide(pipe, some, options, [args.seed + 1000 * number for number in batch])
        rows = []
        for number, person, target in zip(batch, some, targets):
            photo = target.paste(person.photo)
            row = {"number": number, "face": target.crop.crop_image(photo), **examiner.look(person, photo)}
            rows.append({**row, "evaluations": sum(evaluations) / len(batch)})
        write_whole(path, pickle.dumps(rows))
        print(path, flush=True)


def measure_originals(args: argparse.Namespace, pipe: Any, examiner: Examiner) -> None:
    """What originals give away: mirrored, and reduced to eyes and mouth on one grey."""
    people = everybody(examiner, args.data, args.runs)
    mirrored, alone = [], []
    for number in track(chosen(people, args.half)[: args.count], "originals"):
        person = people[number]
        flipped = person.face.landmarks[[1, 0, 2, 4, 3]] * (-1, 1) + (person.photo.shape[1] - 1, 0)
        mirror = np.ascontiguousarray(person.photo[:, ::-1])
        mirrored.append({"number": number, "embeddings": examiner.embed(mirror, flipped.astype(np.float32))})
        shown, points = eyes_and_mouth(pipe, person)
        alone.append({"number": number, "face": shown, "embeddings": examiner.embed(shown, points)})
    write_whole(args.runs / f"{args.half}-mirrored-0" / "all.pkl", pickle.dumps(mirrored))
    write_whole(args.runs / f"{args.half}-kept_alone-0" / "all.pkl", pickle.dumps(alone))


def eyes_and_mouth(pipe: Any, person: Person) -> tuple[np.ndarray, np.ndarray]:
    """(S, S, 3) uint8, what is kept of a face and grey elsewhere, and the (5, 2) landmarks in it."""
    target = make_target(pipe, person.photo, person.face, [person.face], (), None, 0)
    points = target.crop.points_to_crop(person.face.landmarks)
    kept_mask = face_masks(pipe.face_parser, target.aligned, points, KEPT)[0]
    shown = (target.mask - kept_mask).clip(0.0, 1.0)[..., None]
    return (127.0 + shown * (target.aligned - 127.0)).round().astype(np.uint8), points.astype(np.float32)


def measure_swapped(args: argparse.Namespace, pipe: Any, examiner: Examiner) -> None:
    """What is found of people whose faces were swapped for others' of like landmarks, without any model."""
    people, rng = everybody(examiner, args.data, args.runs), np.random.default_rng(args.seed)
    crops = [person.portrait.face_crop(CROP_SIZE) for person in people]
    landmarks = np.stack([crop.points_to_crop(person.portrait.landmarks) for crop, person in zip(crops, people)])
    rows = []
    for number in track(chosen(people, args.half)[: args.count], "swapping"):
        person = people[number]
        alike = [other for other, of in enumerate(people) if of.portrait.colour == person.portrait.colour]
        nearest = np.square(landmarks[alike] - landmarks[number]).sum(axis=(1, 2)).argsort()[1 : 1 + PARTNERS]
        other = alike[int(rng.choice(nearest))]
        theirs = crops[other].crop_image(people[other].photo)
        target = make_target(pipe, person.photo, person.face, [person.face], (), None, args.seed)
        points = target.crop.points_to_crop(person.portrait.landmarks)
        result = swap_face(target.aligned, points, theirs, landmarks[other])
        photo = replace(target, result=result).paste(person.photo)
        rows.append({"number": number, "face": target.crop.crop_image(photo), **examiner.look(person, photo)})
    write_whole(args.runs / f"{args.half}-swapped-{args.seed}" / "all.pkl", pickle.dumps(rows))


def write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".part").write_bytes(content)
    path.with_suffix(".part").rename(path)


class Results:
    """Everything that was measured of each way, by seed, and the gallery to look in.

    Args:
        folder (`Path`): of the runs.
        half (`str`): of the runs that are read.
        only (`str`, *optional*): "odd": only people of the odd half, on whom nothing was chosen.
    """

    def __init__(self, folder: Path, half: str, only: str = "all") -> None:
        known: Everybody = pickle.loads((folder / "people.pkl").read_bytes())
        self.names = known.names
        self.galleries = [
            Gallery.of(np.stack([person.embeddings[index] for person in known.people]), centred)
            for index, centred in enumerate(known.centred)
        ]
        self.ways: dict[str, dict[int, dict[int, dict[str, Any]]]] = {}
        asked = set(chosen(known.people, only))
        for path in sorted(folder.glob(f"{half}-*/*.pkl")):
            way, _, seed = path.parent.name.removeprefix(f"{half}-").rpartition("-")
            rows = self.ways.setdefault(way, {}).setdefault(int(seed), {})
            rows.update({row["number"]: row for row in pickle.loads(path.read_bytes()) if row["number"] in asked})

    def probes(self, rows: dict[int, dict[str, Any]], index: int) -> np.ndarray:
        """(N, D) unit norm by one recognizer."""
        return self.galleries[index].probes(np.stack([row["embeddings"][index] for row in rows.values()]))

    def similarities(self, way: str, index: int) -> np.ndarray:
        """Of all results to their person."""
        return np.concatenate(
            [
                (self.probes(rows, index) * self.galleries[index].embeddings[list(rows)]).sum(axis=1)
                for rows in self.ways[way].values()
            ]
        )

    def attacks(self, way: str) -> dict[str, dict[str, Rate]]:
        """Rank 1 of each attack by each recognizer, over all seeds."""
        rates: dict[str, dict[str, Rate]] = {}
        for index, name in enumerate(self.names):
            of_seeds = [
                matching_attacks(self.probes(rows, index), self.galleries[index].embeddings, np.array(list(rows)))
                for rows in self.ways[way].values()
            ]
            for attack in MATCHING_ATTACKS:
                hits = np.concatenate([ranks[attack].found_within(1) for ranks in of_seeds])
                rates.setdefault(name, {})[attack] = Rate(float(hits.sum()), len(hits))
        return rates

    def linked(self, way: str) -> dict[str, Rate]:
        """Rank 1 of the results of one seed among those of another, by recognizer."""
        seeds = list(self.ways[way].values())
        if len(seeds) < 2:
            return {}
        both = [number for number in seeds[0] if number in seeds[1]]
        rates = {}
        for index, name in enumerate(self.names):
            first, second = (self.probes({n: rows[n] for n in both}, index) for rows in seeds[:2])
            hits = mated_ranks(first, second).found_within(1)
            rates[name] = Rate(float(hits.sum()), len(hits))
        return rates

    def summary(self, way: str) -> dict[str, Any]:
        """What the tables show of a way."""
        rows = [row for rows in self.ways[way].values() for row in rows.values()]
        attacks = self.attacks(way)
        recognizer, attack = max(
            ((name, attack) for name in attacks for attack in attacks[name]),
            key=lambda at: attacks[at[0]][at[1]].value,
        )
        means = {name: float(np.mean([row[name] for row in rows])) for name in COSTS if name in rows[0]}
        return {
            "results": len(rows),
            "seeds": len(self.ways[way]),
            "worst": {"recognizer": recognizer, "attack": attack, **percent(attacks[recognizer][attack])},
            "rank1": {name: {attack: percent(rate) for attack, rate in of.items()} for name, of in attacks.items()},
            "linked": {name: percent(rate) for name, rate in self.linked(way).items()},
            "similarity": {name: float(self.similarities(way, i).mean()) for i, name in enumerate(self.names)},
            **means,
        }


def percent(rate: Rate) -> dict[str, float]:
    low, high = rate.interval
    return {"percent": 100.0 * rate.value, "low": 100.0 * low, "high": 100.0 * high}


def make_table(args: argparse.Namespace) -> None:
    results = Results(args.runs, args.half)
    on_odd, on_even = Results(args.runs, args.half, only="odd"), Results(args.runs, "even")
    figures: dict[str, Any] = {"chance": 100.0 / len(results.galleries[0].embeddings)}
    for part, of in (("ways", results), ("on_odd", on_odd), ("frontier", on_even)):
        figures[part] = {way: of.summary(way) for way in sorted(of.ways)}
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "table.json").write_text(json.dumps(rounded(figures), indent=1) + "\n")
    for part in ("ways", "on_odd", "frontier"):
        for way, row in figures[part].items():
            worst = row["worst"]
            print(
                f"{part} {way}: {row['results']}, worst {worst}, {row.get('landmarks')} %, {row.get('pose')} degrees"
            )
    draw_similarities(results, args.output / "similarities.png")
    draw_frontier(figures["frontier"], args.output / "frontier.png")


def rounded(values: Any) -> Any:
    """The same with all floats to three digits after the point."""
    if isinstance(values, dict):
        return {name: rounded(value) for name, value in values.items()}
    return round(values, 3) if isinstance(values, float) else values


def draw_similarities(results: Results, path: Path) -> None:
    """Histograms by each recognizer: strangers, originals, and both ways."""
    matplotlib.use("Agg")
    count = len(results.names)
    figure, axes = plt.subplots(1, count, figsize=(1 + 3.4 * count, 3.4), sharey=True, layout="constrained")
    edges = np.linspace(-1.0, 1.0, 51)
    for index, (axis, name) in enumerate(zip(axes, results.names)):
        gallery = results.galleries[index].embeddings
        strangers = (gallery @ gallery.T)[np.triu_indices(len(gallery), k=1)]
        axis.hist(strangers, edges, density=True, color="0.8", label="strangers")
        for way, label, colour in LINES:
            if way in results.ways:
                own = results.similarities(way, index)
                axis.hist(own, edges, density=True, histtype="step", linewidth=1.6, color=colour, label=label)
        axis.set(title=TITLES.get(name, name), xlabel="similarity to the person", yticks=[])
    axes[0].legend(loc="upper left", fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_frontier(ways: dict[str, dict[str, Any]], path: Path) -> None:
    """What hiding costs: drift of the landmarks against the worst attack, one point a way with its interval."""
    matplotlib.use("Agg")
    figure, axis = plt.subplots(figsize=(7.5, 4.8), layout="constrained")
    for way, row in ways.items():
        x, worst = row["landmarks"], row["worst"]
        kind = way.split(",")[0]
        colour = {"stranger": "tab:blue", "swapped": "black"}.get(kind, "tab:red")
        bars = [[worst["percent"] - worst["low"]], [worst["high"] - worst["percent"]]]
        axis.errorbar(x, worst["percent"], bars, fmt="o", color=colour, elinewidth=0.6, alpha=0.8)
        label = way.removeprefix("stranger, ")
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
    parser.add_argument("--way", default="random", choices=["random", "opposite"])
    parser.add_argument("--name", help="of the way in the tables, where its settings are not the default's")
    parser.add_argument("--preset", default="standard", choices=list(PRESETS))
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--skip", type=float)
    parser.add_argument("--angle", type=float, help="for the way straight away from the person")
    parser.add_argument("--kept", action="store_true", help="eyes and mouth are kept")
    parser.add_argument("--half", default="odd", choices=["even", "odd", "all"], help="of the validation people")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--bfloat16", action="store_true", help="of the UNet: twice as fast where there is AMX")
    parser.add_argument("--data", type=Path, default=Path("../shared/data/portraits.parquet"))
    parser.add_argument("--recognizer", action="append", default=[], help="a further one, as for `nullface evaluate`")
    parser.add_argument("--models", type=Path, default=Path("../shared/models"))
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("docs/privacy"))
    args = parser.parse_args()
    if args.part == "table":
        make_table(args)
        return
    torch.set_num_threads(1)
    pipe = load_model_set("tiny", dtype=torch.bfloat16 if args.bfloat16 else None)
    examiner = Examiner(pipe, args.models, args.recognizer)
    {"run": run, "originals": measure_originals, "swapped": measure_swapped}[args.part](args, pipe, examiner)


if __name__ == "__main__":
    main()
