"""HTML report: one self-contained page with tables, plots and faces of results.

Originals are shown only with `show_originals`, because the page then contains them.
"""

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import PIL.Image
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from nullface_pipeline.evaluation import plots
from nullface_pipeline.evaluation.report import TITLES, Figure, attack_table, figures, label, summary
from nullface_pipeline.evaluation.results import SAME_PHOTO, Evaluation, MethodResult, Result
from nullface_pipeline.face_crops import FaceCrop
from nullface_pipeline.runs.atomic_files import write_whole


TEMPLATE = Path(__file__).parent / "report.html.jinja"

STRIP = 12
UNDETECTED = 24
FACE = 112  # px of a face in a strip


@dataclass(frozen=True)
class ShownFace:
    """Face in a strip, with its result, or its original and result, as JPEG in base64."""

    name: str
    similarity: float
    pictures: list[str]


@dataclass(frozen=True)
class Strip:
    """A row of faces."""

    title: str
    faces: list[ShownFace]


def write_html(evaluation: Evaluation, folder: Path, show_originals: bool = False) -> Path:
    """Write the page, complete or not at all.

    Args:
        show_originals (`bool`): show the originals beside the results.

    Raises:
        MissingModelError: without matplotlib.
    """
    plots.check_matplotlib()
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE.parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template(TEMPLATE.name).render(
        evaluation=evaluation,
        label=label,
        summary=summary(evaluation),
        attacks=attack_table(evaluation),
        titles=TITLES,
        galleries=[
            {
                "title": TITLES[name],
                "cmc": plots.cmc_plot(evaluation, name),
                "similarity": plots.similarity_plot(evaluation, name),
                "trade_off": plots.trade_off_plot(evaluation, name),
                "reversal": plots.reversal_plot(evaluation, name),
            }
            for name in evaluation.galleries
        ],
        faces=[(method, list(strips(evaluation, method, show_originals))) for method in evaluation.methods],
        size=FACE,
        columns=[column.name for column in fields(Figure)],
        figures=[figure_cells(figure) for figure in figures(evaluation)],
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "index.html"
    write_whole(path, page.lstrip().encode())
    return path


def strips(evaluation: Evaluation, method: MethodResult, show_originals: bool) -> Iterator[Strip]:
    """Yield strips of the most similar results, of random ones, and of those without a face."""
    recognizer = next((r for r in evaluation.recognizers if r.independent), evaluation.recognizers[0])
    recognition = method.recognitions[SAME_PHOTO][recognizer.name]
    similarity = np.full(len(method.results), np.nan)
    similarity[recognition.index] = recognition.similarity
    some = np.random.default_rng(0).permutation(len(method.results))[:STRIP]
    undetected = [index for index, result in enumerate(method.results) if result.face is None]
    chosen: dict[str, Sequence[int]] = {
        f"most similar to their originals by {recognizer.name}": np.argsort(-similarity)[:STRIP].tolist(),
        "at random": sorted(some.tolist()),
        f"no face found ({len(undetected)}, the first {UNDETECTED} shown)": undetected[:UNDETECTED],
    }
    for title, indices in chosen.items():
        if indices:
            faces = [shown_face(method.results[index], float(similarity[index]), show_originals) for index in indices]
            yield Strip(title, faces)


def shown_face(result: Result, similarity: float, show_originals: bool) -> ShownFace:
    """Crop a result to its face, after the original if originals are shown."""
    pictures = [result.original.picture, result.picture] if show_originals else [result.picture]
    crop = FaceCrop.from_landmarks(result.original.face.landmarks, FACE)
    encoded = [as_jpeg(crop.crop_image(picture.unread().pixels)) for picture in pictures]
    return ShownFace(result.original.name[-24:], similarity, encoded)


def as_jpeg(pixels: np.ndarray) -> str:
    """Encode an (H, W, 3) uint8 RGB picture as JPEG in base64."""
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, "JPEG", quality=85)
    return base64.b64encode(file.getvalue()).decode()


def figure_cells(figure: Figure) -> list[str]:
    """The fields of a figure as text; an empty cell for None."""
    values = [getattr(figure, column.name) for column in fields(figure)]
    return [f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value) for value in values]
