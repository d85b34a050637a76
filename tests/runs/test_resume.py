"""Which results are finished: those whose record has the hashes of this photo and these options."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from nullface_pipeline.photo_folder import anonymize_photos, find_photos
from nullface_pipeline.photo_records import NoFaceFoundError
from nullface_pipeline.runs.digests import options_digest
from nullface_pipeline.runs.jobs import PhotoJob
from nullface_pipeline.runs.records import ResultRecord, record_path
from nullface_pipeline.runs.report import append_to_report, read_report
from nullface_pipeline.runs.resume import PreviousRun, split_jobs

from ..photo_folder.stand_in import paint_black


@pytest.fixture
def record(tmp_path: Path) -> Any:
    record = ResultRecord(tmp_path / "state" / "record.jsonl")
    record.prepare()
    return record


@pytest.fixture
def one(photos: Path, tmp_path: Path, record: Any) -> PhotoJob:
    """A photo and its finished result."""
    (job,) = find_photos([photos / "a.jpg"], tmp_path / "out")
    (outcome,) = anonymize_photos(paint_black, [job], options="same", before_writing=record.add)
    assert outcome.status == "anonymized"
    return job


def split(job: PhotoJob, record: Any, options: Any = "same", **settings: Any) -> str:
    """Which of three it is."""
    end = split_jobs([job], options, PreviousRun(ResultRecord(record.path)), **settings)
    return "finished" if end.finished else "refused" if end.refused else "pending"


def test_what_is_recorded_is_done(one, record):
    assert split(one, record) == "finished"
    assert split(one, record, resume=False) == "pending"
    one.output.unlink()
    assert split(one, record) == "pending"


def test_other_options_a_changed_photo_another_person(one, photos, record):
    assert split(one, record, options="other") == "pending"
    shutil.copy(photos / "b" / "d.JPG", one.source)
    with one.source.open("ab") as file:
        file.write(b"\0")
    assert split(one, record) == "pending"
    shutil.copy(photos / "b" / "hard.png", one.source)
    assert split(one, record) == "pending"


@pytest.mark.parametrize("resume", [True, False])
def test_a_file_that_nobody_knows_is_refused(one, record, resume):
    one.output.write_bytes(b"edited by hand")
    assert split(one, record, resume=resume) == "refused"
    assert split(one, record, resume=resume, overwrite=True) == "pending"


def test_the_original_is_never_a_result(one, photos, record):
    for other in (one.source, photos / "b" / "hard.png"):
        shutil.copy(other, one.output)
        assert split(one, record) == "refused"
        assert split(one, record, overwrite=True) == "pending"
    one.output.unlink()
    one.output.symlink_to(photos / "b" / "hard.png")
    assert split(one, record) == "refused"
    one.output.unlink()
    one.output.symlink_to("nowhere")
    assert split(one, record) == "refused"
    one.output.unlink()
    one.output.mkdir()
    assert split(one, record) == "refused"


def test_not_even_if_a_record_says_so(one, record):
    """Forged, or of a version that could err."""
    shutil.copy(one.source, one.output)
    hashes = next(iter(anonymize_photos(paint_black, [one], options="same"))).hashes
    record.add(type(hashes)(hashes.original, "same", hashes.original))
    shutil.copy(one.source, one.output)
    assert split(one, record) == "refused"


def test_another_photos_original_under_this_name(one, photos, tmp_path, record):
    jobs = find_photos([photos], tmp_path / "out")
    hard = next(job for job in jobs if job.source.name == "hard.png")
    hard.output.parent.mkdir(parents=True)
    shutil.copy(one.source, hard.output)
    end = split_jobs(jobs, "same", PreviousRun(record))
    assert [outcome.job for outcome in end.refused] == [hard] and "is an original" in end.refused[0].reason


def test_killed_between_recording_and_appearing(photos, tmp_path, record):
    (job,) = find_photos([photos / "a.jpg"], tmp_path / "out")

    def killed(hashes):
        record.add(hashes)
        raise OSError("killed")

    (outcome,) = anonymize_photos(paint_black, [job], before_writing=killed)
    assert outcome.status == "refused" and not list((tmp_path / "out").iterdir())
    assert split(job, record, options="") == "pending"


def test_a_damaged_record_vouches_for_nothing(one, record):
    whole = record.path.read_bytes()
    for damaged in (whole[:-9], b"\xff\n", b'{"original": 1, "options": 2, "result": 3}\n', b"[" * 100_000, b"null\n"):
        record.path.write_bytes(damaged)
        assert split(one, record) == "refused"
    # A half line does not spoil the next one.
    record.path.write_bytes(whole + whole[:20])
    other = ResultRecord(record.path)
    other.add_picture(b"page")
    assert ResultRecord(record.path).knows(next(iter(ResultRecord(record.path)._results)))
    assert split(one, record) == "finished"


def test_the_record_names_nobody_and_is_the_users_own(one, record, tmp_path, monkeypatch):
    text = record.path.read_text()
    assert "a.jpg" not in text and str(tmp_path) not in text
    assert record.path.stat().st_mode & 0o077 == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert record_path(tmp_path / "out").is_relative_to(tmp_path / "state")
    assert record_path(tmp_path / "out") == record_path(tmp_path / "x" / ".." / "out")
    assert record_path(tmp_path / "out") != record_path(tmp_path / "out2")


def test_a_report_is_a_record_too(one, photos, tmp_path, record):
    nothing = ResultRecord(tmp_path / "nothing.jsonl")
    report, jobs = tmp_path / "report.jsonl", find_photos([photos], tmp_path / "out")
    outcomes = {}
    for outcome in anonymize_photos(paint_black, jobs, options="same"):
        outcomes[outcome.job.source.name] = outcome
        append_to_report(report, outcome, "random")
    end = split_jobs(jobs, "same", PreviousRun(nothing, read_report(report)))
    assert end.finished == [outcomes["a.jpg"], outcomes["d.JPG"], outcomes["hard.png"]] and not end.refused
    assert not split_jobs(jobs, "other", PreviousRun(nothing, read_report(report))).finished
    # A photo that the report does not know is done again, so that it will.
    end = split_jobs([one], "same", PreviousRun(record, {}))
    assert end.pending == [one]


def test_a_line_that_was_half_written_is_written_again(photos, tmp_path, record):
    report, jobs = tmp_path / "report.jsonl", find_photos([photos], tmp_path / "out")
    outcomes = list(anonymize_photos(paint_black, jobs, before_writing=record.add))
    for outcome in outcomes:
        append_to_report(report, outcome, "random")
    lines = report.read_bytes().splitlines(keepends=True)
    report.write_bytes(b"".join(lines)[:-20])
    append_to_report(report, outcomes[-1], "random")
    assert report.read_bytes().splitlines(keepends=True) == lines


def test_a_result_that_was_refused_later_is_not_done(one, tmp_path, record):
    def refuse(photo, name):
        raise NoFaceFoundError("No face was found.")

    report = tmp_path / "report.jsonl"
    (refused,) = anonymize_photos(refuse, [one])
    assert refused.status == "refused" and f"An older result remains at {one.output}" in refused.reason
    (done,) = anonymize_photos(paint_black, [one], options="same", before_writing=record.add)
    for outcome in (done, refused):
        append_to_report(report, outcome, "random")
    assert split_jobs([one], "same", PreviousRun(record, read_report(report))).pending == [one]


def test_the_digest_of_options():
    assert options_digest({"a": 1, "b": None}) == options_digest({"b": None, "a": 1})
    assert options_digest({"a": 1}) != options_digest({"a": 2})
    with pytest.raises(ValueError):
        options_digest({"a": float("nan")})
