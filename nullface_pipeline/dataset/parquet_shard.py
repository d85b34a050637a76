"""Shard of a Parquet file with a column of images, as structs of `datasets` or as bytes.

Images are anonymized, and the columns in `job.columns` are copied if their values are small. A
column `refused` gives the reason why an image is null. Everything else is dropped. The schema is
rebuilt from names and types, because metadata can contain pictures.
"""

import contextlib
import json
from collections import deque
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from nullface_pipeline.dataset.job import DatasetJob
from nullface_pipeline.dataset.rows import Row, ShardHashes
from nullface_pipeline.dataset.storage import ShardError, file_sha256
from nullface_pipeline.dataset.value_limits import value_problem
from nullface_pipeline.photo_files import PhotoFileError


# Rows per batch in memory, and per row group of the result.
BATCH = 64

REFUSED = "refused"


class ParquetRows:
    """`ShardRows` of one Parquet file."""

    hashes: ShardHashes

    def __init__(self, job: DatasetJob, name: str, source: BinaryIO, target: BinaryIO) -> None:
        self._job, self._name = job, name
        with _reading():
            self._source = pq.ParquetFile(source)
        self._schema = result_schema(self._source.schema_arrow, job)
        self.writer = pq.ParquetWriter(target, self._schema)
        # Unwritten batches, and the results for the first of them.
        self._batches: deque[pa.RecordBatch] = deque()
        self._images: list[bytes | None] = []
        self._reasons: list[str | None] = []
        self._written = 0

    def __iter__(self) -> Iterator[Row]:
        job, number, seen = self._job, 0, set()
        read = dict.fromkeys([job.image_column, *job.columns, *([job.id_column] if job.id_column else [])])
        for batch in self._read(list(read)):
            self._check_kept(batch, number)
            self._batches.append(batch)
            for index, image in enumerate(batch.column(job.image_column)):
                row_id = f"{self._name}#{number}"
                if job.id_column is not None:
                    row_id = str(batch.column(job.id_column)[index].as_py())
                    if row_id in seen or row_id == "None":
                        raise ShardError(
                            f"The column {job.id_column!r} has no or a repeated value, {row_id!r}: choose another."
                        )
                    seen.add(row_id)
                number += 1
                yield Row(row_id, lambda image=image: _bytes(image.as_py()))  # type: ignore[misc]

    def _read(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        with _reading():
            yield from self._source.iter_batches(BATCH, columns=columns)

    def _check_kept(self, batch: pa.RecordBatch, first: int) -> None:
        for name in self._job.columns:
            kind = self._schema.field(name).type
            if not (_is_text(kind) or pa.types.is_nested(kind)):
                continue
            for number, value in enumerate(batch.column(name).to_pylist(), start=first):
                if problem := value_problem(value):
                    raise _not_kept(name, f"in row {number} {problem}")

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
        new = {self._job.image_column: pa.array(images, field.type), REFUSED: pa.array(self._reasons, pa.string())}
        columns = [
            new[each.name] if each.name in new else batch.column(each.name).cast(each.type) for each in self._schema
        ]
        self.writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self._schema))
        self._written += batch.num_rows
        self._images, self._reasons = [], []

    def check(self) -> None:
        """Check that every row of the source was written."""
        if self._written != self._source.metadata.num_rows:
            raise ShardError(f"{self._written} of {self._source.metadata.num_rows} rows were written.")


@contextlib.contextmanager
def open_parquet(job: DatasetJob, name: str) -> Iterator[ParquetRows]:
    with job.source.open(name) as source, job.target.written(name, job.source.local_file(name)) as target:
        before = file_sha256(source)
        rows = ParquetRows(job, name, source, target)
        with rows.writer:
            yield rows
            rows.check()
        rows.hashes = ShardHashes(before, file_sha256(target))


def _bytes(image: object) -> bytes:
    data = image["bytes"] if isinstance(image, dict) else image
    if not isinstance(data, bytes):
        raise PhotoFileError("The row contains no picture. Pictures behind a path or URL are not fetched.")
    return data


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        # For a damaged file, pyarrow raises an OSError without errno.
        if getattr(error, "errno", None) is not None:
            raise
        raise ShardError("It is not a complete Parquet file: copy it again from its source.") from error


def result_schema(source: pa.Schema, job: DatasetJob) -> pa.Schema:
    """Schema of the result, in the column order of the source, rebuilt from names and types.

    Raises:
        ShardError: if a column is missing or repeated, the images are not bytes, or a column in
            `job.columns` could contain pictures.
    """
    for name in (job.image_column, *job.columns, *([job.id_column] if job.id_column else [])):
        if name not in source.names:
            raise ShardError(f"The source has no column {name!r}. Choose one of {', '.join(source.names)}.")
        if source.names.count(name) > 1:
            raise ShardError(f"There are two columns named {name!r}: rename one of them.")
    image = source.field(job.image_column)
    if not (_is_binary(image.type) or _is_image_struct(image.type)):
        raise ShardError(f"The column {image.name!r} has type {image.type}, not bytes: set --image-column.")
    if REFUSED in job.columns or image.name in (REFUSED, *job.columns):
        raise ShardError(
            f"--columns cannot contain {REFUSED!r} or the image column, which the result always has: leave it out."
        )
    fields = []
    for field in source:
        if field.name == image.name:
            fields.append(pa.field(field.name, _image_type(field.type)))
        elif field.name in job.columns:
            fields.append(pa.field(field.name, _kept_type(field.name, field.type)))
    fields.append(pa.field(REFUSED, pa.string()))
    return pa.schema(fields, metadata=_features((source.metadata or {}).get(b"huggingface"), image.name, job.columns))


def _image_type(kind: pa.DataType) -> pa.DataType:
    if not pa.types.is_struct(kind):
        return kind
    types = {"bytes": kind.field("bytes").type, "path": pa.string()}
    return pa.struct([pa.field(field.name, types[field.name]) for field in kind])


def _kept_type(column: str, kind: pa.DataType) -> pa.DataType:
    """Arrow type without metadata and dictionaries, which can have unused entries."""

    def rebuilt(kind: pa.DataType) -> pa.DataType:
        if pa.types.is_dictionary(kind):
            return rebuilt(kind.value_type)
        if pa.types.is_struct(kind):
            return pa.struct([pa.field(_checked_name(column, field.name), rebuilt(field.type)) for field in kind])
        if pa.types.is_map(kind):
            return pa.map_(rebuilt(kind.key_type), rebuilt(kind.item_type))
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(rebuilt(kind.value_type), kind.list_size)
        if pa.types.is_list(kind):
            return pa.list_(rebuilt(kind.value_type))
        if pa.types.is_large_list(kind):
            return pa.large_list(rebuilt(kind.value_type))
        if pa.types.is_timestamp(kind) and kind.tz:
            _checked_name(column, kind.tz)
        if _is_scalar(kind):
            return kind
        raise _not_kept(column, f"values of type {kind} can contain pictures")

    return rebuilt(kind)


def _is_scalar(kind: pa.DataType) -> bool:
    return pa.types.is_primitive(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind) or _is_text(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _checked_name(column: str, name: str) -> str:
    if problem := value_problem(name):
        raise _not_kept(column, f"in one of its names {problem}")
    return name


def _not_kept(column: str, problem: str) -> ShardError:
    return ShardError(
        f"The column {column!r} cannot be kept, because {problem}. Only numbers and short texts are kept: leave it "
        "out of --columns."
    )


def _features(metadata: bytes | None, image: str, columns: tuple[str, ...]) -> dict[bytes, bytes] | None:
    """Metadata for `datasets`: the image column and the class names."""
    try:
        features = json.loads(metadata or b"")["info"]["features"]
        kept = {
            name: {
                "names": [_checked_name(name, str(each)) for each in features[name]["names"]],
                "_type": "ClassLabel",
            }
            for name in columns
            if _is(features.get(name), "ClassLabel")
        }
        if _is(features.get(image), "Image"):
            kept[image] = {"_type": "Image"}
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        return None
    kept[REFUSED] = {"dtype": "string", "_type": "Value"}
    return {b"huggingface": json.dumps({"info": {"features": kept}}).encode()}


def _is(feature: object, kind: str) -> bool:
    return isinstance(feature, dict) and feature.get("_type") == kind


def _is_binary(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_image_struct(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or "bytes" not in kind.names or not set(kind.names) <= {"bytes", "path"}:
        return False
    return len(set(kind.names)) == len(kind.names) and _is_binary(kind.field("bytes").type)
