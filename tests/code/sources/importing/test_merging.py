"""New rows replace old ones; periods are joined."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl
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
