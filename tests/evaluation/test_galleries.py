"""Different-photo galleries: two photos a person, matched by name or listed in a pairs file."""

from pathlib import Path

import numpy as np
import pytest

from nullface_pipeline.evaluation import reversal_attack
from nullface_pipeline.evaluation.cache import Cache
from nullface_pipeline.evaluation.cached_models import CachedModels
from nullface_pipeline.evaluation.html_report import write_html
from nullface_pipeline.evaluation.pairs import Method
from nullface_pipeline.evaluation.rates import Rate
from nullface_pipeline.evaluation.report import figures, summary
from nullface_pipeline.evaluation.run import evaluate

from ..refusals import refused_option
from .small_world import Patterns, RedSquares, negative, other_photo, person, unmarked, write


PEOPLE = 24


class Directions(Patterns):
    """Embeddings placed by hand: the first two pixels of the pattern are an angle."""

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        self.calls += 1
        degrees = float(image[20, 12, 0]) + float(image[20, 12, 1])
        return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], dtype=np.float32)


def at_angle(degrees: float, shade: int = 0) -> np.ndarray:
    """A photo whose face has an embedding at an angle of 0 to 510 degrees."""
    image = person(0)
    image[20, 12, :2] = min(degrees, 255), max(degrees - 255, 0)
    image[40:] = shade
    return image


@pytest.fixture()
def models(tmp_path: Path) -> CachedModels:
    return CachedModels(RedSquares(), Cache(tmp_path / "cache.sqlite"), quiet=True)


@pytest.fixture()
def originals(tmp_path: Path) -> Path:
    return write(tmp_path / "originals", [person(number) for number in range(PEOPLE)])


def test_ranks_of_faces_placed_by_hand(models, tmp_path):
    """Each result lies beside its original, but the other photo of person 1 lies beside the result
    of person 2.
    """
    originals = write(tmp_path / "originals", [at_angle(degrees) for degrees in (0, 90, 180)])
    results = write(tmp_path / "results", [at_angle(degrees, 1) for degrees in (10, 100, 190)])
    gallery = write(tmp_path / "gallery", [at_angle(degrees, 2) for degrees in (20, 200, 150)])
    evaluation = evaluate(originals, [Method("some", results)], [Directions()], models, gallery=gallery)
    recognitions = {name: of["patterns"] for name, of in evaluation.methods[0].recognitions.items()}
    assert recognitions["same_photo"].attacks["most_similar"].middle.tolist() == [1.0, 1.0, 1.0]
    different = recognitions["different_photo"]
    assert different.attacks["most_similar"].middle.tolist() == [1.0, 3.0, 2.0]
    assert different.attacks["least_similar"].middle.tolist() == [3.0, 1.0, 2.0]
    assert different.similarity == pytest.approx(np.cos(np.radians([10, 100, 40])), abs=1e-3)
    # The originals: 0, 90 and 180 against 20, 200 and 150.
    searched = evaluation.galleries["different_photo"].originals["patterns"]
    assert searched.ranks.middle.tolist() == [1.0, 3.0, 2.0]
    assert searched.ranks.rate() == Rate(1.0, 3)
    assert searched.similarity == pytest.approx(np.cos(np.radians([20, 110, 30])), abs=1e-3)


def test_people_missing_in_the_gallery_are_excluded_and_counted(originals, models, tmp_path):
    """Person 0 has no other photo, person 1 one without a face; nobody has the name 050."""
    gallery = write(tmp_path / "gallery", [other_photo(number) for number in range(1, PEOPLE)], first=1)
    write(gallery, [unmarked(other_photo(1))], first=1)
    write(gallery, [other_photo(50)], first=50)
    results = write(tmp_path / "results", [negative(person(number)) for number in range(PEOPLE)])
    evaluation = evaluate(originals, [Method("some", results)], [Patterns()], models, gallery=gallery)
    same, different = (evaluation.galleries[name] for name in ("same_photo", "different_photo"))
    assert (same.size, same.excluded) == (PEOPLE, [])
    assert (different.size, different.excluded, different.ignored) == (PEOPLE - 2, ["000", "001"], 1)
    assert different.chance == 1 / (PEOPLE - 2)
    assert different.originals["patterns"].ranks.rate() == Rate(PEOPLE - 2.0, PEOPLE - 2)
    recognition = evaluation.methods[0].recognitions["different_photo"]["patterns"]
    assert recognition.index.tolist() == list(range(2, PEOPLE))
    assert recognition.attacks["least_similar"].rate() == Rate(PEOPLE - 2.0, PEOPLE - 2)
    assert recognition.rates(1)["redetected"].count == PEOPLE - 2


def test_an_untouched_photo_is_not_forced_to_rank_1_in_other_photos(originals, models, tmp_path):
    """Person 0 has another person's photo in the gallery."""
    gallery = write(tmp_path / "gallery", [other_photo(number) for number in range(PEOPLE)])
    write(gallery, [other_photo(77)])
    evaluation = evaluate(originals, [Method("copies", originals)], [Patterns()], models, gallery=gallery)
    of = evaluation.methods[0].recognitions
    assert of["same_photo"]["patterns"].attacks["most_similar"].rate() == Rate(float(PEOPLE), PEOPLE)
    found = of["different_photo"]["patterns"].attacks["most_similar"].found_within(1)
    assert found.tolist() == [0.0] + [1.0] * (PEOPLE - 1)


def test_results_of_people_who_are_not_in_the_gallery_are_refused(originals, models, tmp_path):
    gallery = write(tmp_path / "gallery", [other_photo(number) for number in range(4)])
    results = write(tmp_path / "results", [person(number) for number in range(8, 12)], first=8)
    with pytest.raises(ValueError, match="some"):
        evaluate(originals, [Method("some", results)], [Patterns()], models, skip_missing=True, gallery=gallery)


def test_a_gallery_of_the_originals_is_refused(originals, models, tmp_path):
    gallery = write(tmp_path / "gallery", [other_photo(number) for number in range(PEOPLE)])
    write(gallery, [person(5)], first=5)
    with pytest.raises(ValueError, match="005"):
        evaluate(originals, [Method("box")], [Patterns()], models, gallery=gallery)
    with pytest.raises(ValueError):
        evaluate(
            originals, [Method("box")], [Patterns()], models, gallery=write(tmp_path / "x", [person(1)], first=99)
        )


def test_results_of_different_photos_are_linked(originals, models, tmp_path):
    """A pseudonym is linked across photos; fresh faces are not. Baselines are applied to the
    gallery.
    """
    gallery = write(tmp_path / "gallery", [other_photo(number) for number in range(PEOPLE)])
    first = write(tmp_path / "first", [person(number + 100) for number in range(PEOPLE)])
    pseudonym = write(tmp_path / "pseudonym", [other_photo(number + 100) for number in range(PEOPLE - 1)])
    fresh = write(tmp_path / "fresh", [other_photo(number + 200) for number in range(PEOPLE)])
    methods = [
        Method("same", first, None, pseudonym),
        Method("new", first, None, fresh),
        Method("box"),
        Method("x", first),
    ]
    evaluation = evaluate(originals, methods, [Patterns()], models, skip_missing=True, gallery=gallery)
    linkage = {method.name: method.linkage for method in evaluation.methods}
    assert linkage["same"]["different_photo"]["patterns"].ranks.rate() == Rate(PEOPLE - 1.0, PEOPLE - 1)
    assert linkage["new"]["different_photo"]["patterns"].ranks.rate().value < 0.3
    assert linkage["box"]["different_photo"]["patterns"].ranks.rate().count == PEOPLE
    assert linkage["x"] == {} and "same_photo" not in linkage["same"]
    with refused_option("gallery_run"):
        evaluate(originals, methods[:1], [Patterns()], models, skip_missing=True)


def test_reversed_results_are_searched_in_both_galleries(originals, models, tmp_path, monkeypatch):
    """A reversal that negates the pattern undoes `negative`."""
    gallery = write(tmp_path / "gallery", [other_photo(number) for number in range(PEOPLE // 2)])
    results = write(tmp_path / "results", [negative(person(number)) for number in range(PEOPLE)])
    monkeypatch.setattr(reversal_attack, "SKIPS", (0.5,))
    monkeypatch.setattr(reversal_attack, "GUIDANCE_SCALES", (5.0,))
    monkeypatch.setattr(
        reversal_attack,
        "_reversed_photos",
        lambda pipe, result, settings: [(setting, negative(result.picture.pixels)) for setting in settings],
    )
    evaluation = evaluate(
        originals, [Method("some", results)], [Patterns()], models, reversal_pipe=object(), gallery=gallery
    )
    rates = {(each.gallery, each.towards): each.rank1["patterns"] for each in evaluation.methods[0].reversal}
    assert rates["same_photo", "negated"] == Rate(float(PEOPLE), PEOPLE)
    assert rates["different_photo", "negated"] == Rate(PEOPLE / 2, PEOPLE // 2)


@pytest.fixture()
def several(tmp_path: Path) -> tuple[Path, Path]:
    """Folder and pairs file: two photos a person, a third of person 0, only one of person 24."""
    folder, lines = tmp_path / "several", ["subject,file"]
    for number in range(PEOPLE):
        write(folder / f"{number:03}", [other_photo(number, photo) for photo in range(3 if number == 0 else 2)])
        lines += [f"s{number},{number:03}/{photo:03}.png" for photo in range(3 if number == 0 else 2)]
    write(folder / "024", [other_photo(24)])
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("\n".join([*lines, "s24,024/000.png"]) + "\n")
    return folder, pairs


def test_a_pairs_file_gives_both_galleries_and_verification(several, models, tmp_path):
    folder, pairs = several
    for photo in folder.rglob("*.png"):
        number = int(photo.parent.name)
        write(tmp_path / "fresh" / photo.parent.name, [person(100 + 3 * number + int(photo.stem))], int(photo.stem))
    methods = [Method("copies", folder), Method("fresh", tmp_path / "fresh")]
    evaluation = evaluate(folder, methods, [Patterns()], models, pairs=pairs)
    same, different = (evaluation.galleries[name] for name in ("same_photo", "different_photo"))
    assert (same.size, different.size, different.excluded) == (PEOPLE + 1, PEOPLE, ["024/000"])
    assert different.originals["patterns"].ranks.rate() == Rate(float(PEOPLE), PEOPLE)
    copies, fresh = evaluation.methods
    assert len(copies.results) == 2 * PEOPLE + 2
    assert copies.recognitions["same_photo"]["patterns"].rates(1)["gt_aligned"] == Rate(PEOPLE + 1.0, PEOPLE + 1)
    assert copies.linkage["different_photo"]["patterns"].ranks.rate() == Rate(float(PEOPLE), PEOPLE)
    verified = evaluation.verification["patterns"]
    # Two photos make two ordered pairs, three photos six.
    assert verified.genuine_pairs == 2 * (PEOPLE - 1) + 6
    assert verified.true_accepts[0.01].value == copies.verification["patterns"].true_accepts[0.01].value == 1.0
    assert fresh.verification["patterns"].true_accepts[0.01].value < 0.2


def test_verification_is_reported_for_originals_and_methods(several, models, tmp_path):
    folder, pairs = several
    evaluation = evaluate(folder, [Method("copies", folder), Method("box")], [Patterns()], models, pairs=pairs)
    found = {
        figure.method: (figure.value, figure.count)
        for figure in figures(evaluation)
        if (figure.gallery, figure.metric) == ("pairs", "tar_at_far_0.01")
    }
    assert found == {"": (1.0, 10), "copies": (1.0, 10), "box": (1.0, 10)}, "the box covers no pattern here"
    header, rows = summary(evaluation)
    column = header.index("TAR at FAR 0.01, pairs, patterns")
    assert [row[column] for row in rows] == ["100.0 ± 0.0"] * 3
    assert {len(row) for row in rows} == {len(header)}
    assert "mean of ten folds" in " ".join(write_html(evaluation, tmp_path).read_text().split())


def test_gallery_and_pairs_exclude_each_other(several, models):
    folder, pairs = several
    with refused_option("gallery"):
        evaluate(folder, [Method("box")], [Patterns()], models, gallery=folder, pairs=pairs)
