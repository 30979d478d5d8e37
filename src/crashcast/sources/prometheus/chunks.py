"""Which partitions to collect, and in which chunks to ask for them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from crashcast import tables
from crashcast.tables import Partition

MAX_POINTS = 11_000  # of a series, in one answer: Prometheus's own limit


@dataclass(frozen=True)
class Chunk:
    """Some rows of one metric: those from `first` to `last`, both included, a `step` apart."""

    metric: str
    promql: str
    first: datetime
    last: datetime
    step: timedelta


def choose(
    unit: str,
    present: Collection[Partition],
    reach: datetime | None,
    since: datetime | None,
    until: datetime,
    is_open: bool = False,
    again: bool = False,
) -> dict[Partition, datetime]:
    """Choose partitions to collect, each with the time to begin at: its start, or if it is there, that of late samples.

    Parameters
    ----------
    unit : {"month", "week", "day"}
        The length of a partition.
    present : collection of Partition
        The collected ones.
    reach : datetime, optional
        The time of the newest row less the late window: samples before it cannot have come since. None if nothing has
        been collected.
    since, until : datetime
        The period; by default from `reach` or the first partition on.
    is_open, again : bool
        Also the partition that holds `until`; also all collected ones.
    """
    first = since
    if first is None:
        assert reach is not None
        first = max(reach, min(present).start)
    chosen, partition = {}, tables.partition_at(first, unit)
    while partition.start <= until if is_open else partition.end <= until:
        if again or reach is None or partition not in present:
            chosen[partition] = partition.start
        elif partition.end > reach:
            chosen[partition] = max(partition.start, reach)
        partition = tables.partition_at(partition.end, unit)
    return chosen


def chunks(
    partition: Partition,
    start: datetime,
    until: datetime,
    asked: dict[str, str],
    interval: timedelta,
    chunk: timedelta,
) -> Iterator[Chunk]:
    """Yield the chunks of a partition's rows from `start` to `until`, metric by metric.

    Parameters
    ----------
    partition : Partition
    start, until : datetime
        Naive, meaning UTC.
    asked : dict
        The query of each metric.
    interval : timedelta
        Of rows.
    chunk : timedelta
        The longest time to ask for at once.
    """
    points = max(1, min(chunk // interval, MAX_POINTS))
    # the row at a time holds the interval before it
    count = min((partition.end - partition.start) // interval, (until - partition.start) // interval + 1)
    origin = partition.start.replace(tzinfo=UTC)
    for metric, query in asked.items():
        for begin in range((start - partition.start) // interval, count, points):
            last = min(begin + points, count) - 1
            yield Chunk(metric, query, origin + begin * interval, origin + last * interval, interval)
