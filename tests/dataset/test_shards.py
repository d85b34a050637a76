"""Which shards there are, which are left to do, and folders of photos."""

import shutil
from functools import partial
from pathlib import Path

import pytest

from nullface_pipeline.dataset import Shard, StorageLocation, begin, summarize
from nullface_pipeline.dataset.job import DatasetJob

from .samples import (
    Painter,
    colour,
    make_job,
    make_parquet,
    make_photos,
    make_tars,
    no_face,
    paint,
    painted,
    results,
    shards_of,
)


def test_a_folder_in_shards_of_any_size_gives_the_same(tmp_path, monkeypatch):
    photos = make_photos(tmp_path / "photos", 20)
    (photos / "0" / "broken.png").write_bytes(b"no photo")
    (photos / "notes.txt").write_text("not read")
    for size, shards in ((7, 3), (50, 1)):
        outcomes = paint(make_job(photos, tmp_path / f"out{size}", shard_size=size), monkeypatch)
        assert len(outcomes) == shards and sum(outcome.refused for outcome in outcomes) == 1
    made = results(tmp_path / "out7")
    assert made == results(tmp_path / "out50") and len(made) == 20
    assert {name: painted(data) for name, data in made.items()} == {name: colour(name) for name in made}


def test_what_is_done_is_left_out_and_the_rest_is_done_again(tmp_path, monkeypatch):
    job = make_job(make_photos(tmp_path / "photos", 20), tmp_path / "out", shard_size=7)
    paint(job, monkeypatch)
    made, first = results(tmp_path / "out"), shards_of(job)[0]
    assert begin(job, shards_of(job)) == []
    (tmp_path / "out-reports" / first.report).unlink()
    (tmp_path / "out" / first.photos[0]).unlink()
    (outcome,) = paint(job, monkeypatch)
    assert outcome.name == first.name and results(tmp_path / "out") == made


def test_a_shard_that_is_done_is_not_done_twice(tmp_path, monkeypatch):
    """As Ray would ask for it after a node has died."""
    job = make_job(make_photos(tmp_path / "photos", 5), tmp_path / "out")
    (outcome,) = paint(job, monkeypatch)
    (shard,) = shards_of(job)
    worker = Painter(job)
    assert worker.run(shard) == outcome and worker._evaluations == 0
    assert worker(shard.as_row())["photos"] == 5, "as a row"
    assert Shard.from_row(shard.as_row()) == shard


def test_a_source_that_has_changed_is_an_error(tmp_path, monkeypatch):
    photos = make_photos(tmp_path / "photos", 5)
    job = make_job(photos, tmp_path / "out")
    paint(job, monkeypatch)
    (photos / "0" / "new.png").write_bytes(b"")
    with pytest.raises(ValueError, match=str(photos)):
        begin(job, shards_of(job))


def test_a_target_is_empty_or_begun_with_the_same_options(tmp_path, monkeypatch):
    photos, out = make_photos(tmp_path / "photos", 2), tmp_path / "out"
    make_photos(out, 1)
    with pytest.raises(ValueError, match=str(out)):
        begin(make_job(photos, out), [])
    for digest in ("2", "0"):
        # Nothing was made yet: after a model that could not be loaded, another may be named.
        assert len(begin(make_job(photos, tmp_path / "new", options_sha256=digest * 64), [Shard("a")])) == 1
    paint(make_job(photos, tmp_path / "new"), monkeypatch)
    with pytest.raises(ValueError, match="new"):
        begin(make_job(photos, tmp_path / "new", options_sha256="1" * 64), [])


def test_sources_hold_one_kind_and_lie_apart(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        shards_of(make_job(tmp_path / "nowhere", tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        shards_of(make_job(tmp_path / "empty", tmp_path / "out"))
    both = make_parquet(tmp_path / "both", 2, 2)
    for target in (both, both / "out", tmp_path):
        with pytest.raises(ValueError, match=str(target)):
            shards_of(make_job(both, target))
    make_tars(both / "tars", 2, 2)
    with pytest.raises(ValueError, match=str(both)):
        shards_of(make_job(both, tmp_path / "out"))
    assert shards_of(make_job(both / "tars", tmp_path / "out")) == [Shard("00000.tar")]


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> DatasetJob:
    """A data set that is done, in several shards."""
    make = request.param
    job = make_job(make(tmp_path / "in", count=15), tmp_path / "out", shard_size=5)
    assert len(paint(job, monkeypatch)) == 3 and begin(job, shards_of(job)) == []
    return job


KINDS = pytest.mark.parametrize(
    "done",
    [make_photos, partial(make_parquet, size=5), partial(make_tars, size=5)],
    indirect=True,
    ids=["photos", "parquet", "tars"],
)


@KINDS
@pytest.mark.parametrize("harm", ["original", "deleted", "damaged"])
def test_results_that_a_run_did_not_make_are_made_again(tmp_path, monkeypatch, done, harm):
    made, first = results(tmp_path / "out"), shards_of(done)[0]
    name = first.photos[0] if first.photos else first.name
    result = tmp_path / "out" / name
    if harm == "original":
        shutil.copy(tmp_path / "in" / name, result)
    elif harm == "deleted":
        result.unlink()
    else:
        result.write_bytes(result.read_bytes()[:-1])
    summary = summarize(StorageLocation(str(tmp_path / "out")))
    assert summary.changed and summary.photos["changed"] == (1 if first.photos else 5)
    (outcome,) = paint(done, monkeypatch)
    assert outcome.name == first.name and not outcome.failed and results(tmp_path / "out") == made
    assert not summarize(StorageLocation(str(tmp_path / "out"))).changed


@KINDS
def test_a_source_that_was_replaced_is_done_again(tmp_path, monkeypatch, done):
    first, second = shards_of(done)[:2]
    names = [shard.photos[0] if shard.photos else shard.name for shard in (first, second)]
    shutil.copy(tmp_path / "in" / names[1], tmp_path / "in" / names[0])
    (outcome,) = paint(done, monkeypatch)
    assert outcome.name == first.name and not outcome.failed and begin(done, shards_of(done)) == []


def test_a_refused_photo_has_no_result(tmp_path, monkeypatch):
    """Neither a file put there by hand, nor that of another photo of its name."""
    photos = make_photos(tmp_path / "in", 3)
    job = make_job(photos, tmp_path / "out")
    paint(job, monkeypatch)
    for data in (b"no photo", no_face(1)):
        (photos / "0" / "0000.png").write_bytes(data)
        (outcome,) = paint(job, monkeypatch)
        assert outcome.refused == 1 and not (tmp_path / "out" / "0" / "0000.png").exists()
        assert begin(job, shards_of(job)) == []
        shutil.copy(photos / "1" / "0001.png", tmp_path / "out" / "0" / "0000.png")
        assert summarize(job.target).photos["changed"] == 1
    (outcome,) = paint(job, monkeypatch)
    assert outcome.refused == 1 and not (tmp_path / "out" / "0" / "0000.png").exists()


def test_a_shard_that_fails_when_done_again_leaves_no_unknown_result(tmp_path, monkeypatch):
    source = make_tars(tmp_path / "in", 5, 5)
    job = make_job(source, tmp_path / "out")
    paint(job, monkeypatch)
    shutil.copy(source / "00000.tar", tmp_path / "out" / "00000.tar")
    (source / "00000.tar").write_bytes(b"damaged")
    (outcome,) = paint(job, monkeypatch)
    assert outcome.failed and not results(tmp_path / "out")
