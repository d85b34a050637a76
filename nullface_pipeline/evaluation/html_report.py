"""index.html: one file with the table, the plots and strips of faces, which opens anywhere and loads nothing.

It shows results. Originals are in it only if that is asked for: whoever has the report then has them.
"""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image

from nullface_pipeline.evaluation import plots
from nullface_pipeline.evaluation.report import Figure, attack_table, figures, label, summary
from nullface_pipeline.evaluation.results import Evaluation, MethodResult, Result
from nullface_pipeline.face_crops import FaceCrop
from nullface_pipeline.runs.atomic_files import write_whole


STRIP = 12
UNDETECTED = 24
FACE = 112  # px of a face in a strip

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #1f2328; }
table { border-collapse: collapse; font-size: 13px; display: block; overflow-x: auto; }
td, th { border-bottom: 1px solid #d0d7de; padding: 4px 10px; text-align: right; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; min-width: 5em; }
td:first-child, th:first-child { text-align: left; }
svg { max-width: 100%; height: auto; }
.strip { display: flex; flex-wrap: wrap; gap: 8px; }
figure { margin: 0; font-size: 11px; text-align: center; color: #59636e; }
.leak { color: #b42318; font-weight: bold; }
"""


def write_html(evaluation: Evaluation, folder: Path, show_originals: bool = False) -> Path:
    """Write the page, complete or not at all.

    Args:
        show_originals (`bool`): put the originals beside the results in the strips.

    Raises:
        MissingModelError: without matplotlib.
    """
    plots.check_matplotlib()
    parts = [
        f"<h1>Evaluation of {len(evaluation.methods)} methods on {len(evaluation.originals)} people</h1>",
        *_leaks(evaluation),
        html_table(*summary(evaluation)),
        *_how(evaluation),
        "<h2>Who is found again</h2>",
        html_table(*attack_table(evaluation)),
        plots.cmc_plot(evaluation),
        "<h2>How alike</h2>",
        plots.similarity_plot(evaluation),
        "<h2>Privacy and what is kept</h2>",
        plots.trade_plot(evaluation),
        *_recovery(evaluation),
        "<h2>Faces</h2>",
        *(part for method in evaluation.methods for part in _strips(evaluation, method, show_originals)),
        "<h2>Every figure</h2>",
        _figures_table(list(figures(evaluation))),
    ]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>nullface evaluate</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    write_whole(path, page.encode())
    return path


def html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text in, HTML out."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _leaks(evaluation: Evaluation) -> list[str]:
    return [
        f'<p class="leak">{html.escape(method.name)}: {method.leaks} of the results are their originals, pixel for pixel.</p>'
        for method in evaluation.methods
        if method.leaks
    ]


def _how(evaluation: Evaluation) -> list[str]:
    """What the numbers mean, in words."""
    judges = "".join(
        f"<li>{html.escape(label(recognizer))}: {html.escape(recognizer.description)}"
        f"{', centred on the gallery' if recognizer.centred else ''}</li>"
        for recognizer in evaluation.recognizers
    )
    not_run = "".join(
        f"<li>{html.escape(name)}: not run: {html.escape(needs)}</li>" for name, needs in evaluation.not_run.items()
    )
    faceless = f" In {len(evaluation.faceless)} more originals no face was found." if evaluation.faceless else ""
    return [
        f"<p>Each result is looked for among all {len(evaluation.originals)} originals; guessing finds "
        f"{100 * evaluation.chance:.2g} %.{faceless} Results are aligned by their originals' landmarks, so that no face "
        "drops out. Rates in %, in brackets their 95 % intervals. <b>Worst attack</b>: the best of naive, inverted, absolute and parrot "
        "matching by any recognizer.</p>",
        f"<ul>{judges}{not_run}</ul>",
    ]


def _recovery(evaluation: Evaluation) -> list[str]:
    plot = plots.recovery_plot(evaluation)
    words = (
        "<p>The method once more on its own results. Solid: towards the negative of the result's embedding, which an "
        "attacker has. Dashed: towards the person's own, which only who knows the answer has.</p>"
    )
    return ["<h2>Recovery</h2>", words, plot] if plot else []


def _strips(evaluation: Evaluation, method: MethodResult, show_originals: bool) -> list[str]:
    """The most similar results, some at random, and those without a face."""
    judge = next((r for r in evaluation.recognizers if r.independent), evaluation.recognizers[0])
    similarity = method.recognitions[judge.name].similarity
    some = np.random.default_rng(0).permutation(len(method.results))[:STRIP]
    undetected = [index for index, result in enumerate(method.results) if result.face is None]
    strips = {
        f"most like their originals to {judge.name}": np.argsort(-similarity)[:STRIP].tolist(),
        "at random": sorted(some.tolist()),
        f"no face found ({len(undetected)}, the first {UNDETECTED} shown)": undetected[:UNDETECTED],
    }
    parts = [f"<h3>{html.escape(method.name)}</h3>"]
    for title, indices in strips.items():
        if indices:
            faces = "".join(_figure(method.results[index], similarity[index], show_originals) for index in indices)
            parts.append(f'<p>{html.escape(title)}</p><div class="strip">{faces}</div>')
    return parts


def _figure(result: Result, similarity: float, show_originals: bool) -> str:
    """One face, or the original beside it, with its name and similarity."""
    pictures = [result.original.picture, result.picture] if show_originals else [result.picture]
    crop = FaceCrop.from_landmarks(result.original.face.landmarks, FACE)
    images = "".join(embedded_image(crop.crop_image(picture.unread().pixels)) for picture in pictures)
    return f"<figure>{images}<br>{html.escape(result.original.name[-24:])}<br>{similarity:+.2f}</figure>"


def embedded_image(pixels: np.ndarray) -> str:
    """An (H, W, 3) uint8 RGB picture as an `img` that holds its own bytes."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=85)
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{data}" width="{pixels.shape[1]}" height="{pixels.shape[0]}" alt="">'


def _figures_table(every: Sequence[Figure]) -> str:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.4g}"

    rows = [
        [f.method, f.recognizer, f.name, f.denominator, number(f.value), number(f.low), number(f.high), str(f.count)]
        for f in every
    ]
    header = ["method", "recognizer", "figure", "denominator", "value", "from", "to", "of"]
    return f"<details><summary>{len(rows)} figures, as in table.csv</summary>{html_table(header, rows)}</details>"
