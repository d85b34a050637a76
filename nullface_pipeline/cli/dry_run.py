"""`nullface anonymize --dry-run`: detect faces and predict the outcome of each photo."""

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from nullface_pipeline.cli.console import console, error_console, error_message, fail, quiet_libraries, show
from nullface_pipeline.cli.exit_codes import ExitCode
from nullface_pipeline.cli.photo_run import FolderRun
from nullface_pipeline.cli.threads import limit_threads


if TYPE_CHECKING:
    from nullface_pipeline.protocols import FaceAnalyser
    from nullface_pipeline.runs.jobs import PhotoJob
    from nullface_pipeline.runs.records import ResultRecord
    from nullface_pipeline.runs.resume import PreviousRun


def preview_faces(run: FolderRun, jobs: "list[PhotoJob]", previous: "PreviousRun") -> int:
    """Detect and print the faces of each photo; returns `refused` if a photo would be refused."""
    from nullface_pipeline.model_sets import load_detector
    from nullface_pipeline.photo_folder.planned_files import check_only_previews, planned_previews
    from nullface_pipeline.runs.resume import check_replaceable

    check_only_previews(run.folder)
    if not run.overwrite:
        check_replaceable(planned_previews(jobs), previous.record)
    quiet_libraries()
    limit_threads(run.model.model)
    try:
        analyser = load_detector(run.model.model, run.model.detection_threshold)
    except (ImportError, RuntimeError) as error:
        fail(error)
    refused = 0
    for job in jobs:
        photo = _preview(analyser, job, previous.record, run.options.min_face)
        refused += photo.reason is not None
        _print(photo, run.json)
    if not run.json:
        console.print(
            f"Dry run: nothing was anonymized. The run would refuse {refused} of {len(jobs)} photo(s). A face "
            "without a frame in its preview would stay unchanged: lower --detection-threshold, here and in the run.",
            soft_wrap=True,
        )
    return ExitCode.refused if refused else ExitCode.ok


@dataclass(frozen=True)
class PreviewedFace:
    """A detected face.

    Attributes:
        number (`int`): number in the preview, from 1.
        box (`list[float]`): x0, y0, x1, y1 in pixels.
        score (`float`): detection score from 0 to 1.
        expected_method (`str`): "replaced", or "covered" if it is smaller than `min_face`.
    """

    number: int
    box: list[float]
    score: float
    expected_method: str


@dataclass(frozen=True)
class PreviewedPhoto:
    """A line of `--json`.

    Attributes:
        preview (`str`, *optional*): path of the preview.
        reason (`str`, *optional*): why the run would refuse the photo.
    """

    source: str
    faces: list[PreviewedFace] = field(default_factory=list)
    preview: str | None = None
    reason: str | None = None


def _preview(analyser: "FaceAnalyser", job: "PhotoJob", record: "ResultRecord", min_face: float) -> PreviewedPhoto:
    """Detect the faces of one photo, and write its preview."""
    from nullface_pipeline.photo_files import PhotoFileError
    from nullface_pipeline.photo_folder.preview import write_preview
    from nullface_pipeline.photo_records import PhotoRefusedError

    source = str(job.source)
    try:
        detected, preview = write_preview(analyser, job)
    # The preview cannot be written, which ends the run.
    except OSError:
        raise
    except Exception as error:
        reason = error_message(error)
        if not isinstance(error, (PhotoFileError, PhotoRefusedError)):
            reason = f"It could not be processed. {reason}"
        return PreviewedPhoto(source, reason=reason)
    record.add_picture(preview.read_bytes())
    faces = [
        PreviewedFace(
            number,
            [round(float(value), 1) for value in face.box],
            round(float(face.score), 3),
            "replaced" if face.longer_side >= min_face else "covered",
        )
        for number, face in enumerate(detected, start=1)
    ]
    return PreviewedPhoto(source, faces, str(preview), None if faces else "No face was found.")


def _print(photo: PreviewedPhoto, as_json: bool) -> None:
    if as_json:
        console.print(json.dumps(asdict(photo)), soft_wrap=True, markup=False, highlight=False)
        return
    if photo.reason is not None:
        shown = "" if photo.preview is None else f" See {photo.preview}."
        line = f"{photo.source}: {photo.reason}{shown}"
        error_console.print(f"[red]would be refused[/red] {show(line)}", soft_wrap=True)
        return
    console.print(show(f"{photo.source}: {len(photo.faces)} face(s); {photo.preview}"), soft_wrap=True)
    for face in photo.faces:
        box = ",".join(f"{value:.0f}" for value in face.box)
        console.print(f"  {face.number}: {box}, {face.expected_method}", soft_wrap=True)
