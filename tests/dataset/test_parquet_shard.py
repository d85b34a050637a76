"""Parquet files: named columns untouched, refused rows null, everything else gone; and `datasets` reads the result."""

import io

import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from .samples import colour, make_job, make_parquet, paint, painted, picture, results


def made(tmp_path, monkeypatch, count=20, size=20, features=True, **settings):
    source = make_parquet(tmp_path / "in", count, size, features)
    outcomes = paint(make_job(source, tmp_path / "out", **settings), monkeypatch)
    assert [outcome.failed for outcome in outcomes] == [""] * len(outcomes)
    return source, outcomes


def test_rows_are_kept_and_refused_ones_are_null(tmp_path, monkeypatch):
    source, (outcome,) = made(tmp_path, monkeypatch, columns=("label", "embedding"), id_column="id")
    table = pq.read_table(tmp_path / "out" / "train-00000.parquet")
    before = pq.read_table(source)
    assert table.column_names == ["image", "label", "embedding", "refused"]
    assert table.num_rows == 20 and outcome.refused == 2
    for name in ("label", "embedding"):
        assert table[name].combine_chunks().equals(before[name].combine_chunks()), "byte for byte"
    for number, row in enumerate(table.to_pylist()):
        if number in (2, 4):
            assert row["image"] is None and row["refused"]
        else:
            assert row["image"]["path"] is None and row["refused"] is None
            assert painted(row["image"]["bytes"]) == colour(f"row {number}")


def test_nothing_that_was_not_named_is_in_the_file(tmp_path, monkeypatch):
    made(tmp_path, monkeypatch)
    for data in results(tmp_path / "out").values():
        assert b"John" not in data and b"john" not in data and picture(1) not in data


def test_a_reader_opens_it_with_its_features(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    made(tmp_path, monkeypatch, columns=("label",))
    data = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "out" / "*.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(data.features["image"], datasets.Image) and data.features["label"].names == ["cat", "dog"]
    assert data[0]["image"].size == (32, 24) and data[2]["image"] is None
    assert data["refused"][2].startswith("It is not a JPEG")


def test_files_of_any_number_of_rows_give_the_same(tmp_path, monkeypatch):
    for size in (7, 50):
        source = make_parquet(tmp_path / f"in{size}", 100, size)
        paint(make_job(source, tmp_path / f"out{size}", id_column="id", columns=("id",)), monkeypatch)
    first, second = (pq.read_table(tmp_path / f"out{size}").to_pylist() for size in (7, 50))
    assert first == second and len(first) == 100


def test_rows_without_an_id_are_known_by_file_and_number(tmp_path, monkeypatch):
    made(tmp_path, monkeypatch, count=10, size=5)
    for name in ("train-00000.parquet", "train-00001.parquet"):
        row = pq.read_table(tmp_path / "out" / name).to_pylist()[1]
        assert painted(row["image"]["bytes"]) == colour(f"{name}#1")


def test_bare_bytes_stay_bare_bytes(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    table = pa.table({"photo": pa.array([picture(1), None], pa.large_binary())})
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    (outcome,) = paint(make_job(tmp_path / "in", tmp_path / "out", image_column="photo"), monkeypatch)
    result = pq.read_table(tmp_path / "out" / "a.parquet")
    assert result.schema.field("photo").type == pa.large_binary() and outcome.refused == 1
    assert PIL.Image.open(io.BytesIO(result["photo"][0].as_py())).size == (32, 24)
    assert result["refused"][1].as_py() == "The row holds no picture; one that lies elsewhere is not fetched."


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_column": "photo"}, "no column 'photo'"),
        ({"image_column": "label"}, "not bytes of pictures"),
        ({"columns": ("thumbnail",)}, "could hold pictures"),
        ({"columns": ("image",)}, "anyway"),
        ({"id_column": "label"}, "repeats '0'"),
    ],
)
def test_a_file_that_cannot_be_done_leaves_nothing(tmp_path, monkeypatch, settings, message):
    source = make_parquet(tmp_path / "in", 6, 6)
    table = pq.read_table(source / "train-00000.parquet")
    thumbnails = pa.array([[{"data": picture(1)}]] * 6)
    pq.write_table(table.append_column("thumbnail", thumbnails), source / "train-00000.parquet")
    (source / "broken.parquet").write_bytes(b"PAR1")
    outcomes = paint(make_job(source, tmp_path / "out", **settings), monkeypatch)
    assert message in outcomes[1].failed and outcomes[0].failed
    assert not results(tmp_path / "out")
    assert set(results(tmp_path / "out-reports")) == {"run.json"}
