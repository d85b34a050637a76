"""`nullface demo`: nullface-tiny on a portrait of scikit-image."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import PIL.Image
from rich.table import Table

from nullface_pipeline.cli import options
from nullface_pipeline.cli.console import console, fail, print_tiny_notice, quiet_libraries
from nullface_pipeline.cli.threads import limit_threads


if TYPE_CHECKING:
    from nullface_pipeline.photo_records import AnonymizedPhoto
    from nullface_pipeline.runs.records import ResultRecord


PICTURES = ("input.png", "anonymized.png", "side_by_side.png")


def demo(
    output: Annotated[Path, options.output_option("Output folder.")] = Path("demo"),
    seed: Annotated[int, options.whole_number(0, options.MAX_SEED, "Seed, for repeatable results.")] = 30,
) -> None:
    """Anonymize an included portrait, without a download.

    The portrait is the astronaut of scikit-image. The model is nullface-tiny, a
    demonstration model in the package.
    """
    try:
        record = prepare_folder(output)
    except (OSError, ValueError) as error:
        fail(error)
    from skimage import data

    from nullface_pipeline.photo_files import write_picture
    from nullface_pipeline.tiny_model import load_nullface_tiny

    quiet_libraries()
    limit_threads("tiny")
    photo = PIL.Image.fromarray(data.astronaut())
    pipe = load_nullface_tiny()
    pipe.set_progress_bar_config(disable=True)
    started = time.perf_counter()
    result = pipe.anonymize(photo, seed=seed)
    seconds = time.perf_counter() - started

    for name, picture in zip(PICTURES, (photo, result.image, side_by_side(photo, result.image))):
        write_picture(picture, output / name)
        record.add_picture((output / name).read_bytes())
    console.print(faces_table(result))
    console.print(f"{seconds:.1f} s. Wrote {', '.join(PICTURES)} to {output}/", soft_wrap=True)
    print_tiny_notice()


def prepare_folder(output: Path) -> "ResultRecord":
    """Create the output folder and return the record of its pictures.

    Raises:
        OSError: if the folder or the record cannot be written.
        ValueError: if the folder is a file, or a picture would replace a file that the demo did
            not write.
    """
    from nullface_pipeline.runs.paths import WrittenFile, check_written
    from nullface_pipeline.runs.records import ResultRecord, record_path
    from nullface_pipeline.runs.resume import check_replaceable

    if output.exists() and not output.is_dir():
        raise ValueError(f"{output} is a file. Name a folder with --output.")
    output.mkdir(parents=True, exist_ok=True)
    record = ResultRecord(record_path(output))
    files = [WrittenFile(output / name, "a picture of the demo", "move it away") for name in PICTURES]
    check_written(files, [])
    check_replaceable(files, record, "name another folder with --output")
    record.prepare()
    return record


def side_by_side(first: PIL.Image.Image, second: PIL.Image.Image) -> PIL.Image.Image:
    """Combine two pictures of equal height side by side, with a narrow white gap."""
    gap = max(4, first.width // 64)
    sheet = PIL.Image.new("RGB", (first.width + gap + second.width, first.height), "white")
    sheet.paste(first, (0, 0))
    sheet.paste(second, (first.width + gap, 0))
    return sheet


def faces_table(result: "AnonymizedPhoto") -> Table:
    """Table of the faces in a result."""
    table = Table("face", "box", "detection", "similarity to the original", "method")
    for number, face in enumerate(result.faces, start=1):
        box = " ".join(f"{value:.0f}" for value in face.box)
        similarity = "" if face.similarity is None else f"{face.similarity:+.2f}"
        table.add_row(str(number), box, f"{face.score:.2f}", similarity, face.method)
    return table
