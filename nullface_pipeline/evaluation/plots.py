"""Plots of a report as SVG."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from nullface_pipeline.evaluation.rates import cumulative_matches
from nullface_pipeline.evaluation.recognizers import MissingModelError
from nullface_pipeline.evaluation.report import ORIGINALS, cmc_length, label, with_unit
from nullface_pipeline.evaluation.results import Evaluation


if TYPE_CHECKING:
    from matplotlib.axes import Axes


PANEL = (4.2, 3.2)  # inches
BINS = 100


@contextmanager
def panels(count: int) -> Iterator[tuple["list[Axes]", list[str]]]:
    """Context of panels side by side, and a list to which their SVG is appended at its end."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Text is not drawn as paths, output is reproducible, and "$" in a name does not start TeX.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "nullface", "text.parse_math": False, "font.size": 9}):
        figure = Figure(figsize=(PANEL[0] * count, PANEL[1]), layout="constrained")
        made: list[str] = []
        yield list(np.atleast_1d(figure.subplots(1, count))), made
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    made.append(file.getvalue()[file.getvalue().index("<svg") :])


def cmc_plot(evaluation: Evaluation, gallery: str) -> str:
    """Rank-k rates of the most similar match in a gallery, one panel for each recognizer."""
    searched = evaluation.galleries[gallery]
    ranks = np.arange(1, cmc_length(searched) + 1)
    with panels(len(evaluation.recognizers)) as (axes, made):
        for axis, recognizer in zip(axes, evaluation.recognizers):
            found = {
                method.name: method.recognitions[gallery][recognizer.name].attacks["most_similar"].found_within
                for method in evaluation.methods
            }
            if recognizer.name in searched.originals:
                found[ORIGINALS] = searched.originals[recognizer.name].ranks.found_within
            for name, found_within in found.items():
                rates = cumulative_matches(found_within, len(ranks))
                color, line = ("black", "--") if name == ORIGINALS else (None, "-")
                axis.plot(ranks, 100 * np.array(rates), label=name, color=color, linestyle=line)
            axis.plot(ranks, 100 * ranks * searched.chance, color="grey", linestyle=":", label="chance")
            axis.set(title=label(recognizer), xlabel="rank", ylabel="found within, %", ylim=(0, None))
            axis.grid(alpha=0.3)
        axes[0].legend()
    return made[0]


def similarity_plot(evaluation: Evaluation, gallery: str) -> str:
    """Histograms of impostor and genuine scores in a gallery, one panel for each recognizer."""
    edges, searched = np.linspace(-1, 1, BINS + 1), evaluation.galleries[gallery]
    with panels(len(evaluation.recognizers)) as (axes, made):
        for axis, recognizer in zip(axes, evaluation.recognizers):
            impostors = searched.impostor_scores[recognizer.name].coarse(BINS)
            density = impostors / max(impostors.sum(), 1) * BINS / 2
            axis.fill_between(edges[:-1], density, step="post", color="lightgrey", label="impostors")
            for method in evaluation.methods:
                similarity = method.recognitions[gallery][recognizer.name].similarity
                _stairs(axis, similarity, edges, label=method.name)
            if recognizer.name in searched.originals:
                similarity = searched.originals[recognizer.name].similarity
                _stairs(axis, similarity, edges, label=ORIGINALS)
            for far, threshold in searched.thresholds[recognizer.name].items():
                if threshold is not None:
                    axis.axvline(threshold, color="black", linewidth=0.6, linestyle="--")
                    axis.text(threshold, 0.98, f"FAR {far:g}", rotation=90, va="top", ha="right", fontsize=6)
                    axis.texts[-1].set_transform(axis.get_xaxis_transform())
            axis.set(title=label(recognizer), xlabel="similarity", ylabel="density", xlim=(-0.8, 1))
        axes[0].legend()
    return made[0]


def _stairs(axis: "Axes", similarity: np.ndarray, edges: np.ndarray, label: str) -> None:
    """Plot the density of similarities in a quarter of the bins."""
    counts, _ = np.histogram(similarity, bins=BINS // 4, range=(-1, 1))
    color, line = ("black", "--") if label == ORIGINALS else (None, "-")
    axis.stairs(counts / counts.sum() * BINS / 8, edges[::4], label=label, color=color, linestyle=line)


def trade_off_plot(evaluation: Evaluation, gallery: str) -> str:
    """Worst attack in a gallery against utility, one panel for each measure."""
    measures: list[str] = list(dict.fromkeys(name for method in evaluation.methods for name in method.distances))
    with panels(max(1, len(measures))) as (axes, made):
        for axis, measure in zip(axes, measures or [""]):
            for method in evaluation.methods:
                rate = method.worst(gallery).rate
                low, high = rate.interval
                kept = 100 * method.detected.value if not measure else method.means()[measure].value
                spread = 0.0 if not measure else method.means()[measure].half_width
                off = [[100 * (rate.value - low)], [100 * (high - rate.value)]]
                axis.errorbar(kept, 100 * rate.value, yerr=off, xerr=spread, marker="o", capsize=2, label=method.name)
            axis.axhline(100 * evaluation.galleries[gallery].chance, color="grey", linestyle=":")
            xlabel = with_unit(evaluation, measure) if measure else "detected faces, %"
            axis.set(xlabel=xlabel, ylabel="worst attack at rank 1, %", ylim=(0, None))
            axis.grid(alpha=0.3)
        axes[0].legend()
    return made[0]


def reversal_plot(evaluation: Evaluation, gallery: str) -> str:
    """Rank-1 rates of the reversal attack over guidance, by skip; "" if it was not run."""
    points_of = {
        method.name: [point for point in method.reversal if point.gallery == gallery] for method in evaluation.methods
    }
    if not any(points_of.values()):
        return ""
    with panels(len(evaluation.recognizers)) as (axes, made):
        for axis, recognizer in zip(axes, evaluation.recognizers):
            for name, points_of_method in points_of.items():
                lines: dict[tuple[str, float], list[tuple[float, float]]] = {}
                for point in points_of_method:
                    rate = 100 * point.rank1[recognizer.name].value
                    lines.setdefault((point.towards, point.skip), []).append((point.guidance_scale, rate))
                for (towards, skip), points in lines.items():
                    style = "-" if towards == "negated" else "--"
                    axis.plot(*zip(*points), style, marker="o", label=f"{name}, {towards}, skip {skip}")
            axis.axhline(100 * evaluation.galleries[gallery].chance, color="grey", linestyle=":")
            axis.set(title=label(recognizer), xlabel="guidance", ylabel="rank 1, %", ylim=(0, None))
        axes[0].legend(fontsize=6)
    return made[0]


def check_matplotlib() -> None:
    """Raise MissingModelError if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingModelError("needs the package matplotlib: pip install matplotlib") from error
