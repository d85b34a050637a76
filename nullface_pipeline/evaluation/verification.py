"""Face verification over pairs of photos in ten folds, as for Labeled Faces in the Wild."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nullface_pipeline.evaluation.rates import ImpostorScores, Mean, similarity_blocks


FOLDS = 10
# With fewer, a fold holds no pair of different people.
MIN_SUBJECTS = 2 * FOLDS


@dataclass(frozen=True, eq=False)
class Verification:
    """Accept rates over pairs of different photos, averaged over `FOLDS` folds of subjects.

    Attributes:
        true_accepts, false_accepts (`dict[float, Mean]`): by the false accept rate for which the
            threshold was set. False accepts are those measured in the test folds.
        genuine_pairs, impostor_pairs (`int`): pairs in the test folds.
    """

    true_accepts: dict[float, Mean]
    false_accepts: dict[float, Mean]
    genuine_pairs: int
    impostor_pairs: int


def read_pairs(file: Path, names: Sequence[str]) -> dict[str, str]:
    """Read a CSV file with the columns `subject` and `file`.

    Args:
        file (`Path`): its `file` column holds paths in the folder of the originals.
        names (`Sequence[str]`): names of the originals, which are paths without suffix.

    Returns:
        The subject of each name, in the order of the file.

    Raises:
        ValueError: for a missing file or column, an unknown or repeated photo, an empty subject, or
            too few subjects with two photos.
    """
    if not file.is_file():
        raise ValueError(f"{file} is not a file.")
    subjects: dict[str, str] = {}
    known = set(names)
    with file.open(newline="", encoding="utf-8-sig") as text:
        reader = csv.DictReader(text)
        if missing := {"subject", "file"} - set(reader.fieldnames or ()):
            raise ValueError(
                f"{file} needs a header with the columns subject and file; {', '.join(sorted(missing))} not found."
            )
        for row in reader:
            name = Path(row["file"] or "").with_suffix("").as_posix() if row["file"] else ""
            if name not in known:
                raise ValueError(f"{file}, line {reader.line_num}: {row['file']} is not a photo of the originals.")
            if name in subjects:
                raise ValueError(f"{file}, line {reader.line_num}: {row['file']} is listed twice.")
            if not row["subject"]:
                raise ValueError(f"{file}, line {reader.line_num}: the subject is empty.")
            subjects[name] = row["subject"]
    counts = list(np.unique(list(subjects.values()), return_counts=True)[1]) if subjects else []
    if sum(count > 1 for count in counts) < MIN_SUBJECTS:
        raise ValueError(
            f"{file}: only {sum(count > 1 for count in counts)} subjects have two photos or more, but {FOLDS} folds "
            f"need {MIN_SUBJECTS}."
        )
    return subjects


def subject_folds(subjects: np.ndarray) -> np.ndarray:
    """(P,) int fold of each photo, from its (P,) int subject; folds share no subject."""
    numbers = np.unique(subjects)
    order = np.random.default_rng(0).permutation(len(numbers))
    return (order % FOLDS)[np.searchsorted(numbers, subjects)]


def verify(
    probes: np.ndarray, rows: np.ndarray, gallery: np.ndarray, subjects: np.ndarray, rates: Sequence[float]
) -> Verification:
    """Compare probes with all other photos of the same fold.

    The threshold of a fold comes from the originals of the nine others: the lowest similarity that
    at most a given share of their impostor pairs reaches. A rate for which they have too few pairs
    has a `Mean` of no values.

    Args:
        probes (`np.ndarray`): (N, D) unit norm, anonymized or original.
        rows (`np.ndarray`): (N,) int, the photo of the gallery from which each probe was made. A
            probe is never compared with it.
        gallery (`np.ndarray`): (P, D) unit norm, originals.
        subjects (`np.ndarray`): (P,) int, subject of each photo.
        rates (`Sequence[float]`): false accept rates.
    """
    folds = subject_folds(subjects)
    genuine_counts, impostor_counts = 0, 0
    true_accepts: dict[float, list[float]] = {rate: [] for rate in rates}
    false_accepts: dict[float, list[float]] = {rate: [] for rate in rates}
    for fold in range(FOLDS):
        train, test, tested = folds != fold, np.flatnonzero(folds == fold), folds[rows] == fold
        impostors = ImpostorScores.of(gallery[train], subjects[train])
        genuine, impostor = pair_scores(probes[tested], rows[tested], gallery[test], test, subjects)
        genuine_counts, impostor_counts = genuine_counts + len(genuine), impostor_counts + len(impostor)
        for rate in rates:
            threshold = impostors.threshold(rate)
            if threshold is None:
                continue
            for scores, accepts in ((genuine, true_accepts), (impostor, false_accepts)):
                accepts[rate].append(float((scores >= threshold).mean()) if len(scores) else np.nan)
    return Verification(
        {rate: Mean.of(np.array(values)) for rate, values in true_accepts.items()},
        {rate: Mean.of(np.array(values)) for rate, values in false_accepts.items()},
        genuine_counts,
        impostor_counts,
    )


def pair_scores(
    probes: np.ndarray, rows: np.ndarray, gallery: np.ndarray, gallery_rows: np.ndarray, subjects: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Genuine and impostor scores of every probe with every photo but its own.

    Args:
        rows, gallery_rows (`np.ndarray`): (N,) and (G,) int, the photos of `probes` and `gallery`.
        subjects (`np.ndarray`): (P,) int, of all photos.
    """
    genuine, impostor = [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for start, cosines in similarity_blocks(probes, gallery):
        photos = rows[start : start + len(cosines)]
        same = np.equal.outer(subjects[photos], subjects[gallery_rows])
        genuine.append(cosines[same & ~np.equal.outer(photos, gallery_rows)])
        impostor.append(cosines[~same])
    return np.concatenate(genuine), np.concatenate(impostor)
