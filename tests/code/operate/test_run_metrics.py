"""What runs cost, as Prometheus reads it and as people do."""

from __future__ import annotations

import io
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from crashcast.errors import UserError
from crashcast.operate import run_metrics
from crashcast.operate.textfile import write

RUN = {
    "begun": "2026-01-05T12:00:00+00:00", "duration_s": 60.0, "cpu_s": 90.5, "peak_memory_bytes": 250_000_000,
    "exit_status": 0,
}  # fmt: skip
LABEL = {
    **RUN, "name": "label", "read_bytes": 1_000, "written_bytes": 2_000_000, "rows": 1_234,
    "partitions": {"evidence": {"total": 3, "remembered": 2}, "label": {"total": 3, "remembered": 0}},
    "succeeded": 1767614460.0,
}  # fmt: skip
COLLECT = {**RUN, "name": "collect", "exit_status": 2, "succeeded": None}


def test_prometheus_reads_the_figures_of_the_last_runs(tmp_path: Path) -> None:
    file = write(run_metrics.samples([LABEL, COLLECT]), tmp_path, "crashcast_runs")
    assert [path.name for path in tmp_path.iterdir()] == ["crashcast_runs.prom"]  # and no temporary file
    found = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(file.read_text())
        for sample in family.samples
    }
    assert found["crashcast_run_cpu_seconds", "label"] == 90.5
    assert found["crashcast_run_partitions", "evidence", "label", "memo"] == 2
    assert found["crashcast_run_partitions", "computed", "evidence", "label"] == 1
    assert found["crashcast_run_last_success_timestamp_seconds", "label"] == 1767614460.0
    assert (found["crashcast_run_failed", "label"], found["crashcast_run_failed", "collect"]) == (0, 1)
    assert ("crashcast_run_last_success_timestamp_seconds", "collect") not in found
    assert ("crashcast_run_rows", "collect") not in found


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_has_no_objection(tmp_path: Path) -> None:
    text = write(run_metrics.samples([LABEL, COLLECT]), tmp_path, "crashcast_runs").read_bytes()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--textfile .*nowhere: there is no such folder"):
        write(run_metrics.samples([LABEL]), tmp_path / "nowhere", "crashcast_runs")


def test_people_see_a_line_for_each_run() -> None:
    console = Console(file=io.StringIO(), width=120)
    run_metrics.show([LABEL, COLLECT], console)
    _, label, collect = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert label.split() == ["label", "05", "Jan", "12:01", "60.0", "90.5", "250", "2.0", "1,234", "2", "of", "6"]
    assert collect.split()[:2] == ["collect,", "failed"]
    run_metrics.show([], console)
    assert "No run is recorded yet" in console.file.getvalue()  # type: ignore[attr-defined]
