"""Which shards there are, which are left to do, and folders of photos."""

import pytest

from nullface_pipeline.dataset import Shard, begin, find_shards

from .samples import Painter, colour, make_job, make_parquet, make_photos, make_tars, paint, painted, results


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
    made, first = results(tmp_path / "out"), find_shards(job)[0]
    assert begin(job, find_shards(job)) == []
    (tmp_path / "out-reports" / first.report).unlink()
    (tmp_path / "out" / first.photos[0]).unlink()
    (outcome,) = paint(job, monkeypatch)
    assert outcome.name == first.name and results(tmp_path / "out") == made


def test_a_shard_that_is_done_is_not_done_twice(tmp_path, monkeypatch):
    """As Ray would ask for it after a node has died."""
    job = make_job(make_photos(tmp_path / "photos", 5), tmp_path / "out")
    (outcome,) = paint(job, monkeypatch)
    (shard,) = find_shards(job)
    worker = Painter(job)
    assert worker.run(shard) == outcome and worker._evaluations == 0
    assert worker(shard.as_row())["photos"] == 5, "as a row"
    assert Shard.from_row(shard.as_row()) == shard


def test_a_source_that_has_changed_is_an_error(tmp_path, monkeypatch):
    photos = make_photos(tmp_path / "photos", 5)
    job = make_job(photos, tmp_path / "out")
    paint(job, monkeypatch)
    (photos / "0" / "new.png").write_bytes(b"")
    with pytest.raises(ValueError, match="has changed"):
        begin(job, find_shards(job))


def test_a_target_is_empty_or_begun_with_the_same_options(tmp_path, monkeypatch):
    photos, out = make_photos(tmp_path / "photos", 2), tmp_path / "out"
    make_photos(out, 1)
    with pytest.raises(ValueError, match="no run has made"):
        begin(make_job(photos, out), [])
    for digest in ("2", "0"):
        # Nothing was made yet: after a model that could not be loaded, another may be named.
        assert len(begin(make_job(photos, tmp_path / "new", options_sha256=digest * 64), [Shard("a")])) == 1
    paint(make_job(photos, tmp_path / "new"), monkeypatch)
    with pytest.raises(ValueError, match="other options"):
        begin(make_job(photos, tmp_path / "new", options_sha256="1" * 64), [])


def test_sources_hold_one_kind_and_lie_apart(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        find_shards(make_job(tmp_path / "nowhere", tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no Parquet files, tar files or photos"):
        find_shards(make_job(tmp_path / "empty", tmp_path / "out"))
    both = make_parquet(tmp_path / "both", 2, 2)
    for target in (both, both / "out", tmp_path):
        with pytest.raises(ValueError, match="in one another"):
            find_shards(make_job(both, target))
    make_tars(both / "tars", 2, 2)
    with pytest.raises(ValueError, match="Parquet files and tar files"):
        find_shards(make_job(both, tmp_path / "out"))
    assert find_shards(make_job(both / "tars", tmp_path / "out")) == [Shard("00000.tar")]
