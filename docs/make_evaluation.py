"""Make the tables, plots and faces of `evaluation-results.md` from reports of `nullface evaluate`.

    python -m docs.make_evaluation REPORTS

`REPORTS` contains the reports `t1`, `t2`, `t3`, `reconstruction` and `figures` of nullface-tiny,
and the folders `originals` and `pictures` (tables 1 to 3). Tables are printed in Markdown.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import PIL.Image


FOLDER = Path(__file__).parent / "evaluation"
RECOGNIZERS = ("dlib", "MobileFace", "VGGFace2")
# Utility metrics and their number of decimals.
MEASURES = {
    "head_pose_hopenet_type": 1,
    "landmarks_dlib": 1,
    "expression_dlib_landmarks": 1,
    "ssim_outside_the_face": 3,
}
FIGURES = {
    "figure 3: skip": {f"skip {v:g}": v for v in (0.0, 0.3, 0.5, 0.7, 0.9)},
    "figure 4: identity scale": {f"identity scale {v:g}": v for v in (0.0, 0.33, 0.67, 1.0)},
    "figures 5 and 11: guidance": {f"guidance {v:g}": v for v in (2.5, 5.0, 7.5, 10.0, 15.0, 20.0)},
    "figure 12: mask from": {f"mask from {v}": v for v in (70, 80, 90)},
}
# The run with the paper's settings is shared by three figures.
SAME = dict.fromkeys(("skip 0.7", "identity scale 1", "guidance 10"), "as in table 2")
# Methods of the rows of faces, below the originals.
ROWS = ("NullFace", "NullFace, whole face", "inpainting by blending", "eyes and nose kept", "whole face")
SHOWN = 8


class Report:
    """Figures of a results.json by method, attack, metric and recognizer."""

    def __init__(self, folder: Path) -> None:
        record = json.loads((folder / "results.json").read_text())
        self.methods = list(dict.fromkeys(figure["method"] for figure in record["figures"]))
        self.figures: dict[tuple[str, str, str, str], dict[str, Any]] = {
            (figure["method"], figure["attack"], figure["metric"], figure["recognizer"]): figure
            for figure in record["figures"]
            if figure["denominator"] in ("gt_aligned", "") and figure["gallery"] in ("same_photo", "")
        }

    def rate(self, method: str, attack: str, recognizer: str, metric: str = "rank_1") -> dict[str, float]:
        """Rate in %, with its interval `low` and `high`."""
        figure = self.figures[method, attack, metric, recognizer]
        return {key: 100.0 * figure[key] for key in ("value", "low", "high")}

    def worst(self, method: str) -> tuple[str, str, dict[str, float]]:
        """Attack, recognizer and rate of the worst attack on a method."""
        metric = "worst_attack_rank_1"
        attack, recognizer = next((by, who) for at, by, what, who in self.figures if (at, what) == (method, metric))
        return attack, recognizer, self.rate(method, attack, recognizer, metric)


def format_rate(rate: dict[str, float]) -> str:
    """Rate and interval as text."""
    return f"{rate['value']:.1f} [{rate['low']:.1f}–{rate['high']:.1f}]"


def table(report: Report) -> str:
    """Markdown rows of all methods of a report."""
    header = [
        "",
        *RECOGNIZERS,
        "least similar, dlib",
        "worst attack",
        "pose",
        "landmarks",
        "expression",
        "SSIM outside",
    ]
    lines = [header, ["---"] * len(header)]
    for method in report.methods:
        attack, recognizer, worst = report.worst(method)
        cells = [format_rate(report.rate(method, "most_similar", recognizer)) for recognizer in RECOGNIZERS]
        cells.append(format_rate(report.rate(method, "least_similar", "dlib")))
        cells.append(f"{worst['value']:.1f} {attack}, {recognizer}")
        for name, digits in MEASURES.items():
            figure = report.figures.get((method, "", name, ""))
            cells.append("" if figure is None else f"{figure['value']:.{digits}f}")
        lines.append([method, *cells])
    return "\n".join(f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines)


def draw_regions(report: Report, path: Path) -> None:
    """Plot the rank-1 rates for seven sets of kept regions."""
    figure, axis = plt.subplots(figsize=(9, 3.6), layout="constrained")
    width = 0.8 / len(RECOGNIZERS)
    for place, recognizer in enumerate(RECOGNIZERS):
        rates = [report.rate(method, "most_similar", recognizer) for method in report.methods]
        values = np.array([rate["value"] for rate in rates])
        spread = [values - [rate["low"] for rate in rates], [rate["high"] for rate in rates] - values]
        at = np.arange(len(rates)) + (place - (len(RECOGNIZERS) - 1) / 2) * width
        axis.bar(at, values, width, yerr=spread, capsize=2, label=recognizer, error_kw={"linewidth": 0.8})
    axis.set_xticks(range(len(report.methods)), [name.removesuffix(" kept") for name in report.methods], fontsize=9)
    axis.set(ylabel="found at rank 1, %", ylim=(0, None))
    axis.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def draw_figures(report: Report, path: Path) -> None:
    """Plot the paper's sweeps: rank-1 rates above, landmark drift below."""
    figure, axes = plt.subplots(2, len(FIGURES), figsize=(14, 5.6), sharex="col", layout="constrained")
    for column, (title, points) in zip(axes.T, FIGURES.items()):
        for prefix in ("",) if "mask" not in title else ("eyes kept, ", "mouth kept, "):
            methods = [SAME.get(prefix + name, prefix + name) for name in points]
            for recognizer in RECOGNIZERS if not prefix else ("dlib",):
                rates = [report.rate(method, "most_similar", recognizer)["value"] for method in methods]
                column[0].plot(list(points.values()), rates, marker="o", label=prefix + recognizer)
            worst = [report.worst(method)[2]["value"] for method in methods]
            column[0].plot(list(points.values()), worst, ":", color="0.4", label=f"{prefix}worst attack")
            kept = [report.figures[method, "", "landmarks_dlib", ""]["value"] for method in methods]
            column[1].plot(list(points.values()), kept, marker="o", label=prefix or None)
        column[0].set(title=title, ylim=(-2, None))
        column[1].set(ylim=(0, None))
        column[0].legend(fontsize=7)
    axes[0, 0].set_ylabel("found at rank 1, %")
    axes[1, 0].set_ylabel("landmarks, % of the eyes' distance")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def show_faces(reports: Path, path: Path) -> None:
    """Picture of some people and their results, one row per method."""
    folders = [reports / "originals", *(reports / "pictures" / name for name in ROWS)]
    names = sorted(file.name for file in folders[1].iterdir())
    chosen = [names[index] for index in np.linspace(0, len(names) - 1, SHOWN + 2).astype(int)[1:-1]]
    rows = [[np.asarray(PIL.Image.open(folder / name).convert("RGB")) for name in chosen] for folder in folders]
    sheet = np.concatenate([np.concatenate(row, axis=1) for row in rows])
    PIL.Image.fromarray(sheet).save(path, quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", type=Path)
    reports = parser.parse_args().reports
    matplotlib.use("Agg")
    for name in ("reconstruction", "t1", "t2", "t3", "figures"):
        print(f"\n{name}\n\n{table(Report(reports / name))}")
    draw_regions(Report(reports / "t3"), FOLDER / "table3.png")
    draw_figures(Report(reports / "figures"), FOLDER / "figures.png")
    show_faces(reports, FOLDER / "faces.jpg")


if __name__ == "__main__":
    main()
