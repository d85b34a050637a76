"""Limits on the values that a data set keeps beside its photos, so that none is a picture."""

import json
import re
import unicodedata
from collections.abc import Iterator

from nullface_pipeline.photo_files.exif import looks_encoded


# Highest number of characters in a value and in a word, of numbers in a value, and of digits.
MAX_TEXT, MAX_WORD, MAX_NUMBERS, MAX_DIGITS = 2000, 200, 64, 40

# Highest size of a tar member in bytes, including the syntax of JSON.
MAX_KEPT_BYTES = 16_384


class _LongNumber(Exception):
    """A number in JSON with too many digits."""


def data_problem(data: bytes) -> str | None:
    """Reason why a tar member cannot be kept; `None` if it is a short text or short JSON."""
    try:
        return "it is too long" if len(data) > MAX_KEPT_BYTES else value_problem(data.decode())
    except UnicodeDecodeError:
        return "it is not UTF-8 text"


def value_problem(value: object) -> str | None:
    """Reason why a value cannot be kept; `None` if it is too small to be a picture.

    Args:
        value: number, text, date, or a list or dictionary of them. A text may be JSON.
    """
    try:
        parts = list(_parts(_parsed(value) if isinstance(value, str) else value))
    except (_LongNumber, RecursionError):
        return "its JSON has a long number or is nested too deeply"
    texts = [part for part in parts if isinstance(part, str)]
    if len(parts) - len(texts) > MAX_NUMBERS:
        return f"it contains more than {MAX_NUMBERS} numbers"
    if sum(map(len, texts)) > MAX_TEXT:
        return f"its text is longer than {MAX_TEXT:,} characters"
    return next((problem for text in texts if (problem := _text_problem(text))), None)


def _parsed(text: str) -> object:
    """Parse JSON lists and dictionaries, with repeated keys; other texts are unchanged."""
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
