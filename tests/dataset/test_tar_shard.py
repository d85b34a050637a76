"""WebDataset tars: the photos anonymized, named members copied, refused ones marked, everything else gone."""

import tarfile

import pytest

from .samples import colour, make_job, make_tars, paint, painted, results


def members(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}, tar.getmembers()


def test_photos_and_named_members(tmp_path, monkeypatch):
    source = make_tars(tmp_path / "in", 6, 6)
    (outcome,) = paint(make_job(source, tmp_path / "out", columns=("json",)), monkeypatch)
    found, infos = members(tmp_path / "out" / "00000.tar")
    assert outcome.photos == 6 and outcome.refused == 2
    photos = {name: data for name, data in found.items() if name.endswith(".png")}
    assert {name: painted(data) for name, data in photos.items()} == {name: colour(name) for name in photos}
    assert set(photos) == {f"a/row-{number}.png" for number in (0, 1, 3, 5)}
    assert found["a/row-2.png.refused"].startswith(b"It is not a JPEG") and "a/row-4.png.refused" in found
    assert [name for name in found if name.endswith(".json")] == [f"a/row-{number}.json" for number in range(6)]
    assert not [name for name in found if name.endswith(".txt")]
    assert {(info.uname, info.mtime) for info in infos} == {("", 0)}
    assert not [data for data in results(tmp_path / "out").values() if b"ohn" in data]


def test_webdataset_reads_it(tmp_path, monkeypatch):
    webdataset = pytest.importorskip("webdataset")
    source = make_tars(tmp_path / "in", 6, 6)
    paint(make_job(source, tmp_path / "out", columns=("json",)), monkeypatch)
    samples = list(webdataset.WebDataset(str(tmp_path / "out" / "00000.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"a/row-{number}" for number in range(6)]
    assert sum("png" in sample for sample in samples) == 4 and all("json" in sample for sample in samples)


def test_tars_of_any_size_give_the_same(tmp_path, monkeypatch):
    for size in (7, 50):
        source = make_tars(tmp_path / f"in{size}", 50, size)
        paint(make_job(source, tmp_path / f"out{size}"), monkeypatch)
    first = {}
    for path in sorted((tmp_path / "out7").glob("*.tar")):
        first |= members(path)[0]
    assert first == members(tmp_path / "out50" / "00000.tar")[0] and len(first) == 50


@pytest.mark.parametrize("size", [300, 512, 1536, 2048 + 1536, 2048 + 100])
def test_a_tar_that_is_cut_off_fails(tmp_path, monkeypatch, size):
    path = make_tars(tmp_path / "in", 6, 6) / "00000.tar"
    path.write_bytes(path.read_bytes()[:size])
    (outcome,) = paint(make_job(tmp_path / "in", tmp_path / "out"), monkeypatch)
    assert outcome.failed and not results(tmp_path / "out"), outcome
