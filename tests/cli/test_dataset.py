"""`nullface dataset`: usage, exit codes, and what it says."""

import os
import shutil
import subprocess
import sys

import PIL.Image
import pyarrow.parquet as pq
import pytest
from skimage import data

from nullface_pipeline.dataset import engines as dataset_engines

from ..dataset.samples import Painter, make_parquet, make_photos, results
from .test_anonymize import contents, invoke_as_main


def test_a_run_and_its_report(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_engines, "ShardWorker", Painter)
    source, out = make_parquet(tmp_path / "in", 20, 10), tmp_path / "out"
    arguments = ("dataset", source, "--output", out, "--id-column", "id", "--columns", "label,caption")
    result = invoke_as_main(*arguments)
    assert result.exit_code == 4, result.output
    assert "train-00000.parquet: 10 photos, 8 anonymized, 0 covered, 2 refused" in result.output
    before = results(out)
    assert set(before) == {"train-00000.parquet", "train-00001.parquet"}
    again = invoke_as_main(*arguments)
    assert again.exit_code == 0 and "0 shard(s) to do" in again.output and results(out) == before
    report = invoke_as_main("dataset", "report", out)
    assert report.exit_code == 0 and "photos refused" in report.output and "No face was found" in report.output
    other = invoke_as_main(*arguments, "--preset", "strong")
    assert other.exit_code == 2 and "other options" in other.output


def test_columns_can_be_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_engines, "ShardWorker", Painter)
    source = make_parquet(tmp_path / "in", 4, 10)
    columns = ("--columns", "label", "--columns", "caption")
    result = invoke_as_main("dataset", source, "-o", tmp_path / "out", "--id-column", "id", *columns)
    assert result.exit_code in (0, 4), result.output
    table = pq.read_table(next((tmp_path / "out").glob("*.parquet")))
    assert {"label", "caption"} <= set(table.column_names)


def test_no_result_is_written_over_a_reference_photo(tmp_path):
    make_photos(tmp_path / "in", 1)
    reference = tmp_path / "out" / "a.jpg"
    reference.parent.mkdir()
    PIL.Image.fromarray(data.astronaut()).save(reference)
    before = reference.read_bytes()
    result = invoke_as_main("dataset", tmp_path / "in", "-o", tmp_path / "out", "--skip-face", reference)
    assert result.exit_code == 2 and str(reference) in result.output
    assert reference.read_bytes() == before


def test_a_run_that_lost_its_target_is_the_same_by_its_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_engines, "ShardWorker", Painter)
    photos = make_photos(tmp_path / "in", 4)
    for out, seed in (("a", "one"), ("b", "one"), ("c", "two")):
        arguments = ("dataset", photos, "-o", tmp_path / out, "--seed-file", tmp_path / seed, "--quiet")
        assert invoke_as_main(*arguments).exit_code == 0
    assert results(tmp_path / "a") == results(tmp_path / "b")
    assert results(tmp_path / "a") != results(tmp_path / "c")


def test_with_a_model(tmp_path):
    (tmp_path / "in").mkdir()
    PIL.Image.fromarray(data.astronaut()[:300, 60:360]).save(tmp_path / "in" / "a.png")
    result = invoke_as_main("dataset", tmp_path / "in", "-o", tmp_path / "out", "--min-face", "400")
    assert result.exit_code == 3 and "do not publish" in result.output
    assert set(results(tmp_path / "out")) == {"a.png"}


def test_a_report_compares_the_results(tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_engines, "ShardWorker", Painter)
    photos, out = make_photos(tmp_path / "in", 3), tmp_path / "out"
    run = ("dataset", photos, "-o", out)
    assert invoke_as_main(*run).exit_code == 0
    shutil.copy(photos / "1" / "0001.png", out / "1" / "0001.png")
    report = invoke_as_main("dataset", "report", out)
    assert report.exit_code == 4 and "1/0001.png" in report.output and "photos changed" in report.output
    again = invoke_as_main(*run)
    assert again.exit_code == 0 and "1 shard(s) to do" in again.output
    assert invoke_as_main("dataset", "report", out).exit_code == 0


@pytest.mark.parametrize(("quiet", "rank", "times"), [(False, "0", 1), (True, "0", 0), (False, "1", 0)])
def test_the_notice_about_the_model_appears_once(tmp_path, monkeypatch, quiet, rank, times):
    monkeypatch.setattr(dataset_engines, "ShardWorker", Painter)
    monkeypatch.setenv("RANK", rank)
    photos = make_photos(tmp_path / "in", 3)
    result = invoke_as_main("dataset", photos, "-o", tmp_path / "out", "--shard-size", "1", *["--quiet"] * quiet)
    assert result.exit_code == 0 and result.output.count("do not publish") == times


def test_an_empty_source_is_an_error_before_anything_is_loaded(tmp_path):
    (tmp_path / "in").mkdir()
    script = "import sys; from nullface_pipeline.cli import main\ntry: main()\nfinally: print('torch' in sys.modules)"
    command = [sys.executable, "-c", script, "dataset", tmp_path / "in", "-o", tmp_path / "out"]
    run = subprocess.run(
        command, env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}, capture_output=True, text=True
    )
    assert run.returncode == 2 and "no Parquet files" in run.stderr and run.stdout.strip() == "False"
    assert not (tmp_path / "state").exists(), "no seed is drawn"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "-o", "out"], "does not exist"),
        (["in"], "--output"),
        (["in", "-o", "in/out"], "overlap"),
        (["in", "-o", "old"], "no earlier run"),
        (["in", "-o", "out", "--engine", "ray"], "--address"),
        (["in", "-o", "out", "--address", "127.0.0.1:1"], "--address"),
        (["in", "-o", "out", "--workers", "2"], "--workers"),
        (["in", "-o", "out", "--on-failure", "error"], "--on-failure"),
        (["in", "-o", "out", "--skip-face", "1,1,5,5"], "--skip-face"),
        (["in", "-o", "out", "--keep", "eye"], "--keep holds unknown regions"),
        (["in", "-o", "s9://bucket/out"], "s9"),
        (["in", "-o", "out", "--seed-file", "seed"], "does not contain a seed"),
        (["report", "out"], "no reports"),
    ],
)
def test_wrong_usage(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    make_photos(tmp_path / "in", 1)
    make_photos(tmp_path / "old", 1)
    (tmp_path / "seed").write_text("secret")
    (tmp_path / "seed").chmod(0o600)
    before = contents(tmp_path)
    result = invoke_as_main("dataset", *arguments)
    assert result.exit_code == 2 and message in " ".join(result.output.split()), result.output
    assert contents(tmp_path) == before
