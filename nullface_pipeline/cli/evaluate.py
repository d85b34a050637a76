"""`nullface evaluate`: re-identification and utility of anonymized photos."""

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nullface_pipeline.cli.console import console, fail, notice, quiet_libraries, show
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.options import file_option, flag, model_name, number, output_option, whole_number
from nullface_pipeline.cli.threads import limit_threads
from nullface_pipeline.runs.messages import format_error, option_name


if TYPE_CHECKING:
    from nullface_pipeline.evaluation.pairs import Method
    from nullface_pipeline.evaluation.recognizers import Recognizer
    from nullface_pipeline.evaluation.results import Evaluation
    from nullface_pipeline.pipeline import StableDiffusionNullFacePipeline

PAPER = "The paper's tables and figures"


class PaperSet(StrEnum):
    celeba_hq = "celeba-hq"
    ffhq = "ffhq"


class DetectorName(StrEnum):
    tiny = "tiny"
    buffalo_l = "buffalo_l"


def evaluate(
    originals: Annotated[
        Path | None, file_option("Folder of originals, one photo per person; or see --pairs.", metavar="PATH")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Results, or a baseline: blur, pixelate, box. Repeatable."),
    ] = None,
    second_run: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="Results with another seed, for the linkage attack."),
    ] = None,
    gallery: Annotated[
        Path | None, file_option("Other photos of the people, with the same file names.", metavar="PATH")
    ] = None,
    gallery_run: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="Results of the gallery, for the linkage attack.")
    ] = None,
    pairs: Annotated[Path | None, file_option("CSV of several photos per person (columns subject, file).")] = None,
    recognizer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="dlib, tiny, buffalo_l, NAME=FILE.onnx[,OPTIONS]. Default: dlib, tiny."),
    ] = None,
    detector: Annotated[
        DetectorName, typer.Option(metavar="tiny|buffalo_l", help="Face detector.")
    ] = DetectorName.tiny,
    output: Annotated[Path | None, output_option("Folder for the report.", "PATH")] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FILE", help="Weights: pose, gaze, 3dmm, lpips, inception or musiq."),
    ] = None,
    paper: Annotated[
        PaperSet | None,
        typer.Option(
            metavar="celeba-hq|ffhq",
            help="Evaluate the paper's settings on this data set, with --images.",
            rich_help_panel=PAPER,
        ),
    ] = None,
    images: Annotated[Path | None, file_option("Folder of aligned photos.", PAPER, "PATH")] = None,
    table: Annotated[
        int | None,
        typer.Option(parser=number(1, 3, True), metavar="1|2|3", help="Number of the table.", rich_help_panel=PAPER),
    ] = None,
    figure: Annotated[
        int | None,
        typer.Option(
            parser=number(3, 12, True), metavar="3|4|5|11|12", help="Number of the figure.", rich_help_panel=PAPER
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(parser=model_name, metavar="NAME", help="Model set: tiny or sd15.", rich_help_panel=PAPER)
    ] = "sd15",
    num_subjects: Annotated[
        int | None, whole_number(2, 1_000_000, "Number of photos to use, with --paper.", PAPER)
    ] = None,
    reversal_attack: Annotated[
        str | None,
        typer.Option(
            parser=model_name,
            metavar="NAME",
            help="Model set of the reversal attack: tiny, sd15 or sdxl. Takes minutes.",
        ),
    ] = None,
    skip_missing: Annotated[
        bool, flag("--skip-missing", "Exclude originals without a result instead of failing.")
    ] = False,
    show_originals: Annotated[bool, flag("--show-originals", "Show originals in the report.")] = False,
    clear_cache: Annotated[bool, flag("--clear-cache", "Delete the cached embeddings and exit.")] = False,
) -> None:
    """Measure re-identification and utility of anonymized photos.

    nullface evaluate --originals photos/ --method mine=anonymized/ -o report/

    To resume a stopped run, run the same command again.

    Exit code: 0, or 5 if a result is identical to its original, 2 for wrong
    usage, 1 for other errors.
    """
    if clear_cache:
        return _clear_cache()
    try:
        if paper is None and (table, figure, images, num_subjects) != (None,) * 4:
            raise ValueError("--table, --figure, --images and --num-subjects need --paper.")
        if output is not None:
            _check_output(output, originals or images)
        if paper is not None:
            originals, method = _paper(paper, images, table, figure, model, num_subjects, output)
            skip_missing = True  # photos without a face, about which `_paper` prints a notice
        if originals is None or not method or output is None:
            raise ValueError("Pass --originals, --output and at least one --method.")
        if not originals.is_dir():
            raise ValueError(f"{originals} is not a folder.")
        methods = _methods(method, second_run or [], gallery_run or [])
        result = _evaluate(
            originals,
            methods,
            recognizer or ["dlib", "tiny"],
            detector,
            reversal_attack,
            skip_missing,
            weights or [],
            gallery,
            pairs,
        )
        _report(result, output, show_originals)
    except (OSError, ValueError) as error:
        fail(error)
    if any(each.leaks for each in result.methods):
        raise typer.Exit(ExitCode.leaked)


def _check_output(output: Path, originals: Path | None) -> None:
    """Refuse an output folder in which the report would be written over files of the user.

    Raises:
        ValueError: if it is a file, the folder of the originals, or has a page but no results of an
            earlier report.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output {output} is a file. Choose a folder.")
    if originals is not None and output.exists() and originals.exists() and output.samefile(originals):
        raise ValueError(f"--output {output} is the folder of the originals. Choose another folder.")
    if (output / "index.html").exists() and not (output / "results.json").exists():
        raise ValueError(f"{output / 'index.html'} is not of an earlier report. Choose another --output.")


def _paper(
    paper: PaperSet,
    images: Path | None,
    table: int | None,
    figure: int | None,
    model: str,
    num_subjects: int | None,
    output: Path | None,
) -> tuple[Path, list[str]]:
    """Compute the results of a table or figure; returns the originals and values of `--method`."""
    from rich.progress import track

    from nullface_pipeline.evaluation.paper import draw_photos, reported, select_settings

    if images is None or output is None:
        raise ValueError("--paper needs --images and --output.")
    settings = select_settings(table, figure)
    photos = draw_photos(images, paper, table, num_subjects)
    if table == 1:
        for line in reported(paper):
            console.print(line)

    from nullface_pipeline.evaluation.inpainting import INPAINTING_MODEL, load_inpainter
    from nullface_pipeline.evaluation.paper_pictures import inpainting_name, make_pictures

    quiet_libraries()
    limit_threads(model)
    pipe = _load(model)
    inpainter = load_inpainter(pipe, None if model == "tiny" else INPAINTING_MODEL) if table == 2 else None
    names = [setting.name for setting in settings] + ([inpainting_name(inpainter)] if inpainter else [])
    made = make_pictures(pipe, photos, settings, output / "pictures", inpainter=inpainter)
    for photo, reason in track(made, "pictures", total=len(photos)):
        if reason:
            notice(f"{photo.name} is excluded: {reason}")
    baselines = ["blur", "pixelate", "box"] if table == 1 else []
    return images, [*(f"{name}={output / 'pictures' / name}" for name in names), *baselines]


def _clear_cache() -> None:
    from nullface_pipeline.evaluation.cache import clear_cache

    console.print("Cache deleted." if clear_cache() else "The cache is empty.")


def _methods(values: list[str], second_run: list[str], gallery_run: list[str]) -> "list[Method]":
    """The methods with the folders of their further results."""
    from nullface_pipeline.evaluation.pairs import read_method

    methods = {}
    for method in map(read_method, values):
        if method.name in methods:
            raise ValueError(f"Two methods have the name {method.name}. Give each its own name.")
        methods[method.name] = method
    for field, runs in (("second_run", second_run), ("gallery_run", gallery_run)):
        for run in map(read_method, runs):
            if run.folder is None or run.name not in methods or methods[run.name].folder is None:
                raise ValueError(f"{option_name(field)} {run.name} needs a folder, and a --method {run.name}=FOLDER.")
            methods[run.name] = replace(methods[run.name], **{field: run.folder})  # type: ignore[arg-type]
    return list(methods.values())


def _evaluate(
    originals: Path,
    methods: "list[Method]",
    recognizer_names: list[str],
    detector: DetectorName,
    reversal_attack: str | None,
    skip_missing: bool,
    weights: list[str],
    gallery: Path | None,
    pairs: Path | None,
) -> "Evaluation":
    from nullface_pipeline.evaluation.cache import Cache
    from nullface_pipeline.evaluation.cached_models import CachedModels
    from nullface_pipeline.evaluation.recognizers import Detector, MissingModelError
    from nullface_pipeline.evaluation.run import evaluate
    from nullface_pipeline.evaluation.utility_metrics import load_measures, read_weights

    quiet_libraries()
    limit_threads(detector)
    recognizers, missing_recognizers = _recognizers(recognizer_names)
    measures, missing_measures = load_measures(read_weights(weights))
    try:
        face_detector = Detector(detector)
    except MissingModelError as error:
        fail(f"--detector {detector} {error}.")
    pipe = None if reversal_attack is None else _load(reversal_attack)
    return evaluate(
        originals,
        methods,
        recognizers,
        CachedModels(face_detector, Cache()),
        measures,
        skip_missing=skip_missing,
        reversal_pipe=pipe,
        not_run=missing_recognizers | missing_measures,
        gallery=gallery,
        pairs=pairs,
    )


def _recognizers(names: list[str]) -> "tuple[list[Recognizer], dict[str, str]]":
    """Load the available recognizers; returns them, and the reason for each missing one."""
    from functools import partial

    from nullface_pipeline.evaluation.recognizers import load_available, load_recognizer

    recognizers, missing = load_available({name: partial(load_recognizer, name) for name in names})
    for name, reason in missing.items():
        notice(f"{name} is not used: {reason}.")
    if not recognizers:
        fail("No recognizer could be loaded.")
    if len({each.name for each in recognizers}) < len(recognizers):
        raise ValueError("Two recognizers have the same name. Give each its own name.")
    return recognizers, missing


def _load(model: str) -> "StableDiffusionNullFacePipeline":
    from nullface_pipeline.model_sets import load_model_set

    try:
        return load_model_set(model)
    # Libraries raise errors of any type for a missing model.
    except Exception as error:
        fail(f"The model {model!r} could not be loaded: {format_error(error)}.")


def _report(result: "Evaluation", output: Path, show_originals: bool) -> None:
    """Write the report and print the main table."""
    from nullface_pipeline.evaluation.html_report import write_html
    from nullface_pipeline.evaluation.recognizers import MissingModelError
    from nullface_pipeline.evaluation.report import TITLES, summary_table, write_figures

    written = write_figures(result, output)
    try:
        written.append(write_html(result, output, show_originals))
    except MissingModelError as error:
        notice(f"index.html was not written: {error}.")
    console.print(summary_table(result))
    for name, gallery in result.galleries.items():
        chance = f"{100 * gallery.chance:.2g} %"
        console.print(f"{TITLES[name].capitalize()} gallery: {gallery.size} people, chance level {chance} at rank 1.")
        if gallery.excluded:
            notice(
                f"{len(gallery.excluded)} people have no photo in the {TITLES[name]} gallery and are excluded from it."
            )
        if gallery.ignored:
            notice(f"{gallery.ignored} photos of the {TITLES[name]} gallery have no original and are ignored.")
    for method in result.methods:
        if method.leaks:
            notice(f"LEAK: {method.leaks} results of {method.name} are identical to their originals.")
    if result.faceless:
        notice(f"No face was found in {len(result.faceless)} originals; they are excluded.")
    if show_originals:
        notice("The report shows originals: do not publish it.")
    console.print(f"Wrote {', '.join(show(path) for path in written)}.", soft_wrap=True)
