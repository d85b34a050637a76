"""The plots of a report, as SVG text."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from nullface_pipeline.evaluation.rates import cumulative_matches
from nullface_pipeline.evaluation.recognizers import MissingModelError
from nullface_pipeline.evaluation.report import cmc_length, label, with_unit
from nullface_pipeline.evaluation.results import Evaluation


PANEL = (4.2, 3.2)  # inches
BINS = 100


@contextmanager
def panels(count: int) -> Iterator[tuple[Any, list[Any], list[str]]]:
    """A figure of so many panels side by side; its SVG is appended to the list when the block ends."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    # Letters stay letters, so that plots are small and can be searched; the same data make the same bytes; a "$" in a
    # method's name is not TeX.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "nullface", "text.parse_math": False, "font.size": 9}):
        figure = Figure(figsize=(PANEL[0] * count, PANEL[1]), layout="constrained")
        made: list[str] = []
        yield figure, list(np.atleast_1d(figure.subplots(1, count))), made
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    made.append(file.getvalue()[file.getvalue().index("<svg") :])


def cmc_plot(evaluation: Evaluation) -> str:
    """How often the person is among the first k, for every recognizer."""
    ranks = np.arange(1, cmc_length(evaluation) + 1)
    with panels(len(evaluation.recognizers)) as (_, axes, made):
        for axis, recognizer in zip(axes, evaluation.recognizers):
            for method in evaluation.methods:
                ranks_of = method.recognitions[recognizer.name].attacks["most_similar"]
                rates = cumulative_matches(ranks_of.found_within, len(ranks))
                axis.plot(ranks, 100 * np.array(rates), label=method.name)
            axis.plot(ranks, 100 * ranks * evaluation.chance, color="grey", linestyle=":", label="chance")
            axis.set(title=label(recognizer), xlabel="rank", ylabel="found within, %", ylim=(0, None))
            axis.grid(alpha=0.3)
        axes[0].legend()
    return made[0]


def similarity_plot(evaluation: Evaluation) -> str:
    """Similarities of strangers, and of results to their originals, with the calibrated thresholds."""
    edges = np.linspace(-1, 1, BINS + 1)
    with panels(len(evaluation.recognizers)) as (_, axes, made):
        for axis, recognizer in zip(axes, evaluation.recognizers):
            impostors = evaluation.impostor_scores[recognizer.name].coarse(BINS)
            density = impostors / max(impostors.sum(), 1) * BINS / 2
            axis.fill_between(edges[:-1], density, step="post", color="lightgrey", label="impostors")
            for method in evaluation.methods:
                similarity = method.recognitions[recognizer.name].similarity
                counts, _ = np.histogram(similarity, bins=BINS // 4, range=(-1, 1))
                axis.stairs(counts / counts.sum() * BINS / 8, edges[::4], label=method.name)
            for far, threshold in evaluation.thresholds[recognizer.name].items():
                if threshold is not None:
                    axis.axvline(threshold, color="black", linewidth=0.6, linestyle="--")
                    axis.text(threshold, 0.98, f"FAR {far:g}", rotation=90, va="top", ha="right", fontsize=6)
                    axis.texts[-1].set_transform(axis.get_xaxis_transform())
            axis.set(title=label(recognizer), xlabel="similarity", ylabel="density", xlim=(-0.8, 1))
        axes[0].legend()
    return made[0]


def trade_off_plot(evaluation: Evaluation) -> str:
    """The worst attack against what is kept: one panel for each measure, or for the share of faces still detected."""
    measures: list[str] = list(dict.fromkeys(name for method in evaluation.methods for name in method.distances))
    with panels(max(1, len(measures))) as (_, axes, made):
        for axis, measure in zip(axes, measures or [""]):
            for method in evaluation.methods:
                rate = evaluation.worst(method).rate
                low, high = rate.interval
                kept = 100 * method.detected.value if not measure else method.means()[measure].value
                spread = 0.0 if not measure else method.means()[measure].half_width
                off = [[100 * (rate.value - low)], [100 * (high - rate.value)]]
                axis.errorbar(kept, 100 * rate.value, yerr=off, xerr=spread, marker="o", capsize=2, label=method.name)
            axis.axhline(100 * evaluation.chance, color="grey", linestyle=":")
            xlabel = with_unit(evaluation, measure) if measure else "faces still detected, %"
            axis.set(xlabel=xlabel, ylabel="worst attack at rank 1, %", ylim=(0, None))
            axis.grid(alpha=0.3)
        axes[0].legend()
    return made[0]


def reversal_plot(evaluation: Evaluation) -> str:
    """Rank 1 of the reversal attack over guidance, a line for each skip; one panel for each recognizer. "" if none was tried."""
    tried = [method for method in evaluation.methods if method.reversal]
    if not tried:
        return ""
    with panels(len(evaluation.recognizers)) as (_, axes, made):
        for axis, recognizer in zip(axes, evaluation.recognizers):
            for method in tried:
                lines: dict[tuple[str, float], list[tuple[float, float]]] = {}
                for point in method.reversal:
                    rate = 100 * point.rank1[recognizer.name].value
                    lines.setdefault((point.towards, point.skip), []).append((point.guidance_scale, rate))
                for (towards, skip), points in lines.items():
                    style = "-" if towards == "negated" else "--"
                    axis.plot(*zip(*points), style, marker="o", label=f"{method.name}, {towards}, skip {skip}")
            axis.axhline(100 * evaluation.chance, color="grey", linestyle=":")
            axis.set(title=label(recognizer), xlabel="guidance", ylabel="rank 1, %", ylim=(0, None))
        axes[0].legend(fontsize=6)
    return made[0]


def check_matplotlib() -> None:
    """Raises MissingModelError where plots cannot be made."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingModelError("needs the package matplotlib: pip install matplotlib") from error
