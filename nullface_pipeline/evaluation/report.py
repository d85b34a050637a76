"""An evaluation in numbers: every figure once, as JSON and CSV, one line a photo, and one table for the terminal."""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from nullface_pipeline.evaluation.judges import Recognizer
from nullface_pipeline.evaluation.rates import Mean, Rate, cumulative_matches
from nullface_pipeline.evaluation.results import FALSE_ACCEPT_RATES, Evaluation, MethodResult
from nullface_pipeline.runs.atomic_files import write_whole


RANKS = (1, 5, 20)
CMC_LENGTH = 50
NOT_INDEPENDENT = " (not independent)"


@dataclass(frozen=True)
class Figure:
    """One number.

    Attributes:
        method, recognizer (`str`): whose; "" where no recognizer has a part in it.
        name (`str`): what it is; rates are shares in [0, 1].
        denominator (`str`): "forced", "all" or "detected", see `rates.three_rates`; "" where there is one only.
        value, low, high (`float`): with its 95 % interval; None where there is none.
        count (`int`): of how many results.
    """

    method: str
    recognizer: str
    name: str
    denominator: str
    value: float | None
    low: float | None
    high: float | None
    count: int


def figures(evaluation: Evaluation) -> Iterator[Figure]:
    """All of them, method by method."""
    for method in evaluation.methods:
        worst = evaluation.worst(method)
        yield of_rate(method, worst.recognizer, f"worst attack at rank 1: {worst.attack}", "forced", worst.rate)
        for recognizer in evaluation.recognizers:
            yield from _recognition_figures(evaluation, method, recognizer.name)
        yield of_rate(method, "", "detected", "", method.detected)
        yield Figure(method.name, "", "leaks", "", method.leaks, None, None, len(method.results))
        for name, mean in method.means().items():
            yield of_mean(method, name, mean)
        for name, value in method.sets.items():
            yield Figure(method.name, "", name, "", value, None, None, len(method.results))
        for recovered in method.recovered:
            setting = f"guidance {recovered.guidance_scale}, skip {recovered.skip}"
            for name, rate in recovered.rank1.items():
                yield of_rate(method, name, f"recovered ({recovered.towards}), {setting}: rank 1", "forced", rate)


def _recognition_figures(evaluation: Evaluation, method: MethodResult, name: str) -> Iterator[Figure]:
    """What one recognizer says of one method."""
    recognition = method.recognitions[name]
    for k in RANKS:
        for denominator, rate in recognition.rates(k).items():
            yield of_rate(method, name, f"rank {k}", denominator, rate)
    for far in FALSE_ACCEPT_RATES:
        threshold = evaluation.thresholds[name][far]
        if threshold is not None:
            for denominator, rate in recognition.accepted(threshold).items():
                yield of_rate(method, name, f"TAR at FAR {far:g}", denominator, rate)
    similarity = float(np.median(recognition.similarity))
    yield Figure(method.name, name, "median similarity", "forced", similarity, None, None, len(method.results))
    for attack, ranks in recognition.attacks.items():
        for k in RANKS:
            yield of_rate(method, name, f"{attack} attack: rank {k}", "forced", ranks.rate(k))
    if name in method.linked:
        linked = method.linked[name]
        found = linked.ranks.found_within(1)
        yield of_rate(
            method, name, "linked to a second result: rank 1", "forced", Rate(float(found.sum()), len(found))
        )
        for far in FALSE_ACCEPT_RATES:
            threshold = linked.strangers.threshold(far)
            if threshold is not None:
                rate = Rate(float((linked.similarity >= threshold).sum()), len(linked.similarity))
                yield of_rate(method, name, f"linked to a second result: TAR at FAR {far:g}", "forced", rate)


def of_rate(method: MethodResult, recognizer: str, name: str, denominator: str, rate: Rate) -> Figure:
    """A rate with Wilson's interval."""
    low, high = rate.interval
    return Figure(method.name, recognizer, name, denominator, _finite(rate.value), low, high, rate.count)


def of_mean(method: MethodResult, name: str, mean: Mean) -> Figure:
    """A mean with its interval."""
    low, high = mean.value - mean.half_width, mean.value + mean.half_width
    return Figure(method.name, "", name, "", _finite(mean.value), _finite(low), _finite(high), mean.count)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def as_json(evaluation: Evaluation) -> str:
    """results.json: how it was measured, and every figure."""
    record: dict[str, Any] = {
        "settings": evaluation.settings,
        "originals": len(evaluation.originals),
        "originals without a face": evaluation.faceless,
        "chance at rank 1": evaluation.chance,
        "recognizers": [
            {
                "name": recognizer.name,
                "independent": recognizer.independent,
                "what": recognizer.description,
                "centred": recognizer.centred,
                "weights and preprocessing": recognizer.fingerprint,
                "pairs of strangers": evaluation.strangers[recognizer.name].pairs,
                "thresholds": {f"{far:g}": t for far, t in evaluation.thresholds[recognizer.name].items()},
            }
            for recognizer in evaluation.recognizers
        ],
        "not run": evaluation.not_run,
        "figures": [asdict(figure) for figure in figures(evaluation)],
        "CMC, forced": {
            method.name: {
                name: cumulative_matches(recognition.attacks["naive"].found_within, cmc_length(evaluation))
                for name, recognition in method.recognitions.items()
            }
            for method in evaluation.methods
        },
    }
    return json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def cmc_length(evaluation: Evaluation) -> int:
    """How many ranks a CMC has."""
    return min(CMC_LENGTH, len(evaluation.originals))


def as_csv(evaluation: Evaluation) -> str:
    """table.csv: every figure, one a line."""
    rows = [asdict(figure) for figure in figures(evaluation)]
    return _csv(list(rows[0]), [list(row.values()) for row in rows])


def per_image_csv(evaluation: Evaluation) -> str:
    """per_image.csv: one line for each result of each method."""
    measures = dict.fromkeys(name for method in evaluation.methods for name in method.distances)
    recognizers = [recognizer.name for recognizer in evaluation.recognizers]
    header = ["method", "original", "leaked", "detected"]
    for name in recognizers:
        header += [f"similarity, {name}", *(f"{attack} rank, {name}" for attack in _attacks(evaluation))]
    return _csv([*header, *measures], list(_image_rows(evaluation, recognizers, list(measures))))


def _image_rows(evaluation: Evaluation, recognizers: Sequence[str], measures: Sequence[str]) -> Iterator[list[Any]]:
    for method in evaluation.methods:
        for index, result in enumerate(method.results):
            row: list[Any] = [method.name, result.original.name, int(result.leaked), int(result.face is not None)]
            for name in recognizers:
                recognition = method.recognitions[name]
                ranks = [recognition.attacks[attack].middle[index] for attack in _attacks(evaluation)]
                row += [f"{recognition.similarity[index]:.4f}", *(f"{rank:g}" for rank in ranks)]
            row += [f"{method.distances[name][index]:.6g}" if name in method.distances else "" for name in measures]
            yield row


def _attacks(evaluation: Evaluation) -> list[str]:
    return list(next(iter(evaluation.methods[0].recognitions.values())).attacks)


def _csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()


def summary(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the one table: re-identification first, as in the paper, then what is kept."""
    measures = dict.fromkeys(name for method in evaluation.methods for name in method.distances)
    sets = dict.fromkeys(name for method in evaluation.methods for name in method.sets)
    header = ["method", "photos", "worst attack", *(f"rank 1, {label(r)}" for r in evaluation.recognizers)]
    header += ["detected", *(with_unit(evaluation, name) for name in measures), *sets, "leaks"]
    rows = []
    for method in evaluation.methods:
        worst, means = evaluation.worst(method), method.means()
        row = [method.name, str(len(method.results)), f"{percent(worst.rate)} {worst.attack}, {worst.recognizer}"]
        row += [percent(method.recognitions[r.name].rates(1)["forced"]) for r in evaluation.recognizers]
        row += [percent(method.detected), *(in_words(means[name]) for name in measures)]
        row += [f"{method.sets[name]:.4g}" if name in method.sets else "" for name in sets]
        rows.append([*row, str(method.leaks)])
    return header, rows


def summary_table(evaluation: Evaluation) -> Table:
    """`summary` for the terminal, a column for each method, with a star for what is not independent."""
    header, rows = summary(evaluation)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (header[0], *(row[0] for row in rows)):
        table.add_column(escape(name), overflow="fold")
    for name, *cells in zip(header[1:], *(row[1:] for row in rows)):
        table.add_row(escape(name.replace(NOT_INDEPENDENT, "*")), *map(escape, cells))
    table.caption = "Rates in %, in brackets their 95 % intervals."
    if not all(recognizer.independent for recognizer in evaluation.recognizers):
        table.caption += " * not independent: it steered a method."
    return table


def attack_table(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Header and rows: rank 1 of every attack by every recognizer."""
    linked = any(method.linked for method in evaluation.methods)
    header = ["method", "recognizer", *_attacks(evaluation)]
    header += ["median similarity", "TAR at FAR 0.01", *(["two results linked"] if linked else [])]
    rows = []
    for method in evaluation.methods:
        for recognizer in evaluation.recognizers:
            recognition = method.recognitions[recognizer.name]
            threshold = evaluation.thresholds[recognizer.name][FALSE_ACCEPT_RATES[0]]
            row = [method.name, label(recognizer), *(percent(r.rate()) for r in recognition.attacks.values())]
            row.append(f"{np.median(recognition.similarity):+.2f}")
            row.append("-" if threshold is None else percent(recognition.accepted(threshold)["forced"]))
            if linked:
                row.append(percent(method.linked[recognizer.name].ranks.rate()) if method.linked else "-")
            rows.append(row)
    return header, rows


def label(recognizer: Recognizer) -> str:
    """Its name, and whether it is independent."""
    return recognizer.name if recognizer.independent else recognizer.name + NOT_INDEPENDENT


def with_unit(evaluation: Evaluation, measure: str) -> str:
    """A measure's name with its unit, if it has one."""
    unit = evaluation.units.get(measure, "")
    return f"{measure}, {unit}" if unit else measure


def percent(rate: Rate) -> str:
    """`4.0 [1.6-9.8]`, `22.0 [15-31]`; of nobody, `-`."""
    if not rate.count:
        return "-"
    ends = (f"{100 * end:.0f}" if end >= 0.1 else f"{100 * end:.1f}" for end in rate.interval)
    return f"{100 * rate.value:.1f} [{'-'.join(ends)}]"


def in_words(mean: Mean) -> str:
    """`0.165 ± 0.010`, and of how many if not all could be measured is in the CSV; `-` of none."""
    return f"{mean.value:.3g} ± {mean.half_width:.2g}" if mean.count else "-"


def write_figures(evaluation: Evaluation, folder: Path) -> list[Path]:
    """results.json, table.csv and per_image.csv, each complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "results.json": as_json(evaluation),
        "table.csv": as_csv(evaluation),
        "per_image.csv": per_image_csv(evaluation),
    }
    for name, text in texts.items():
        write_whole(folder / name, text.encode())
    return [folder / name for name in texts]
