"""Small data sets of coloured pictures in the three kinds of shards, and a worker that paints them
without a model.
"""

import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nullface_pipeline.dataset import DatasetJob, ShardWorker, StorageLocation, begin, find_shards, run_local
from nullface_pipeline.dataset import engines as dataset_engines
from nullface_pipeline.dataset.shards import Shard
from nullface_pipeline.dataset.worker import ShardOutcome
from nullface_pipeline.photo_files.photo_file import PhotoFile
from nullface_pipeline.photo_options import PhotoOptions
from nullface_pipeline.photo_records import AnonymizedPhoto, FaceRecord, NoFaceFoundError
from nullface_pipeline.runs.seeds import photo_seed


SEED = 7
FACE = FaceRecord(box=(1.0, 2.0, 30.0, 40.0), score=0.9, similarity=0.1, attempts=1, method="replaced")
FEATURES = {
    "image": {"_type": "Image"},
    "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
    "caption": {"dtype": "string", "_type": "Value"},
    "embedding": {"feature": {"dtype": "float32", "_type": "Value"}, "_type": "List"},
}


class Painter(ShardWorker):
    """Paints each photo in a colour of its seed, and refuses those whose name, or whose red, says
    so.
    """

    seconds = 0.0

    def __init__(self, job: DatasetJob):
        self._job, self._device, self._evaluations = job, "cpu", 0
        self._anonymize = self._paint

    def _paint(self, file: PhotoFile, name: str) -> AnonymizedPhoto:
        time.sleep(self.seconds)
        if "empty" in name or file.image.getpixel((0, 0))[2] > 200:
            raise NoFaceFoundError("No face was found in the photo.")
        self._evaluations += 8
        return AnonymizedPhoto(PIL.Image.new("RGB", file.image.size, colour(name, self._job.seed)), (FACE,))


class SlowPainter(Painter):
    """Slow enough to be killed."""

    seconds = 0.02


def colour(name: str, seed: int = SEED) -> tuple[int, int, int]:
    number = photo_seed(seed, name)
    return number % 120, number // 120 % 120, 0


def picture(number: int, kind: str = "PNG") -> bytes:
    """A red picture, different for each number."""
    pixels = np.full((24, 32, 3), (255, number % 256, 40), np.uint8)
    file = io.BytesIO()
    PIL.Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def no_face(number: int) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", (32, 24), (255, number % 256, 255)).save(file, "PNG")
    return file.getvalue()


def make_photos(folder: Path, count: int) -> Path:
    for number in range(count):
        path = folder / f"{number % 3}" / f"{number:04}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return folder


def rows(count: int, start: int = 0) -> Iterator[dict[str, Any]]:
    """Rows with captions, labels and embeddings, of which the third is broken and the fifth shows
    nobody.
    """
    for number in range(start, start + count):
        data = {2: b"no photo", 4: no_face(number)}.get(number, picture(number))
        yield {
            "id": f"row {number}",
            "image": {"bytes": data, "path": f"john_smith_{number}.png"},
            "label": number % 2,
            "caption": f"John Smith, {number}",
            "embedding": [float(number), 0.1],
        }


def make_parquet(folder: Path, count: int, size: int, features: bool = True) -> Path:
    """Files as `datasets` writes them."""
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema(
        {
            "id": pa.string(),
            "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "label": pa.int64(),
            "caption": pa.string(),
            "embedding": pa.list_(pa.float32()),
        }
    )
    if features:
        named = {"id": {"dtype": "string", "_type": "Value"}, **FEATURES}
        schema = schema.with_metadata({"huggingface": json.dumps({"info": {"features": named}})})
    for start in range(0, count, size):
        table = pa.Table.from_pylist(list(rows(min(size, count - start), start)), schema)
        pq.write_table(table, folder / f"train-{start // size:05}.parquet", row_group_size=5)
    return folder


def make_tars(folder: Path, count: int, size: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, count, size):
        with tarfile.open(folder / f"{start // size:05}.tar", "w") as tar:
            for row in rows(min(size, count - start), start):
                key = f"a/{row['id'].replace(' ', '-')}"
                members = {"png": row["image"]["bytes"], "json": b'{"label": 1}', "txt": row["caption"].encode()}
                for suffix, data in members.items():
                    member = tarfile.TarInfo(f"{key}.{suffix}")
                    member.size, member.uname = len(data), "john"
                    tar.addfile(member, io.BytesIO(data))
    return folder


def shards_of(job: DatasetJob) -> list[Shard]:
    return find_shards(job.source, job.target, job.shard_size)


def make_job(source: Path | str, target: Path | str, **settings: Any) -> DatasetJob:
    values = {"options": PhotoOptions(), "seed": SEED, "options_sha256": "0" * 64, **settings}
    return DatasetJob(source=StorageLocation(str(source)), target=StorageLocation(str(target)), **values)


def paint(job: DatasetJob, monkeypatch: pytest.MonkeyPatch, worker: type[ShardWorker] = Painter) -> list[ShardOutcome]:
    """What a run says of its shards."""
    monkeypatch.setattr(dataset_engines, "ShardWorker", worker)
    return list(run_local(job, begin(job, shards_of(job))))


def results(folder: Path) -> dict[str, bytes]:
    """All files in a folder, by relative name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def painted(data: bytes) -> Any:
    """The colour of a result."""
    image = PIL.Image.open(io.BytesIO(data)).convert("RGB")
    assert image.getextrema() == tuple((value, value) for value in image.getpixel((0, 0)))
    return image.getpixel((0, 0))
