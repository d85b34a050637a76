"""`nullface evaluate`: how safe folders of anonymized photos are, and what they keep."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nullface_pipeline.cli.console import as_options, console, fail, notice, quiet_libraries, show, words
from nullface_pipeline.cli.options import path


if TYPE_CHECKING:
    from nullface_pipeline.evaluation.judges import Recognizer
    from nullface_pipeline.evaluation.pairs import Method
    from nullface_pipeline.evaluation.results import Evaluation

LEAKED = 2


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
        typer.Option(help="NAME=FOLDER of results, matched by name; or blur, pixelate, box. Several times."),
    ] = None,
    again: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER of a method's second results, with another seed: can the two be linked?"),
    ] = None,
    recognizer: Annotated[
        list[str] | None,
        typer.Option(
            help="dlib, tiny, buffalo_l, or NAME=FILE.onnx and with commas bgr, centred, steered. Several times; dlib "
            "and tiny by default."
        ),
    ] = None,
    detector: Annotated[DetectorName, typer.Option(help="Finds the faces.")] = DetectorName.tiny,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", parser=path, metavar="PATH", help="Folder for the report.")
    ] = None,
    recover: Annotated[
        str | None,
        typer.Option(help="Try to undo results with this model set: tiny, sd15, sdxl. Takes minutes a method."),
    ] = None,
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Leave originals without a result out of a method's figures.")
    ] = False,
    show_originals: Annotated[
        bool, typer.Option("--show-originals", help="Show originals beside their results in the report.")
    ] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Delete the embeddings that earlier runs remember, and do nothing else.")
    ] = False,
) -> None:
    """Measure how often people are found again, by whom and how, and what is kept of their faces.

    Exit code: 0, 2 if a result is its own original, 1 for wrong usage. A stopped run goes on where it was.
    """
    if forget:
        return _forget()
    try:
        if originals is None or not method or output is None:
            raise ValueError("Name the photos with --originals, at least one --method, and the report with --output.")
        methods = _methods(method, again or [])
        result = _evaluate(originals, methods, recognizer or ["dlib", "tiny"], detector, recover, skip_missing)
        _report(result, output, show_originals)
    except (OSError, ValueError) as error:
        fail(as_options(words(error)))
    if any(each.leaks for each in result.methods):
        raise typer.Exit(LEAKED)


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
) -> "Evaluation":
    from nullface_pipeline.evaluation.cache import Cache
    from nullface_pipeline.evaluation.judges import Detector, MissingModelError
    from nullface_pipeline.evaluation.look import Look
    from nullface_pipeline.evaluation.run import evaluate

    quiet_libraries()
    recognizers, not_run = _recognizers(asked)
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
        skip_missing=skip_missing,
        recover_with=pipe,
        not_run=not_run,
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
        raise ValueError(f"--recover {model}: it could not be loaded: {words(error).splitlines()[0]}") from error


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
