"""`nullface evaluate`: how safe folders of anonymized photos are, and what they keep."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nullface_pipeline.cli.console import console, fail, notice, quiet_libraries, show
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.options import FLAG, number, path
from nullface_pipeline.runs.messages import format_error


if TYPE_CHECKING:
    from nullface_pipeline.evaluation.judges import Recognizer
    from nullface_pipeline.evaluation.pairs import Method
    from nullface_pipeline.evaluation.results import Evaluation

PAPER = "The paper's tables and figures"


class PaperSet(StrEnum):
    celeba_hq = "celeba-hq"
    ffhq = "ffhq"


class DetectorName(StrEnum):
    tiny = "tiny"
    buffalo_l = "buffalo_l"


def evaluate(
    originals: Annotated[
        Path | None,
        typer.Option(
            parser=path, metavar="PATH", help="Folder of the originals: one person a photo, each person once."
        ),
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER", help="Results, matched by name; or one of blur, pixelate, box. Several times."
        ),
    ] = None,
    again: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER",
            help="A method's second results, with another seed: can the two be linked?",
        ),
    ] = None,
    recognizer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="dlib, tiny, buffalo_l, or NAME=FILE.onnx and with commas bgr, centred, steered. Several times; dlib "
            "and tiny by default.",
        ),
    ] = None,
    detector: Annotated[
        DetectorName, typer.Option(metavar="NAME", help="Finds the faces: tiny or buffalo_l.")
    ] = DetectorName.tiny,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", parser=path, metavar="PATH", help="Folder for the report.")
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="Of a measure: pose, gaze, 3dmm, lpips, inception, musiq. Several times."
        ),
    ] = None,
    paper: Annotated[
        PaperSet | None,
        typer.Option(
            metavar="SET",
            help="Make and measure the paper's pictures, with --images, of celeba-hq or ffhq.",
            rich_help_panel=PAPER,
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(parser=path, metavar="PATH", help="Folder of the set's aligned photos.", rich_help_panel=PAPER),
    ] = None,
    table: Annotated[
        int | None,
        typer.Option(parser=number(1, 3, whole=True), metavar="N", help="1, 2 or 3.", rich_help_panel=PAPER),
    ] = None,
    figure: Annotated[
        int | None,
        typer.Option(parser=number(3, 12, whole=True), metavar="N", help="3, 4, 5, 11 or 12.", rich_help_panel=PAPER),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="NAME", help="What makes the pictures: tiny or sd15.", rich_help_panel=PAPER)
    ] = "sd15",
    people: Annotated[
        int | None,
        typer.Option(
            parser=number(2, 1_000_000, whole=True),
            metavar="N",
            help="Draw so many of the photos, of any set, instead of the paper's number.",
            rich_help_panel=PAPER,
        ),
    ] = None,
    recover: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Try to undo results with tiny, sd15 or sdxl. Takes minutes a method."),
    ] = None,
    skip_missing: Annotated[
        bool,
        typer.Option(
            "--skip-missing", metavar=FLAG, help="Leave originals without a result out of a method's figures."
        ),
    ] = False,
    show_originals: Annotated[
        bool, typer.Option("--show-originals", metavar=FLAG, help="Show originals beside their results in the report.")
    ] = False,
    forget: Annotated[
        bool,
        typer.Option(
            "--forget", metavar=FLAG, help="Delete the embeddings that earlier runs remember, and do nothing else."
        ),
    ] = False,
) -> None:
    """Measure how often people are found again, and what is kept of faces.

    Exit code: 0, 5 if a result is its own original, 2 for wrong usage, 1 for
    other errors. A stopped run goes on where it was.
    """
    if forget:
        return _forget()
    try:
        if paper is not None:
            originals, method = _paper(paper, images, table, figure, model, people, output)
            skip_missing = True  # those in which no face is found, which were named
        if originals is None or not method or output is None:
            raise ValueError("Name the photos with --originals, at least one --method, and the report with --output.")
        if not originals.is_dir():
            raise ValueError(f"{originals} is no folder.")
        methods = _methods(method, again or [])
        result = _evaluate(
            originals, methods, recognizer or ["dlib", "tiny"], detector, recover, skip_missing, weights or []
        )
        _report(result, output, show_originals)
    except (OSError, ValueError) as error:
        fail(error)
    if any(each.leaks for each in result.methods):
        raise typer.Exit(ExitCode.leaked)


def _paper(
    paper: PaperSet,
    images: Path | None,
    table: int | None,
    figure: int | None,
    model: str,
    people: int | None,
    output: Path | None,
) -> tuple[Path, list[str]]:
    """Make the pictures of a table or figure; the originals, and the methods as for `--method`."""
    from rich.progress import track

    from nullface_pipeline.evaluation.paper import asked_settings, draw_photos, reported

    if images is None or output is None:
        raise ValueError("--paper needs the photos with --images and a folder with --output.")
    settings = asked_settings(table, figure)
    photos = draw_photos(images, paper, table, people)
    if table == 1:
        for line in reported(paper):
            console.print(line)

    from nullface_pipeline.evaluation.inpainting import INPAINTING_MODEL, load_inpainter
    from nullface_pipeline.evaluation.paper_pictures import inpainting_name, make_pictures

    quiet_libraries()
    pipe = _load(model)
    inpainter = load_inpainter(pipe, None if model == "tiny" else INPAINTING_MODEL) if table == 2 else None
    names = [setting.name for setting in settings] + ([inpainting_name(inpainter)] if inpainter else [])
    made = make_pictures(pipe, photos, settings, output / "pictures", inpainter=inpainter)
    for photo, reason in track(made, "pictures", total=len(photos)):
        if reason:
            notice(f"{photo.name}: left out: {reason}")
    baselines = ["blur", "pixelate", "box"] if table == 1 else []
    return images, [*(f"{name}={output / 'pictures' / name}" for name in names), *baselines]


def _forget() -> None:
    from nullface_pipeline.evaluation.cache import forget

    console.print("Forgotten." if forget() else "Nothing was remembered.")


def _methods(asked: list[str], again: list[str]) -> "list[Method]":
    """The methods by name, with their second results."""
    from nullface_pipeline.evaluation.pairs import read_method

    methods = {}
    for method in map(read_method, asked):
        if method.name in methods:
            raise ValueError(f"Two methods are called {method.name}: give each a name of its own.")
        methods[method.name] = method
    for second in map(read_method, again):
        if second.folder is None or methods.get(second.name, second).folder is None or second.name not in methods:
            raise ValueError(f"--again {second.name} needs a folder, and a --method {second.name}=FOLDER beside it.")
        methods[second.name] = replace(methods[second.name], again=second.folder)
    return list(methods.values())


def _evaluate(
    originals: Path,
    methods: "list[Method]",
    asked: list[str],
    detector: DetectorName,
    recover: str | None,
    skip_missing: bool,
    weights: list[str],
) -> "Evaluation":
    from nullface_pipeline.evaluation.cache import Cache
    from nullface_pipeline.evaluation.judges import Detector, MissingModelError
    from nullface_pipeline.evaluation.look import Look
    from nullface_pipeline.evaluation.run import evaluate
    from nullface_pipeline.evaluation.what_is_kept import load_measures, read_weights

    quiet_libraries()
    recognizers, not_run = _recognizers(asked)
    measures, without = load_measures(read_weights(weights))
    try:
        found_by = Detector(detector)
    except MissingModelError as error:
        raise ValueError(f"--detector {detector} {error}.") from error
    pipe = None if recover is None else _load(recover)
    return evaluate(
        originals,
        methods,
        recognizers,
        Look(found_by, Cache()),
        measures,
        skip_missing=skip_missing,
        recover_with=pipe,
        not_run=not_run | without,
    )


def _recognizers(asked: list[str]) -> "tuple[list[Recognizer], dict[str, str]]":
    """Those that are there, and what the others need."""
    from functools import partial

    from nullface_pipeline.evaluation.judges import load_recognizer, those_there

    recognizers, not_run = those_there({name: partial(load_recognizer, name) for name in asked})
    for name, needs in not_run.items():
        notice(f"{name}: not run: {needs}.")
    if not recognizers:
        raise ValueError("No recognizer is there, so nobody can be asked: see the notices.")
    if len({each.name for each in recognizers}) < len(recognizers):
        raise ValueError("Two recognizers have one name: give each --recognizer a name of its own.")
    return recognizers, not_run


def _load(model: str) -> Any:
    from nullface_pipeline.model_sets import load_model_set

    try:
        return load_model_set(model)
    # Libraries raise what they like for a model that is not there.
    except Exception as error:
        raise ValueError(f"{model}: it could not be loaded: {format_error(error)}.") from error


def _report(result: "Evaluation", output: Path, show_originals: bool) -> None:
    """Write everything, and print the one table."""
    from nullface_pipeline.evaluation.html_report import write_html
    from nullface_pipeline.evaluation.judges import MissingModelError
    from nullface_pipeline.evaluation.report import summary_table, write_figures

    written = write_figures(result, output)
    try:
        written.append(write_html(result, output, show_originals))
    except MissingModelError as error:
        notice(f"index.html: not made: {error}.")
    console.print(summary_table(result))
    people = len(result.originals)
    console.print(f"{people} people; guessing finds {100 * result.chance:.2g} %.")
    for method in result.methods:
        if method.leaks:
            notice(f"LEAK: {method.leaks} results of {method.name} are their originals, pixel for pixel.")
    if result.faceless:
        notice(f"No face was found in {len(result.faceless)} originals; nothing is said of them.")
    if show_originals:
        notice("The report shows originals: do not publish it.")
    console.print(f"Wrote {', '.join(show(path) for path in written)}.", soft_wrap=True)
