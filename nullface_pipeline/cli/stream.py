"""`nullface anonymize - -o -`: one photo through standard input or output."""

import io
import sys
from pathlib import Path

from nullface_pipeline.cli.console import error_console, error_message, print_tiny_notice, show
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.loading import load_anonymizer, load_model
from nullface_pipeline.cli.options import STREAM
from nullface_pipeline.cli.photo_run import FolderRun


def anonymize_stream(run: FolderRun) -> int:
    """Anonymize one photo without a record; returns the exit code.

    Raises:
        ValueError: if there is more than one photo, or an option writes further files.
    """
    from nullface_pipeline.photo_files import PhotoFileError, encode_photo, read_photo
    from nullface_pipeline.photo_records import PhotoRefusedError
    from nullface_pipeline.runs.atomic_files import write_whole
    from nullface_pipeline.runs.jobs import PhotoJob

    _check(run)
    (name,) = run.paths
    numbers: dict[str, list[int]] = {name: list(*run.skip_numbers([PhotoJob(Path(name), Path(name))]).values())}
    try:
        file = read_photo(io.BytesIO(sys.stdin.buffer.read()) if name == STREAM else name)
        result = load_anonymizer(load_model(run.model), run, skip_numbers=numbers)(file, name)
        data = encode_photo(result.image, file, run.keep_metadata)
    except (PhotoFileError, PhotoRefusedError, ValueError) as error:
        error_console.print(f"[red]refused[/red] {show(error_message(error))}", soft_wrap=True)
        return ExitCode.refused
    if str(run.output) == STREAM:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_whole(run.output, data)
    if run.model.model == "tiny":
        print_tiny_notice()
    return ExitCode.covered if any(face.method == "covered" for face in result.faces) else ExitCode.ok


def _check(run: FolderRun) -> None:
    from nullface_pipeline.runs.paths import WrittenFile, check_written

    if len(run.paths) > 1 or Path(run.paths[0]).is_dir():
        raise ValueError("- (standard input or output) needs exactly one photo.")
    for option in ("report", "contact_sheet", "dry_run"):
        if getattr(run, option):
            raise ValueError(f"--{option.replace('_', '-')} cannot be used with - (standard input or output).")
    if str(run.output) == STREAM:
        return
    result = WrittenFile(run.output, "the result", "name another file with --output")
    check_written([result], [*_standard_input(), *run.other_inputs])
    if run.output.exists() and not run.overwrite:
        raise ValueError(f"{run.output} already exists. Name another file, or pass --overwrite.")


def _standard_input() -> list[int]:
    """File descriptor of standard input, if any. The shell may have redirected the photo to it."""
    try:
        return [sys.stdin.fileno()]
    # Replaced by another object, or closed.
    except (AttributeError, OSError, ValueError):
        return []
