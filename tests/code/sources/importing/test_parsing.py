"""Files of incidents and coverage, with the columns that others give them."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from crashcast import tables
from crashcast.errors import UserError
from crashcast.sources.importing.parsing import read_coverage, read_incidents

LATEST = datetime(2026, 6, 1, tzinfo=UTC)


def test_tickets_with_a_start_and_an_opening(tmp_path: Path) -> None:
    path = tmp_path / "tickets.csv"
    path.write_text(
        "Number,Node,Type,Opened At,Start Time,Closed At,Priority,Title\n"
        "T1,a,Outage,2026-01-01 10:00,2026-01-01 09:00,2026-01-01 12:00,P1,down\n"
        "T2,a,Reboot,2026-01-02 10:00,2026-01-02 11:00,,P4,patches\n"
        "T2,a,Reboot,2026-01-02 10:00,2026-01-02 11:00,,P4,patches\n"
    )
    records = read_incidents(path, LATEST)
    at = [datetime(2026, 1, day, hour, tzinfo=UTC) for day, hour in ((1, 9), (1, 10), (1, 12), (2, 11))]
    assert records.frame.schema == tables.INCIDENTS
    assert records.frame.rows() == [
        ("T1", "a", "crash", at[0], at[2], at[1], "P1", None, "down"),
        ("T2", "a", "maintenance", at[3], None, at[3], "P4", None, "patches"),  # not known before it began
    ]
    assert any("1 repeated incidents" in note for note in records.notes)
    assert any("1 incidents reported before they started" in note for note in records.notes)


def test_incidents_of_our_own_alarms_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "incidents.csv"
    path.write_text(
        "host,start,title\na,2026-01-01 09:00,[FIRING:1] CrashPredicted a (warning)\n"
        "a,2026-01-02 09:00,down\nb,2026-01-03 09:00,\n"
    )
    records = read_incidents(path, LATEST)
    assert records.frame["summary"].to_list() == ["down", None]
    assert any("1 incidents stem from our own alarms" in note for note in records.notes)


def test_incidents_without_ids_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text("host,created_at\na,2026-01-01 10:00\n")
    records = read_incidents(tmp_path / "i.csv", LATEST)
    assert not records.has_ids
    assert records.frame["incident_id"].to_list() == ["a 2026-01-01T10:00:00Z crash"]
    assert records.frame["started_at"][0] == datetime(2026, 1, 1, 10, tzinfo=UTC)
    assert records.frame["reported_at"].to_list() == [None]  # the one time it has is taken as the start


def test_planned_maintenance_may_lie_ahead(tmp_path: Path) -> None:
    (tmp_path / "i.csv").write_text("host,start,kind\na,2027-01-01 00:00,planned\n")
    assert read_incidents(tmp_path / "i.csv", LATEST).frame.height == 1


def test_coverage_by_other_names(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(
        "server_id,telemetry_from,labelled_from,labelled_to\na,2026-01-01,2026-01-02,2026-01-03\n"
    )
    frame = read_coverage(tmp_path / "c.csv", LATEST).frame
    assert frame.schema == tables.COVERAGE
    assert frame.row(0) == ("a", datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC), None)


@pytest.mark.parametrize(
    ("column", "start", "end"),
    [
        ("end", datetime(2026, 1, 1, 5), date(2026, 1, 1)),
        ("start", date(2026, 1, 1), datetime(2026, 1, 1, 5)),
        ("start", "2026/1/1", "2026/1/1 5:00"),
        ("start", "2026-01-01 Europe/Berlin", "2026-01-01 05:00 Europe/Berlin"),
        ("start", "2026-01-01 00:00:00", "2026-01-01 05:00:00"),  # as spreadsheets write a date
        ("start", "2026-01-01T00:00:00.000+01:00", "2026-01-01T05:00:00.000+01:00"),
        ("start", datetime(2026, 1, 1), datetime(2026, 1, 1, 5)),
    ],
)
def test_a_whole_day_is_no_time_of_an_incident(tmp_path: Path, column: str, start: object, end: object) -> None:
    path = tmp_path / "i.parquet"
    pl.DataFrame({"host": ["a", "b", "c"], "start": [start] * 3, "end": [end] * 3}).write_parquet(path)
    with pytest.raises(UserError, match=rf"i\.parquet, column '{column}', row 1: .*whole day.*; write the time of day"):
        read_incidents(path, LATEST)


def test_single_incidents_may_begin_at_midnight(tmp_path: Path) -> None:
    path = tmp_path / "i.csv"
    path.write_text("host,kind,start\na,crash,2026-01-01 00:00\na,planned,2026-01-02 00:00\na,crash,2026-01-02 00:01\n")
    assert read_incidents(path, LATEST).frame.height == 3
    path.write_text("host,kind,start\n" + "".join(f"{host},planned,2026-01-01 00:00\n" for host in "abc"))
    assert read_incidents(path, LATEST).frame.height == 3
