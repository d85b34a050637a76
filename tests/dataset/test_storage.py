"""An object store by URL, here fsspec's own in memory."""

import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from nullface_pipeline.dataset import StorageLocation, begin, summarize
from nullface_pipeline.dataset.storage import ShardError

from .samples import colour, make_job, make_parquet, make_photos, paint, painted, results, shards_of


@pytest.fixture
def store() -> Iterator[str]:
    name = f"memory://{uuid.uuid4().hex}"
    yield name
    if fsspec.filesystem("memory").exists(name):
        fsspec.filesystem("memory").rm(name, recursive=True)


def upload(folder: Path, url: str) -> None:
    for name, data in results(folder).items():
        StorageLocation(url).write(name, data)


@pytest.mark.parametrize("kind", ["photos", "parquet"])
def test_a_data_set_in_a_store(tmp_path, monkeypatch, store, kind):
    local = make_photos(tmp_path / "in", 6) if kind == "photos" else make_parquet(tmp_path / "in", 6, 3)
    upload(local, f"{store}/in")
    job = make_job(f"{store}/in", f"{store}/out/", shard_size=3)
    paint(job, monkeypatch)
    paint(make_job(local, tmp_path / "out", shard_size=3), monkeypatch)
    assert {name: job.target.read(name) for name in job.target.names()} == results(tmp_path / "out")
    assert begin(job, shards_of(job)) == [] and summarize(job.target).shards == 2
    if kind == "photos":
        assert painted(job.target.read("0/0000.png")) == colour("0/0000.png")


def test_the_output_is_a_folder_in_a_bucket(tmp_path):
    """The reports lie beside it, and beside a bucket lie those of other people."""
    job = make_job(make_photos(tmp_path / "in", 1), "s3://bucket/")
    # As s3fs, which need not be installed, has it.
    job.target.__dict__["_opened"] = (fsspec.filesystem("memory"), "bucket")
    with pytest.raises(ValueError, match="s3://bucket/"):
        shards_of(job)


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
    for place in (StorageLocation(str(tmp_path)), StorageLocation(store)):
        with pytest.raises(ZeroDivisionError), place.written("a/b.tar") as file:
            file.write(b"half")
            1 / 0
        assert place.names() == []
        with place.written("a/b.tar") as file:
            file.write(b"whole")
        assert place.names() == ["a/b.tar"] and place.read("a/b.tar") == b"whole"


@pytest.mark.parametrize("key", ["photos//etc/a.jpg", "photos/../../y.jpg", "photos/./a.jpg"])
def test_keys_that_leave_the_folder_are_refused_when_listed(key):
    place = StorageLocation("s3://bucket/photos")
    place.__dict__["_opened"] = (Listing([f"bucket/{key}"]), "bucket/photos")
    with pytest.raises(ShardError, match="s3://bucket/photos"):
        place.names()


class Listing:
    """A store that lists some keys."""

    def __init__(self, keys: list[str]):
        self._keys = keys

    def invalidate_cache(self) -> None:
        pass

    def find(self, root: str) -> list[str]:
        return self._keys


@pytest.mark.parametrize("name", ["/absolute/a.jpg", "../y.jpg", "a/../../y.jpg", "a//b.jpg", "a/./b.jpg", "", "a\0b"])
def test_nothing_is_read_or_written_under_a_name_that_leaves_the_folder(tmp_path, store, name):
    for place in (StorageLocation(str(tmp_path / "out")), StorageLocation(f"{store}/out")):
        with pytest.raises(ShardError):
            place.write(name, b"")
        with pytest.raises(ShardError), place.written(name) as file:
            file.write(b"")
        with pytest.raises(ShardError):
            place.read(name)
    assert not list(tmp_path.rglob("*"))


def test_nothing_is_written_through_a_link_that_leaves_the_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "link").symlink_to(tmp_path / "elsewhere")
    place = StorageLocation(str(tmp_path / "out"))
    for write in (lambda: place.write("link/a.jpg", b""), lambda: place.written("link/a.tar").__enter__()):
        with pytest.raises(ShardError, match="link"):
            write()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_names_in_a_zip_are_whole(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("first/photo.jpg", b"1")
        file.writestr("other.jpg", b"2")
    place = StorageLocation(f"zip://::{tmp_path / 'a.zip'}")
    assert place.names() == ["first/photo.jpg", "other.jpg"] and place.read("first/photo.jpg") == b"1"


def test_a_result_is_as_private_as_its_source(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"")
    source.chmod(0o600)
    location = StorageLocation(tmp_path / "out")
    location.write("whole.jpg", b"1", source)
    with location.written("shard.tar", source) as file:
        file.write(b"1")
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "out").iterdir()] == [0o600, 0o600]
