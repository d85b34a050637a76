"""Limits on the values that a data set keeps beside its photos, so that none of them can hold a
picture."""

import json
import re
import unicodedata
from collections.abc import Iterator

from nullface_pipeline.photo_files.exif import looks_encoded


# Letters of all texts in one value, letters between two spaces, numbers in one value, and digits of a number.
MAX_TEXT, MAX_WORD, MAX_NUMBERS, MAX_DIGITS = 2000, 200, 64, 40

# Bytes of a member of a tar: JSON has quotes and spaces besides its texts and numbers.
MAX_KEPT_BYTES = 16_384


class _LongNumber(Exception):
    """A number in JSON with too many digits."""


def data_problem(data: bytes) -> str | None:
    """Return why the bytes of a member cannot be kept, or None if they are a short text or short JSON."""
    try:
        return "it is too long" if len(data) > MAX_KEPT_BYTES else value_problem(data.decode())
    except UnicodeDecodeError:
        return "it is not UTF-8 text"


def value_problem(value: object) -> str | None:
    """Return why a value cannot be kept, or None if it is too small to hold a picture.

    Args:
        value: numbers, texts, dates, and lists and dictionaries of them. A text may be JSON.
    """
    try:
        parts = list(_parts(_parsed(value) if isinstance(value, str) else value))
    except (_LongNumber, RecursionError):
        return "its JSON has a long number, or lists within lists"
    texts = [part for part in parts if isinstance(part, str)]
    if len(parts) - len(texts) > MAX_NUMBERS:
        return f"it holds more than {MAX_NUMBERS} numbers"
    if sum(map(len, texts)) > MAX_TEXT:
        return f"its text is longer than {MAX_TEXT:,} characters"
    return next((problem for text in texts if (problem := _text_problem(text))), None)


def _parsed(text: str) -> object:
    """Lists and dictionaries in a JSON text, with repeated keys; any other text unchanged."""
    try:
        value = json.loads(text, object_pairs_hook=tuple, parse_int=_number, parse_float=_number)
    except ValueError:
        return text
    return value if isinstance(value, (list, tuple)) else text


def _number(digits: str) -> float:
    if len(digits) > MAX_DIGITS:
        raise _LongNumber
    return float(digits)


def _parts(value: object) -> Iterator[object]:
    """Keys, texts and numbers of a value."""
    if isinstance(value, dict):
        yield from _parts(list(value.items()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _parts(item)
    else:
        yield value


def _text_problem(text: str) -> str | None:
    if any(unicodedata.category(letter) in ("Cc", "Cn", "Co", "Cs") and letter not in "\t\n\r" for letter in text):
        return "its text has control characters"
    encoded = any(map(looks_encoded, re.findall("[A-Za-z0-9]+", text)))
    if encoded or any(len(word) > MAX_WORD for word in text.split()):
        return "its text looks encoded"
    return None
