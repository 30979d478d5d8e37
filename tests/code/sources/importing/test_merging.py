"""New rows replace old ones; periods are joined."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from crashcast import tables
from crashcast.sources.importing import merging

SAMPLE = pl.DataFrame({"k": [1, 2, 3], "x": [1.0, 2.0, None]})


def test_merge_counts_what_it_does() -> None:
    new = pl.DataFrame({"k": [2, 3, 4], "x": [2.5, None, 4.0]})
    merged, counts = merging.merge(SAMPLE, new, ["k"])
    assert merged.sort("k").rows() == [(1, 1.0), (2, 2.5), (3, None), (4, 4.0)]
    assert counts == {"added": 1, "corrected": 1, "unchanged": 1}


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([None, 1.0, 2.0]))))
def test_merging_twice_is_merging_once(rows: list[tuple[int, float | None]]) -> None:
    frame = pl.DataFrame(rows, schema=SAMPLE.schema, orient="row")
    new, repeats = merging.last_of_each(frame, ["k"])
    assert new.height + repeats.total() == frame.height
    assert dict(new.iter_rows()) == dict(rows)  # a later row holds
    once, counts = merging.merge(SAMPLE, new, ["k"])
    twice, again = merging.merge(once, new, ["k"])
    assert_frame_equal(once, twice, check_row_order=False)
    assert counts.total() == again["unchanged"] == new.height


PERIODS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30), st.integers(1, 9)))


@given(PERIODS, PERIODS)
def test_coverage_is_a_union(old: list[tuple[str, int, int]], new: list[tuple[str, int, int]]) -> None:
    at = [datetime(2026, 1, 1, tzinfo=UTC) + m * timedelta(minutes=1) for m in range(40)]
    rows = [(server, at[first], at[first + length], None) for server, first, length in [*old, *new]]
    merged = merging.merge_coverage(pl.DataFrame(rows, schema=tables.COVERAGE, orient="row"))
    covered = [(s, m) for s, start, end, _ in merged.iter_rows() for m in range(40) if start <= at[m] < end]
    assert len(covered) == len(set(covered))  # a server's periods do not overlap
    assert set(covered) == {(s, first + m) for s, first, length in [*old, *new] for m in range(length)}
    assert not merged.select(touch=pl.col("covered_from") == pl.col("covered_to").shift().over("server_id"))[
        "touch"
    ].any()


MINUTE = timedelta(minutes=1)
MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)
SENT = st.lists(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 20)), min_size=1), min_size=1, max_size=4)


@given(SENT)
def test_default_coverage_is_the_same_however_samples_are_divided_into_imports(
    imports: list[list[tuple[str, int]]],
) -> None:
    """It reaches from a server's first sample to the fleet's last one, also for a server that fell silent before."""
    covered, end = None, None
    for rows in imports:
        spans = spans_of(rows)
        latest = max(moment for moment in (end, spans["last"].max()) if moment)
        periods = merging.assume_coverage(spans, MINUTE, latest, covered, end)
        covered = merging.merge_coverage(periods if covered is None else pl.concat([covered, periods]))
        end = latest
    sent = [row for rows in imports for row in rows]
    last = max(minute for _, minute in sent)
    first = {server: min(minute for other, minute in sent if other == server) for server, _ in sent}
    wanted = [(s, MIDNIGHT + (first[s] - 1) * MINUTE, MIDNIGHT + last * MINUTE, None) for s in sorted(first)]
    assert covered.rows() == wanted


def spans_of(rows: list[tuple[str, int]]) -> pl.DataFrame:
    """Return the spans of samples, each of a server and a minute."""
    schema = {"server_id": pl.String, "minute": pl.Int64}
    moment = pl.lit(MIDNIGHT, tables.TIMESTAMP) + pl.duration(minutes="minute")
    frame = pl.DataFrame(rows, schema=schema, orient="row").select("server_id", at=moment)
    return frame.group_by("server_id").agg(first=pl.col("at").min(), last=pl.col("at").max()).sort("server_id")


@pytest.mark.parametrize(
    ("stated", "sent", "added"),
    [
        ([(0, 5)], [], []),  # silent: its records ended at 5
        ([(0, 30)], [], []),  # silent: its records were said to go on until 30
        ([(0, 5)], [3, 4], []),  # a correction
        ([(6, 9)], [2], []),  # nobody said that records began before 6
        ([(0, 5)], [12], [(11, 15)]),
        ([(0, 5)], [9, 12], [(10, 15)]),  # collected again: what lies before 10 was known
        ([(0, 10)], [], [(10, 15)]),  # by default: it ended with the telemetry
        ([(0, 3), (5, 10)], [4], [(10, 15)]),
    ],
)
def test_samples_before_the_end_of_the_earlier_telemetry_add_nothing_to_stated_coverage(
    stated: list[tuple[int, int]], sent: list[int], added: list[tuple[int, int]]
) -> None:
    rows = [("a", MIDNIGHT + start * MINUTE, MIDNIGHT + end * MINUTE, None) for start, end in stated]
    old = pl.DataFrame(rows, schema=tables.COVERAGE, orient="row")
    spans = spans_of([("a", minute) for minute in sent])
    periods = merging.assume_coverage(spans, MINUTE, MIDNIGHT + 15 * MINUTE, old, MIDNIGHT + 10 * MINUTE)
    assert [((start - MIDNIGHT) // MINUTE, (end - MIDNIGHT) // MINUTE) for _, start, end, _ in periods.rows()] == added


def test_a_servers_last_group_holds_for_all_its_periods() -> None:
    day = [datetime(2026, 1, d, tzinfo=UTC) for d in range(1, 9)]
    rows = [("a", day[0], day[1], "web"), ("a", day[4], day[5], "db"), ("a", day[6], day[7], None)]
    merged = merging.merge_coverage(pl.DataFrame(rows, schema=tables.COVERAGE, orient="row"))
    assert merged["group"].to_list() == ["db"] * 3


def test_incidents_without_ids_adopt_those_of_the_same_crash() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    columns = {name: [None] for name in tables.INCIDENTS}
    old = pl.DataFrame(
        columns | {"incident_id": ["A-1"], "server_id": ["a"], "kind": ["crash"], "started_at": [moment]}
    )
    new = old.with_columns(incident_id=pl.lit("a 2026-01-01T00:00:00Z crash"))
    assert merging.adopt_ids(old, new)["incident_id"].to_list() == ["A-1"]
