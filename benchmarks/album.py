"""Similarity of results within a person and between people, with and without an album.

    python -m benchmarks.album --people 12 --strangers 12

Each person has four variants of one portrait (rotated, relit, blurred, shrunk), which is easier
than a real album. It needs nullface-tiny's portraits (`--data`) and the extra `training`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import PIL.Image
import torch

from benchmarks.video import STRANGERS
from nullface_pipeline.albums import find_people
from nullface_pipeline.evaluation.recognizers import DlibRecognizer
from nullface_pipeline.face_identity import embed_face
from nullface_pipeline.model_sets import load_model_set
from training.portraits import Portrait, five_points, load_portraits


# Rotation in degrees, scale, change of brightness, blur in px.
VARIANTS = ((0, 1.0, 0, 0.0), (8, 1.05, 20, 0.0), (-7, 0.95, -25, 0.6), (3, 0.85, 5, 1.2))


def variant(portrait: Portrait, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) uint8 RGB variant of a portrait, and its (68, 2) landmarks."""
    degrees, scale, brighter, blur = VARIANTS[number]
    image = portrait.image()
    x, y = portrait.landmarks.mean(axis=0)
    matrix = cv2.getRotationMatrix2D((float(x), float(y)), degrees, scale)
    size = image.shape[1::-1]
    rotated = np.asarray(cv2.warpAffine(image, matrix, size, borderMode=cv2.BORDER_REPLICATE))
    rotated = rotated if blur == 0 else np.asarray(cv2.GaussianBlur(rotated, (0, 0), blur))
    lit = np.clip(rotated.astype(int) + brighter, 0, 255).astype(np.uint8)
    return lit, portrait.landmarks @ matrix[:, :2].T + matrix[:, 2]


def embed_photos(photos: list[np.ndarray], landmarks: list[np.ndarray], pipe: Any) -> dict[str, np.ndarray]:
    """(N, D) raw embeddings of dlib, and unit-norm embeddings of nullface-tiny's recognizer."""
    dlib = DlibRecognizer()
    faces = [(photo, five_points(points)) for photo, points in zip(photos, landmarks)]
    own = [embed_face(pipe.face_analyser, photo, points) for photo, points in faces]
    return {"dlib": np.stack([dlib(photo, points) for photo, points in faces]), "tiny": np.stack(own)}


def centred(embeds: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Subtract the mean and scale to unit norm."""
    return (embeds - mean) / np.linalg.norm(embeds - mean, axis=1, keepdims=True)


def genuine_and_impostor(person: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(N, N) bool masks of all pairs of photos of one person, and of two people, each pair once."""
    same = np.equal.outer(person, person)
    return np.triu(same, 1), np.triu(~same, 1)


def similarities(originals: np.ndarray, results: np.ndarray, person: np.ndarray) -> dict[str, float]:
    """Mean cosines among a person's results, among those of different people, and to originals."""
    same = np.equal.outer(person, person)
    own, others = genuine_and_impostor(person)
    among, to_originals = results @ results.T, results @ originals.T
    return {
        "person": float(among[own].mean()),
        "person_worst": float(np.quantile(among[own], 0.05)),
        "strangers": float(among[others].mean()),
        "to_own_original": float(to_originals[same].mean()),
        "to_own_original_highest": float(to_originals[same].max()),
        "to_strangers_originals": float(to_originals[~same].mean()),
    }


def match_rates(embeds: np.ndarray, person: np.ndarray) -> dict[str, float]:
    """True and false match rate of dlib's embeddings at dlib's own threshold."""
    own, others = genuine_and_impostor(person)
    near = np.linalg.norm(embeds[:, None] - embeds[None], axis=-1) < STRANGERS
    return {"person": float(near[own].mean()), "strangers": float(near[others].mean())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/portraits.parquet"))
    parser.add_argument("--people", type=int, default=12, help="people with four variants")
    parser.add_argument("--strangers", type=int, default=12, help="people with one photo")
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--ways", nargs="+", choices=("alone", "album"), default=("alone", "album"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    pipe = load_model_set("tiny")
    portraits = [each for each in load_portraits(arguments.data, "validation") if each.colour]
    chosen = portraits[: arguments.people + arguments.strangers]
    shown = [(number, v) for number in range(arguments.people) for v in range(len(VARIANTS))]
    shown += [(number, 0) for number in range(arguments.people, len(chosen))]
    photos, landmarks = map(list, zip(*(variant(chosen[number], v) for number, v in shown)))
    person = np.array([number for number, _ in shown])
    people = find_people(pipe.face_analyser, photos)
    before = embed_photos(photos, landmarks, pipe)
    print(json.dumps({"photos": len(photos), "people": len(chosen), "people_found": len(people)}), flush=True)
    for name in arguments.ways:
        known, identity = (people, "consistent") if name == "album" else (None, "random")
        results, shows_face = [], []
        for number, photo in enumerate(photos):
            # In an album, one seed serves the whole run: the noise also depends on the person.
            seed = 1000 * number if known is None else 0
            result = pipe.anonymize(
                PIL.Image.fromarray(photo), seed=seed, people=known, identity=identity, preset=arguments.preset
            )
            shows_face.append(all(face.method != "covered" for face in result.faces))
            results.append(np.asarray(result.image))
        after = embed_photos(results, landmarks, pipe)
        kept = np.array(shows_face)
        # dlib's embeddings share a large mean, which makes the impostor scores 0.8 and more.
        for recognizer, less_mean in (("dlib", True), ("dlib", False), ("tiny", False)):
            mean = before[recognizer].mean(axis=0) * less_mean
            originals, new = centred(before[recognizer], mean)[kept], centred(after[recognizer], mean)[kept]
            own = similarities(originals, originals, person[kept])
            found = {**similarities(originals, new, person[kept]), "originals_person": own["person"]}
            run = {"run": name, "recognizer": recognizer, "less_mean": less_mean, "covered": int((~kept).sum())}
            print(json.dumps({**run, **found}), flush=True)
        rates = {
            kind: match_rates(embeds["dlib"][kept], person[kept])
            for kind, embeds in (("originals", before), ("results", after))
        }
        print(json.dumps({"run": name, "dlib_match_rates": rates}), flush=True)


if __name__ == "__main__":
    main()
