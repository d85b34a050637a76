"""One evaluation: read, find, embed, rank, measure.

Pictures are read one after the other and let go; embeddings lie in files of one method at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from nullface_pipeline import __version__
from nullface_pipeline.evaluation.attacks import MATCHING, linkability, naive
from nullface_pipeline.evaluation.judges import Recognizer, holds
from nullface_pipeline.evaluation.look import Look
from nullface_pipeline.evaluation.measures import FaceMeasure, PairMeasure, SetMeasure
from nullface_pipeline.evaluation.pairs import (
    Method,
    baseline_picture,
    check_crop,
    check_size,
    file_picture,
    match_results,
    photos_by_name,
)
from nullface_pipeline.evaluation.rates import Gallery, Ranks, Strangers, own_similarities
from nullface_pipeline.evaluation.recover import recover
from nullface_pipeline.evaluation.results import (
    Evaluation,
    Linked,
    MethodResult,
    Original,
    Recognition,
    Recovered,
    Result,
)
from nullface_pipeline.evaluation.tables import scratch_table


# Raw embeddings by recognizer: (N, D) aligned by the original's landmarks, and (N, D) by the result's own, of which the
# rows without a detected face are zero.
Embedded = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Measures:
    """What is measured besides who is found again."""

    faces: Sequence[FaceMeasure] = ()
    pairs: Sequence[PairMeasure] = ()
    sets: Sequence[SetMeasure] = ()


def evaluate(
    originals: Path,
    methods: Sequence[Method],
    recognizers: Sequence[Recognizer],
    look: Look,
    measures: Measures = Measures(),
    skip_missing: bool = False,
    recover_with: Any | None = None,
    not_run: Mapping[str, str] | None = None,
) -> Evaluation:
    """Judge methods by what they made of the same originals.

    Args:
        originals (`Path`): a folder of photos, one person each and each person once.
        methods (`Sequence[Method]`): each of a name of its own.
        recognizers (`Sequence[Recognizer]`): each of a name of its own, at least one.
        look (`Look`): the detector, and where answers are remembered.
        measures (`Measures`): what else is measured.
        skip_missing (`bool`): leave originals without a result out of a method's figures, instead of raising. They stay
            in the gallery.
        recover_with (*optional*): a pipeline of this project with face models, to try the recovery attack with.
        not_run (`Mapping[str, str]`, *optional*): what lacks its model, for the report.

    Raises:
        ValueError: for pictures that are missing, unreadable, or of another size or crop than their originals.
    """
    photos = photos_by_name(originals)
    # All folders before any picture is read.
    folders = {folder for method in methods for folder in (method.folder, method.again) if folder is not None}
    files = {folder: match_results(list(photos), folder, skip_missing) for folder in folders}
    gallery, faceless = find_originals(photos, look)
    seen = see_originals(gallery, recognizers, look)
    judged = [
        judge_method(method, files, gallery, seen, recognizers, look, measures, recover_with) for method in methods
    ]
    return Evaluation(
        originals=gallery,
        faceless=faceless,
        recognizers=list(recognizers),
        strangers={name: gallery_seen.strangers for name, gallery_seen in seen.items()},
        methods=judged,
        units={measure.name: measure.unit for measure in measures.faces},
        not_run=dict(not_run or {}),
        settings={"version": __version__, "detector": look.detector.name},
    )


def judge_method(
    method: Method,
    files: Mapping[Path, Mapping[str, Path]],
    gallery: Sequence[Original],
    seen: Mapping[str, Gallery],
    recognizers: Sequence[Recognizer],
    look: Look,
    measures: Measures,
    recover_with: Any | None,
) -> MethodResult:
    """All that is known of one method; `files` are the results by folder and name."""
    results = find_results(method.name, gallery, None if method.folder is None else files[method.folder], look)
    embedded = embed_results(method.name, results, recognizers, look)
    linked: dict[str, Linked] = {}
    if method.again is not None:
        name = f"{method.name}, again"
        second = find_results(name, gallery, files[method.again], look)
        linked = link(results, embedded, second, embed_results(name, second, recognizers, look), seen)
    recovered: list[Recovered] = []
    if recover_with is not None and method.folder is not None:
        recovered = recover(recover_with, method.name, results, recognizers, seen, look.quiet)
    return MethodResult(
        name=method.name,
        results=results,
        recognitions={name: recognize(seen[name], results, *embedded[name]) for name in embedded},
        distances=measure_distances(method.name, results, measures, look),
        sets=measure_sets(results, measures.sets),
        linked=linked,
        recovered=recovered,
    )


def find_originals(photos: Mapping[str, Path], look: Look) -> tuple[list[Original], list[str]]:
    """The originals in which a face is found, and the names of the others.

    Raises:
        ValueError: if there are fewer than two faces: nobody can be told from nobody else.
    """
    found, faceless = [], []
    for name, path in track(photos.items(), "originals", disable=look.quiet):
        picture = file_picture(path)
        face = look.face(picture)
        if face is None:
            faceless.append(name)
        else:
            found.append(Original(name, picture.unread(), *look.size_and_content(picture), face))
    if len(found) < 2:
        raise ValueError(f"Faces were found in {len(found)} originals; two people at least are needed.")
    return found, faceless


def find_results(
    method: str, gallery: Sequence[Original], files: Mapping[str, Path] | None, look: Look
) -> list[Result]:
    """A method's results of the originals in the gallery; without `files`, those of the baseline of this name.

    Raises:
        ValueError: for results of another size or crop than their originals, or if none is left.
    """
    results, moved = [], []
    chosen = [(row, original) for row, original in enumerate(gallery) if files is None or original.name in files]
    for row, original in track(chosen, f"{method}: faces", disable=look.quiet):
        if files is None:
            picture = baseline_picture(method, original.picture, original.face)
        else:
            picture = file_picture(files[original.name])
        size, content = look.size_and_content(picture)
        check_size(original.name, method, original.size, size)
        face = look.face(picture, original.face.landmarks)
        if face is not None:
            moved.append((original.face.landmarks, face.landmarks))
        there = face if face is not None and holds(face, original.face.landmarks[2]) else None
        results.append(Result(row, original, picture.unread(), there, content == original.content))
    if not results:
        raise ValueError(f"{method}: no result belongs to an original in which a face was found.")
    # Where fewer faces are found than not, the method destroys them, and says nothing of the crop.
    if files is not None and 2 * len(moved) >= len(results):
        check_crop(method, *(np.array(points) for points in zip(*moved)))
    return results


def see_originals(gallery: Sequence[Original], recognizers: Sequence[Recognizer], look: Look) -> dict[str, Gallery]:
    """The gallery of each recognizer."""
    raw: dict[str, np.ndarray] = {}
    for row, original in track(enumerate(gallery), "originals: who", total=len(gallery), disable=look.quiet):
        picture = original.picture.unread()
        for recognizer in recognizers:
            put(raw, recognizer.name, row, look.embedding(recognizer, picture, original.face.landmarks), len(gallery))
    return {r.name: Gallery.of(raw.pop(r.name), r.centred) for r in recognizers}


def embed_results(method: str, results: Sequence[Result], recognizers: Sequence[Recognizer], look: Look) -> Embedded:
    """What every recognizer says of every result."""
    forced: dict[str, np.ndarray] = {}
    own: dict[str, np.ndarray] = {}
    for row, result in track(enumerate(results), f"{method}: who", total=len(results), disable=look.quiet):
        picture = result.picture.unread()
        for recognizer in recognizers:
            name, at_original = recognizer.name, result.original.face.landmarks
            put(forced, name, row, look.embedding(recognizer, picture, at_original), len(results))
            if result.face is not None:
                put(own, name, row, look.embedding(recognizer, picture, result.face.landmarks), len(results))
    return {name: (forced[name], own[name] if name in own else np.zeros_like(forced[name])) for name in forced}


def put(table: dict[str, np.ndarray], name: str, row: int, embedding: np.ndarray, count: int) -> None:
    """A (D,) embedding into a row of the (`count`, D) ones of a recognizer, which are zeros at first."""
    if name not in table:
        table[name] = scratch_table(count, len(embedding))
    table[name][row] = embedding


def recognize(seen: Gallery, results: Sequence[Result], forced: np.ndarray, own: np.ndarray) -> Recognition:
    """One recognizer's gallery and raw embeddings of N results to ranks and similarities."""
    rows = np.array([result.row for result in results])
    leaked = np.array([result.leaked for result in results])
    detected = np.array([result.face is not None for result in results])
    probes = seen.probes(forced)
    attacks = {name: match(probes, seen.embeddings, rows) for name, match in MATCHING.items()}
    own_similarity = np.full(len(rows), np.nan)
    behind = np.full(len(rows), len(seen.embeddings))
    own_ranks = Ranks(behind, np.ones_like(behind))
    if detected.any():
        found = seen.probes(own, np.flatnonzero(detected))
        ranks = naive(found, seen.embeddings, rows[detected])
        own_ranks.greater[detected], own_ranks.equal[detected] = ranks.greater, ranks.equal
        own_similarity[detected] = own_similarities(found, seen.embeddings, rows[detected])
    # An untouched photo is re-identified, whatever a recognizer thinks of it.
    for ranks in (attacks["naive"], own_ranks):
        ranks.greater[leaked], ranks.equal[leaked] = 0, 1
    return Recognition(own_similarities(probes, seen.embeddings, rows), attacks, own_similarity, own_ranks)


def link(
    first: Sequence[Result],
    first_embedded: Embedded,
    second: Sequence[Result],
    second_embedded: Embedded,
    seen: Mapping[str, Gallery],
) -> dict[str, Linked]:
    """Whether the two results of a person are known for one person's, by recognizer; aligned by the original's
    landmarks.
    """
    first_rows, second_rows = (np.array([result.row for result in results]) for results in (first, second))
    _, *both = np.intersect1d(first_rows, second_rows, return_indices=True)
    linked = {}
    for name, gallery in seen.items():
        probes, others = (
            gallery.probes(embedded[name][0], chosen)
            for embedded, chosen in zip((first_embedded, second_embedded), both)
        )
        linked[name] = Linked(linkability(probes, others), own_similarities(probes, others), Strangers.of(others))
    return linked


def measure_distances(method: str, results: Sequence[Result], measures: Measures, look: Look) -> dict[str, np.ndarray]:
    """(N,) by the name of each measure of faces or pairs; NaN where a face could not be described."""
    names = [measure.name for measure in measures.faces] + [measure.name for measure in measures.pairs]
    distances: dict[str, list[float]] = {name: [] for name in names}
    if not distances:
        return {}
    for result in track(results, f"{method}: what is kept", disable=look.quiet):
        before, after = result.original.picture.unread(), result.picture.unread()
        landmarks = result.original.face.landmarks
        for measure in measures.faces:
            described = [look.description(measure, picture, landmarks) for picture in (before, after)]
            known = all(description.size for description in described)
            distances[measure.name].append(measure.distance(*described) if known else np.nan)
        for pair_measure in measures.pairs:
            distances[pair_measure.name].append(look.pair(pair_measure, before, after, result.original.face))
    return {name: np.array(values) for name, values in distances.items()}


def measure_sets(results: Sequence[Result], measures: Sequence[SetMeasure]) -> dict[str, float]:
    """All figures of all measures of sets."""
    figures: dict[str, float] = {}
    for measure in measures:
        figures |= measure(
            (result.original.picture.unread().pixels for result in results),
            (result.picture.unread().pixels for result in results),
        )
    return figures
