"""Parquet files: named columns untouched, refused rows null, everything else gone; and `datasets`
reads the result.
"""

import base64
import datetime
import errno
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nullface_pipeline.dataset.worker import ShardOutcome

from .samples import colour, make_job, make_parquet, paint, painted, picture, results


def made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    count: int = 20,
    size: int = 20,
    features: bool = True,
    **settings: Any,
) -> tuple[Path, list[ShardOutcome]]:
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
    assert (
        result["refused"][1].as_py() == "The row contains no picture. Pictures behind a path or URL are not fetched."
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_column": "photo"}, "no column 'photo'"),
        ({"image_column": "label"}, "not bytes"),
        ({"columns": ("thumbnail",)}, "thumbnail"),
        ({"columns": ("image",)}, "'refused'"),
        ({"id_column": "label"}, "'label'"),
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


SECRET = base64.b64encode(picture(1, "JPEG")).decode()


def write(tmp_path: Path, columns: dict[str, Any], schema: Any = None) -> Path:
    (tmp_path / "in").mkdir()
    images = pa.array([{"bytes": picture(1), "path": None}], pa.struct({"bytes": pa.binary(), "path": pa.string()}))
    table = pa.table({"image": images, **columns})
    pq.write_table(table if schema is None else table.cast(schema), tmp_path / "in" / "a.parquet")
    return tmp_path / "in"


def test_metadata_of_fields_and_unknown_features_stay_behind(tmp_path, monkeypatch):
    hidden = {"note": SECRET}
    child = [pa.field("bytes", pa.binary(), metadata=hidden), pa.field("path", pa.string(), metadata=hidden)]
    item = pa.field("item", pa.struct([pa.field("x", pa.int8(), metadata=hidden)]), metadata=hidden)
    features = {
        "image": {"_type": "Image", "note": SECRET},
        "label": {"_type": "ClassLabel", "names": ["cat", "dog"], "note": SECRET},
        "boxes": {"_type": "List", "feature": {"x": {"dtype": "int8", "_type": "Value"}, SECRET: {"_type": SECRET}}},
    }
    schema = pa.schema(
        [
            pa.field("image", pa.struct(child), metadata=hidden),
            pa.field("label", pa.int64(), metadata=hidden),
            pa.field("boxes", pa.list_(item), metadata=hidden),
        ],
        metadata={"huggingface": json.dumps({"info": {"features": features, "note": SECRET}}), **hidden},
    )
    source = write(tmp_path, {"label": [1], "boxes": pa.array([[{"x": 1}]])}, schema)
    assert SECRET.encode() in (source / "a.parquet").read_bytes()
    for columns in ((), ("label", "boxes")):
        out = tmp_path / f"out{len(columns)}"
        (outcome,) = paint(make_job(source, out, columns=columns), monkeypatch)
        assert not outcome.failed and SECRET.encode() not in (out / "a.parquet").read_bytes()
        # pyarrow writes the whole schema a second time, in base64.
        again = base64.b64decode(pq.ParquetFile(out / "a.parquet").metadata.metadata[b"ARROW:schema"])
        assert SECRET.encode() not in again
    metadata = json.loads(pq.read_schema(out / "a.parquet").metadata[b"huggingface"])
    assert metadata["info"]["features"] == {
        "image": {"_type": "Image"},
        "label": {"_type": "ClassLabel", "names": ["cat", "dog"]},
        "refused": {"dtype": "string", "_type": "Value"},
    }


def test_values_of_a_dictionary_that_no_row_has_stay_behind(tmp_path, monkeypatch):
    source = write(tmp_path, {"d": pa.DictionaryArray.from_arrays(pa.array([0]), pa.array(["cat", SECRET]))})
    paint(make_job(source, tmp_path / "out", columns=("d",)), monkeypatch)
    data = (tmp_path / "out" / "a.parquet").read_bytes()
    assert pq.read_table(io.BytesIO(data))["d"].to_pylist() == ["cat"] and SECRET.encode() not in data


PIXELS = np.asarray(PIL.Image.open(io.BytesIO(picture(1))))
JPEG = np.frombuffer(picture(1, "JPEG"), np.uint8)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([PIXELS.tolist()], pa.list_(pa.list_(pa.list_(pa.uint8())))),
        pa.array([JPEG.tolist()], pa.list_(pa.uint8())),
        pa.array([JPEG.tolist()], pa.large_list(pa.int64())),
        pa.FixedSizeListArray.from_arrays(pa.array(JPEG), len(JPEG)),
        pa.FixedShapeTensorArray.from_numpy_ndarray(PIXELS[None].copy()),
        pa.array([picture(1)], pa.binary_view()),
        pa.array([picture(1)], pa.binary(len(picture(1)))),
        pa.array([[{"a": picture(1)}]]),
        pa.array([[(number, int(value)) for number, value in enumerate(JPEG)]], pa.map_(pa.int32(), pa.uint8())),
        pa.array([{"thumbnail": SECRET}]),
        pa.array([json.dumps({"thumbnail": SECRET})]),
        pa.array([SECRET]).dictionary_encode(),
        pa.array([[SECRET[start : start + 17] for start in range(0, len(SECRET), 17)]]),
    ],
    ids=lambda values: str(values.type)[:40],
)
def test_columns_that_could_hold_a_picture(tmp_path, monkeypatch, values):
    source = write(tmp_path, {"kept": values})
    (outcome,) = paint(make_job(source, tmp_path / "out", columns=("kept",)), monkeypatch)
    assert "'kept'" in outcome.failed and "--columns" in outcome.failed and not results(tmp_path / "out")


def test_small_values_are_kept_whatever_their_names(tmp_path, monkeypatch):
    day = datetime.date(2020, 1, 2)
    columns = {
        "person": pa.array([{"binary_gender": 1, "name": "A girl, seven years old"}]),
        "box": pa.array([[1.0, 2.0, 3.0, 4.0]], pa.list_(pa.float32(), 4)),
        "day": pa.array([day]),
        "time": pa.array([1], pa.timestamp("ns")),
        "nothing": pa.array([None], pa.string()),
    }
    (outcome,) = paint(make_job(write(tmp_path, columns), tmp_path / "out", columns=tuple(columns)), monkeypatch)
    assert not outcome.failed
    table = pq.read_table(tmp_path / "out" / "a.parquet")
    for name, values in columns.items():
        assert table[name].combine_chunks().equals(values), name


def test_repeated_columns(tmp_path, monkeypatch):
    (tmp_path / "in").mkdir()
    table = pa.Table.from_arrays([pa.array([picture(1)])] * 2, names=["image", "image"])
    pq.write_table(table, tmp_path / "in" / "a.parquet")
    (outcome,) = paint(make_job(tmp_path / "in", tmp_path / "out"), monkeypatch)
    assert "two columns" in outcome.failed


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"no parquet"])
def test_a_file_that_is_not_parquet(tmp_path, monkeypatch, data):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.parquet").write_bytes(data)
    (outcome,) = paint(make_job(tmp_path / "in", tmp_path / "out"), monkeypatch)
    assert "not a complete Parquet file" in outcome.failed and not results(tmp_path / "out")


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    def full(self, *arguments):
        raise OSError(errno.EFBIG, "File too large")

    source = write(tmp_path, {"label": [1]})
    monkeypatch.setattr(pq.ParquetWriter, "write_batch", full)
    (outcome,) = paint(make_job(source, tmp_path / "out"), monkeypatch)
    assert "Errno" not in outcome.failed and "disk" in outcome.failed
