"""An object store by URL, here fsspec's own in memory."""

import uuid

import fsspec
import pytest

from nullface_pipeline.dataset import Place, begin, find_shards, summarize

from .samples import colour, make_job, make_parquet, make_photos, paint, painted, results


@pytest.fixture
def store():
    name = f"memory://{uuid.uuid4().hex}"
    yield name
    fsspec.filesystem("memory").rm(name, recursive=True)


def upload(folder, url):
    for name, data in results(folder).items():
        Place(url).write(name, data)


@pytest.mark.parametrize("kind", ["photos", "parquet"])
def test_a_data_set_in_a_store(tmp_path, monkeypatch, store, kind):
    local = make_photos(tmp_path / "in", 6) if kind == "photos" else make_parquet(tmp_path / "in", 6, 3)
    upload(local, f"{store}/in")
    job = make_job(f"{store}/in", f"{store}/out/", shard_size=3)
    paint(job, monkeypatch)
    paint(make_job(local, tmp_path / "out", shard_size=3), monkeypatch)
    assert {name: job.target.read(name) for name in job.target.names()} == results(tmp_path / "out")
    assert begin(job, find_shards(job)) == [] and summarize(job.target).shards == 2
    if kind == "photos":
        assert painted(job.target.read("0/0000.png")) == colour("0/0000.png")


def test_the_output_is_a_folder_in_a_bucket(tmp_path):
    """The reports lie beside it, and beside a bucket lie those of other people."""
    job = make_job(make_photos(tmp_path / "in", 1), "s3://bucket/")
    # As s3fs, which need not be installed, has it.
    job.target.__dict__["_opened"] = (fsspec.filesystem("memory"), "bucket")
    with pytest.raises(ValueError, match="s3://bucket/ is a whole bucket"):
        find_shards(job)


def test_from_a_disk_to_a_store(tmp_path, monkeypatch, store):
    job = make_job(make_photos(tmp_path / "in", 4), f"{store}/out")
    paint(job, monkeypatch)
    assert job.target.names() == sorted(results(tmp_path / "in"))


def test_a_photo_that_the_store_does_not_give_now_is_not_refused_for_good(tmp_path, monkeypatch, store):
    upload(make_photos(tmp_path / "in", 3), f"{store}/in")
    job = make_job(f"{store}/in", f"{store}/out")
    monkeypatch.setattr(type(fsspec.filesystem("memory")), "cat_file", lambda self, path: 1 / 0)
    (outcome,) = paint(job, monkeypatch)
    assert "cannot be read" in outcome.failed
    monkeypatch.undo()
    (outcome,) = paint(job, monkeypatch)
    assert not outcome.failed and outcome.anonymized == 3


def test_what_is_not_finished_does_not_appear(tmp_path, store):
    for place in (Place(str(tmp_path)), Place(store)):
        with pytest.raises(ZeroDivisionError), place.written("a/b.tar") as file:
            file.write(b"half")
            1 / 0
        assert place.names() == []
        with place.written("a/b.tar") as file:
            file.write(b"whole")
        assert place.names() == ["a/b.tar"] and place.read("a/b.tar") == b"whole"
