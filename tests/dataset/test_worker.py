"""The worker with nullface-tiny: what it cannot anonymize is null and refused, and without its
models it does nothing.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from skimage import data

from nullface_pipeline.dataset import ShardWorker, begin, run_local
from nullface_pipeline.dataset.worker import ShardOutcome
from nullface_pipeline.photo_options import PhotoOptions

from .samples import make_job, shards_of


pytestmark = pytest.mark.usefixtures("loaded_once")

QUICK: dict[str, Any] = {"num_inference_steps": 4, "skip": 0.5, "max_attempts": 1, "identity": "opposite"}


def encoded(image: PIL.Image.Image, kind: str = "JPEG") -> bytes:
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@pytest.fixture
def poisoned(tmp_path: Path) -> list[bytes | None]:
    """A face, nobody, a damaged file, nothing, and the face again."""
    face = encoded(PIL.Image.fromarray(data.astronaut()[:300, 60:360]))
    rows = [face, encoded(PIL.Image.new("RGB", (200, 200), "white"), "PNG"), face[: len(face) // 2], None, face]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"image": rows, "id": ["a", "wall", "half", "none", "b"]}), tmp_path / "in" / "x.parquet")
    return rows


def rows_after(tmp_path: Path, **options: Any) -> tuple[ShardOutcome, list[dict[str, Any]]]:
    job = make_job(
        tmp_path / "in", tmp_path / "out", id_column="id", columns=("id",), options=PhotoOptions(**QUICK, **options)
    )
    (outcome,) = run_local(job, begin(job, shards_of(job)))
    assert outcome.photos == 5 and not outcome.failed
    return outcome, pq.read_table(tmp_path / "out" / "x.parquet").to_pylist()


def test_poisoned_rows_are_null_and_the_others_are_other_people(tmp_path, poisoned):
    outcome, rows = rows_after(tmp_path, similarity_threshold=1.0, accept_recognizable=True)
    assert (outcome.anonymized + outcome.covered, outcome.refused) == (2, 3)
    assert [row["image"] is None for row in rows] == [False, True, True, True, False]
    for row, reason in zip(rows[1:4], ("No face", "damaged or cut off", "no picture")):
        assert reason in row["refused"]
    before, first, second = (
        np.asarray(PIL.Image.open(io.BytesIO(image)).convert("RGB")).astype(int)[90:150, 140:190]
        for image in (poisoned[0], rows[0]["image"], rows[4]["image"])
    )
    assert np.abs(first - before).mean() > 3 and np.abs(second - before).mean() > 3
    assert (first != second).any(), "noise of its own for each row"
    report = pq.read_table(tmp_path / "out-reports" / "x.parquet.report.parquet").to_pylist()
    assert [row["unet_evaluations"] for row in report] == [5, 0, 0, 0, 5]


def test_faces_that_cannot_be_hidden_are_refused_rows(tmp_path, poisoned):
    outcome, rows = rows_after(tmp_path, similarity_threshold=-1.0, on_failure="error")
    assert outcome.refused == 5 and not any(row["image"] for row in rows)


def test_a_model_that_cannot_be_loaded_stops_the_job(tmp_path, poisoned, monkeypatch):
    monkeypatch.setattr("nullface_pipeline.model_sets.fetch_missing", lambda name: None)
    job = make_job(tmp_path / "in", tmp_path / "out", model=str(tmp_path / "in"))
    with pytest.raises(OSError, match="model_index"):
        ShardWorker(job)
    assert not (tmp_path / "out").exists()
