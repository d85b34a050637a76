"""Folders of photos around a stand-in for the model, which paints them black: what is read, written and refused."""

import json

import PIL.Image
import pytest

from nullface_pipeline.photo import AnonymizedPhoto, FaceRecord, NoFaceFoundError
from nullface_pipeline.photo_folder import PhotoJob, anonymize_photos, find_photos


def record(method):
    return FaceRecord(box=(1.0, 2.0, 30.0, 40.0), score=0.9, similarity=0.1, attempts=1, method=method)


def paint_black(photo, name):
    if "empty" in name:
        raise NoFaceFoundError("No face was found in the photo.")
    method = "redacted" if "hard" in name else "nullface"
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
        "hard.png": "redacted",
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
    seen = []

    def note(photo, name):
        seen.append(name)
        return paint_black(photo, name)

    stopped = anonymize_photos(note, find_photos([photos], output))
    first = next(stopped)
    stopped.close()
    assert first.job.output.is_file()
    before = len(seen)
    rest = {
        outcome.job.source.name: outcome.status for outcome in anonymize_photos(note, find_photos([photos], output))
    }
    assert rest[first.job.source.name] == "done before"
    assert first.job.output.name not in seen[before:]
    again = {outcome.status for outcome in run(photos, output, resume=False).values()}
    assert "done before" not in again


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
    with pytest.raises(ValueError, match="does not exist"):
        find_photos([photos / "z.jpg"], output)
    with pytest.raises(ValueError, match="lies in"):
        find_photos([photos], photos / "out")
    other = tmp_path / "other" / "a.jpg"
    other.parent.mkdir()
    other.write_bytes(one.read_bytes())
    with pytest.raises(ValueError, match="both be written"):
        find_photos([one, other], output)
