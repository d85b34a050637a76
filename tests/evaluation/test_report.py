"""What is written down: every figure with its interval, nothing biometric, and originals only if
asked for.
"""

import base64
import csv
import io
import json
import re
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import PIL.Image
import pytest
from rich.console import Console

from nullface_pipeline.evaluation import plots
from nullface_pipeline.evaluation.cache import Cache
from nullface_pipeline.evaluation.cached_models import CachedModels
from nullface_pipeline.evaluation.html_report import write_html
from nullface_pipeline.evaluation.pairs import Method
from nullface_pipeline.evaluation.rates import Rate
from nullface_pipeline.evaluation.recognizers import MissingModelError
from nullface_pipeline.evaluation.report import attack_table, figures, percent, summary, summary_table, write_figures
from nullface_pipeline.evaluation.results import ReversalResult
from nullface_pipeline.evaluation.run import Measures, evaluate

from .small_world import Patterns, RedSquares, negative, other_photo, person, unmarked, write
from .test_run import Brightness, Counts


PEOPLE = 20


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("evaluation")
    originals = write(folder / "originals", [person(number) for number in range(PEOPLE)])
    gallery = write(folder / "gallery", [other_photo(number) for number in range(PEOPLE - 5)])
    write(gallery, [other_photo(90)], first=90)
    results = [negative(person(number)) for number in range(PEOPLE)]
    results[3], results[4] = person(3), unmarked(results[4])
    ours = write(folder / "ours", results)
    second_run = write(folder / "second_run", [negative(person(number)) for number in range(PEOPLE)])
    steering = Patterns("steering <own>")
    steering.independent = False
    models = CachedModels(RedSquares(), Cache(folder / "cache.sqlite"), quiet=True)
    done = evaluate(
        originals,
        [Method("ours & co", ours, second_run), Method("box")],
        [Patterns(), steering],
        models,
        Measures(faces=[Brightness()], sets=[Counts()]),
        not_run={"MUSIQ": "needs pyiqa"},
        gallery=gallery,
    )
    rank1 = {"patterns": Rate(2, 20), "steering <own>": Rate(1, 20)}
    for name in ("same_photo", "different_photo"):
        done.methods[0].reversal.append(ReversalResult(name, "negated", 5.0, 0.7, rank1))
    return done


def by_names(records: list[dict[str, Any]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    names = ("method", "recognizer", "gallery", "attack", "metric", "denominator")
    return {tuple(each[name] for name in names): each for each in records}


def test_json_holds_every_figure_and_how_it_was_measured(evaluation, tmp_path):
    write_figures(evaluation, tmp_path)
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["not_run"] == {"MUSIQ": "needs pyiqa"}
    assert [each["independent"] for each in record["recognizers"]] == [True, False]
    same, different = (record["galleries"][name] for name in ("same_photo", "different_photo"))
    assert same["recognizers"]["patterns"]["thresholds"]["0.001"] is None, "190 pairs are too few for 1 in 1,000"
    assert (same["people"], same["excluded"]) == (PEOPLE, [])
    assert (different["people"], different["ignored_photos"]) == (PEOPLE - 5, 1)
    assert different["excluded"] == [f"{number:03}" for number in range(PEOPLE - 5, PEOPLE)]
    assert different["chance_at_rank_1"] == 1 / (PEOPLE - 5)
    assert len(record["cmc_gt_aligned"]["ours & co"]["same_photo"]["patterns"]) == PEOPLE
    figures = by_names(record["figures"])
    least_similar = figures["ours & co", "patterns", "same_photo", "least_similar", "rank_1", "gt_aligned"]
    assert (least_similar["value"], least_similar["count"]) == (0.95, PEOPLE)
    assert least_similar["low"] < 0.95 < least_similar["high"]
    assert figures["ours & co", "", "", "", "leaks", ""]["value"] == 1
    most_similar = ("patterns", "same_photo", "most_similar", "rank_1", "detected_only")
    assert figures["ours & co", *most_similar]["count"] == PEOPLE - 1
    assert figures["box", *most_similar]["value"] is None
    assert figures["ours & co", "patterns", "same_photo", "linkage", "rank_1", "gt_aligned"]["value"] >= 0.9
    assert figures["box", "patterns", "different_photo", "linkage", "rank_1", "gt_aligned"]["count"] == PEOPLE - 5


def test_both_galleries_have_the_same_figures_and_the_originals_their_ceiling(evaluation, tmp_path):
    write_figures(evaluation, tmp_path)
    record = json.loads((tmp_path / "results.json").read_text())
    figures = by_names(record["figures"])
    of_gallery = {
        gallery: {key[:2] + key[3:] for key in figures if key[0] and key[2] == gallery and key[3] != "linkage"}
        for gallery in ("same_photo", "different_photo")
    }
    assert {key for key in of_gallery["same_photo"] if "worst" not in key[3] and "tar" not in key[3]} == {
        key for key in of_gallery["different_photo"] if "worst" not in key[3] and "tar" not in key[3]
    }
    ceiling = figures["", "patterns", "different_photo", "most_similar", "rank_1", ""]
    assert (ceiling["value"], ceiling["count"]) == (1.0, PEOPLE - 5)
    least_similar = figures["ours & co", "patterns", "different_photo", "least_similar", "rank_1", "gt_aligned"]
    assert (least_similar["value"], least_similar["count"]) == (14 / 15, PEOPLE - 5)
    reversal = ("reversal_negated", "rank_1_guidance_5_skip_0.7", "gt_aligned")
    assert figures["ours & co", "patterns", "different_photo", *reversal]["value"] == 0.1


def test_keys_are_snake_case(evaluation, tmp_path):
    write_figures(evaluation, tmp_path)
    record = json.loads((tmp_path / "results.json").read_text())
    keys = {*record, *record["figures"][0], *record["galleries"]["same_photo"]}
    keys |= {figure["metric"] for figure in record["figures"]}
    header = (tmp_path / "table.csv").read_text().splitlines()[0].split(",")
    assert all(re.fullmatch(r"[a-z0-9_.]+", key) for key in keys | set(header))


def test_tables_hold_the_same(evaluation, tmp_path):
    write_figures(evaluation, tmp_path)
    table = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert len(table) == len(list(figures(evaluation)))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "per_image.csv").read_text())))
    assert len(rows) == 2 * PEOPLE
    leak = rows[3]
    assert (leak["method"], leak["original"], leak["leaked"], leak["same_photo_most_similar_rank_patterns"]) == (
        "ours & co",
        "003",
        "1",
        "1",
    )
    assert rows[5]["same_photo_least_similar_rank_patterns"] == "1"
    assert rows[5]["same_photo_similarity_patterns"] == "-1.0000"
    assert -1.0 < float(rows[5]["different_photo_similarity_patterns"]) < -0.8
    assert rows[PEOPLE - 5]["different_photo_similarity_patterns"] == "", "not in the gallery"
    assert rows[4]["detected"] == "0" and float(rows[4]["brightness"]) >= 0


def test_no_embedding_is_written(evaluation, tmp_path):
    """Six decimals of any coordinate would be one."""
    embedding = Patterns()(person(0), evaluation.originals[0].face.landmarks)
    for path in [*write_figures(evaluation, tmp_path), write_html(evaluation, tmp_path)]:
        text = path.read_text()
        assert not any(f"{value:.6f}"[:-1] in text for value in embedding[:50])


def test_the_main_table_shows_galleries_side_by_side(evaluation):
    header, rows = summary(evaluation)
    assert header == [
        "method",
        "photos",
        "worst attack, same photo",
        "worst attack, different photo",
        "rank 1, same photo, patterns",
        "rank 1, different photo, patterns",
        "rank 1, same photo, steering <own> (not independent)",
        "rank 1, different photo, steering <own> (not independent)",
        "detected",
        "brightness, of 255",
        "pictures",
        "mean",
        "leaks",
    ]
    assert {len(row) for row in rows} == {len(header)}
    assert rows[0][:6] == ["originals", "20", "", "", "", "100.0 [80-100]"]
    assert rows[1][2] == "100.0 [84-100] most_or_least_similar, patterns" and rows[1][-1] == "1"
    assert rows[2][8] == "0.0 [0.0-16]"
    assert percent(Rate(0, 0)) == "-"


def test_without_a_second_gallery_the_main_table_has_one_column_a_recognizer(evaluation):
    header, rows = summary(replace(evaluation, galleries={"same_photo": evaluation.galleries["same_photo"]}))
    assert header[:4] == ["method", "photos", "worst attack", "rank 1, patterns"]
    assert [row[0] for row in rows] == ["ours & co", "box"]


def test_the_table_of_the_terminal_breaks_no_name_in_80_columns(evaluation):
    console = Console(width=80, file=io.StringIO())
    console.print(summary_table(replace(evaluation, galleries={"same_photo": evaluation.galleries["same_photo"]})))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert "method ours & co box" in lines
    for name in ("photos 20 20", "rank 1, steering <own>* ", "brightness, of 255 ", "leaks 1 "):
        assert any(line.startswith(name) for line in lines), name


def test_attacks_side_by_side(evaluation):
    header, rows = attack_table(evaluation)
    assert header[:4] == ["method", "recognizer", "gallery", "most_similar"] and len(rows) == 2 + 8
    assert {len(row) for row in rows} == {len(header)}
    assert rows[0][:4] == ["originals", "patterns", "different photo", "100.0 [80-100]"]
    assert rows[2][2:5] == ["same photo", "5.0 [0.9-24]", "95.0 [76-99]"]
    assert rows[3][2] == "different photo" and rows[3][4].startswith("93.3")


def pictures(page: str) -> list[np.ndarray]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]


def test_the_page_loads_nothing_and_shows_no_originals(evaluation, tmp_path):
    page = write_html(evaluation, tmp_path).read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "<script" not in page
    assert "ours &amp; co" in page and "steering &lt;own&gt;" in page
    assert "MUSIQ: not run: needs pyiqa" in page
    assert "1 results are identical to their originals" in page
    assert page.count("<svg") == 2 * 4, "of each gallery: CMC, similarities, privacy and utility, reversal attack"
    assert "different photo gallery of 15 people" in " ".join(page.split())
    shown = len(pictures(page))
    with_originals = write_html(evaluation, tmp_path, show_originals=True).read_text()
    assert shown > 20 and len(pictures(with_originals)) == 2 * shown


def test_without_matplotlib_it_says_what_it_needs(evaluation, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingModelError, match="matplotlib"):
        plots.check_matplotlib()
    with pytest.raises(MissingModelError):
        write_html(evaluation, tmp_path)
    assert not (tmp_path / "index.html").exists()


def test_dollars_in_the_name_of_a_method_are_shown_as_they_are(evaluation):
    method = replace(evaluation.methods[0], name=r"$\nothing_$")
    figure = plots.cmc_plot(replace(evaluation, methods=[method]), "same_photo")
    assert r"$\nothing_$" in figure
