"""Names of metrics by rule, and servers in names of columns, files and folders."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from crashcast.errors import UserError
from crashcast.sources.importing.layouts import Layout, identifier, stem, with_servers
from crashcast.sources.importing.parsing import read_samples
from crashcast.sources.importing.table_file import Sheet


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cpu_pct", "cpu_pct"),
        ("_value", "_value"),
        ("system.cpu.user", "system_cpu_user"),
        ("CPU [%]", "CPU_pct"),
        ("system.cpu.util[,idle]", "system_cpu_util_idle"),
        ('rate(node_cpu_seconds_total{mode="idle"}[5m])', "rate_node_cpu_seconds_total_mode_idle_5m"),
        ("5xx errors", "_5xx_errors"),
        ("Température (°C)", "Temperature_C"),
        ("latency \N{MICRO SIGN}s", "latency_us"),
        ("温度 C", "温度 C"),  # a C alone would be another name
        ("[]", "[]"),
    ],
)
def test_a_name_becomes_an_identifier_unless_letters_would_be_lost(name: str, expected: str) -> None:
    assert identifier(name) == expected


def test_a_stem_ends_before_the_whole_suffix() -> None:
    assert stem(Path("a/web-01.example.net.csv.gz")) == "web-01.example.net"


def placed(path: str, layout: Layout, *columns: str) -> tuple[pl.DataFrame, str]:
    """Return a table of two rows with servers, and where they come from."""
    frame = pl.DataFrame({"time": ["t0", "t1"]} | {name: [f"{name}0", f"{name}1"] for name in columns})
    sheet, how = with_servers(
        Sheet(Path(path), frame, range(2, 10**6)), {"timestamp": "time"}, layout, ["host", "server_id"]
    )
    return sheet.frame, how


def test_columns_of_servers_are_told_by_incidents_labels_or_the_user() -> None:
    names = ["web-01", "web-02"]
    for layout in (Layout(servers={"web-02", "db-01"}), Layout(metric="cpu", servers={"db-01"})):
        frame, how = placed("cpu.csv", layout, *names)
        assert frame.rows() == [(f"t{row}", name, f"{name}{row}") for name in names for row in (0, 1)]
        assert frame.columns == ["time", "server_id", "cpu"]
        assert "server_id from the names of 2 columns (web-01, web-02), all of the metric cpu" in how
    frame, _ = placed("cpu.csv", Layout(), 'cpu{instance="web-01", job="node"}', 'cpu{instance="web-02"}')
    assert frame["server_id"].unique(maintain_order=True).to_list() == names
    assert placed("cpu.csv", Layout(servers={"db-01"}), "cpu_pct", "mem_pct")[1] == ""


def test_a_file_or_its_folder_is_named_after_the_server() -> None:
    assert placed("in/host=web-01/part-0.parquet", Layout(), "cpu")[0]["server_id"].to_list() == ["web-01"] * 2
    assert placed("in/month=2026-01/a.csv", Layout(), "cpu")[1] == ""
    assert placed("in/web-01.csv", Layout(beside_server=("", "")), "cpu")[0]["server_id"].to_list() == ["web-01"] * 2


def test_an_error_in_a_column_of_a_server_names_the_row_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cpu.csv"
    path.write_text("time,web-01,web-02\n2026-01-01 00:00Z,1,2\n2026-01-01 01:00Z,3,fast\n")
    with pytest.raises(UserError, match=r"cpu\.csv, column 'cpu', row 3: 'fast' is not a number"):
        read_samples(path, tmp_path / "s", (), datetime(2026, 2, 1, tzinfo=UTC), layout=Layout(servers={"web-01"}))
