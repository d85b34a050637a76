"""Groups of faces of one person across an album or videos, so that each person gets one new face.

A person's photos can then be recognized as one person's: the new face is a pseudonym.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from nullface_pipeline.face_identity import same_person_similarity
from nullface_pipeline.face_search import search_faces
from nullface_pipeline.photo_records import PhotoRefusedError
from nullface_pipeline.protocols import FaceAnalyser


# Added to the similarity of one person before two groups are joined. Two faces for one person are a
# blemish; one face for two people mixes them up.
JOIN_MARGIN = 0.05

# Larger than any cosine distance, also in an average over very many pairs.
_NEVER = 1e12


def find_people(analyser: FaceAnalyser, photos: Iterable[np.ndarray]) -> np.ndarray:
    """The people in some photos, for `PhotoOptions.people`.

    Args:
        analyser: InsightFace's `FaceAnalysis`, the one that anonymizes.
        photos (`Iterable[np.ndarray]`): (H, W, 3) uint8 RGB, upright, read one at a time.

    Returns:
        `np.ndarray`: (P, 512) float32, unit norm, one a person.
    """
    embeddings: list[np.ndarray] = []
    owners: list[int] = []
    for number, photo in enumerate(photos):
        try:
            faces = search_faces(analyser, photo)
        # It is refused later, when it is anonymized.
        except PhotoRefusedError:
            continue
        embeddings += [face.embedding for face in faces]
        owners += [number] * len(faces)
    apart = np.equal.outer(owners, owners)
    return person_embeddings(embeddings, group_people(embeddings, apart, same_person_similarity(analyser)))


def group_people(embeddings: Sequence[np.ndarray], apart: np.ndarray, same_person: float) -> np.ndarray:
    """Sort faces by person: average linkage on the cosine distance.

    Args:
        embeddings (`Sequence[np.ndarray]`): N of (512,), unit norm.
        apart (`np.ndarray`): (N, N) bool, symmetric: pairs from one photo, who are different
            people. The diagonal is ignored.
        same_person (`float`): similarity from which on two faces count as one person's.

    Returns:
        `np.ndarray`: (N,) int, the same number for the same person.
    """
    if len(embeddings) < 2:
        return np.zeros(len(embeddings), dtype=np.int64)
    stacked = np.stack(embeddings).astype(np.float64)
    distances = np.where(apart, _NEVER, np.clip(1.0 - stacked @ stacked.T, 0.0, 2.0))
    np.fill_diagonal(distances, 0.0)
    tree = linkage(squareform(distances, checks=False), method="average")
    return np.asarray(fcluster(tree, 1.0 - same_person - JOIN_MARGIN, criterion="distance"), dtype=np.int64)


def person_embeddings(embeddings: Sequence[np.ndarray], people: np.ndarray) -> np.ndarray:
    """(P, 512) float32, unit norm: the mean of each person's faces.

    Args:
        people (`np.ndarray`): (N,), as `group_people` returns it.
    """
    if not len(embeddings):
        return np.zeros((0, 512), dtype=np.float32)
    stacked = np.stack(embeddings)
    means = np.stack([stacked[people == person].mean(axis=0) for person in np.unique(people)])
    return np.asarray(means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12), dtype=np.float32)
