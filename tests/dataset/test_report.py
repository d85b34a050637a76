import pyarrow.parquet as pq
import pytest

from nullface_pipeline.dataset import StorageLocation, summarize
from nullface_pipeline.runs.digests import digest

from .samples import FACE, make_job, make_parquet, paint, picture


def test_a_row_for_each_photo_and_their_sum(tmp_path, monkeypatch):
    paint(make_job(make_parquet(tmp_path / "in", 12, 6), tmp_path / "out", id_column="id"), monkeypatch)
    rows = pq.read_table(tmp_path / "out-reports" / "train-00000.parquet.report.parquet").to_pylist()
    assert [row["id"] for row in rows] == [f"row {number}" for number in range(6)]
    assert [row["status"] for row in rows].count("refused") == 2 and rows[4]["reason"].startswith("No face")
    assert rows[0]["original_sha256"] == digest(picture(0)) and rows[2]["result_sha256"] is None
    assert rows[0]["faces"][0]["box"] == list(FACE.box) and rows[0]["unet_evaluations"] == 8
    total = summarize(StorageLocation(str(tmp_path / "out")))
    assert total.shards == 2 and dict(total.photos) == {"anonymized": 10, "refused": 2}
    assert total.faces["replaced"] == 10 and total.unet_evaluations == 80 and total.seconds["cpu"] > 0
    assert total.reasons["No face was found in the photo."] == 1


def test_no_reports(tmp_path):
    with pytest.raises(ValueError, match="out"):
        summarize(StorageLocation(str(tmp_path / "out")))
