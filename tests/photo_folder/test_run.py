"""Folders of photos around a stand-in for the model, which paints them black: what is read, written and refused."""

import json
import os
from pathlib import Path

import PIL.Image
import pytest

from nullface_pipeline.photo_files import TEMPORARY_PATTERN
from nullface_pipeline.photo_folder import (
    PhotoJob,
    anonymize_photos,
    append_to_report,
    find_photos,
    read_report,
    remove_leftovers,
    split_finished,
)
from nullface_pipeline.photo_records import AnonymizedPhoto, FaceRecord, NoFaceFoundError


def record(method):
    return FaceRecord(box=(1.0, 2.0, 30.0, 40.0), score=0.9, similarity=0.1, attempts=1, method=method)


def paint_black(photo, name):
    if "empty" in name:
        raise NoFaceFoundError("No face was found in the photo.")
    method = "covered" if "hard" in name else "nullface"
    return AnonymizedPhoto(PIL.Image.new("RGB", photo.size), (record(method),))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name in ("a.jpg", "b/hard.png", "b/c/empty.webp", "b/d.JPG", "notes.txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no photo")
        else:
            PIL.Image.new("RGB", (40, 30), "red").save(
                path, format={".webp": "WEBP", ".png": "PNG"}.get(path.suffix, "JPEG")
            )
    (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:200])
    return folder


def run(photos, output, **settings):
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


def test_a_stopped_run_goes_on_where_it_ended(photos, tmp_path):
    output = tmp_path / "out"
    jobs = find_photos([photos], output)
    stopped = anonymize_photos(paint_black, jobs)
    first = next(stopped)
    stopped.close()
    assert first.job.output.is_file()
    before, rest = split_finished(jobs, None)
    assert [outcome.job for outcome in before] == [job for job in jobs if job.output.exists()]
    assert {outcome.status for outcome in before} == {"done before"} and first.job not in rest
    assert {outcome.job.source.name for outcome in anonymize_photos(paint_black, rest)} >= {"broken.jpg"}
    before, rest = split_finished(jobs, None)
    assert [job.source.name for job in rest] == ["empty.webp", "broken.jpg"], "what was refused is tried again"


def test_a_report_tells_what_was_done_before(photos, tmp_path):
    report, jobs = tmp_path / "report.jsonl", find_photos([photos], tmp_path / "out")
    outcomes = {outcome.job.source.name: outcome for outcome in anonymize_photos(paint_black, jobs)}
    for outcome in outcomes.values():
        append_to_report(report, outcome)
    before, rest = split_finished(jobs, report)
    assert before == [outcomes["a.jpg"], outcomes["d.JPG"], outcomes["hard.png"]]
    assert before[-1].status == "covered" and before[-1].faces[0].method == "covered"

    # Killed while the last line was written: that photo is done again, and its line is written whole.
    lines = report.read_bytes().splitlines(keepends=True)[:-1]
    report.write_bytes(b"".join(lines)[:-20])
    assert len(split_finished(jobs, report)[0]) == 2
    append_to_report(report, outcomes["hard.png"])
    assert report.read_bytes().splitlines(keepends=True) == lines
    # A photo whose line is missing altogether, too.
    report.write_bytes(b"")
    assert split_finished(jobs, report) == ([], jobs)


def test_a_result_that_was_refused_later_is_not_done(photos, tmp_path):
    report, (job,) = tmp_path / "report.jsonl", find_photos([photos / "a.jpg"], tmp_path / "out")
    (done,) = anonymize_photos(paint_black, [job])
    append_to_report(report, done)
    assert split_finished([job], report) == ([done], [])

    def refuse(photo, name):
        raise NoFaceFoundError("No face was found.")

    (refused,) = anonymize_photos(refuse, [job])
    assert refused.status == "refused" and f"An older result is still at {job.output}" in refused.reason
    append_to_report(report, refused)
    assert split_finished([job], report) == ([], [job])


def test_a_result_of_another_photo_is_not_this_ones(photos, tmp_path):
    report, (job,) = tmp_path / "report.jsonl", find_photos([photos / "a.jpg"], tmp_path / "out")
    for outcome in anonymize_photos(paint_black, [job]):
        append_to_report(report, outcome)
    other = PhotoJob(photos / "b" / "d.JPG", job.output)
    with pytest.raises(ValueError, match="was made from"):
        split_finished([other], report)


def test_one_photo_that_a_library_chokes_on_does_not_stop_the_others(photos, tmp_path):
    def choke(photo, name):
        if name == "a.jpg":
            raise ArithmeticError("overflow\nin line 3")
        return paint_black(photo, name)

    outcomes = {
        outcome.job.source.name: outcome for outcome in anonymize_photos(choke, find_photos([photos], tmp_path))
    }
    assert (
        outcomes["a.jpg"].status == "refused" and "(ArithmeticError: overflow in line 3)" in outcomes["a.jpg"].reason
    )
    assert outcomes["d.JPG"].status == "anonymized"


def test_names_may_hold_what_no_text_can(photos, tmp_path):
    strange = Path(os.fsdecode(os.fsencode(photos) + b"/caf\xe9 [1].jpg"))
    strange.write_bytes((photos / "a.jpg").read_bytes())
    report, jobs = tmp_path / "report.jsonl", find_photos([strange], tmp_path / "out")
    (outcome,) = anonymize_photos(paint_black, jobs)
    append_to_report(report, outcome)
    assert split_finished(jobs, report) == ([outcome], [])


def test_a_file_that_is_no_report_is_not_touched(tmp_path):
    other = tmp_path / "thesis.txt"
    other.write_text("Chapter 1\n")
    with pytest.raises(ValueError, match="Line 1 of .* is none of a report"):
        read_report(other)
    other.write_text("no line end")
    with pytest.raises(ValueError, match="is no report"):
        read_report(other)
    assert read_report(tmp_path / "none.jsonl") == {}


def test_leftovers_of_a_killed_run_are_removed(photos, tmp_path):
    output = tmp_path / "out"
    leftover, other = output / TEMPORARY_PATTERN.replace("*", "0123"), output / "notes.part"
    output.mkdir()
    for path in (leftover, other):
        path.write_bytes(b"half")
    remove_leftovers(find_photos([photos], output))
    assert not leftover.exists() and other.exists()


def test_too_little_memory_is_no_reason_to_stop(photos, tmp_path):
    def give_up(photo, name):
        raise MemoryError

    outcomes = list(anonymize_photos(give_up, find_photos([photos / "a.jpg", photos / "b"], tmp_path / "out")))
    assert len(outcomes) == 4
    assert {(outcome.status, "memory" in outcome.reason) for outcome in outcomes} == {("refused", True)}


def test_outcomes_name_no_person(photos, tmp_path):
    line = json.loads(run(photos, tmp_path / "out")["hard.png"].as_json())
    assert set(line) == {"source", "output", "status", "reason", "faces"}
    assert set(line["faces"][0]) == {"box", "score", "similarity", "attempts", "method"}
    assert json.loads(run(photos, tmp_path / "out2")["empty.webp"].as_json())["output"] is None


def test_output_that_cannot_be_written_is_refused(photos, tmp_path):
    (tmp_path / "out").write_text("a file where the folder should be")
    statuses = {outcome.status for outcome in run(photos, tmp_path / "out").values()}
    assert statuses == {"refused"}


def test_jobs(photos, tmp_path):
    output = tmp_path / "out"
    one = photos / "a.jpg"
    assert find_photos([one], output) == [PhotoJob(one, output / "a.jpg")]
    assert find_photos([one, one], output) == find_photos([one], output)
    assert find_photos([str(photos / "*.j*g"), photos / "notes.txt"], output) == [
        PhotoJob(photos / name, output / name) for name in ("a.jpg", "broken.jpg", "notes.txt")
    ]
    assert len(find_photos([f"{photos}/**/*"], output)) == 5, "only photos of what a pattern matches"
    with pytest.raises(ValueError, match="No photo matches"):
        find_photos([f"{photos}/*.gif"], output)
    with pytest.raises(ValueError, match="does not exist"):
        find_photos([photos / "z.jpg"], output)
    with pytest.raises(ValueError, match="lies in"):
        find_photos([photos], photos / "out")
    for named in ([one], [photos / "*.jpg"]):
        with pytest.raises(ValueError, match="would be written over"):
            find_photos(named, photos)
    other = tmp_path / "other" / "a.jpg"
    other.parent.mkdir()
    other.write_bytes(one.read_bytes())
    with pytest.raises(ValueError, match="both be written"):
        find_photos([one, other], output)
