"""Which partitions are collected, and in which chunks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashcast.sources.prometheus.chunks import choose, chunks
from crashcast.tables import Partition, partition_at

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)


def day(number: int) -> Partition:
    """Return a day of January 2026."""
    return partition_at(datetime(2026, 1, number), "day")


@pytest.mark.parametrize(
    ("present", "reach", "options", "wanted"),
    [
        ([], None, {"since": 1}, {1: 1, 2: 2, 3: 3, 4: 4}),  # noon of the 5th: that day is not over
        ([], None, {"since": 3, "is_open": True}, {3: 3, 4: 4, 5: 5}),
        ([1, 2, 3, 4], 4.5, {}, {4: 4.5}),
        ([1, 2, 3, 4], 2.75, {}, {2: 2.75, 3: 3, 4: 4}),
        ([1, 2, 3], 3.5, {}, {3: 3.5, 4: 4}),
        ([1, 2, 4], 4.5, {}, {4: 4.5}),
        ([1, 2, 4], 4.5, {"since": 1}, {3: 3, 4: 4.5}),
        ([3, 4], 1.5, {}, {3: 3, 4: 4}),  # nothing begins earlier by itself
        ([1, 2, 3, 4], 4.5, {"since": 2, "again": True}, {2: 2, 3: 3, 4: 4}),
        ([1, 2, 3, 4], 4.5, {"is_open": True}, {4: 4.5, 5: 5}),
        ([1, 2, 3, 4, 5], 4.5, {"is_open": True}, {4: 4.5, 5: 5}),
        ([1, 2, 3, 4, 5], 5.25, {}, {}),
    ],
)
def test_missing_partitions_are_collected_and_what_late_samples_touch(
    present: list[int], reach: float | None, options: dict[str, Any], wanted: dict[int, float]
) -> None:
    def moment(number: float) -> datetime:
        return datetime(2026, 1, 1) + (number - 1) * DAY

    since = moment(options.pop("since")) if "since" in options else None
    chosen = choose(
        "day",
        [day(number) for number in present],
        None if reach is None else moment(reach),
        since,
        datetime(2026, 1, 5, 12),
        **options,
    )
    assert chosen == {day(number): moment(start) for number, start in wanted.items()}


@given(
    late_hours=st.integers(0, 60),
    delays=st.lists(st.integers(0, 60), min_size=120, max_size=120),
    runs=st.lists(st.tuples(st.integers(1, 119), st.booleans()), min_size=1, max_size=12),
)
def test_no_sample_is_lost_that_is_no_later_than_the_window(
    late_hours: int, delays: list[int], runs: list[tuple[int, bool]]
) -> None:
    """Samples come hourly, every other one late; what a collection leaves behind is all that had arrived by then."""
    begin = datetime(2026, 1, 1)
    arrived = [n + min(delay, late_hours) * (n % 2) for n, delay in enumerate(delays)]
    held: set[int] = set()
    for now, is_open in sorted(runs):
        present = {partition_at(begin + n * HOUR, "day") for n in held}
        reach = begin + (max(held) - late_hours) * HOUR if held else None
        until = begin + now * HOUR
        chosen = choose("day", present, reach, None if held else begin, until, is_open)
        for partition, start in chosen.items():
            end = min(partition.end, until + HOUR)
            held |= {n for n in range(120) if start <= begin + n * HOUR < end and arrived[n] <= now}
        over = now + 1 if is_open else now // 24 * 24
        assert held >= {n for n in range(over) if arrived[n] <= now}


@given(
    interval_s=st.sampled_from([1, 5, 15, 60, 300, 3600, 86400]),
    chunk_s=st.integers(1, 200_000),
    start_s=st.integers(0, 86_399),
    until_s=st.integers(1, 200_000),
)
def test_chunks_hold_every_row_once_and_no_more_points_than_a_server_gives(
    interval_s: int, chunk_s: int, start_s: int, until_s: int
) -> None:
    partition, interval = day(1), timedelta(seconds=interval_s)
    start, until = (partition.start + timedelta(seconds=s) for s in (start_s, until_s))
    cut = list(chunks(partition, start, until, {"a": "q"}, interval, timedelta(seconds=chunk_s)))
    moments = [one.first + n * interval for one in cut for n in range((one.last - one.first) // interval + 1)]
    due = range(start_s // interval_s, min(until_s, 86_400 - interval_s) // interval_s + 1)
    assert moments == [START + n * interval for n in due]
    most = max(((one.last - one.first) // interval + 1 for one in cut), default=0)
    assert most <= max(1, min(11_000, chunk_s // interval_s))
