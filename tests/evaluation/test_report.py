"""What is written down: every figure with its interval, nothing biometric, and originals only if asked for."""

import base64
import csv
import io
import json
import re
import sys
from dataclasses import replace

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

from .small_world import Patterns, RedSquares, negative, person, unmarked, write
from .test_run import Brightness, Counts


PEOPLE = 20


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    originals = write(folder / "originals", [person(number) for number in range(PEOPLE)])
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
    )
    done.methods[0].reversal.append(
        ReversalResult("negated", 5.0, 0.7, {"patterns": Rate(2, 20), "steering <own>": Rate(1, 20)})
    )
    return done


def test_json_holds_every_figure_and_how_it_was_measured(evaluation, tmp_path):
    write_figures(evaluation, tmp_path)
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["not_run"] == {"MUSIQ": "needs pyiqa"}
    assert [each["independent"] for each in record["recognizers"]] == [True, False]
    assert record["recognizers"][0]["thresholds"]["0.001"] is None, "190 pairs say nothing of one in a thousand"
    assert len(record["cmc_gt_aligned"]["ours & co"]["patterns"]) == PEOPLE
    by_name = {
        (each["method"], each["recognizer"], each["name"], each["denominator"]): each for each in record["figures"]
    }
    least_similar = by_name["ours & co", "patterns", "least_similar attack: rank 1", "gt_aligned"]
    assert (least_similar["value"], least_similar["count"]) == (0.95, PEOPLE)
    assert least_similar["low"] < 0.95 < least_similar["high"]
    assert by_name["ours & co", "", "leaks", ""]["value"] == 1
    assert by_name["ours & co", "patterns", "rank 1", "detected_only"]["count"] == PEOPLE - 1
    assert by_name["box", "patterns", "rank 1", "detected_only"]["value"] is None
    assert by_name["ours & co", "patterns", "linkage attack: rank 1", "gt_aligned"]["value"] >= 0.9
    assert by_name["ours & co", "patterns", "reversal attack (negated), guidance 5.0, skip 0.7: rank 1", "gt_aligned"]


def test_tables_hold_the_same(evaluation, tmp_path):
    write_figures(evaluation, tmp_path)
    table = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text())))
    assert len(table) == len(list(figures(evaluation)))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "per_image.csv").read_text())))
    assert len(rows) == 2 * PEOPLE
    leak = rows[3]
    assert (leak["method"], leak["original"], leak["leaked"], leak["most_similar rank, patterns"]) == (
        "ours & co",
        "003",
        "1",
        "1",
    )
    assert rows[5]["least_similar rank, patterns"] == "1" and rows[5]["similarity, patterns"] == "-1.0000"
    assert rows[4]["detected"] == "0" and float(rows[4]["brightness"]) >= 0


def test_no_embedding_is_written(evaluation, tmp_path):
    """Six decimals of any coordinate would be one."""
    embedding = Patterns()(person(0), evaluation.originals[0].face.landmarks)
    for path in [*write_figures(evaluation, tmp_path), write_html(evaluation, tmp_path)]:
        text = path.read_text()
        assert not any(f"{value:.6f}"[:-1] in text for value in embedding[:50])


def test_the_one_table_is_in_the_papers_order(evaluation):
    header, rows = summary(evaluation)
    assert header == [
        "method",
        "photos",
        "worst attack",
        "rank 1, patterns",
        "rank 1, steering <own> (not independent)",
        "detected",
        "brightness, of 255",
        "pictures",
        "mean",
        "leaks",
    ]
    assert rows[0][2] == "100.0 [84-100] most_or_least_similar, patterns" and rows[0][-1] == "1"
    assert rows[1][5] == "0.0 [0.0-16]"
    assert percent(Rate(0, 0)) == "-"


def test_the_table_of_the_terminal_breaks_no_name_in_80_columns(evaluation):
    console = Console(width=80, file=io.StringIO())
    console.print(summary_table(evaluation))
    lines = [" ".join(line.split()) for line in console.file.getvalue().splitlines()]
    assert "method ours & co box" in lines
    for name in ("photos 20 20", "rank 1, steering <own>* ", "brightness, of 255 ", "leaks 1 "):
        assert any(line.startswith(name) for line in lines), name


def test_attacks_side_by_side(evaluation):
    header, rows = attack_table(evaluation)
    assert header[:3] == ["method", "recognizer", "most_similar"] and len(rows) == 4
    assert rows[0][3].startswith("95.0")


def pictures(page):
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]


def test_the_page_loads_nothing_and_shows_no_originals(evaluation, tmp_path):
    page = write_html(evaluation, tmp_path).read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "<script" not in page
    assert "ours &amp; co" in page and "steering &lt;own&gt;" in page
    assert "MUSIQ: not run: needs pyiqa" in page
    assert "1 results are identical to their originals" in page
    assert page.count("<svg") == 4, "CMC, similarities, privacy and utility, reversal attack"
    shown = len(pictures(page))
    with_originals = write_html(evaluation, tmp_path, show_originals=True).read_text()
    assert shown > 20 and len(pictures(with_originals)) == 2 * shown


def test_without_matplotlib_it_says_what_it_needs(evaluation, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingModelError, match="needs .*matplotlib"):
        plots.check_matplotlib()
    with pytest.raises(MissingModelError):
        write_html(evaluation, tmp_path)
    assert not (tmp_path / "index.html").exists()


def test_dollars_in_the_name_of_a_method_are_shown_as_they_are(evaluation):
    method = replace(evaluation.methods[0], name=r"$\nothing_$")
    figure = plots.cmc_plot(replace(evaluation, methods=[method]))
    assert r"$\nothing_$" in figure
