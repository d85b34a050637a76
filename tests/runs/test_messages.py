"""Exceptions of every kind become one printable line."""

import errno
import json

import pytest
import torch

from nullface_pipeline.photo_files import PhotoFileError
from nullface_pipeline.runs.messages import MAX_LENGTH, format_error


def decode_error() -> ValueError:
    try:
        json.loads("{")
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        Exception(),
        KeyError("box"),
        ValueError("a\nb\r\tc \x1b[31m \u202e \udc80 \0"),
        RuntimeError("x" * 10_000),
        RuntimeError("\n".join("size mismatch" for _ in range(1000))),
        OSError("pipe\nbroken"),
        OSError(errno.ENOENT, "No such\nfile", "a\nb\udc80.jpg"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        decode_error(),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_one_printable_line_without_a_full_stop(error):
    text = format_error(error)
    assert text and text.isprintable() and not text.endswith(".") and len(text) <= MAX_LENGTH


def test_the_file_that_the_system_names():
    error = PermissionError(errno.EACCES, "Permission denied", "/home/someone/out/.nullface-1.part")
    assert format_error(error) == "/home/someone/out/.nullface-1.part: Permission denied"
    assert format_error(error, name_file=False) == "Permission denied"


@pytest.mark.parametrize("name_file", [True, False])
def test_a_file_too_large_for_the_shell_names_the_remedy(name_file):
    text = format_error(OSError(errno.EFBIG, "File too large", "report.jsonl"), name_file)
    assert "ulimit -f" in text and ("report.jsonl" in text) == name_file


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB")])
def test_out_of_memory_names_the_remedy(error):
    assert "memory" in format_error(error) and "`batch_faces`" in format_error(error)


def test_the_type_is_named_where_the_text_alone_says_nothing():
    assert format_error(KeyError("box")) == "KeyError: 'box'"
    assert format_error(ZeroDivisionError()) == "ZeroDivisionError"
    assert format_error(ValueError("`seed` must not be negative.")) == "`seed` must not be negative"
    assert format_error(PhotoFileError("It is not a photo.")) == "It is not a photo"
