"""Reasons of refusals name the options of the command, wherever a person reads them."""

import json
from pathlib import Path

import PIL.Image
import pyarrow.parquet as pq
import pytest

from nullface_pipeline.photo_folder import contact_sheet
from nullface_pipeline.runs.messages import with_option_names

from .test_anonymize import invoke_as_main


@pytest.fixture
def wall(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    PIL.Image.new("RGB", (64, 64), "white").save(tmp_path / "photos" / "wall.png")
    return tmp_path / "photos"


def test_in_the_report_and_on_the_contact_sheet(wall, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        contact_sheet, "draw_tile", lambda outcome: drawn.append(outcome) or PIL.Image.new("RGB", (1, 1))
    )
    report, sheet = tmp_path / "r.jsonl", tmp_path / "s.png"
    arguments = ("anonymize", wall, "-o", tmp_path / "out", "--report", report, "--contact-sheet", sheet)
    assert invoke_as_main(*arguments).exit_code == 4
    reason = json.loads(report.read_text())["reason"]
    assert "--detection-threshold" in reason and "`" not in reason
    assert [outcome.reason for outcome in drawn] == [reason]


def test_in_the_results_and_reports_of_a_data_set(wall, tmp_path):
    assert invoke_as_main("dataset", wall, "-o", tmp_path / "out").exit_code == 4
    (report,) = (tmp_path / "out-reports").rglob("*.parquet")
    (reason,) = pq.read_table(report)["reason"].to_pylist()
    assert "--detection-threshold" in reason and "`" not in reason


def test_other_words_in_backticks_stay():
    assert (
        with_option_names("Run `nullface fetch`, or lower `min_face`.") == "Run `nullface fetch`, or lower --min-face."
    )
