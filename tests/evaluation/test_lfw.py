"""Benchmark with other photos of the people: choice of people, grey controls, training sizes."""

import json
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from benchmarks.lfw import (
    GREY,
    figures_of,
    grey_out,
    learned_by_size,
    make_results,
    methods_in,
    outcomes,
    shows_person,
)
from nullface_pipeline.evaluation.cache import Cache
from nullface_pipeline.evaluation.cached_models import CachedModels
from nullface_pipeline.evaluation.pairs import Method
from nullface_pipeline.evaluation.rates import normalized
from nullface_pipeline.evaluation.run import evaluate
from nullface_pipeline.photo_records import PhotoRefusedError
from tests.evaluation.small_world import Patterns, RedSquares, negative, other_photo, person


PEOPLE = 90


@pytest.fixture(scope="module")
def linear_world() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Results: a linear function of originals plus noise. Other photos: originals with noise."""
    rng = np.random.default_rng(0)
    originals = rng.normal(size=(PEOPLE, 24))
    results = originals @ rng.normal(size=(24, 24)) + 0.3 * rng.normal(size=(PEOPLE, 24))
    others = originals + 0.4 * rng.normal(size=(PEOPLE, 24))
    return normalized(results), normalized(originals), normalized(others)


def test_learned_attack_finds_more_with_more_people(linear_world):
    rates = learned_by_size(*linear_world, sizes=(5, 20, 80))
    assert rates[5].value < rates[20].value < rates[80].value
    assert all(rate.count == PEOPLE for rate in rates.values())


def test_learned_attack_skips_sizes_without_people_to_test_on(linear_world):
    assert list(learned_by_size(*linear_world, sizes=(20, PEOPLE - 1, 500))) == [20]


def test_learned_attack_finds_no_link_where_there_is_none(linear_world):
    _, originals, others = linear_world
    noise = normalized(np.random.default_rng(1).normal(size=originals.shape))
    assert learned_by_size(noise, originals, others, sizes=(80,))[80].value < 0.08


def test_grey_leaves_nothing_where_the_weight_is_one():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    weight = np.zeros((6, 5, 1), np.float32)
    weight[:3] = 1.0
    surroundings, face = grey_out(pixels, weight), grey_out(pixels, 1.0 - weight)
    assert (surroundings[:3] == GREY).all() and (surroundings[3:] == pixels[3:]).all()
    assert (face[3:] == GREY).all() and (face[:3] == pixels[:3]).all()


def test_people_whose_largest_face_is_not_in_the_middle_are_excluded(tmp_path):
    centred, aside = np.zeros((2, 48, 48, 3), np.uint8)
    centred[20:28, 20:28] = aside[2:10, 2:10] = (255, 0, 0)
    for name, photo in (("centred", centred), ("aside", aside), ("none", np.zeros_like(aside))):
        PIL.Image.fromarray(photo).save(tmp_path / f"{name}.png")
    shown = [shows_person(tmp_path / f"{name}.png", RedSquares()) for name in ("centred", "aside", "none")]
    assert shown == [True, False, False]


def test_a_stopped_run_continues_and_refused_photos_are_recorded(tmp_path):
    calls = []

    def anonymize(path, seed, **options):
        calls.append((path.stem, seed, options))
        if path.stem == "001":
            raise PhotoRefusedError("covered")
        face = SimpleNamespace(box=(0.0, 0.0, 1.0, 1.0), method="replaced", attempts=1)
        return SimpleNamespace(image=PIL.Image.new("RGB", (4, 4)), faces=(face,))

    (tmp_path / "originals").mkdir()
    for number in range(3):
        PIL.Image.new("RGB", (4, 4)).save(tmp_path / "originals" / f"{number:03}.jpg")
    pipe = SimpleNamespace(anonymize=anonymize)
    make_results(pipe, tmp_path, "opposite", seed=1)
    make_results(pipe, tmp_path, "opposite", seed=1)
    assert [stem for stem, _, _ in calls] == ["000", "001", "002", "001"]
    assert calls[2][1:] == (2001, {"identity": "opposite"})
    assert sorted(path.name for path in (tmp_path / "opposite-1").glob("*.png")) == ["000.png", "002.png"]
    lines = [json.loads(line) for line in (tmp_path / "opposite-1" / "records.jsonl").read_text().splitlines()]
    assert [line["photo"] for line in lines if "refused" in line] == ["001", "001"]
    assert outcomes(tmp_path / "opposite-1") == {"replaced": 2, "retried": 0, "covered": 0, "refused": 1}


def test_outcomes_are_those_of_the_largest_face(tmp_path):
    bystander, large = [0, 0, 9, 9, "covered", 0], [20, 20, 90, 90, "replaced", 2]
    (tmp_path / "records.jsonl").write_text(json.dumps({"photo": "000", "faces": [bystander, large]}) + "\n")
    assert outcomes(tmp_path) == {"replaced": 1, "retried": 1, "covered": 0, "refused": 0}


def test_figures_hold_both_galleries_and_no_name_of_a_photo(tmp_path):
    for number in range(4):
        photos = {"originals": person(number), "gallery": other_photo(number), "negative-0": negative(person(number))}
        for name, photo in photos.items():
            (tmp_path / name).mkdir(exist_ok=True)
            PIL.Image.fromarray(photo).save(tmp_path / name / f"someone {number}.png")
    models = CachedModels(RedSquares(), Cache(tmp_path / "cache.sqlite"), quiet=True)
    evaluation = evaluate(
        tmp_path / "originals",
        [Method("negative-0", tmp_path / "negative-0")],
        [Patterns()],
        models,
        gallery=tmp_path / "gallery",
    )
    figures = figures_of(evaluation)
    assert "someone" not in json.dumps(figures)
    assert figures["originals"]["patterns"]["percent"] == 100.0
    negative_0 = figures["methods"]["negative-0"]
    for gallery in ("same_photo", "different_photo"):
        assert negative_0[gallery]["patterns"]["least_similar"]["percent"] == 100.0
        assert negative_0[gallery]["patterns"]["most_similar"]["percent"] == 0.0


def test_methods_are_folders_with_results_and_the_baselines(tmp_path):
    for name in ("default-0", "empty"):
        (tmp_path / name).mkdir()
    for name in ("originals", "gallery"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "000.jpg").touch()
    (tmp_path / "default-0" / "000.png").touch()
    assert [method.name for method in methods_in(tmp_path)] == ["default-0", "blur", "pixelate", "box"]
