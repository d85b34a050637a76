"""`nullface selftest`: a verdict that can be pasted, and an exit code."""

from collections.abc import Callable

import pytest
import torch
from typer.testing import CliRunner, Result

from nullface_pipeline.cli import app
from nullface_pipeline.selftest.findings import Finding
from nullface_pipeline.selftest.run import Selftest


def run_with(monkeypatch: pytest.MonkeyPatch, findings: list[Finding]) -> Result:
    def run_selftest(
        name: str, device: str | None, dtype: torch.dtype | None, report: Callable[[Finding], None]
    ) -> Selftest:
        for finding in findings:
            report(finding)
        return Selftest(findings, {"loading": 1.5}, 2**30)

    monkeypatch.setattr("nullface_pipeline.selftest.run.run_selftest", run_selftest)
    return CliRunner().invoke(app, ["selftest"])


def test_everything_right_exits_with_0(monkeypatch):
    result = run_with(monkeypatch, [Finding("adapter", "gain", "0.03 (at least 0.01)", True)])
    assert result.exit_code == 0
    assert "Verdict: tiny passed." in result.output
    assert "torch 2" in result.output and "loading 1.5 s, at most 1.0 GiB" in result.output


def test_a_wrong_part_exits_with_1_and_is_named(monkeypatch):
    findings = [Finding("adapter", "gain", "nan [at] least", False), Finding("detector", "faces", "1", True)]
    result = run_with(monkeypatch, findings)
    assert result.exit_code == 1
    assert "FAIL  adapter" in result.output and "[at]" in result.output
    assert "failed: adapter." in result.output


@pytest.mark.slow
def test_nullface_tiny():
    result = CliRunner().invoke(app, ["selftest", "--device", "cpu"])
    assert result.exit_code == 0, result.output
