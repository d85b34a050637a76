"""Verification in ten folds: against accept rates counted by hand."""

import numpy as np
import pytest

from nullface_pipeline.evaluation.rates import ImpostorScores, normalized
from nullface_pipeline.evaluation.verification import FOLDS, pair_scores, read_pairs, subject_folds, verify


SUBJECTS = np.repeat(np.arange(40), 2)


def at_angles(*degrees: float) -> np.ndarray:
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def two_photos(noise: float, seed: int = 0) -> np.ndarray:
    """(80, 16): two photos of each of 40 people."""
    rng = np.random.default_rng(seed)
    people = np.repeat(rng.standard_normal((40, 16)), 2, axis=0)
    return normalized(people + noise * rng.standard_normal(people.shape))


def test_pairs_of_faces_placed_by_hand():
    """Two people with two photos each; a probe is never compared with its own photo."""
    gallery, subjects, rows = at_angles(0, 10, 90, 120), np.array([0, 0, 1, 1]), np.arange(4)
    genuine, impostor = pair_scores(gallery, rows, gallery, rows, subjects)
    assert np.degrees(np.arccos(genuine)).round(1).tolist() == [10.0, 10.0, 30.0, 30.0]
    assert sorted(np.degrees(np.arccos(impostor)).round(1).tolist()) == [80, 80, 90, 90, 110, 110, 120, 120]
    genuine, _ = pair_scores(at_angles(0), np.array([1]), gallery, rows, subjects)
    assert genuine.tolist() == [1.0], "a probe made from photo 1 is compared with photo 0"


def test_impostor_scores_leave_out_pairs_of_one_person():
    scores = ImpostorScores.of(at_angles(0, 10, 90), np.array([0, 0, 1]))
    assert scores.pairs == 2
    # Half of them may pass: 80 degrees do, 90 do not.
    assert 0.0 < scores.threshold(0.5) < 2e-5


def test_folds_share_no_subject_and_are_of_equal_size():
    folds = subject_folds(SUBJECTS)
    assert (folds[::2] == folds[1::2]).all()
    assert np.bincount(folds).tolist() == [8] * FOLDS


def test_accept_rates_are_those_counted_by_hand():
    """Everything once more with whole matrices."""
    gallery, probes = two_photos(0.6), two_photos(0.9)
    rows, folds = np.arange(80), subject_folds(SUBJECTS)
    result = verify(probes, rows, gallery, SUBJECTS, (0.05,))
    different, tar, far = SUBJECTS[:, None] != SUBJECTS, [], []
    for fold in range(FOLDS):
        train, test = folds != fold, folds == fold
        within = np.outer(train, train) & different & np.triu(np.ones((80, 80), bool), 1)
        scores = np.sort((gallery @ gallery.T)[within])
        threshold = scores[-int(0.05 * len(scores)) - 1] + 1e-5  # the next similarity must not pass
        cosines, tested = probes @ gallery.T, np.outer(test, test)
        tar.append((cosines[tested & ~different & ~np.eye(80, dtype=bool)] >= threshold).mean())
        far.append((cosines[tested & different] >= threshold).mean())
    assert 0.1 < np.mean(tar) < 0.9, "neither all nor none"
    assert result.true_accepts[0.05].value == pytest.approx(np.mean(tar), abs=1e-6)
    assert result.false_accepts[0.05].value == pytest.approx(np.mean(far), abs=0.01)
    assert result.true_accepts[0.05].half_width == pytest.approx(1.96 * np.std(tar, ddof=1) / FOLDS**0.5, abs=1e-4)
    assert (result.genuine_pairs, result.impostor_pairs) == (80, FOLDS * 8 * 6)


def test_too_few_impostor_pairs_give_no_figure():
    gallery = two_photos(0.1)
    result = verify(gallery, np.arange(80), gallery, SUBJECTS, (0.01, 1e-5))
    assert result.true_accepts[0.01].value == 1.0
    assert result.true_accepts[1e-5].count == 0


def test_results_may_be_missing():
    gallery, rows = two_photos(0.1), np.arange(0, 80, 2)
    result = verify(gallery[rows], rows, gallery, SUBJECTS, (0.01,))
    assert result.genuine_pairs == 40


NAMES = [f"{number:02}/{photo}" for number in range(20) for photo in range(2)]
LINES = [f"s{name[:2]},{name}.jpg" for name in NAMES]


def test_a_pairs_file_names_subjects_in_its_order(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("\ufefffile,subject\n" + "\n".join(f"{n}.jpg,s{n[:2]}" for n in reversed(NAMES)), encoding="utf-8")
    subjects = read_pairs(file, NAMES)
    assert list(subjects) == NAMES[::-1] and subjects["07/1"] == "s07"


@pytest.mark.parametrize(
    ("lines", "named"),
    [
        (["subject", *LINES], "file"),
        (["subject,file", *LINES, "x,absent.jpg"], "absent.jpg"),
        (["subject,file", *LINES, "x"], "line 42"),
        (["subject,file", *LINES, LINES[0]], "line 42"),
        (["subject,file", *LINES[1:], ",00/0.jpg"], "line 41"),
        (["subject,file", *LINES[1:]], "19"),
        (["subject,file"], "0"),
    ],
)
def test_unusable_pairs_files_are_refused_with_the_line(tmp_path, lines, named):
    file = tmp_path / "pairs.csv"
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=named):
        read_pairs(file, NAMES)
