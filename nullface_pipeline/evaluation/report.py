"""Figures of an evaluation as JSON, CSV and tables."""

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from nullface_pipeline.evaluation.attacks import MATCHING_ATTACKS
from nullface_pipeline.evaluation.rates import Mean, Rate, cumulative_matches
from nullface_pipeline.evaluation.recognizers import Recognizer
from nullface_pipeline.evaluation.results import (
    DIFFERENT_PHOTO,
    FALSE_ACCEPT_RATES,
    SAME_PHOTO,
    Evaluation,
    GallerySummary,
    MethodResult,
    SearchResult,
)
from nullface_pipeline.evaluation.verification import Verification
from nullface_pipeline.runs.atomic_files import write_whole


RANKS = (1, 5, 20)
CMC_LENGTH = 50
NOT_INDEPENDENT = " (not independent)"
ORIGINALS = "originals"
# The first six fields of a `Figure`.
Names = tuple[str, str, str, str, str, str]
TITLES = {SAME_PHOTO: "same photo", DIFFERENT_PHOTO: "different photo"}


@dataclass(frozen=True)
class Figure:
    """One number of the report. Empty texts mean "not applicable".

    Attributes:
        method (`str`): name of the method; "" for the originals.
        recognizer (`str`): name of the recognizer.
        gallery (`str`): "same_photo", "different_photo" or, for verification, "pairs".
        attack (`str`): name of the attack.
        metric (`str`): name of the metric; rates are shares in [0, 1].
        denominator (`str`): "gt_aligned", "redetected" or "detected_only", see `rates.three_rates`.
        value, low, high (`float`, *optional*): value and 95 % interval.
        count (`int`): number of results, or of folds for verification.
    """

    method: str
    recognizer: str
    gallery: str
    attack: str
    metric: str
    denominator: str
    value: float | None
    low: float | None
    high: float | None
    count: int


def figures(evaluation: Evaluation) -> Iterator[Figure]:
    """Yield all figures: first those of the originals, then by method."""
    for name, gallery in evaluation.galleries.items():
        for recognizer, search in gallery.originals.items():
            yield from _search_figures("", recognizer, name, "most_similar", "", search)
    for recognizer, verification in evaluation.verification.items():
        yield from _verification_figures("", recognizer, verification)
    for method in evaluation.methods:
        yield from _method_figures(evaluation, method)


def _method_figures(evaluation: Evaluation, method: MethodResult) -> Iterator[Figure]:
    for gallery in evaluation.galleries:
        worst = method.worst(gallery)
        yield of_rate(
            worst.rate, method.name, worst.recognizer, gallery, worst.attack, "worst_attack_rank_1", "gt_aligned"
        )
        for recognizer in evaluation.recognizers:
            yield from _recognition_figures(evaluation, method, gallery, recognizer.name)
        for name, search in method.linkage.get(gallery, {}).items():
            yield from _search_figures(method.name, name, gallery, "linkage", "gt_aligned", search)
    for reversal in method.reversal:
        metric = f"rank_1_guidance_{reversal.guidance_scale:g}_skip_{reversal.skip:g}"
        for name, rate in reversal.rank1.items():
            attack = f"reversal_{reversal.towards}"
            yield of_rate(rate, method.name, name, reversal.gallery, attack, metric, "gt_aligned")
    for name, verification in method.verification.items():
        yield from _verification_figures(method.name, name, verification)
    count = len(method.results)
    yield of_rate(method.detected, method.name, "", "", "", "detected", "")
    yield Figure(method.name, "", "", "", "leaks", "", method.leaks, None, None, count)
    for name, mean in method.means().items():
        yield of_mean(mean, method.name, "", "", "", snake_case(name), "")
    for name, value in method.sets.items():
        yield Figure(method.name, "", "", "", snake_case(name), "", value, None, None, count)


def _recognition_figures(evaluation: Evaluation, method: MethodResult, gallery: str, name: str) -> Iterator[Figure]:
    """Figures of one method by one recognizer in one gallery."""
    recognition, key = method.recognitions[gallery][name], (method.name, name, gallery)
    for k in RANKS:
        for denominator, rate in recognition.rates(k).items():
            yield of_rate(rate, *key, "most_similar", f"rank_{k}", denominator)
    for attack, ranks in recognition.attacks.items():
        if attack != "most_similar":
            for k in RANKS:
                yield of_rate(ranks.rate(k), *key, attack, f"rank_{k}", "gt_aligned")
    for far, threshold in evaluation.galleries[gallery].thresholds[name].items():
        if threshold is not None:
            for denominator, rate in recognition.accepted(threshold).items():
                yield of_rate(rate, *key, "most_similar", f"tar_at_far_{far:g}", denominator)
    similarity = float(np.median(recognition.similarity))
    yield Figure(*key, "", "median_similarity", "gt_aligned", similarity, None, None, len(recognition.similarity))


def _search_figures(
    method: str, recognizer: str, gallery: str, attack: str, denominator: str, search: SearchResult
) -> Iterator[Figure]:
    key = (method, recognizer, gallery, attack)
    for k in RANKS:
        yield of_rate(search.ranks.rate(k), *key, f"rank_{k}", denominator)
    for far in FALSE_ACCEPT_RATES:
        if (rate := search.accepted(far)) is not None:
            yield of_rate(rate, *key, f"tar_at_far_{far:g}", denominator)


def _verification_figures(method: str, recognizer: str, verification: Verification) -> Iterator[Figure]:
    for far in FALSE_ACCEPT_RATES:
        for metric, means in (("tar", verification.true_accepts), ("measured_far", verification.false_accepts)):
            if means[far].count:
                name = f"{metric}_at_far_{far:g}"
                yield of_mean(means[far], method, recognizer, "pairs", "verification", name, "gt_aligned")


def of_rate(rate: Rate, *names: *Names) -> Figure:
    """Create a figure from a rate."""
    low, high = rate.interval
    return Figure(*names, _finite(rate.value), low, high, rate.count)


def of_mean(mean: Mean, *names: *Names) -> Figure:
    """Create a figure from a mean."""
    low, high = mean.value - mean.half_width, mean.value + mean.half_width
    return Figure(*names, _finite(mean.value), _finite(low), _finite(high), mean.count)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def snake_case(name: str) -> str:
    """Convert `SSIM outside the face` to `ssim_outside_the_face`."""
    return re.sub(r"\W+", "_", name.lower()).strip("_")


def as_json(evaluation: Evaluation) -> str:
    """Content of results.json: settings, galleries, recognizers and every figure."""
    record = {
        "settings": evaluation.settings,
        "originals": len(evaluation.originals),
        "originals_without_face": evaluation.faceless,
        "galleries": {name: _gallery_record(gallery) for name, gallery in evaluation.galleries.items()},
        "recognizers": [
            {
                "name": recognizer.name,
                "independent": recognizer.independent,
                "description": recognizer.description,
                "centred": recognizer.centred,
                "fingerprint": recognizer.fingerprint,
            }
            for recognizer in evaluation.recognizers
        ],
        "verification_pairs": {
            name: {"genuine": verification.genuine_pairs, "impostor": verification.impostor_pairs}
            for name, verification in evaluation.verification.items()
        },
        "not_run": evaluation.not_run,
        "figures": [asdict(figure) for figure in figures(evaluation)],
        "cmc_gt_aligned": {
            method.name: {
                gallery: {
                    name: cumulative_matches(
                        recognition.attacks["most_similar"].found_within, cmc_length(evaluation.galleries[gallery])
                    )
                    for name, recognition in recognitions.items()
                }
                for gallery, recognitions in method.recognitions.items()
            }
            for method in evaluation.methods
        },
    }
    return json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def _gallery_record(gallery: GallerySummary) -> dict[str, object]:
    return {
        "people": gallery.size,
        "excluded": gallery.excluded,
        "ignored_photos": gallery.ignored,
        "chance_at_rank_1": gallery.chance,
        "recognizers": {
            name: {"impostor_pairs": scores.pairs, "thresholds": {f"{far:g}": t for far, t in thresholds.items()}}
            for (name, scores), thresholds in zip(gallery.impostor_scores.items(), gallery.thresholds.values())
        },
    }


def cmc_length(gallery: GallerySummary) -> int:
    """Number of ranks in a CMC curve."""
    return min(CMC_LENGTH, gallery.size)


def as_csv(evaluation: Evaluation) -> str:
    """Content of table.csv: one figure per line."""
    rows = [asdict(figure) for figure in figures(evaluation)]
    return _csv(list(rows[0]), [list(row.values()) for row in rows])


def per_image_csv(evaluation: Evaluation) -> str:
    """Content of per_image.csv: one line per method and result."""
    measures = list(dict.fromkeys(name for method in evaluation.methods for name in method.distances))
    header = ["method", "original", "leaked", "detected"]
    for gallery in evaluation.galleries:
        for recognizer in evaluation.recognizers:
            header.append(f"{gallery}_similarity_{recognizer.name}")
            header += [f"{gallery}_{attack}_rank_{recognizer.name}" for attack in MATCHING_ATTACKS]
    header += [snake_case(name) for name in measures]
    return _csv(header, [row for method in evaluation.methods for row in _image_rows(evaluation, method, measures)])


def _image_rows(evaluation: Evaluation, method: MethodResult, measures: Sequence[str]) -> Iterator[list[object]]:
    cells: list[list[object]] = [
        [method.name, result.original.name, int(result.leaked), int(result.face is not None)]
        for result in method.results
    ]
    for gallery in evaluation.galleries:
        for recognizer in evaluation.recognizers:
            recognition = method.recognitions[gallery][recognizer.name]
            # Results of people who are not in the gallery have empty cells.
            columns: list[list[str]] = [[""] * (1 + len(MATCHING_ATTACKS)) for _ in cells]
            ranks = [recognition.attacks[attack].middle for attack in MATCHING_ATTACKS]
            for number, index in enumerate(recognition.index):
                columns[index] = [f"{recognition.similarity[number]:.4f}", *(f"{rank[number]:g}" for rank in ranks)]
            for row, more in zip(cells, columns):
                row += more
    for index, row in enumerate(cells):
        row += [f"{method.distances[name][index]:.6g}" if name in method.distances else "" for name in measures]
        yield row


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return file.getvalue()


def summary(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the main table: re-identification first, as in the paper, then utility.

    With a different-photo gallery or pairs, the first row is that of the originals.
    """
    galleries, several = list(evaluation.galleries), len(evaluation.galleries) > 1
    measures = dict.fromkeys(name for method in evaluation.methods for name in method.distances)
    sets = dict.fromkeys(name for method in evaluation.methods for name in method.sets)
    header = ["method", "photos", *(f"worst attack{_of(gallery, several)}" for gallery in galleries)]
    header += [f"rank 1{_of(gallery, several)}, {label(r)}" for r in evaluation.recognizers for gallery in galleries]
    header += [f"{_pairs_title()}, {label(r)}" for r in evaluation.recognizers if evaluation.verification]
    header += ["detected", *(with_unit(evaluation, name) for name in measures), *sets, "leaks"]
    rows = [_originals_row(evaluation, len(measures) + len(sets))] if several or evaluation.verification else []
    for method in evaluation.methods:
        means, row = method.means(), [method.name, str(len(method.results))]
        for worst in map(method.worst, galleries):
            row.append(f"{percent(worst.rate)} {worst.attack}, {worst.recognizer}")
        for r in evaluation.recognizers:
            row += [percent(method.recognitions[gallery][r.name].rates(1)["gt_aligned"]) for gallery in galleries]
        row += [_accepted(method.verification[r.name]) for r in evaluation.recognizers if evaluation.verification]
        row += [percent(method.detected), *(plus_minus(means[name]) for name in measures)]
        row += [f"{method.sets[name]:.4g}" if name in method.sets else "" for name in sets]
        rows.append([*row, str(method.leaks)])
    return header, rows


def _originals_row(evaluation: Evaluation, empty: int) -> list[str]:
    """Row of the originals in the main table, without values for `empty` utility metrics."""
    row = [ORIGINALS, str(len(evaluation.originals)), *[""] * len(evaluation.galleries)]
    for recognizer in evaluation.recognizers:
        for gallery in evaluation.galleries.values():
            search = gallery.originals.get(recognizer.name)
            row.append("" if search is None else percent(search.ranks.rate()))
    row += [_accepted(evaluation.verification[r.name]) for r in evaluation.recognizers if evaluation.verification]
    return [*row, *[""] * (empty + 2)]


def _of(gallery: str, several: bool) -> str:
    return f", {TITLES[gallery]}" if several else ""


def _pairs_title() -> str:
    return f"TAR at FAR {FALSE_ACCEPT_RATES[0]:g}, pairs"


def _accepted(verification: Verification) -> str:
    mean = verification.true_accepts[FALSE_ACCEPT_RATES[0]]
    return f"{100 * mean.value:.1f} ± {100 * mean.half_width:.1f}" if mean.count else "-"


def summary_table(evaluation: Evaluation) -> Table:
    """`summary` for the terminal, with one column per method."""
    header, rows = summary(evaluation)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in (header[0], *(row[0] for row in rows)):
        table.add_column(escape(name), overflow="fold")
    for name, *cells in zip(header[1:], *(row[1:] for row in rows)):
        table.add_row(escape(name.replace(NOT_INDEPENDENT, "*")), *map(escape, cells))
    table.caption = "Rates in %, with 95 % intervals in brackets."
    if not all(recognizer.independent for recognizer in evaluation.recognizers):
        table.caption += " * not independent: it steered a method."
    return table


def attack_table(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the attacks, one row per method, recognizer and gallery."""
    linkage = any(method.linkage for method in evaluation.methods)
    header = ["method", "recognizer", "gallery", *MATCHING_ATTACKS]
    header += ["median similarity", f"TAR at FAR {FALSE_ACCEPT_RATES[0]:g}", *(["linkage"] if linkage else [])]
    rows = []
    for recognizer in evaluation.recognizers:
        for name, gallery in evaluation.galleries.items():
            if recognizer.name in gallery.originals:
                rows.append(_originals_attack_row(recognizer, name, gallery.originals[recognizer.name], len(header)))
    for method in evaluation.methods:
        for recognizer in evaluation.recognizers:
            for name, gallery in evaluation.galleries.items():
                recognition = method.recognitions[name][recognizer.name]
                threshold = gallery.thresholds[recognizer.name][FALSE_ACCEPT_RATES[0]]
                row = [method.name, label(recognizer), TITLES[name]]
                row += [percent(ranks.rate()) for ranks in recognition.attacks.values()]
                row.append(f"{np.median(recognition.similarity):+.2f}")
                row.append("-" if threshold is None else percent(recognition.accepted(threshold)["gt_aligned"]))
                if linkage:
                    search = method.linkage.get(name, {}).get(recognizer.name)
                    row.append("-" if search is None else percent(search.ranks.rate()))
                rows.append(row)
    return header, rows


def _originals_attack_row(recognizer: Recognizer, gallery: str, search: SearchResult, columns: int) -> list[str]:
    accepted = search.accepted(FALSE_ACCEPT_RATES[0])
    row = [ORIGINALS, label(recognizer), TITLES[gallery], percent(search.ranks.rate())]
    row += [""] * (len(MATCHING_ATTACKS) - 1)
    row += [f"{np.median(search.similarity):+.2f}", "-" if accepted is None else percent(accepted)]
    return row + [""] * (columns - len(row))


def label(recognizer: Recognizer) -> str:
    """Name of a recognizer, marked if it is not independent."""
    return recognizer.name if recognizer.independent else recognizer.name + NOT_INDEPENDENT


def with_unit(evaluation: Evaluation, measure: str) -> str:
    """Name of a measure with its unit, if it has one."""
    unit = evaluation.units.get(measure, "")
    return f"{measure}, {unit}" if unit else measure


def percent(rate: Rate) -> str:
    """Format a rate with its interval in %, as `4.0 [1.6-9.8]`; `-` for no cases."""
    if not rate.count:
        return "-"
    ends = (f"{100 * end:.0f}" if end >= 0.1 else f"{100 * end:.1f}" for end in rate.interval)
    return f"{100 * rate.value:.1f} [{'-'.join(ends)}]"


def plus_minus(mean: Mean) -> str:
    """Format a mean with its interval, as `0.165 ± 0.010`; `-` for no cases."""
    return f"{mean.value:.3g} ± {mean.half_width:.2g}" if mean.count else "-"


def write_figures(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write results.json, table.csv and per_image.csv, each complete or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "results.json": as_json(evaluation),
        "table.csv": as_csv(evaluation),
        "per_image.csv": per_image_csv(evaluation),
    }
    for name, text in texts.items():
        write_whole(folder / name, text.encode())
    return [folder / name for name in texts]
