"""Galleries that an attacker searches: the originals, or other photos of the same people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.progress import track

from nullface_pipeline.evaluation.cached_models import CachedModels
from nullface_pipeline.evaluation.pairs import file_picture, listed
from nullface_pipeline.evaluation.rates import Gallery, genuine_scores, mated_ranks
from nullface_pipeline.evaluation.recognizers import Recognizer
from nullface_pipeline.evaluation.results import (
    DIFFERENT_PHOTO,
    SAME_PHOTO,
    GallerySummary,
    Original,
    Result,
    SearchResult,
)


@dataclass(frozen=True, eq=False)
class PhotoGallery:
    """Gallery of G photos, one per person, and their embeddings.

    Attributes:
        photos (`list[Original]`): G photos.
        people (`np.ndarray`): (G,) int, row of the original of the same person.
        embedded (`dict[str, Gallery]`): embeddings by recognizer.
        excluded (`list[str]`): originals of people who are not in the gallery.
        ignored (`int`): photos in the gallery's folder that belong to no original.
    """

    photos: list[Original]
    people: np.ndarray
    embedded: dict[str, Gallery]
    excluded: list[str] = field(default_factory=list)
    ignored: int = 0

    def mates(self, rows: np.ndarray) -> np.ndarray:
        """(N,) int, the gallery row of each original's person, or -1."""
        numbers = {person: number for number, person in enumerate(self.people.tolist())}
        return np.array([numbers.get(row, -1) for row in rows.tolist()], dtype=int)

    def photo_numbers(self, results: Sequence[Result]) -> np.ndarray:
        """(N,) int, the gallery row of the photo from which each result was made, or -1."""
        numbers = {photo.name: number for number, photo in enumerate(self.photos)}
        return np.array([numbers.get(result.original.name, -1) for result in results], dtype=int)


def find_originals(photos: Mapping[str, Path], models: CachedModels, title: str) -> tuple[list[Original], list[str]]:
    """Find the photos with a face; returns them, and the names of the others.

    Raises:
        ValueError: if fewer than two photos show a face.
    """
    found, faceless = [], []
    for name, path in track(photos.items(), title, disable=models.quiet):
        picture = file_picture(path)
        face = models.face(picture)
        if face is None:
            faceless.append(name)
        else:
            found.append(Original(name, picture.unread(), *models.size_and_content(picture), face))
    if len(found) < 2:
        raise ValueError(f"Faces were found in {len(found)} photos of the {title}, but at least two are needed.")
    return found, faceless


def embed_originals(
    originals: Sequence[Original], recognizers: Sequence[Recognizer], models: CachedModels, title: str
) -> dict[str, np.ndarray]:
    """(P, D) raw float32 embeddings by recognizer."""
    raw: dict[str, list[np.ndarray]] = {recognizer.name: [] for recognizer in recognizers}
    for original in track(originals, f"{title}: embeddings", disable=models.quiet):
        picture = original.picture.unread()
        for recognizer in recognizers:
            raw[recognizer.name].append(models.embedding(recognizer, picture, original.face.landmarks))
    return {name: np.array(embeddings, np.float32) for name, embeddings in raw.items()}


def build_gallery(
    photos: list[Original],
    people: np.ndarray,
    raw: Mapping[str, np.ndarray],
    recognizers: Sequence[Recognizer],
    excluded: Sequence[str] = (),
    ignored: int = 0,
) -> PhotoGallery:
    """Center and normalize (G, D) raw embeddings."""
    embedded = {recognizer.name: Gallery.of(raw[recognizer.name], recognizer.centred) for recognizer in recognizers}
    return PhotoGallery(photos, people, embedded, list(excluded), ignored)


def same_photos(
    originals: list[Original], raw: Mapping[str, np.ndarray], recognizers: Sequence[Recognizer]
) -> PhotoGallery:
    """Same-photo gallery: the originals, each of a different person."""
    return build_gallery(originals, np.arange(len(originals)), raw, recognizers)


def other_photos(
    originals: Sequence[Original], files: Mapping[str, Path], recognizers: Sequence[Recognizer], models: CachedModels
) -> PhotoGallery:
    """Different-photo gallery: the photos of a folder with the name of an original.

    Args:
        files (`Mapping[str, Path]`): photos in the folder by name.

    Raises:
        ValueError: if the gallery has fewer than two people, or contains an original.
    """
    rows = {original.name: row for row, original in enumerate(originals)}
    photos, _ = find_originals(
        {name: path for name, path in files.items() if name in rows}, models, "different-photo gallery"
    )
    copies = [photo.name for photo in photos if photo.content == originals[rows[photo.name]].content]
    if copies:
        raise ValueError(
            f"The gallery contains the originals of {len(copies)} people: {listed(copies)}. Replace them by other "
            "photos of these people."
        )
    people = np.array([rows[photo.name] for photo in photos])
    excluded = [original.name for row, original in enumerate(originals) if row not in set(people.tolist())]
    raw = embed_originals(photos, recognizers, models, "different-photo gallery")
    return build_gallery(photos, people, raw, recognizers, excluded, ignored=len(files.keys() - rows.keys()))


def photos_of_subjects(
    originals: Sequence[Original],
    raw: Mapping[str, np.ndarray],
    subjects: np.ndarray,
    recognizers: Sequence[Recognizer],
) -> dict[str, PhotoGallery]:
    """Both galleries of a pairs file, with the first and the second photo of each subject.

    Args:
        raw (`Mapping[str, np.ndarray]`): (P, D) embeddings by recognizer.
        subjects (`np.ndarray`): (P,) int, subject of each photo.
    """
    of_subject = [np.flatnonzero(subjects == subject) for subject in np.unique(subjects)]
    first = np.array([rows[0] for rows in of_subject])
    second = np.array([rows[1] for rows in of_subject if len(rows) > 1])
    paired = np.array([rows[0] for rows in of_subject if len(rows) > 1])
    excluded = [originals[rows[0]].name for rows in of_subject if len(rows) == 1]

    def gallery(rows: np.ndarray, people: np.ndarray, without: Sequence[str]) -> PhotoGallery:
        chosen = {name: embeddings[rows] for name, embeddings in raw.items()}
        return build_gallery([originals[row] for row in rows], people, chosen, recognizers, without)

    return {SAME_PHOTO: gallery(first, first, ()), DIFFERENT_PHOTO: gallery(second, paired, excluded)}


def summarize(
    galleries: Mapping[str, PhotoGallery], originals: Sequence[Original], raw: Mapping[str, np.ndarray]
) -> dict[str, GallerySummary]:
    """Summarize galleries; the originals are searched in the different-photo gallery.

    Args:
        raw (`Mapping[str, np.ndarray]`): (P, D) embeddings of the originals, by recognizer.
    """
    summaries = {}
    for name, gallery in galleries.items():
        searched = {}
        if name == DIFFERENT_PHOTO:
            for recognizer, photos in gallery.embedded.items():
                probes = photos.probes(raw[recognizer][gallery.people])
                scores = genuine_scores(probes, photos.embeddings)
                ranks = mated_ranks(probes, photos.embeddings)
                searched[recognizer] = SearchResult(ranks, scores, photos.impostor_scores)
        impostor_scores = {recognizer: photos.impostor_scores for recognizer, photos in gallery.embedded.items()}
        summaries[name] = GallerySummary(
            len(gallery.photos), impostor_scores, searched, gallery.excluded, gallery.ignored
        )
    return summaries
