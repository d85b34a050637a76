"""Identification of people under each kind of cover, and under a real blur and a real mosaic.

    python -m benchmarks.covers --people 200

The attacks of `nullface evaluate` search in a gallery of originals. The attack *covered alike*
searches in a gallery of other photos with the same kind of cover, by recognizers and by pixels. The
other photo of a person is the first one, rotated, scaled, relit and with noise, which is the worst
case. Only the ellipse of a cover is compared: the surroundings would identify the person anyway.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from rich.progress import track

from nullface_pipeline.evaluation.attacks import MATCHING_ATTACKS, matching_attacks
from nullface_pipeline.evaluation.baselines import blur, pixelate
from nullface_pipeline.evaluation.rates import mated_ranks, normalized
from nullface_pipeline.evaluation.recognizers import InsightFaceRecognizer, OnnxRecognizer, Recognizer, load_recognizer
from nullface_pipeline.face_covers import Ellipse, cover_faces
from nullface_pipeline.face_identity import FaceLocation, locate_faces
from nullface_pipeline.model_sets import load_detector
from nullface_pipeline.photo_options import COVERS
from nullface_pipeline.protocols import FaceAnalyser
from training.portraits import load_portraits


Cover = Callable[[np.ndarray, FaceLocation], np.ndarray]
LocatedPhoto = tuple[np.ndarray, FaceLocation]


def cover_of(kind: str) -> Cover:
    """Cover of this package, as a function of a photo and a face."""
    return lambda photo, face: cover_faces(photo, [face.box], kind)


WAYS: dict[str, Cover] = {
    **{kind: cover_of(kind) for kind in COVERS},
    "a real blur (deface)": blur,
    "a real mosaic, 8 cells wide": pixelate,
}

NUM_CELLS = 8  # per side, in the comparison of covers by their pixels


def other_photo(photo: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8 variant: rotated up to 6 degrees, scaled up to 15 %, relit, with noise."""
    height, width = photo.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), random.uniform(-6, 6), random.uniform(0.85, 1.15))
    turned = cv2.warpAffine(photo, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101) / 255.0
    side_light = 1.0 + random.uniform(-0.2, 0.2) * np.linspace(-1, 1, width)[:, None]
    lit = turned ** random.uniform(0.75, 1.33) * random.uniform(0.85, 1.1, 3) * side_light
    return (255.0 * np.clip(lit + random.normal(0.0, 0.02, lit.shape), 0.0, 1.0)).astype(np.uint8)


def find(analyser: FaceAnalyser, photo: np.ndarray, nose: np.ndarray | None = None) -> FaceLocation | None:
    """Largest face, or the largest one that contains the tip of the nose."""
    for face in locate_faces(analyser, photo):
        if nose is None or ((face.box[:2] < nose).all() and (nose < face.box[2:]).all()):
            return face
    return None


def alone(photo: np.ndarray, face: FaceLocation) -> np.ndarray:
    """Replace everything outside the ellipse of a cover by grey."""
    ellipse = Ellipse.around(face.box, photo.shape)
    result = np.full_like(photo, 128)
    result[ellipse.window][ellipse.inside] = photo[ellipse.window][ellipse.inside]
    return result


def coarse(photo: np.ndarray, face: FaceLocation) -> np.ndarray:
    """Standardized mean colours of the cells around the ellipse of a cover."""
    part = photo[Ellipse.around(face.box, photo.shape).window]
    cells = cv2.resize(part, (NUM_CELLS, NUM_CELLS), interpolation=cv2.INTER_AREA).astype(np.float64)
    cells -= cells.mean(axis=(0, 1))
    return cells.ravel() / max(cells.std(), 1e-6)


def embed_photos(recognizer: Recognizer, photos: list[LocatedPhoto]) -> np.ndarray:
    """(N, D) embeddings, aligned by the landmarks of the uncovered faces."""
    return np.stack([recognizer(photo, face.landmarks) for photo, face in photos])


def rank_1(first: np.ndarray, second: np.ndarray) -> float:
    """Rank-1 rate in % of the rows of `first` in the gallery `second`, both centred here."""
    probes, gallery = (normalized(each - each.mean(axis=0)) for each in (first, second))
    return 100.0 * mated_ranks(probes, gallery).rate().value


def rates(
    way: Cover, people: list[LocatedPhoto], others: list[LocatedPhoto], recognizers: list[Recognizer]
) -> list[float]:
    """Highest rank-1 rate in % over recognizers by attack, then covered alike, also by pixels."""
    covered = [(way(photo, face), face) for photo, face in people]
    mine = [(alone(photo, face), face) for photo, face in covered]
    theirs = [(alone(way(photo, face), face), face) for photo, face in others]
    by_attack, alike = [], []
    for recognizer in recognizers:
        gallery, probes = embed_photos(recognizer, people), embed_photos(recognizer, covered)
        middle = gallery.mean(axis=0) if recognizer.centred else 0.0
        probes, gallery = normalized(probes - middle), normalized(gallery - middle)
        by_attack.append([100.0 * ranks.rate().value for ranks in matching_attacks(probes, gallery).values()])
        alike.append(rank_1(embed_photos(recognizer, mine), embed_photos(recognizer, theirs)))
    by_pixels = rank_1(np.stack([coarse(*each) for each in mine]), np.stack([coarse(*each) for each in theirs]))
    return [*np.max(by_attack, axis=0), max(alike), by_pixels]


def detection_rate(way: Cover, people: list[LocatedPhoto], analyser: FaceAnalyser) -> float:
    """Share of covers in % that the detector detects as a face."""
    covered = [find(analyser, way(photo, face), face.box.reshape(2, 2).mean(axis=0)) for photo, face in people]
    return 100.0 * sum(face is not None for face in covered) / len(people)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/portraits.parquet"))
    parser.add_argument("--models", type=Path, default=Path("../shared/models"))
    args = parser.parse_args()
    analyser = load_detector("tiny")
    recognizers = [
        InsightFaceRecognizer("tiny", analyser),
        load_recognizer("dlib"),
        OnnxRecognizer("512", args.models / "face_recognizer_512.onnx", centred=True),
    ]
    people: list[LocatedPhoto] = []
    others: list[LocatedPhoto] = []
    portraits = [portrait for portrait in load_portraits(args.data, "validation") if portrait.colour]
    for number, portrait in enumerate(track(portraits[: args.people], "people")):
        photo = portrait.image()
        other = other_photo(photo, np.random.default_rng(number))
        mine, theirs = find(analyser, photo, portrait.landmarks[30]), find(analyser, other)
        if mine is not None and theirs is not None:
            people.append((photo, mine))
            others.append((other, theirs))
    print(f"{len(people)} people; chance level {100 / len(people):.1f} %")
    print("| cover |", " | ".join([*MATCHING_ATTACKS, "covered alike", "by its pixels", "detected as a face"]), "|")
    for name, way in WAYS.items():
        row = [*rates(way, people, others, recognizers), detection_rate(way, people, analyser)]
        print(f"| {name} |", " | ".join(f"{value:.1f} %" for value in row), "|", flush=True)


if __name__ == "__main__":
    main()
