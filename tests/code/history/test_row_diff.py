"""Two versions of a table, small enough to count by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashcast import tables
from crashcast.errors import UserError
from crashcast.history.row_diff import KOLMOGOROV_SMIRNOV, MAX_KINDS, TOTAL_VARIATION, Column, Difference, compare

START = datetime(2026, 1, 1, tzinfo=UTC)
# server, cpu_pct, role; of the hours 0, 0, 1, 1, 2
ROWS = [("a", 10.0, "web"), ("b", 20.0, "db"), ("a", 30.0, "web"), ("b", None, "db"), ("a", 50.0, "web")]


def telemetry(
    rows: list[tuple[str, float | None, str]] = ROWS, hours: tuple[int, ...] = (0, 0, 1, 1, 2)
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "timestamp": [START + timedelta(hours=hour) for hour in hours],
            "server_id": [row[0] for row in rows],
            "cpu_pct": pl.Series([row[1] for row in rows], dtype=pl.Float32),
            "role": [row[2] for row in rows],
        },
        schema_overrides=tables.KEYS,
    )


@pytest.fixture
def against(tmp_path: Path):
    """Compare the five rows, or others, with a later version."""

    def run(after: pl.DataFrame, before: pl.DataFrame | None = None) -> Difference:
        tables.write(tmp_path / "before", telemetry() if before is None else before)
        tables.write(tmp_path / "after", after)
        return compare(tmp_path / "before", tmp_path / "after")

    return run


def test_the_same_rows_are_equal_whatever_their_bytes(against, tmp_path: Path) -> None:
    assert against(telemetry()).is_equal
    telemetry().write_parquet(tmp_path / "after", compression="uncompressed")
    assert (tmp_path / "after").read_bytes() != (tmp_path / "before").read_bytes()
    assert compare(tmp_path / "before", tmp_path / "after") == Difference(5, 5, 0, 0, 0, ())


def test_a_changed_value_is_counted_with_how_far_it_moved(against) -> None:
    rows = [*ROWS]
    rows[2] = ("a", 70.0, "web")

    found = against(telemetry(rows))

    assert (found.added, found.removed, found.changed) == (0, 0, 1)
    # before 10 20 30 50, after 10 20 50 70: at 30, three quarters of the one lie below and half of the other
    assert found.columns == (Column("cpu_pct", 1, 40.0, (0.2, 0.2), (25.0, 35.0), 0.25, KOLMOGOROV_SMIRNOV),)


def test_a_row_that_changes_in_two_columns_is_one_changed_row(against) -> None:
    rows = [*ROWS]
    rows[1] = ("b", None, "web")

    found = against(telemetry(rows))

    assert (found.changed, [(one.name, one.changed) for one in found.columns]) == (1, [("cpu_pct", 1), ("role", 1)])
    cpu, role = found.columns
    assert (cpu.missing, cpu.largest_change) == ((0.2, 0.4), None)
    assert (role.measure, role.shift, role.median) == (TOTAL_VARIATION, pytest.approx(0.2), (None, None))


def test_rows_are_told_apart_by_time_and_server(against) -> None:
    later = telemetry([("b", 20.0, "db"), ("a", 30.0, "web"), ("b", 5.0, "db"), ("a", 50.0, "web"), ("b", 60.0, "db")],
                      (0, 1, 1, 2, 2))  # fmt: skip

    found = against(later)

    assert (found.before, found.after, found.added, found.removed, found.changed) == (5, 5, 1, 1, 1)
    assert found.columns[0].changed == 1
    assert found.columns[0].largest_change is None  # from none to 5: no distance


def test_duplicates_are_matched_one_to_one(against) -> None:
    once, twice = telemetry(), pl.concat([telemetry()[:1], telemetry()])

    assert (against(twice).added, against(once, twice).removed) == (1, 1)
    assert against(twice, twice).is_equal


def test_columns_that_come_and_go_are_named(against) -> None:
    found = against(telemetry().drop("role").with_columns(latency_ms=pl.lit(1.0)))

    assert found.columns == (Column("role", only="before"), Column("latency_ms", only="after"))
    assert not found.is_equal
    assert found.changed == 0


def test_a_widened_column_has_no_other_values(against) -> None:
    assert against(telemetry().with_columns(pl.col("cpu_pct").cast(pl.Float64))).is_equal


def test_incidents_are_told_apart_by_their_id(against) -> None:
    known = {"server_id": ["a", "b"], "severity": ["high", None]}
    before = pl.DataFrame({"incident_id": ["1", "2"], "started_at": [START, START], **known})
    after = before.with_columns(started_at=pl.Series([START, START + timedelta(minutes=5)])).reverse()

    found = against(pl.concat([after, before[:1].with_columns(incident_id=pl.lit("3"))]), before)

    assert (found.added, found.removed, found.changed) == (1, 0, 1)
    assert {one.name: one.changed for one in found.columns} == {"started_at": 1, "server_id": 0, "severity": 0}
    assert found.columns[0].median == (None, None)


def test_a_table_without_keys_is_compared_by_whole_rows(against) -> None:
    before = pl.DataFrame({"x": [1, 1, 2], "y": ["a", "a", "b"]})

    found = against(pl.DataFrame({"x": [2, 1, 3], "y": ["b", "a", "a"]}), before)

    assert (found.added, found.removed, found.changed, found.columns) == (1, 1, 0, ())


def test_nothing_in_common_is_one_and_an_emptied_column_too(against) -> None:
    moved = against(telemetry().with_columns(pl.col("cpu_pct") + 100))
    emptied = against(telemetry().with_columns(cpu_pct=pl.lit(None, pl.Float32)))

    assert [moved.columns[0].shift, emptied.columns[0].shift] == [1.0, 1.0]
    assert emptied.columns[0].median == (25.0, None)


def test_prose_has_no_distribution(against) -> None:
    n = MAX_KINDS + 1
    before = pl.DataFrame({"incident_id": [f"{i:04}" for i in range(n)], "summary": [f"text {i}" for i in range(n)]})

    found = against(before.with_columns(summary=pl.lit("gone")), before)

    assert (found.changed, found.columns[0].shift, found.columns[0].measure) == (n, None, None)


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        compare(tmp_path / "a", tmp_path / "a")


KEYED = st.dictionaries(st.tuples(st.integers(0, 5), st.sampled_from("abc")), st.one_of(st.none(), st.integers(-3, 3)))


@given(KEYED, KEYED)
def test_rows_add_up_and_the_way_back_is_the_mirror(tmp_path_factory, old, new) -> None:
    folder = tmp_path_factory.getbasetemp() / "rows"
    for name, rows in (("old", old), ("new", new)):
        keys = sorted(rows)
        tables.write(
            folder / name,
            pl.DataFrame(
                {
                    "timestamp": [START + timedelta(hours=hour) for hour, _ in keys],
                    "server_id": [server for _, server in keys],
                    "cpu_pct": [rows[key] for key in keys],
                },
                schema={**tables.KEYS, "cpu_pct": pl.Float64},
            ),
        )
    there, back = compare(folder / "old", folder / "new"), compare(folder / "new", folder / "old")

    assert there.added == back.removed == len(new.keys() - old.keys())
    assert there.removed == back.added == len(old.keys() - new.keys())
    assert there.changed == back.changed == sum(old[key] != new[key] for key in old.keys() & new.keys())
    assert there.is_equal == (old == new)
    for one, other in zip(there.columns, back.columns, strict=True):
        assert one.shift == pytest.approx(other.shift)
        assert 0 <= one.shift <= 1
        assert one.largest_change == other.largest_change


def test_columns_that_cannot_be_compared_are_told(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    keys = {"timestamp": [datetime(2026, 1, 1, tzinfo=UTC)], "server_id": ["a"]}
    tables.write(before, pl.DataFrame(keys))
    pl.DataFrame(keys | {"timestamp": [timedelta(1)]}).write_parquet(after)
    with pytest.raises(UserError, match="its columns have other types: "):
        compare(after, before)


def test_a_time_after_the_last_known_year_is_told(tmp_path: Path) -> None:
    before, after = tmp_path / "before", tmp_path / "after"
    rows = pl.DataFrame({"timestamp": [datetime(2026, 1, 1, tzinfo=UTC)], "server_id": ["a"]})
    tables.write(before, rows.with_columns(seen=pl.lit("2026-01-01")))
    rows.with_columns(seen=pl.lit(2**62).cast(pl.Datetime("ms"))).write_parquet(after)
    for pair in ((before, after), (after, before)):
        with pytest.raises(UserError, match="its values cannot be compared: "):
            compare(*pair)
