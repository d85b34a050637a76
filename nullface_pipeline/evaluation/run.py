"""Evaluation of methods: read photos, embed faces, run the attacks, measure utility.

Photos are read one at a time. Raw embeddings are kept for one method at a time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.progress import track

from nullface_pipeline import __version__
from nullface_pipeline.evaluation.attacks import matching_attacks
from nullface_pipeline.evaluation.cached_models import CachedModels
from nullface_pipeline.evaluation.galleries import (
    PhotoGallery,
    embed_originals,
    find_originals,
    other_photos,
    photos_of_subjects,
    same_photos,
    summarize,
)
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
from nullface_pipeline.evaluation.recognizers import Recognizer, contains
from nullface_pipeline.evaluation.results import (
    DIFFERENT_PHOTO,
    FALSE_ACCEPT_RATES,
    SAME_PHOTO,
    Evaluation,
    MethodResult,
    Original,
    Recognition,
    Result,
    SearchResult,
)
from nullface_pipeline.evaluation.reversal_attack import reverse_results
from nullface_pipeline.evaluation.verification import Verification, read_pairs, verify
from nullface_pipeline.photo_records import OptionError
from nullface_pipeline.pipeline import StableDiffusionNullFacePipeline


# Raw embeddings by recognizer: (N, D) aligned by the original's landmarks, and (N, D) aligned by
# the result's own, of which rows without a detected face are zero.
Embedded = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Measures:
    """Utility metrics of faces, of pairs of photos and of whole sets."""

    faces: Sequence[FaceMeasure] = ()
    pairs: Sequence[PairMeasure] = ()
    sets: Sequence[SetMeasure] = ()


@dataclass(frozen=True, eq=False)
class Setup:
    """Inputs and models shared by all methods of an evaluation.

    Attributes:
        originals (`list[Original]`): P photos with a face.
        galleries (`dict[str, PhotoGallery]`): `SAME_PHOTO`, and `DIFFERENT_PHOTO` if there are
            other photos.
        raw (`dict[str, np.ndarray]`): (P, D) embeddings of the originals, by recognizer.
        subjects (`np.ndarray`, *optional*): (P,) int, subjects from a pairs file.
        files (`dict[Path, dict[str, Path]]`): results by folder and name.
        reversal_pipe (*optional*): pipeline for the reversal attack.
    """

    originals: list[Original]
    galleries: dict[str, PhotoGallery]
    raw: dict[str, np.ndarray]
    subjects: np.ndarray | None
    files: dict[Path, dict[str, Path]]
    recognizers: Sequence[Recognizer]
    models: CachedModels
    measures: Measures
    reversal_pipe: StableDiffusionNullFacePipeline | None


def evaluate(
    originals: Path,
    methods: Sequence[Method],
    recognizers: Sequence[Recognizer],
    models: CachedModels,
    measures: Measures = Measures(),
    skip_missing: bool = False,
    reversal_pipe: StableDiffusionNullFacePipeline | None = None,
    not_run: Mapping[str, str] | None = None,
    gallery: Path | None = None,
    pairs: Path | None = None,
) -> Evaluation:
    """Evaluate methods by their results for the same originals.

    Args:
        originals (`Path`): folder with one photo per person, or several photos with `pairs`.
        methods (`Sequence[Method]`): methods with different names.
        recognizers (`Sequence[Recognizer]`): one or more recognizers with different names.
        models (`CachedModels`): detector and cache.
        skip_missing (`bool`): exclude originals without a result from a method's figures instead of
            raising. They stay in the gallery.
        reversal_pipe (*optional*): pipeline with face models; runs the reversal attack.
        not_run (`Mapping[str, str]`, *optional*): missing models, for the report.
        gallery (`Path`, *optional*): folder of other photos of the same people, with the names of
            the originals.
        pairs (`Path`, *optional*): CSV file of several photos per person, see
            `verification.read_pairs`. The first photo of a person is the probe, and the second is
            the person's photo in the different-photo gallery.

    Raises:
        ValueError: for photos that are missing, unreadable, or of another size or crop than their
            originals.
    """
    if gallery is not None and pairs is not None:
        raise OptionError("gallery", "and `pairs` exclude each other. The pairs file lists the other photos.")
    photos = photos_by_name(originals)
    subject_names = None if pairs is None else read_pairs(pairs, list(photos))
    if subject_names is not None:
        photos = {name: photos[name] for name in subject_names}
    others = None if gallery is None else photos_by_name(gallery)
    # All folders are matched before the first photo is read.
    files = match_files(methods, list(photos), None if others is None else list(others), skip_missing)
    found, faceless = find_originals(photos, models, "originals")
    raw = embed_originals(found, recognizers, models, "originals")
    subjects = None
    if subject_names is not None:
        subjects = np.unique([subject_names[original.name] for original in found], return_inverse=True)[1]
        galleries = photos_of_subjects(found, raw, subjects, recognizers)
    else:
        galleries = {SAME_PHOTO: same_photos(found, raw, recognizers)}
    if others is not None:
        galleries[DIFFERENT_PHOTO] = other_photos(found, others, recognizers, models)
    setup = Setup(found, galleries, raw, subjects, files, recognizers, models, measures, reversal_pipe)
    return Evaluation(
        originals=found,
        faceless=faceless,
        recognizers=list(recognizers),
        galleries=summarize(galleries, found, raw),
        methods=[evaluate_method(method, setup) for method in methods],
        units={measure.name: measure.unit for measure in measures.faces},
        not_run=dict(not_run or {}),
        settings={"version": __version__, "detector": models.detector.name},
        verification=verify_photos(setup, raw, np.arange(len(found))),
    )


def match_files(
    methods: Sequence[Method], names: Sequence[str], gallery: Sequence[str] | None, skip_missing: bool
) -> dict[Path, dict[str, Path]]:
    """Find the results by folder and name.

    Args:
        names (`Sequence[str]`): names of the originals.
        gallery (`Sequence[str]`, *optional*): names of the photos in the gallery's folder.

    Raises:
        ValueError: if results are missing, or if a method has `gallery_run` without a gallery.
    """
    files = {}
    for method in methods:
        for folder in (method.folder, method.second_run):
            if folder is not None:
                files[folder] = match_results(names, folder, skip_missing)
        if method.gallery_run is not None:
            if gallery is None:
                raise OptionError("gallery_run", f"of {method.name} needs `gallery`.")
            in_gallery = [name for name in gallery if name in set(names)]
            files[method.gallery_run] = match_results(in_gallery, method.gallery_run, skip_missing)
    return files


def evaluate_method(method: Method, setup: Setup) -> MethodResult:
    """Evaluate one method."""
    files = None if method.folder is None else setup.files[method.folder]
    results = find_results(method.name, method.name, setup.originals, files, setup.models)
    embedded = embed_results(method.name, results, setup)
    return MethodResult(
        name=method.name,
        results=results,
        recognitions={name: recognize(method.name, name, results, embedded, setup) for name in setup.galleries},
        distances=measure_distances(method.name, results, setup.measures, setup.models),
        sets=measure_sets(results, setup.measures.sets),
        linkage=link(method, results, embedded, setup),
        reversal=[]
        if setup.reversal_pipe is None or method.folder is None
        else reverse_results(
            setup.reversal_pipe, method.name, results, setup.recognizers, setup.galleries, setup.models.quiet
        ),
        verification=verify_photos(
            setup, {name: raw for name, (raw, _) in embedded.items()}, np.array([result.row for result in results])
        ),
    )


def find_results(
    title: str, method: str, originals: Sequence[Original], files: Mapping[str, Path] | None, models: CachedModels
) -> list[Result]:
    """Find the results of the originals; without `files`, compute those of the baseline `method`.

    Args:
        title (`str`): title for progress bars and errors.

    Raises:
        ValueError: for results of another size or crop than their originals, or if there are none.
    """
    results, moved = [], []
    chosen = [(row, original) for row, original in enumerate(originals) if files is None or original.name in files]
    for row, original in track(chosen, f"{title}: faces", disable=models.quiet):
        if files is None:
            picture = baseline_picture(method, original.picture, original.face)
        else:
            picture = file_picture(files[original.name])
        size, content = models.size_and_content(picture)
        check_size(original.name, title, original.size, size)
        face = models.face(picture, original.face.landmarks)
        if face is not None:
            moved.append((original.face.landmarks, face.landmarks))
        matched = face if face is not None and contains(face, original.face.landmarks[2]) else None
        results.append(Result(row, original, picture.unread(), matched, content == original.content))
    if not results:
        raise ValueError(f"{title}: no result belongs to an original in which a face was found.")
    # If few faces are detected, the method destroys them, and their positions do not show the crop.
    if files is not None and 2 * len(moved) >= len(results):
        check_crop(title, *(np.array(points) for points in zip(*moved)))
    return results


def embed_results(title: str, results: Sequence[Result], setup: Setup) -> Embedded:
    """Embed every result with every recognizer."""
    gt_aligned: dict[str, list[np.ndarray]] = {recognizer.name: [] for recognizer in setup.recognizers}
    redetected: dict[str, list[np.ndarray]] = {recognizer.name: [] for recognizer in setup.recognizers}
    for result in track(results, f"{title}: embeddings", disable=setup.models.quiet):
        picture = result.picture.unread()
        for recognizer in setup.recognizers:
            embedding = setup.models.embedding(recognizer, picture, result.original.face.landmarks)
            gt_aligned[recognizer.name].append(embedding)
            redetected[recognizer.name].append(
                np.zeros_like(embedding)
                if result.face is None
                else setup.models.embedding(recognizer, picture, result.face.landmarks)
            )
    return {
        name: (np.array(gt_aligned[name], np.float32), np.array(redetected[name], np.float32)) for name in gt_aligned
    }


def recognize(
    method: str, gallery: str, results: Sequence[Result], embedded: Embedded, setup: Setup
) -> dict[str, Recognition]:
    """Search the results in one gallery with every recognizer.

    Raises:
        ValueError: if no result shows a person of the gallery.
    """
    rows = np.array([result.row for result in results])
    same, searched = setup.galleries[SAME_PHOTO], setup.galleries[gallery]
    # With several photos of a person, only the first one is searched for.
    probed = np.flatnonzero(same.mates(rows) >= 0)
    mates = searched.mates(rows)
    index = probed[mates[probed] >= 0]
    if not len(index):
        raise ValueError(f"{method}: no result shows a person who has a photo in the {gallery} gallery.")
    leaked = np.array([results[number].leaked for number in index])
    detected = np.array([results[number].face is not None for number in index])
    recognitions = {}
    for name, (gt_aligned, redetected) in embedded.items():
        photos = searched.embedded[name]
        probes = photos.probes(gt_aligned)
        originals = same.embedded[name].embeddings[same.mates(rows)[probed]]
        attacks = matching_attacks(probes[probed], photos.embeddings, mates[probed], originals)
        similarity, ranks = search_detected(photos, redetected[index], mates[index], detected)
        if gallery == SAME_PHOTO:
            # An unchanged photo always counts as re-identified.
            for each in (attacks["most_similar"], ranks):
                each.greater[leaked], each.equal[leaked] = 0, 1
        scores = genuine_scores(probes[index], photos.embeddings, mates[index])
        recognitions[name] = Recognition(index, scores, attacks, similarity, ranks)
    return recognitions


def search_detected(
    gallery: Gallery, raw: np.ndarray, mates: np.ndarray, detected: np.ndarray
) -> tuple[np.ndarray, Ranks]:
    """Search (M, D) raw embeddings; undetected faces have similarity NaN and the last rank + 1."""
    similarity = np.full(len(raw), np.nan)
    ranks = Ranks(np.full(len(raw), len(gallery.embeddings)), np.ones(len(raw), int))
    if detected.any():
        probes = gallery.probes(raw[detected])
        found = mated_ranks(probes, gallery.embeddings, mates[detected])
        ranks.greater[detected], ranks.equal[detected] = found.greater, found.equal
        similarity[detected] = genuine_scores(probes, gallery.embeddings, mates[detected])
    return similarity, ranks


def link(
    method: Method, results: Sequence[Result], embedded: Embedded, setup: Setup
) -> dict[str, dict[str, SearchResult]]:
    """Run the linkage attack: search each result among other results of the same people.

    Returns:
        By gallery and recognizer. The same-photo gallery is that of the second run; the
        different-photo gallery holds results of its photos. A gallery without results is missing.
    """
    rows = np.array([result.row for result in results])
    probed = setup.galleries[SAME_PHOTO].mates(rows) >= 0
    first = {name: raw[probed] for name, (raw, _) in embedded.items()}
    second_runs = {
        SAME_PHOTO: second_run(method, setup),
        DIFFERENT_PHOTO: gallery_run(method, results, embedded, setup),
    }
    return {
        gallery: link_runs(rows[probed], first, *second, setup)
        for gallery, second in second_runs.items()
        if second is not None
    }


def second_run(method: Method, setup: Setup) -> tuple[np.ndarray, Embedded] | None:
    """(M,) int people and embeddings of a method's second run; None without a second run."""
    if method.second_run is None:
        return None
    title = f"{method.name}, second run"
    results = find_results(title, method.name, setup.originals, setup.files[method.second_run], setup.models)
    return np.array([result.row for result in results]), embed_results(title, results, setup)


def gallery_run(
    method: Method, results: Sequence[Result], embedded: Embedded, setup: Setup
) -> tuple[np.ndarray, Embedded] | None:
    """(M,) int people and embeddings of the results of the gallery's photos; None without results.

    Baselines are applied to the photos. With a pairs file, `results` include those of the gallery.
    """
    gallery = setup.galleries.get(DIFFERENT_PHOTO)
    if gallery is None:
        return None
    if setup.subjects is not None:
        numbers = gallery.photo_numbers(results)
        found = numbers >= 0
        raw = {name: (gt_aligned[found], redetected[found]) for name, (gt_aligned, redetected) in embedded.items()}
        return gallery.people[numbers[found]], raw
    if method.folder is not None and method.gallery_run is None:
        return None
    title = f"{method.name}, gallery"
    files = None if method.gallery_run is None else setup.files[method.gallery_run]
    others = find_results(title, method.name, gallery.photos, files, setup.models)
    return gallery.people[[result.row for result in others]], embed_results(title, others, setup)


def link_runs(
    first_people: np.ndarray,
    first: Mapping[str, np.ndarray],
    second_people: np.ndarray,
    second: Embedded,
    setup: Setup,
) -> dict[str, SearchResult]:
    """Search results of one run among those of another, by recognizer.

    People without results in both runs are excluded.

    Args:
        first_people, second_people (`np.ndarray`): (N,) and (M,) int, the originals' rows.
        first, second: raw embeddings by recognizer.
    """
    _, first_index, second_index = np.intersect1d(first_people, second_people, return_indices=True)
    linkage = {}
    for name, gallery in setup.galleries[SAME_PHOTO].embedded.items():
        probes, others = gallery.probes(first[name][first_index]), gallery.probes(second[name][0][second_index])
        linkage[name] = SearchResult(
            mated_ranks(probes, others), genuine_scores(probes, others), ImpostorScores.of(others)
        )
    return linkage


def verify_photos(setup: Setup, raw: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, Verification]:
    """Verify photos against the other originals, by recognizer; empty without a pairs file.

    Args:
        raw (`Mapping[str, np.ndarray]`): (N, D) embeddings by recognizer.
        rows (`np.ndarray`): (N,) int, rows of their originals.
    """
    if setup.subjects is None:
        return {}
    verification = {}
    for recognizer in setup.recognizers:
        gallery = Gallery.of(setup.raw[recognizer.name], recognizer.centred)
        verification[recognizer.name] = verify(
            gallery.probes(raw[recognizer.name]), rows, gallery.embeddings, setup.subjects, FALSE_ACCEPT_RATES
        )
    return verification


def measure_distances(
    method: str, results: Sequence[Result], measures: Measures, models: CachedModels
) -> dict[str, np.ndarray]:
    """(N,) distances by measure; NaN where a face could not be described."""
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
    """Compute the measures of whole sets."""
    figures: dict[str, float] = {}
    for measure in measures:
        figures |= measure(
            (result.original.picture.unread().pixels for result in results),
            (result.picture.unread().pixels for result in results),
        )
    return figures
