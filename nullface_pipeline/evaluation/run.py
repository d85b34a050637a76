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
from nullface_pipeline.evaluation.attacks import matching_attacks
from nullface_pipeline.evaluation.cached_models import CachedModels
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
from nullface_pipeline.evaluation.rates import Gallery, ImpostorScores, Ranks, genuine_scores, mated_ranks
from nullface_pipeline.evaluation.recognizers import Recognizer, holds
from nullface_pipeline.evaluation.results import (
    Evaluation,
    LinkageResult,
    MethodResult,
    Original,
    Recognition,
    Result,
    ReversalResult,
)
from nullface_pipeline.evaluation.reversal_attack import reverse_results


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
    models: CachedModels,
    measures: Measures = Measures(),
    skip_missing: bool = False,
    reversal_pipe: Any | None = None,
    not_run: Mapping[str, str] | None = None,
) -> Evaluation:
    """Evaluate methods by what they made of the same originals.

    Args:
        originals (`Path`): a folder of photos, one person each and each person once.
        methods (`Sequence[Method]`): each of a name of its own.
        recognizers (`Sequence[Recognizer]`): each of a name of its own, at least one.
        models (`CachedModels`): the detector, and where answers are remembered.
        measures (`Measures`): what else is measured.
        skip_missing (`bool`): leave originals without a result out of a method's figures, instead of raising. They stay
            in the gallery.
        reversal_pipe (*optional*): a pipeline of this project with face models, to run the reversal attack with.
        not_run (`Mapping[str, str]`, *optional*): what lacks its model, for the report.

    Raises:
        ValueError: for pictures that are missing, unreadable, or of another size or crop than their originals.
    """
    photos = photos_by_name(originals)
    # All folders before any picture is read.
    folders = {folder for method in methods for folder in (method.folder, method.second_run) if folder is not None}
    files = {folder: match_results(list(photos), folder, skip_missing) for folder in folders}
    gallery, faceless = find_originals(photos, models)
    galleries = embed_originals(gallery, recognizers, models)
    evaluated = [
        evaluate_method(method, files, gallery, galleries, recognizers, models, measures, reversal_pipe)
        for method in methods
    ]
    return Evaluation(
        originals=gallery,
        faceless=faceless,
        recognizers=list(recognizers),
        impostor_scores={name: gallery.impostor_scores for name, gallery in galleries.items()},
        methods=evaluated,
        units={measure.name: measure.unit for measure in measures.faces},
        not_run=dict(not_run or {}),
        settings={"version": __version__, "detector": models.detector.name},
    )


def evaluate_method(
    method: Method,
    files: Mapping[Path, Mapping[str, Path]],
    gallery: Sequence[Original],
    galleries: Mapping[str, Gallery],
    recognizers: Sequence[Recognizer],
    models: CachedModels,
    measures: Measures,
    reversal_pipe: Any | None,
) -> MethodResult:
    """All that is known of one method; `files` are the results by folder and name."""
    results = find_results(method.name, gallery, None if method.folder is None else files[method.folder], models)
    embedded = embed_results(method.name, results, recognizers, models)
    linkage_results: dict[str, LinkageResult] = {}
    if method.second_run is not None:
        name = f"{method.name}, second run"
        second = find_results(name, gallery, files[method.second_run], models)
        linkage_results = link(results, embedded, second, embed_results(name, second, recognizers, models), galleries)
    reversal: list[ReversalResult] = []
    if reversal_pipe is not None and method.folder is not None:
        reversal = reverse_results(reversal_pipe, method.name, results, recognizers, galleries, models.quiet)
    return MethodResult(
        name=method.name,
        results=results,
        recognitions={name: recognize(galleries[name], results, *embedded[name]) for name in embedded},
        distances=measure_distances(method.name, results, measures, models),
        sets=measure_sets(results, measures.sets),
        linkage=linkage_results,
        reversal=reversal,
    )


def find_originals(photos: Mapping[str, Path], models: CachedModels) -> tuple[list[Original], list[str]]:
    """The originals in which a face is found, and the names of the others.

    Raises:
        ValueError: if there are fewer than two faces: nobody can be told from nobody else.
    """
    found, faceless = [], []
    for name, path in track(photos.items(), "originals", disable=models.quiet):
        picture = file_picture(path)
        face = models.face(picture)
        if face is None:
            faceless.append(name)
        else:
            found.append(Original(name, picture.unread(), *models.size_and_content(picture), face))
    if len(found) < 2:
        raise ValueError(f"Faces were found in {len(found)} originals; two people at least are needed.")
    return found, faceless


def find_results(
    method: str, gallery: Sequence[Original], files: Mapping[str, Path] | None, models: CachedModels
) -> list[Result]:
    """A method's results of the originals in the gallery; without `files`, those of the baseline of this name.

    Raises:
        ValueError: for results of another size or crop than their originals, or if none is left.
    """
    results, moved = [], []
    chosen = [(row, original) for row, original in enumerate(gallery) if files is None or original.name in files]
    for row, original in track(chosen, f"{method}: faces", disable=models.quiet):
        if files is None:
            picture = baseline_picture(method, original.picture, original.face)
        else:
            picture = file_picture(files[original.name])
        size, content = models.size_and_content(picture)
        check_size(original.name, method, original.size, size)
        face = models.face(picture, original.face.landmarks)
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


def embed_originals(
    gallery: Sequence[Original], recognizers: Sequence[Recognizer], models: CachedModels
) -> dict[str, Gallery]:
    """The gallery of each recognizer."""
    raw: dict[str, np.ndarray] = {}
    for row, original in track(enumerate(gallery), "originals: who", total=len(gallery), disable=models.quiet):
        picture = original.picture.unread()
        for recognizer in recognizers:
            put(
                raw, recognizer.name, row, models.embedding(recognizer, picture, original.face.landmarks), len(gallery)
            )
    return {r.name: Gallery.of(raw.pop(r.name), r.centred) for r in recognizers}


def embed_results(
    method: str, results: Sequence[Result], recognizers: Sequence[Recognizer], models: CachedModels
) -> Embedded:
    """What every recognizer says of every result."""
    gt_aligned: dict[str, np.ndarray] = {}
    redetected: dict[str, np.ndarray] = {}
    for row, result in track(enumerate(results), f"{method}: who", total=len(results), disable=models.quiet):
        picture = result.picture.unread()
        for recognizer in recognizers:
            name, at_original = recognizer.name, result.original.face.landmarks
            put(gt_aligned, name, row, models.embedding(recognizer, picture, at_original), len(results))
            if result.face is not None:
                put(redetected, name, row, models.embedding(recognizer, picture, result.face.landmarks), len(results))
    return {
        name: (gt_aligned[name], redetected[name] if name in redetected else np.zeros_like(gt_aligned[name]))
        for name in gt_aligned
    }


def put(table: dict[str, np.ndarray], name: str, row: int, embedding: np.ndarray, count: int) -> None:
    """A (D,) embedding into a row of the (`count`, D) ones of a recognizer, which are zeros at first."""
    if name not in table:
        table[name] = np.zeros((count, len(embedding)), np.float32)
    table[name][row] = embedding


def recognize(
    gallery: Gallery, results: Sequence[Result], gt_aligned: np.ndarray, redetected: np.ndarray
) -> Recognition:
    """One recognizer's gallery and raw embeddings of N results to ranks and similarities."""
    rows = np.array([result.row for result in results])
    leaked = np.array([result.leaked for result in results])
    detected = np.array([result.face is not None for result in results])
    probes = gallery.probes(gt_aligned)
    attacks = matching_attacks(probes, gallery.embeddings, rows)
    redetected_similarity = np.full(len(rows), np.nan)
    behind = np.full(len(rows), len(gallery.embeddings))
    redetected_ranks = Ranks(behind, np.ones_like(behind))
    if detected.any():
        found = gallery.probes(redetected[detected])
        ranks = mated_ranks(found, gallery.embeddings, rows[detected])
        redetected_ranks.greater[detected], redetected_ranks.equal[detected] = ranks.greater, ranks.equal
        redetected_similarity[detected] = genuine_scores(found, gallery.embeddings, rows[detected])
    # An untouched photo is re-identified, whatever a recognizer thinks of it.
    for ranks in (attacks["most_similar"], redetected_ranks):
        ranks.greater[leaked], ranks.equal[leaked] = 0, 1
    return Recognition(
        genuine_scores(probes, gallery.embeddings, rows), attacks, redetected_similarity, redetected_ranks
    )


def link(
    first: Sequence[Result],
    first_embedded: Embedded,
    second: Sequence[Result],
    second_embedded: Embedded,
    galleries: Mapping[str, Gallery],
) -> dict[str, LinkageResult]:
    """Whether the two results of a person are known for one person's, by recognizer; aligned by the original's
    landmarks.
    """
    first_rows, second_rows = (np.array([result.row for result in results]) for results in (first, second))
    _, *both = np.intersect1d(first_rows, second_rows, return_indices=True)
    linkage_results = {}
    for name, gallery in galleries.items():
        probes, others = (
            gallery.probes(embedded[name][0][chosen])
            for embedded, chosen in zip((first_embedded, second_embedded), both)
        )
        linkage_results[name] = LinkageResult(
            mated_ranks(probes, others), genuine_scores(probes, others), ImpostorScores.of(others)
        )
    return linkage_results


def measure_distances(
    method: str, results: Sequence[Result], measures: Measures, models: CachedModels
) -> dict[str, np.ndarray]:
    """(N,) by the name of each measure of faces or pairs; NaN where a face could not be described."""
    names = [measure.name for measure in measures.faces] + [measure.name for measure in measures.pairs]
    distances: dict[str, list[float]] = {name: [] for name in names}
    if not distances:
        return {}
    for result in track(results, f"{method}: utility metrics", disable=models.quiet):
        before, after = result.original.picture.unread(), result.picture.unread()
        landmarks = result.original.face.landmarks
        for measure in measures.faces:
            described = [models.description(measure, picture, landmarks) for picture in (before, after)]
            known = all(description.size for description in described)
            distances[measure.name].append(measure.distance(*described) if known else np.nan)
        for pair_measure in measures.pairs:
            distances[pair_measure.name].append(models.pair(pair_measure, before, after, result.original.face))
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
