"""A Parquet file with a column of images, as `datasets` writes it or with bare bytes: the images are changed, named columns
are copied, a column `refused` says why an image is null, and all else is dropped."""

import contextlib
import json
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from nullface_pipeline.dataset.job import DatasetJob
from nullface_pipeline.dataset.places import ShardError
from nullface_pipeline.dataset.rows import Row
from nullface_pipeline.photo_files import PhotoFileError


# Rows that are held at a time; also the row groups of the result, so that a photo can be read without many others.
BATCH = 64

REFUSED = "refused"


class ParquetRows:
    """`ShardRows` of one Parquet file."""

    def __init__(self, job: DatasetJob, name: str, source: BinaryIO, target: BinaryIO) -> None:
        self._job, self._name = job, name
        self._source = pq.ParquetFile(source)
        self._schema = result_schema(self._source.schema_arrow, job)
        self.writer = pq.ParquetWriter(target, self._schema)
        # Batches that are read and not yet written, and the results for the first of them.
        self._batches: deque[pa.RecordBatch] = deque()
        self._images: list[bytes | None] = []
        self._reasons: list[str | None] = []
        self._written = 0

    def __iter__(self) -> Iterator[Row]:
        job, number, seen = self._job, 0, set()
        read = dict.fromkeys([job.image_column, *job.columns, *([job.id_column] if job.id_column else [])])
        for batch in self._source.iter_batches(BATCH, columns=list(read)):
            self._batches.append(batch)
            for index, image in enumerate(batch.column(job.image_column)):
                row_id = f"{self._name}#{number}"
                if job.id_column is not None:
                    row_id = str(batch.column(job.id_column)[index].as_py())
                    if row_id in seen or row_id == "None":
                        raise ShardError(f"The column {job.id_column!r} repeats {row_id!r} or lacks it: name another.")
                    seen.add(row_id)
                number += 1
                yield Row(row_id, lambda image=image: _bytes(image.as_py()))  # type: ignore[misc]

    def add(self, row: Row, data: bytes | None, reason: str) -> None:
        self._images.append(data)
        self._reasons.append(reason if data is None else None)
        if len(self._images) == self._batches[0].num_rows:
            self._write_batch(self._batches.popleft())

    def _write_batch(self, batch: pa.RecordBatch) -> None:
        field = self._schema.field(self._job.image_column)
        images = self._images
        if pa.types.is_struct(field.type):
            images = [None if image is None else {"bytes": image} for image in images]  # type: ignore[misc]
        made = {self._job.image_column: pa.array(images, field.type), REFUSED: pa.array(self._reasons, pa.string())}
        columns = [made[name] if name in made else batch.column(name) for name in self._schema.names]
        self.writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._written += batch.num_rows
        self._images, self._reasons = [], []

    def check(self) -> None:
        """That every row of the source is written."""
        if self._written != self._source.metadata.num_rows:
            raise ShardError(f"{self._written} of {self._source.metadata.num_rows} rows were written.")


@contextlib.contextmanager
def open_parquet(job: DatasetJob, name: str) -> Iterator[ParquetRows]:
    with job.source.open(name) as source, job.target.written(name) as target:
        rows = ParquetRows(job, name, source, target)
        with rows.writer:
            yield rows
            rows.check()


def _bytes(image: Any) -> bytes:
    data = image["bytes"] if isinstance(image, dict) else image
    if data is None:
        raise PhotoFileError("The row holds no picture; one that lies elsewhere is not fetched.")
    return bytes(data)


def result_schema(source: pa.Schema, job: DatasetJob) -> pa.Schema:
    """The columns of the result, in the order of the source.

    Raises:
        ShardError: if a column is missing, the images are none, or a column that was named could hold pictures.
    """
    for name in (job.image_column, *job.columns, *([job.id_column] if job.id_column else [])):
        if name not in source.names:
            raise ShardError(f"There is no column {name!r}: it has {', '.join(source.names)}.")
    image = source.field(job.image_column)
    if not (_is_binary(image.type) or _is_image_struct(image.type)):
        raise ShardError(f"The column {image.name!r} holds {image.type}, not bytes of pictures: name --image-column.")
    if REFUSED in job.columns or image.name in (REFUSED, *job.columns):
        raise ShardError(f"--columns cannot name {REFUSED!r} or the images: the result has these columns anyway.")
    fields = []
    for field in source:
        if field.name == image.name:
            fields.append(pa.field(field.name, field.type))
        elif field.name in job.columns:
            if _holds_binary(field.type):
                raise ShardError(f"The column {field.name!r} could hold pictures, which nobody has anonymized.")
            fields.append(field)
    fields.append(pa.field(REFUSED, pa.string()))
    return pa.schema(fields, metadata=_features((source.metadata or {}).get(b"huggingface"), fields))


def _features(metadata: bytes | None, fields: list[pa.Field]) -> dict[bytes, bytes] | None:
    """What `datasets` has to know of the columns that are left."""
    if metadata is None:
        return None
    features = json.loads(metadata)["info"]["features"]
    kept = {field.name: features[field.name] for field in fields if field.name != REFUSED}
    kept[REFUSED] = {"dtype": "string", "_type": "Value"}
    return {b"huggingface": json.dumps({"info": {"features": kept}}).encode()}


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_image_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or "bytes" not in kind.names or not set(kind.names) <= {"bytes", "path"}:
        return False
    return _is_binary(kind.field("bytes").type)


def _holds_binary(kind: pa.DataType) -> bool:
    nested = [kind.field(index).type for index in range(kind.num_fields)]
    return "binary" in str(kind) or any(map(_holds_binary, nested))
