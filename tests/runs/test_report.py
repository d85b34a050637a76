"""A report holds what a report holds; any other line is one error in words."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nullface_pipeline.runs.report import read_report


LINE = {
    "source": "a.jpg",
    "output": "out/a.jpg",
    "status": "anonymized",
    "reason": None,
    "original_sha256": "0" * 64,
    "options_sha256": "1" * 64,
    "result_sha256": "2" * 64,
    "faces": [{"box": [1.0, 2, 3, 4], "score": 0.9, "similarity": None, "attempts": 1, "method": "replaced"}],
}


def read(tmp_path: Path, text: str) -> Any:
    path = tmp_path / "report.jsonl"
    path.write_bytes(text.encode(errors="surrogatepass") if isinstance(text, str) else text)
    return read_report(path)


def test_a_file_that_is_no_report_is_not_touched(tmp_path):
    with pytest.raises(ValueError, match="report.jsonl"):
        read(tmp_path, "Chapter 1\n")
    with pytest.raises(ValueError, match="report.jsonl"):
        read(tmp_path, "no line end")
    assert read_report(tmp_path / "none.jsonl") == {}
    (outcome,) = read(tmp_path, json.dumps(LINE) + "\n").values()
    assert outcome.hashes.result == "2" * 64 and outcome.faces[0].method == "replaced"


def test_lines_of_before_there_were_hashes_vouch_for_nothing(tmp_path):
    old = {name: value for name, value in LINE.items() if not name.endswith("sha256")}
    (outcome,) = read(tmp_path, json.dumps(old) + "\n").values()
    assert outcome.hashes is None


@pytest.mark.parametrize(
    "change",
    [
        {"source": 5},
        {"source": "a\0b"},
        {"source": "\ud83d"},
        {"output": ["out"]},
        {"output": None},
        {"output": ""},
        {"status": "fine"},
        {"status": []},
        {"reason": {}},
        {"reason": 3},
        {"faces": {"box": 1}},
        {"faces": "abcd"},
        {"faces": [None]},
        {"faces": [{**LINE["faces"][0], "box": "abcd"}]},
        {"faces": [{**LINE["faces"][0], "box": [1, 2, 3]}]},
        {"faces": [{**LINE["faces"][0], "box": [1, 2, 3, float("nan")]}]},
        {"faces": [{**LINE["faces"][0], "score": 10**400}]},
        {"faces": [{**LINE["faces"][0], "score": True}]},
        {"faces": [{**LINE["faces"][0], "method": ["x"]}]},
        {"faces": [{**LINE["faces"][0], "attempts": 1.5}]},
        {"result_sha256": 7},
        {"result_sha256": None},
    ],
    ids=str,
)
def test_wrong_types_are_one_error(tmp_path, change):
    with pytest.raises(ValueError, match="report.jsonl"):
        read(tmp_path, json.dumps(LINE | change) + "\n")


@pytest.mark.parametrize("line", [b"[" * 200_000, b"\xff\xfe\x00", b"1" * 5000, b"null", b"[]", b"{}", b""])
def test_lines_that_hurt_readers(tmp_path, line):
    with pytest.raises(ValueError, match="report.jsonl"):
        read(tmp_path, line + b"\n")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from([*LINE, "box", "score"]), inner),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(field=st.sampled_from([*LINE]), value=VALUES)
def test_any_value_in_any_field(tmp_path_factory, field, value):
    try:
        read(tmp_path_factory.getbasetemp(), json.dumps(LINE | {field: value}) + "\n")
    except ValueError as error:
        assert "\n" not in str(error) and "report.jsonl" in str(error)


@settings(max_examples=50, deadline=None)
@given(field=st.sampled_from([*LINE["faces"][0]]), value=VALUES)
def test_any_value_in_any_field_of_a_face(tmp_path_factory, field, value):
    line = LINE | {"faces": [LINE["faces"][0] | {field: value}]}
    try:
        read(tmp_path_factory.getbasetemp(), json.dumps(line) + "\n")
    except ValueError as error:
        assert "report.jsonl" in str(error)
