"""Whole evaluations of folders: what counts as found, what is remembered, what is refused."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from skimage import data

from nullface_pipeline.evaluation import reversal_attack
from nullface_pipeline.evaluation.cache import Cache
from nullface_pipeline.evaluation.cached_models import CachedModels
from nullface_pipeline.evaluation.pairs import Method
from nullface_pipeline.evaluation.rates import Rate
from nullface_pipeline.evaluation.recognizers import Detector, InsightFaceRecognizer
from nullface_pipeline.evaluation.run import Measures, evaluate

from ..refusals import refused_option
from .small_world import Patterns, RedSquares, negative, person, unmarked, write


PEOPLE = 12


@pytest.fixture()
def originals(tmp_path: Path) -> Path:
    return write(tmp_path / "originals", [person(number) for number in range(PEOPLE)])


@pytest.fixture()
def models(tmp_path: Path) -> CachedModels:
    return CachedModels(RedSquares(), Cache(tmp_path / "cache.sqlite"), quiet=True)


def run(originals: Path, models: CachedModels, recognizers: Any = None, **methods: Path) -> Any:
    recognizers = recognizers or [Patterns()]
    return evaluate(originals, [Method(name, folder) for name, folder in methods.items()], recognizers, models)


def rank1(result: Any, attack: str = "most_similar") -> float:
    return result.recognitions["same_photo"]["patterns"].attacks[attack].found_within(1).mean()


def test_copies_are_leaks_and_found(originals, models, tmp_path):
    copies = write(tmp_path / "copies", [person(number) for number in range(PEOPLE)])
    result = run(originals, models, copies=copies).methods[0]
    assert result.leaks == PEOPLE
    assert result.recognitions["same_photo"]["patterns"].rates(1) == dict.fromkeys(
        ("gt_aligned", "redetected", "detected_only"), Rate(float(PEOPLE), PEOPLE)
    )


def test_a_copy_that_nobody_recognizes_is_found_all_the_same(originals, models, tmp_path):
    """Bytes may differ; the pixels do not."""

    class Blind(Patterns):
        def __call__(self, image, landmarks):
            return np.eye(PEOPLE)[int(image[20, 12, 0]) % PEOPLE] + np.random.default_rng(self.calls).random(PEOPLE)

    folder = tmp_path / "mixed"
    write(folder, [negative(person(number)) for number in range(PEOPLE)])
    (folder / "003.png").unlink()
    PIL.Image.fromarray(person(3)).save(folder / "003.bmp")
    result = run(originals, models, [Blind()], mixed=folder).methods[0]
    assert [each.original.name for each in result.results if each.leaked] == ["003"]
    recognition = result.recognitions["same_photo"]["patterns"]
    assert (
        recognition.attacks["most_similar"].found_within(1)[3]
        == recognition.redetected_ranks.found_within(1)[3]
        == 1.0
    )


def test_opposites_are_found_only_by_who_looks_for_them(originals, models, tmp_path):
    opposites = write(tmp_path / "opposites", [negative(person(number)) for number in range(PEOPLE)])
    evaluation = run(originals, models, opposites=opposites)
    result = evaluation.methods[0]
    assert (rank1(result), rank1(result, "least_similar"), rank1(result, "most_or_least_similar")) == (0.0, 1.0, 1.0)
    assert result.leaks == 0
    worst = result.worst("same_photo")
    assert worst.rate == Rate(float(PEOPLE), PEOPLE) and worst.attack in ("least_similar", "most_or_least_similar")
    assert evaluation.galleries["same_photo"].chance == 1 / PEOPLE


def test_undetected_faces_move_only_their_denominators(originals, models, tmp_path):
    half = [person(number) if number % 2 else unmarked(person(number)) for number in range(PEOPLE)]
    result = run(originals, models, half=write(tmp_path / "half", half)).methods[0]
    found = PEOPLE / 2
    assert result.detected == Rate(found, PEOPLE)
    assert result.recognitions["same_photo"]["patterns"].rates(1) == {
        "gt_aligned": Rate(float(PEOPLE), PEOPLE),
        "redetected": Rate(found, PEOPLE),
        "detected_only": Rate(found, PEOPLE // 2),
    }


def test_originals_without_a_face_are_named_and_left_out(originals, models, tmp_path):
    write(originals, [person(50, found=False)], first=50)
    evaluation = run(originals, models, same=originals)
    assert evaluation.faceless == ["050"]
    assert len(evaluation.originals) == len(evaluation.methods[0].results) == PEOPLE


def test_one_more_method_costs_only_its_own_pictures(originals, models, tmp_path):
    first = write(tmp_path / "first", [negative(person(number)) for number in range(PEOPLE)])
    recognizer = Patterns()
    run(originals, models, [recognizer], first=first)
    assert recognizer.calls == 2 * PEOPLE, "the results' own landmarks are the originals' here"
    run(originals, models, [recognizer], first=first)
    assert recognizer.calls == 2 * PEOPLE
    # One changed byte, one picture.
    changed = negative(person(4))
    changed[0, 0, 0] += 1
    write(first, [changed], first=4)
    run(originals, models, [recognizer], first=first)
    assert recognizer.calls == 2 * PEOPLE + 1
    second = write(tmp_path / "second", [person(number + 100) for number in range(PEOPLE)])
    run(originals, models, [recognizer], first=first, second=second)
    assert recognizer.calls == 3 * PEOPLE + 1
    run(originals, models, [Patterns("others")], first=first)
    assert recognizer.calls == 3 * PEOPLE + 1


def test_a_stopped_run_goes_on(originals, models):
    class Stopping(Patterns):
        def __call__(self, image, landmarks):
            if self.calls == 7:
                raise KeyboardInterrupt
            return super().__call__(image, landmarks)

    with pytest.raises(KeyboardInterrupt):
        run(originals, models, [Stopping()], same=originals)
    recognizer = Patterns()
    run(originals, models, [recognizer], same=originals)
    assert recognizer.calls == PEOPLE - 7


def test_what_does_not_fit_is_refused_before_anything_is_embedded(originals, models, tmp_path):
    recognizer = Patterns()
    results = write(tmp_path / "results", [person(number) for number in range(PEOPLE - 1)])
    with refused_option("skip_missing"):
        run(originals, models, [recognizer], results=results)
    assert recognizer.calls == 0
    write(results, [person(11)[:40]], first=11)
    with pytest.raises(ValueError, match="011"):
        run(originals, models, [recognizer], results=results)
    moved = write(tmp_path / "moved", [np.roll(person(number), 12, axis=0) for number in range(PEOPLE)])
    with pytest.raises(ValueError, match="moved"):
        run(originals, models, [recognizer], moved=moved)
    with pytest.raises(ValueError):
        run(write(tmp_path / "one", [person(0)]), models, one=tmp_path / "one")


def test_missing_results_can_be_left_out_and_stay_in_the_gallery(originals, models, tmp_path):
    results = write(tmp_path / "results", [negative(person(number)) for number in range(3, 7)], first=3)
    evaluation = evaluate(originals, [Method("some", results)], [Patterns()], models, skip_missing=True)
    result = evaluation.methods[0]
    assert [each.row for each in result.results] == [3, 4, 5, 6]
    assert rank1(result, "least_similar") == 1.0 and evaluation.galleries["same_photo"].chance == 1 / PEOPLE


def test_two_results_of_a_person(originals, models, tmp_path):
    """A pseudonym is linked, fresh faces are not; what is missing in either is left out."""
    new = write(tmp_path / "new", [person(number + 100) for number in range(PEOPLE)])
    second_run = write(tmp_path / "second_run", [person(number + 100) for number in range(PEOPLE - 2)])
    fresh = write(tmp_path / "fresh", [person(number + 200) for number in range(PEOPLE)])
    methods = [Method("pseudonym", new, second_run), Method("fresh", new, fresh), Method("box")]
    evaluation = evaluate(originals, methods, [Patterns()], models, skip_missing=True)
    pseudonym, other, box = (method.linkage for method in evaluation.methods)
    assert pseudonym["same_photo"]["patterns"].ranks.found_within(1).tolist() == [1.0] * (PEOPLE - 2)
    assert other["same_photo"]["patterns"].ranks.found_within(1).mean() < 0.5
    assert box == {}


class Brightness:
    """Of the pattern; none of pictures that begin with a blue pixel."""

    name, unit, fingerprint = "brightness", "of 255", "1"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        self.calls += 1
        return np.zeros(0) if image[0, 0, 2] == 255 else np.array([image[20:36, 12:28].mean()])

    def distance(self, original: np.ndarray, anonymized: np.ndarray) -> float:
        return float(np.abs(original - anonymized)[0])


class ChangeOutside:
    name = fingerprint = "change outside"

    def __call__(self, original: np.ndarray, anonymized: np.ndarray, mask: np.ndarray) -> float:
        assert mask.shape == original.shape[:2] and 0 < mask.mean() < 0.5
        return float(np.abs(original.astype(int) - anonymized)[mask == 0].mean())


class Counts:
    name = "counts"

    def __call__(self, originals: Iterable[np.ndarray], anonymized: Iterable[np.ndarray]) -> dict[str, float]:
        return {"pictures": float(sum(1 for _ in originals)), "mean": float(np.mean([x.mean() for x in anonymized]))}


def test_measures_are_taken_of_every_pair_and_remembered(originals, models, tmp_path):
    results = [person(number) for number in range(PEOPLE)]
    results[0][20:36, 12:28] = 0
    results[1][0, 0] = [0, 0, 255]
    brightness = Brightness()
    measures = Measures(faces=[brightness], pairs=[ChangeOutside()], sets=[Counts()])
    folder = write(tmp_path / "results", results)
    for _ in range(2):
        evaluation = evaluate(originals, [Method("some", folder)], [Patterns()], models, measures)
    result = evaluation.methods[0]
    assert evaluation.units == {"brightness": "of 255"}
    kept = result.distances["brightness"]
    assert kept[0] > 100 and np.isnan(kept[1]) and not kept[2:].any()
    assert result.means()["brightness"].count == PEOPLE - 1
    assert result.distances["change outside"][0] > result.distances["change outside"][2] == 0.0
    assert result.sets["pictures"] == PEOPLE and result.sets["mean"] > 50
    assert brightness.calls == PEOPLE + 2, "of equal pictures there is one description"


def test_baselines_need_no_folder(originals, models):
    evaluation = evaluate(originals, [Method("blur"), Method("pixelate"), Method("box")], [Patterns()], models)
    assert [method.leaks for method in evaluation.methods] == [0, 0, 0]
    assert evaluation.methods[2].detected == Rate(0.0, PEOPLE), "the mark is covered"


def test_results_are_run_backwards(tmp_path, monkeypatch, pipe):
    """Recovery with nullface-tiny, of one setting in few steps."""
    monkeypatch.setattr(reversal_attack, "GUIDANCE_SCALES", (6.0,))
    monkeypatch.setattr(reversal_attack, "SKIPS", (0.5,))
    monkeypatch.setattr(reversal_attack, "STEPS", 4)
    photo = data.astronaut()[:256, 96:352]
    originals = write(tmp_path / "originals", [photo, photo[:, ::-1]])
    hidden = [(0.9 * each).astype(np.uint8) for each in (photo, photo[:, ::-1])]
    models = CachedModels(Detector("tiny"), Cache(tmp_path / "cache.sqlite"), quiet=True)
    recognizer = InsightFaceRecognizer("tiny", pipe.face_analyser)
    methods = [Method("ours", write(tmp_path / "hidden", hidden)), Method("box")]
    ours, box = evaluate(originals, methods, [recognizer], models, reversal_pipe=pipe).methods
    assert box.reversal == [], "nobody undoes a black box"
    assert [each.towards for each in ours.reversal] == ["negated", "positive"]
    assert all(each.rank1["tiny"].count == 2 for each in ours.reversal)


class Constant:
    """A measure of pairs whose weights are one number."""

    name = "constant"

    def __init__(self, value: float):
        self.value, self.fingerprint = value, f"constant {value}"

    def __call__(self, original: np.ndarray, anonymized: np.ndarray, mask: np.ndarray) -> float:
        return self.value


def test_a_pair_is_measured_again_with_other_weights(originals, models, tmp_path):
    folder = write(tmp_path / "negatives", [negative(person(number)) for number in range(PEOPLE)])
    values = []
    for value in (1.0, 2.0):
        methods = [Method("negatives", folder)]
        result = evaluate(originals, methods, [Patterns()], models, Measures(pairs=[Constant(value)]))
        values.append(result.methods[0].distances["constant"].tolist())
    assert values == [[1.0] * PEOPLE, [2.0] * PEOPLE]
