"""Folders of photos around a stand-in for the model, which paints them black: what is read, written
and refused.
"""

import json
import os
from pathlib import Path
from typing import Any

import PIL.Image

from nullface_pipeline.photo_folder import anonymize_photos, find_photos
from nullface_pipeline.photo_folder.contact_sheet import shown_name
from nullface_pipeline.runs.jobs import PhotoJob
from nullface_pipeline.runs.records import ResultRecord
from nullface_pipeline.runs.report import PhotoOutcome, append_to_report, read_report
from nullface_pipeline.runs.resume import PreviousRun, split_jobs

from .stand_in import paint_black


def run(photos: Path, output: Path, **settings: Any) -> dict[str, PhotoOutcome]:
    return {
        outcome.job.source.name: outcome
        for outcome in anonymize_photos(paint_black, find_photos([photos], output), **settings)
    }


def test_a_folder_is_mirrored_and_nothing_unprocessed_is_in_it(photos, tmp_path):
    output = tmp_path / "out"
    outcomes = run(photos, output)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        "a.jpg": "anonymized",
        "broken.jpg": "refused",
        "d.JPG": "anonymized",
        "empty.webp": "refused",
        "hard.png": "covered",
    }
    written = sorted(str(path.relative_to(output)) for path in output.rglob("*") if path.is_file())
    assert written == ["a.jpg", "b/d.JPG", "b/hard.png"]
    for path in written:
        with PIL.Image.open(output / path) as image:
            assert image.convert("RGB").getextrema() == ((0, 0),) * 3
    with PIL.Image.open(photos / "a.jpg") as original:
        assert original.getpixel((5, 5))[0] > 200, "originals stay as they are"
    assert "No face" in outcomes["empty.webp"].reason and "\n" not in outcomes["broken.jpg"].reason


def test_one_photo_that_a_library_chokes_on_does_not_stop_the_others(photos, tmp_path):
    def choke(photo, name):
        if name == "a.jpg":
            raise ArithmeticError("overflow\nin line 3")
        return paint_black(photo, name)

    outcomes = {
        outcome.job.source.name: outcome for outcome in anonymize_photos(choke, find_photos([photos], tmp_path))
    }
    assert outcomes["a.jpg"].status == "refused" and "ArithmeticError: overflow in line 3" in outcomes["a.jpg"].reason
    assert outcomes["d.JPG"].status == "anonymized"


def test_names_may_hold_what_no_text_can(photos, tmp_path):
    strange = Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9 [1].jpg"))
    strange.write_bytes((photos / "a.jpg").read_bytes())
    report, jobs = tmp_path / "report.jsonl", find_photos([strange], tmp_path / "out")
    (outcome,) = anonymize_photos(paint_black, jobs)
    append_to_report(report, outcome, "random")
    previous = PreviousRun(ResultRecord(tmp_path / "record.jsonl"), read_report(report))
    assert split_jobs(jobs, "", previous).finished == [outcome]


def test_a_contact_sheet_shows_how_a_name_is_spelt():
    for name, shown in (
        ("a\nanonymized.jpg", "a\\nanonymized.jpg"),
        ("\u202egpj.a", "\\u202egpj.a"),
        ("é.jpg", "é.jpg"),
    ):
        assert shown_name(PhotoOutcome(PhotoJob(Path("a"), Path(name)), "covered")) == shown
    assert shown_name(PhotoOutcome(PhotoJob(Path("a"), Path(os.fsdecode(b"\xff.jpg"))), "covered")).isprintable()


def test_too_little_memory_is_no_reason_to_stop(photos, tmp_path):
    def give_up(photo, name):
        raise MemoryError

    outcomes = list(anonymize_photos(give_up, find_photos([photos / "a.jpg", photos / "b"], tmp_path / "out")))
    assert len(outcomes) == 4
    assert {(outcome.status, "memory" in outcome.reason) for outcome in outcomes} == {("refused", True)}


def test_outcomes_name_no_person(photos, tmp_path):
    line = json.loads(run(photos, tmp_path / "out")["hard.png"].as_json("random"))
    hashes = {"original_sha256", "options_sha256", "result_sha256"}
    assert set(line) == {"source", "output", "status", "reason", "identity", "faces"} | hashes
    assert set(line["faces"][0]) == {"box", "score", "similarity", "attempts", "method"}
    assert json.loads(run(photos, tmp_path / "out2")["empty.webp"].as_json("random"))["output"] is None


def test_output_that_cannot_be_written_is_refused(photos, tmp_path):
    jobs = find_photos([photos], tmp_path / "out")
    (tmp_path / "out").write_text("a file where the folder should be")
    assert {outcome.status for outcome in anonymize_photos(paint_black, jobs)} == {"refused"}
