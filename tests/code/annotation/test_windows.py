"""Server-windows, and the evidence in their telemetry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from crashcast import tables
from crashcast.annotation.windows import evidence, measured, read
from crashcast.errors import UserError
from crashcast.params.telemetry import Metric, Telemetry

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2025, 3, 1, tzinfo=UTC)
METRICS = {"cpu_pct": Metric(min=0, max=100), "uptime_h": Metric(min=0, max=1e5)}
TELEMETRY = Telemetry(interval=HOUR, partition="month", metrics=METRICS)
MARCH = tables.partition_at(datetime(2025, 3, 1), "month")


def clean_rows(**servers: dict[int, tuple[float, float]]) -> pl.DataFrame:
    """Return rows of servers: cpu and uptime by hours since `START`."""
    rows = [
        (START + hour * HOUR, name, float(cpu), float(uptime))
        for name, hours in servers.items()
        for hour, (cpu, uptime) in hours.items()
    ]
    schema = {**tables.KEYS, "cpu_pct": pl.Float32, "uptime_h": pl.Float32}
    return pl.DataFrame(rows, schema=schema, orient="row").sort("timestamp", "server_id")


def healthy(hours: range) -> dict[int, tuple[float, float]]:
    return {hour: (20 + hour % 5, 100 + hour) for hour in hours}


def test_a_row_that_repeats_the_one_before_it_was_filled() -> None:
    rows = clean_rows(a={0: (5, 1), 1: (5, 1), 2: (5, 3), 3: (6, 3)}, b={0: (5, 3), 1: (5, 3)})
    kept = measured(rows, list(METRICS)).select("server_id", pl.col("timestamp").dt.hour())
    assert kept.rows() == [("a", 0), ("a", 2), ("a", 3), ("b", 0)]


def test_evidence_of_a_crash_is_the_silence_and_what_started_anew() -> None:
    crashed = healthy(range(48)) | {hour: (10, hour - 14) for hour in range(15, 48)}
    del crashed[11], crashed[12], crashed[13], crashed[14]
    found = evidence(clean_rows(crashed=crashed, well=healthy(range(48))), MARCH, DAY, TELEMETRY)
    first = {row["server_id"]: row for row in found.filter(started_at=START).iter_rows(named=True)}

    # its last row before is that of 10:00, the next that of 15:00: nothing came at four moments
    assert first["crashed"]["gap_h"] == 4
    assert first["crashed"]["gap_hour"] == 10
    assert first["crashed"]["gap_company"] == 0.5  # at 10:00 one of two servers fell silent
    assert first["crashed"]["uptime_h_fall"] == 1 - 110
    assert first["crashed"]["uptime_h_fall_hour"] == 10
    assert first["well"]["gap_h"] == 0
    assert first["well"]["gap_hour"] is None
    assert first["well"]["uptime_h_fall"] == 1  # it only grew
    assert first["well"]["cpu_pct_max"] == 24


def test_a_window_sees_signs_from_six_hours_before_it_and_no_later_crash() -> None:
    rows = healthy(range(48)) | {19: (99, 119)}  # what came from 18:00 to 19:00
    found = evidence(clean_rows(a=rows), MARCH, DAY, TELEMETRY).sort("started_at")
    assert found["cpu_pct_max"].to_list() == [99, 99]
    rows = healthy(range(48)) | {18: (99, 118)}
    found = evidence(clean_rows(a=rows), MARCH, DAY, TELEMETRY).sort("started_at")
    assert found["cpu_pct_max"].to_list() == [99, 24]


@pytest.fixture
def raw(tmp_path, monkeypatch):
    """Write three days of two servers in a project of their own; a crashed on the second day, b was worked on."""
    monkeypatch.chdir(tmp_path)
    rows = clean_rows(a=healthy(range(80)), b=healthy(range(80)))
    tables.write(MARCH.path(tmp_path / "clean"), rows)
    tickets = [("1", "a", "crash", 30.5, 31.5), ("2", "b", "maintenance", 2, 3), ("3", "a", "crash", 40, 41)]
    records = pl.DataFrame(
        [(key, server, kind, START + on * HOUR, START + off * HOUR) for key, server, kind, on, off in tickets],
        schema=["incident_id", "server_id", "kind", "started_at", "resolved_at"],
        orient="row",
    )
    missing = {name: kind for name, kind in tables.INCIDENTS.items() if name not in records.columns}
    records = records.with_columns(pl.lit(None, kind).alias(name) for name, kind in missing.items())
    tables.write(tmp_path / "incidents.parquet", records.select(*tables.INCIDENTS).cast(tables.INCIDENTS))
    covered = [("a", START, START + 3 * DAY + 4 * HOUR, None), ("b", START, START + 2 * DAY + 3 * HOUR, None)]
    frame = pl.DataFrame(covered, schema=dict.fromkeys(tables.COVERAGE), orient="row").cast(tables.COVERAGE)
    tables.write(tmp_path / "coverage.parquet", frame)
    metrics = {name: {"min": metric.min, "max": metric.max} for name, metric in METRICS.items()}
    import yaml

    (tmp_path / "params.yaml").write_text(
        yaml.safe_dump(
            {
                "telemetry": {"interval": "1h", "partition": "month", "metrics": metrics},
                "incidents": {"reporting_delay": "4h", "unresolved_outage": "1d"},
            }
        )
    )
    return [tmp_path / name for name in ("clean", "incidents.parquet", "coverage.parquet")]


def test_a_window_is_labelled_where_its_crashes_must_be_on_record(raw) -> None:
    found = read(*raw, DAY)
    days = found.frame.with_columns(pl.col("started_at").dt.day())
    # a's third day ends four hours before its records do, as long as a report may take; b's second only three
    assert days.select("started_at", "server_id").rows() == [(1, "a"), (1, "b"), (2, "a"), (3, "a")]
    assert found.frame["crash_at"].to_list() == [None, None, START + 30.5 * HOUR, None]
    assert found.evidence[:, found.names.index("planned")].tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize("length", [timedelta(minutes=30), 5 * HOUR, 36 * HOUR])
def test_a_window_that_fits_no_day_is_refused(raw, length) -> None:
    with pytest.raises(UserError, match="divide a day"):
        read(*raw, length)
