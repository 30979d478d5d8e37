"""CSV files as tables, and names of columns."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crashcast.errors import UserError
from crashcast.sources.importing.table_file import plain_name, read_sheet


@pytest.mark.parametrize("column", ["startedAt", " Started At", "started-at", "STARTED_AT", "started.at"])
def test_names_are_compared_without_their_spelling(column: str) -> None:
    assert plain_name(column) == "started_at"


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_is_read_as_text_whatever_separates_it(delimiter: str, tmp_path: Path) -> None:
    rows = [["time", "host", "note"], ["2026-01-01", "007", '"two\nlines"']]
    (tmp_path / "t.csv").write_text("\ufeff" + "\n".join(delimiter.join(row) for row in rows) + "\n\n")
    frame = read_sheet(tmp_path / "t.csv").frame
    assert frame.to_dicts() == [{"time": "2026-01-01", "host": "007", "note": "two\nlines"}]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_name_may_hold_a_line_break_as_spreadsheets_write_it(end: str, tmp_path: Path) -> None:
    text = end.join(['time,host,"CPU', '(%)",note', "2026-01-01,a,1.5,x", ""])
    (tmp_path / "t.csv").write_bytes(text.encode())
    frame = read_sheet(tmp_path / "t.csv").frame
    assert frame.columns == ["time", "host", f"CPU{end}(%)", "note"]
    assert frame.row(0) == ("2026-01-01", "a", "1.5", "x")


@pytest.mark.parametrize(
    ("header", "told"),
    [
        ('errors,"a\r\nb",host,errors', "column 'errors' is there twice"),
        ('time,host,"cpu"x"', "t.csv, .*; export it again"),
        ('time,host,"cpu', "t.csv, .*; export it again"),
        (f"{'time,' * 300_000}host", "row 1: the header cannot be read|is there twice"),
        (f'time,"{"x" * 200_000}"', "row 1: field larger than field limit"),
    ],
)
def test_a_header_that_cannot_be_read_is_refused(header: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(f"{header}\n1,2,3,4\n".encode())
    with pytest.raises(UserError, match=told):
        read_sheet(tmp_path / "t.csv")


MOMENT = datetime(2026, 1, 31, 8, 15, tzinfo=UTC)
OFFSETS = ["+05:30", "+05:45", "-03:30", "+14:00", "-12:00", "+01:00", "+00:00", "-00:44"]


@pytest.mark.parametrize("zone", [*OFFSETS, "Asia/Kolkata", "EST5EDT", "Factory", "Mars/Olympus"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_moments_in_parquet_are_read_whatever_zone_is_written_beside_them(tmp_path: Path, zone: str, unit: str) -> None:
    seconds = int(MOMENT.timestamp())
    moments = pa.array([seconds], pa.int64()).cast(pa.timestamp("s")).cast(pa.timestamp(unit))
    zoned = moments.cast(pa.int64()).cast(pa.timestamp(unit, zone))
    columns = {"time": zoned, "times": pa.array([[zoned[0]]], pa.list_(zoned.type)), "host": ["a"]}
    columns |= {"in": pa.array([{"a": zoned[0]}], pa.struct({"a": zoned.type})), "coded": zoned.dictionary_encode()}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    row = read_sheet(tmp_path / "t.parquet").frame.row(0, named=True)
    assert row == {"time": MOMENT, "times": [MOMENT], "host": "a", "in": {"a": MOMENT}, "coded": MOMENT}


@pytest.mark.parametrize("offset", OFFSETS)
def test_offsets_that_pandas_keeps_are_read(tmp_path: Path, offset: str) -> None:
    local = pd.Timestamp(MOMENT).tz_convert(f"UTC{offset}")
    frame = pd.DataFrame({"time": pd.to_datetime([local.isoformat()])}, index=pd.Index(["a"], name="host"))
    frame.to_parquet(tmp_path / "t.parquet")
    assert read_sheet(tmp_path / "t.parquet").frame.to_dicts() == [{"time": MOMENT, "host": "a"}]


@pytest.mark.parametrize(
    ("column", "told"),
    [
        (pa.array([b"ok", b"\xff"]).view(pa.string()), "not a readable Parquet file .*UTF8"),
        (pa.array([0, 2_932_897], pa.int32()).cast(pa.date32()), "column 'x', row 2: its year is not one of 1 to 9999"),
        (pa.array([0, -719_163], pa.int32()).cast(pa.date32()), "column 'x', row 2: its year is not one of 1 to 9999"),
    ],
)
def test_text_and_days_that_python_cannot_hold_are_refused(tmp_path: Path, column: pa.Array, told: str) -> None:
    pq.write_table(pa.table({"x": column}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=told):
        read_sheet(tmp_path / "t.parquet")


def test_the_first_and_the_last_day_are_read(tmp_path: Path) -> None:
    days = pa.array([-719_162, 2_932_896], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"x": days}), tmp_path / "t.parquet")
    assert [f"{day:%m-%d}" for day in read_sheet(tmp_path / "t.parquet").frame["x"]] == ["01-01", "12-31"]


def test_a_name_that_is_no_text_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"name_of_it": ["a"]}), tmp_path / "t.parquet")
    content = (tmp_path / "t.parquet").read_bytes()
    (tmp_path / "t.parquet").write_bytes(content.replace(b"name_of_it", b"name\xe4of_it"))
    with pytest.raises(UserError, match="not a readable Parquet file"):
        read_sheet(tmp_path / "t.parquet")


def test_numbers_that_polars_does_not_know_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"cpu": pa.array([Decimal("1.5")], pa.decimal256(50, 2))}), tmp_path / "t.parquet")
    assert read_sheet(tmp_path / "t.parquet").frame.to_dicts() == [{"cpu": 1.5}]


def test_a_column_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1], [2]], names=["cpu", "cpu"]), tmp_path / "t.parquet")
    with pytest.raises(UserError, match="cpu"):
        read_sheet(tmp_path / "t.parquet")
