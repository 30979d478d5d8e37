from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crashcast import tables
from crashcast.errors import UserError
from crashcast.incidents import read_covered_crashes, read_incidents
from crashcast.params.incidents import Incidents
from crashcast.tables import COVERAGE, FILE_NAME, INCIDENTS, TIMESTAMP, Partition, partition_at

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
UNITS = ("month", "week", "day")
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2199, 12, 31))
RULES = Incidents(reporting_delay="4h", unresolved_outage="1d")


def frame(schema, *rows):
    naive = {name: pl.Datetime("us") if kind == TIMESTAMP else kind for name, kind in schema.items()}
    return pl.DataFrame(rows, schema=naive, orient="row").cast(schema)


def hourly(*moments):
    """Rows of one server, numbered."""
    schema = {"timestamp": TIMESTAMP, "server_id": pl.String, "value": pl.Int64}
    return frame(schema, *((moment, "a", number) for number, moment in enumerate(moments)))


@pytest.fixture
def table(tmp_path):
    """Three months of one server: four rows at the corners of each, numbered 0 to 11."""
    folder = tmp_path / "table"
    number = 0
    for month in (1, 2, 3):
        partition = partition_at(datetime(2024, month, 1), "month")
        moments = [partition.start, partition.start + HOUR, partition.end - DAY, partition.end - HOUR]
        rows = hourly(*moments).with_columns(pl.col("value") + number)
        tables.write(partition.path(folder), rows)
        number += rows.height
    return folder


@given(MOMENTS, st.sampled_from(UNITS))
def test_every_moment_lies_in_its_partition_alone(moment, unit):
    partition = partition_at(moment, unit)
    assert partition.start <= moment < partition.end
    assert partition_at(partition.start, unit) == partition
    before, after = partition_at(partition.start - timedelta.resolution, unit), partition_at(partition.end, unit)
    assert before.end == partition.start
    assert after.start == partition.end
    assert partition_at(partition.end - timedelta.resolution, unit) == partition


@settings(deadline=None)  # it writes files
@given(st.lists(MOMENTS, min_size=1, max_size=5), st.sampled_from(UNITS))
def test_a_folder_lists_the_partitions_it_was_written_as(tmp_path_factory, moments, unit):
    folder = tmp_path_factory.mktemp("table")
    wanted = {partition_at(moment, unit) for moment in moments}
    for partition in wanted:
        partition.path(folder).parent.mkdir()
        partition.path(folder).touch()
    assert tables.partitions(folder) == sorted(wanted, key=lambda partition: partition.start)


@given(MOMENTS, MOMENTS, st.sampled_from(UNITS))
def test_names_sort_like_their_periods(one, other, unit):
    first, second = sorted([partition_at(one, unit), partition_at(other, unit)])
    assert first.name <= second.name
    assert (first.name == second.name) == (first == second)


@pytest.mark.parametrize(
    ("moment", "unit", "name", "start", "end"),
    [
        (datetime(2024, 2, 29, 23, 59), "month", "month=2024-02", datetime(2024, 2, 1), datetime(2024, 3, 1)),
        (datetime(2025, 12, 31, 23), "month", "month=2025-12", datetime(2025, 12, 1), datetime(2026, 1, 1)),
        (datetime(2024, 2, 29), "day", "day=2024-02-29", datetime(2024, 2, 29), datetime(2024, 3, 1)),
        (datetime(2025, 12, 31), "day", "day=2025-12-31", datetime(2025, 12, 31), datetime(2026, 1, 1)),
        # ISO weeks: the week of a year's first Thursday is its first
        (datetime(2024, 12, 30), "week", "week=2025-W01", datetime(2024, 12, 30), datetime(2025, 1, 6)),
        (datetime(2027, 1, 3, 23), "week", "week=2026-W53", datetime(2026, 12, 28), datetime(2027, 1, 4)),
        (datetime(2024, 2, 29), "week", "week=2024-W09", datetime(2024, 2, 26), datetime(2024, 3, 4)),
    ],
)
def test_the_ends_of_years_and_leap_days(moment, unit, name, start, end):
    partition = partition_at(moment, unit)
    assert partition == Partition(start, end, unit)
    assert partition.name == name


def test_a_year_is_covered_once():
    for unit, count in zip(UNITS, (12, 53, 366), strict=True):  # 2024-01-01 is a Monday
        day = datetime(2024, 1, 1)
        found = sorted({partition_at(day + number * DAY, unit) for number in range(366)})
        assert len(found) == count
        assert all(one.end == other.start for one, other in pairwise(found))


@pytest.mark.parametrize(
    "name",
    [
        "2024-01",
        "month=2024-1",
        "month=2024-13",
        "month=2024-01-05",
        "month=2024-W05",
        "week=2024-05",
        "week=2025-W53",  # 2025 has 52
        "day=2025-02-29",
        "day=2024-02",
        "year=2024",
    ],
)
def test_a_folder_that_is_no_partition_is_named(table, name):
    (table / name).mkdir()
    with pytest.raises(UserError, match=rf"{name} is not a partition: expected a folder like month=2026-01"):
        tables.partitions(table)


def test_a_table_without_partitions_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"none is missing: `dvc pull` or `dvc repro` brings it"):
        tables.partitions(tmp_path / "none")
    (tmp_path / "empty" / ".hidden").mkdir(parents=True)
    with pytest.raises(UserError, match="empty holds no partitions"):
        tables.partitions(tmp_path / "empty")


def test_partitions_of_two_lengths_are_refused(table):
    tables.write(partition_at(datetime(2024, 4, 1), "week").path(table), hourly(datetime(2024, 4, 1)))
    with pytest.raises(UserError, match=r"mixes partitions of different lengths: month=2024-01, week=2024-W14"):
        tables.partitions(table)


def test_a_partition_without_its_file_is_named(table):
    (table / "month=2024-02" / FILE_NAME).unlink()
    with pytest.raises(UserError, match=rf"month=2024-02/{FILE_NAME} is missing"):
        tables.partitions(table)


def test_what_was_written_is_read(tmp_path):
    written = hourly(datetime(2024, 1, 1), datetime(2024, 1, 1, 1))
    tables.write(tmp_path / "rows.parquet", written)
    assert tables.read(tmp_path / "rows.parquet").equals(written)
    assert tables.read(tmp_path / "rows.parquet", ["value", "timestamp"]).columns == ["value", "timestamp"]
    assert tables.read(tmp_path / "rows.parquet", ["server_id"], pl.col("server_id") > "a").is_empty()


def test_a_name_is_not_taken_for_a_pattern_nor_for_a_column(tmp_path):
    folder = tmp_path / "odd [1] *" / "month=2024-01"
    tables.write(folder / "rows.parquet", hourly(datetime(2024, 1, 1)))
    assert tables.read(folder / "rows.parquet").columns == ["timestamp", "server_id", "value"]


def test_bytes_depend_on_the_rows_alone(tmp_path):
    rows = hourly(*(datetime(2024, 1, 1) + number * HOUR for number in range(6)))
    in_pieces = pl.concat([rows[:2], rows[2:5], rows[5:]], rechunk=False)
    assert in_pieces.n_chunks() == 3
    for name, written in {"whole": rows, "pieces": in_pieces}.items():
        tables.write(tmp_path / name, written)
    assert (tmp_path / "whole").read_bytes() == (tmp_path / "pieces").read_bytes()


def test_missing_columns_are_all_named(table):
    path = table / "month=2024-01" / FILE_NAME
    with pytest.raises(UserError, match=rf"{FILE_NAME}: column cpu_pct, latency_ms is missing"):
        tables.read(path, ["cpu_pct", "value", "latency_ms"])


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(UserError, match=r"rows.parquet is missing: `dvc pull` or `dvc repro` brings it"):
        tables.read(tmp_path / "rows.parquet")


@pytest.mark.parametrize("kept", [0, 3, 0.3, 0.9, -1])
def test_a_truncated_file_is_refused_in_one_line(table, kept):
    path = table / "month=2024-01" / FILE_NAME
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(
        UserError, match=rf"{FILE_NAME} is not a readable Parquet file .*restore it or import it"
    ) as caught:
        tables.read(path)
    assert "\n" not in str(caught.value)


def test_a_text_file_is_refused(table):
    path = table / "month=2024-01" / FILE_NAME
    path.write_text("timestamp,server_id\n2024-01-01,a\n" * 9)
    with pytest.raises(UserError, match="is not a readable Parquet file"):
        tables.read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="is not a readable Parquet file"):
        tables.read(path)


def values(table, start, end, columns=None):
    return tables.read_period(table, start, end, columns)["value"].to_list()


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [
        (datetime(2024, 1, 1), datetime(2024, 4, 1), list(range(12))),
        (datetime(2000, 1, 1), datetime(2030, 1, 1), list(range(12))),
        (datetime(2024, 2, 1), datetime(2024, 3, 1), [4, 5, 6, 7]),
        (datetime(2024, 1, 31, 23), datetime(2024, 2, 1), [3]),  # the start is in it, the end is not
        (datetime(2024, 1, 31, 23), datetime(2024, 2, 1) + timedelta.resolution, [3, 4]),
        (datetime(2024, 1, 31, 23) + timedelta.resolution, datetime(2024, 2, 1, 1), [4]),
        (datetime(2024, 1, 10), datetime(2024, 1, 20), []),
        (datetime(2024, 2, 1), datetime(2024, 2, 1), []),
        (datetime(2023, 1, 1), datetime(2024, 1, 1), []),  # before all
        (datetime(2024, 4, 1), datetime(2025, 1, 1), []),  # after all
    ],
)
def test_a_period_is_half_open(table, start, end, found):
    assert values(table, start, end) == found
    assert values(table, start, end, ["timestamp", "value"]) == found


def test_a_period_without_rows_still_has_its_columns(table):
    whole = tables.read_period(table, datetime(2024, 1, 1), datetime(2024, 4, 1))
    empty = tables.read_period(table, datetime(2030, 1, 1), datetime(2031, 1, 1))
    assert empty.schema == whole.schema
    some = tables.read_period(table, datetime(2030, 1, 1), datetime(2031, 1, 1), ["timestamp", "value"])
    assert some.columns == ["timestamp", "value"]


@settings(deadline=None)
@given(st.lists(st.integers(-30 * 24, 120 * 24), min_size=2, max_size=2))
def test_a_period_is_what_filtering_everything_gives(tmp_path_factory, hours):
    folder = tmp_path_factory.getbasetemp() / "hourly"
    moments = [datetime(2024, 1, 1) + 7 * number * HOUR for number in range(91 * 24 // 7)]
    if not folder.exists():
        for week, rows in hourly(*moments).group_by(pl.col("timestamp").dt.truncate("1w"), maintain_order=True):
            tables.write(partition_at(week[0], "week").path(folder), rows)
    start, end = (datetime(2024, 1, 1) + number * HOUR for number in sorted(hours))
    expected = [number for number, moment in enumerate(moments) if start <= moment < end]
    assert values(folder, start, end) == expected


@pytest.fixture
def records(tmp_path):
    """Four incidents and the coverage of two servers."""

    def at(hour):
        return datetime(2024, 1, 1) + hour * HOUR

    incidents = frame(
        INCIDENTS,
        ("4", "b", "crash", at(50), None, None, None, None, None),
        ("3", "a", "crash", at(30), at(31), at(30), None, None, None),
        ("2", "a", "maintenance", at(12), at(13), at(12), None, None, None),
        ("1", "a", "crash", at(10), at(12), at(11), None, None, None),
    )
    coverage = frame(COVERAGE, ("a", at(0), at(30), None), ("b", at(0), at(60), None), ("b", at(40), at(70), None))
    tables.write(tmp_path / "incidents.parquet", incidents)
    tables.write(tmp_path / "coverage.parquet", coverage)
    return tmp_path / "incidents.parquet", tmp_path / "coverage.parquet"


def hours(series):
    return [(moment.replace(tzinfo=None) - datetime(2024, 1, 1)) / HOUR for moment in series]


def test_what_incident_records_leave_open_is_filled_in(records):
    read = read_incidents(records[0], RULES)
    assert read.columns == ["server_id", "kind", "started_at", "resolved_at", "reported_at"]
    assert hours(read["started_at"]) == [10, 12, 30, 50]
    assert hours(read["resolved_at"]) == [12, 13, 31, 50 + 24]
    assert hours(read["reported_at"]) == [11, 12, 30, 50 + 4]


def test_covered_crashes_are_crashes_within_coverage(records):
    crashes = read_covered_crashes(*records, RULES)
    assert crashes.columns == ["server_id", "started_at"]
    # that at 30 is where a's coverage ends; that at 50 is covered twice and listed once
    assert list(zip(crashes["server_id"], hours(crashes["started_at"]), strict=True)) == [("a", 10), ("b", 50)]


def test_a_column_may_have_been_widened_between_partitions(tmp_path):
    for month, kind in ((1, pl.Float32), (2, pl.Float64)):
        moment = datetime(2026, month, 1)
        frame = pl.DataFrame({"timestamp": [moment], "cpu_pct": [1.5]}).with_columns(
            pl.col("timestamp").dt.replace_time_zone("UTC").cast(tables.TIMESTAMP), pl.col("cpu_pct").cast(kind)
        )
        tables.write(tables.partition_at(moment, "month").path(tmp_path), frame)
    found = tables.read_period(tmp_path, datetime(2026, 1, 1), datetime(2026, 3, 1))
    assert found["cpu_pct"].to_list() == [1.5, 1.5]
