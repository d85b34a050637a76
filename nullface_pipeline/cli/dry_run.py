"""`nullface anonymize --dry-run`: which faces would be found."""

from typing import TYPE_CHECKING, Any

from rich.table import Table

from nullface_pipeline.cli.asked import Asked
from nullface_pipeline.cli.console import console, fail, quiet_libraries, show, words


if TYPE_CHECKING:
    from nullface_pipeline.photo_folder import Earlier, PhotoJob, ResultRecord


def look_for_faces(asked: Asked, jobs: "list[PhotoJob]", earlier: "Earlier") -> int:
    """Look for faces only; returns the exit code."""
    from nullface_pipeline.model_sets import load_detector
    from nullface_pipeline.photo_folder.paths import planned_previews
    from nullface_pipeline.photo_folder.resume import check_only_previews, check_replaceable

    check_only_previews(asked.output)
    if not asked.overwrite:
        check_replaceable(planned_previews(jobs), earlier.record)
    quiet_libraries()
    try:
        detector = load_detector(asked.model, asked.detection_threshold)
    except (ImportError, RuntimeError) as error:
        fail(words(error))
    table = Table("photo", "faces", "sizes in px", "preview")
    refused = sum(not _add_preview(table, detector, job, earlier.record) for job in jobs)
    console.print(table)
    console.print("A dry run: nothing was anonymized. A face that a preview shows uncovered would be missed.")
    return 3 if refused else 0


def _add_preview(table: Table, detector: Any, job: "PhotoJob", record: "ResultRecord") -> bool:
    """One row of the table; returns whether there is a preview."""
    from nullface_pipeline.photo_files import PhotoFileError
    from nullface_pipeline.photo_folder.preview import write_preview
    from nullface_pipeline.photo_folder.run import in_words
    from nullface_pipeline.photo_records import PhotoRefusedError

    try:
        faces, preview = write_preview(detector, job)
    # Previews that cannot be written are no matter of one photo.
    except OSError:
        raise
    except Exception as error:
        reason = str(error) if isinstance(error, (PhotoFileError, PhotoRefusedError)) else in_words(error)
        table.add_row(show(job.source), "", "", f"[red]refused:[/red] {show(reason)}")
        return False
    record.add_picture(preview.read_bytes())
    sizes = ", ".join(f"{face.longer_side:.0f}" for face in faces)
    table.add_row(show(job.source), str(len(faces)), sizes, show(preview))
    return True
