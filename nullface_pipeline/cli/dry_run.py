"""`nullface anonymize --dry-run`: detect faces, and predict what the run would do with each photo."""

import json
from typing import TYPE_CHECKING, Any

from nullface_pipeline.cli.console import console, error_console, error_message, fail, quiet_libraries, show
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.photo_run import FolderRun
from nullface_pipeline.cli.threads import limit_threads


if TYPE_CHECKING:
    from nullface_pipeline.runs.jobs import PhotoJob
    from nullface_pipeline.runs.records import ResultRecord
    from nullface_pipeline.runs.resume import PreviousRun


def look_for_faces(run: FolderRun, jobs: "list[PhotoJob]", previous: "PreviousRun") -> int:
    """Detect faces and report each photo. Returns the exit code of the real run, except for covers."""
    from nullface_pipeline.model_sets import load_detector
    from nullface_pipeline.photo_folder.planned_files import check_only_previews, planned_previews
    from nullface_pipeline.runs.resume import check_replaceable

    check_only_previews(run.folder)
    if not run.overwrite:
        check_replaceable(planned_previews(jobs), previous.record)
    quiet_libraries()
    limit_threads(run.model.model)
    try:
        detector = load_detector(run.model.model, run.model.detection_threshold)
    except (ImportError, RuntimeError) as error:
        fail(error)
    refused = 0
    for job in jobs:
        row = _preview(detector, job, previous.record, run.options.min_face)
        refused += row["reason"] is not None
        _tell(row, run.json)
    if not run.json:
        console.print(
            f"A dry run: nothing was anonymized. The run would refuse {refused} of {len(jobs)} photo(s). A face that a "
            "preview shows uncovered would be missed.",
            soft_wrap=True,
        )
    return ExitCode.refused if refused else ExitCode.ok


def _preview(detector: Any, job: "PhotoJob", record: "ResultRecord", min_face: float) -> dict[str, Any]:
    """Result of one photo, in the fields of `--json`."""
    from nullface_pipeline.photo_files import PhotoFileError
    from nullface_pipeline.photo_folder.preview import write_preview
    from nullface_pipeline.photo_records import PhotoRefusedError

    row: dict[str, Any] = {"source": str(job.source), "faces": [], "preview": None, "reason": None}
    try:
        faces, preview = write_preview(detector, job)
    # Previews that cannot be written are no matter of one photo.
    except OSError:
        raise
    except Exception as error:
        known = isinstance(error, (PhotoFileError, PhotoRefusedError))
        refused = error_message(error)
        return row | {"reason": refused if known else f"It could not be processed. {refused}"}
    record.add_picture(preview.read_bytes())
    row["preview"] = str(preview)
    row["faces"] = [
        {
            "number": number,
            "box": [round(float(value), 1) for value in face.box],
            "score": round(float(face.score), 3),
            "expected_method": "replaced" if face.longer_side >= min_face else "covered",
        }
        for number, face in enumerate(faces, start=1)
    ]
    return row if faces else row | {"reason": "No face was found."}


def _tell(row: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.print(json.dumps(row), soft_wrap=True, markup=False, highlight=False)
        return
    if row["reason"] is not None:
        shown = "" if row["preview"] is None else f" See {row['preview']}."
        line = f"{row['source']}: {row['reason']}{shown}"
        error_console.print(f"[red]would be refused[/red] {show(line)}", soft_wrap=True)
        return
    console.print(show(f"{row['source']}: {len(row['faces'])} face(s); {row['preview']}"), soft_wrap=True)
    for face in row["faces"]:
        box = ",".join(f"{value:.0f}" for value in face["box"])
        console.print(f"  {face['number']}: {box}, {face['expected_method']}", soft_wrap=True)
