"""A simulated fleet whose crashes begin to come in another way, with the time of its last sample near now."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

import polars as pl

from crashcast import tables
from crashcast.params.demo import Demo
from crashcast.sources.demo import simulator
from crashcast.sources.demo.mechanisms import Fleet, minutes_of, simulate_events
from crashcast.sources.demo.telemetry import render

HOUR, WEEK = timedelta(hours=1), timedelta(weeks=1)
BEGIN = datetime(2025, 1, 6)  # a Monday; the same draws whatever day it is
KNOWN, WEEKS = 20, 32  # the crashes change after the first; there is half a week more for `serve`
GONE, NEW = ("overload", "errors"), ("leak", "disk")  # troubles before the change alone, and after it alone


def changed_events(fleet: Fleet, change: datetime) -> pl.DataFrame:
    """Simulate a fleet's events, of which some kinds end at a moment and others begin."""
    is_later, kind = pl.col("onset") >= minutes_of(change), pl.col("kind")
    return simulate_events(fleet).filter(pl.when(is_later).then(~kind.is_in(GONE)).otherwise(~kind.is_in(NEW)))


@dataclass(frozen=True)
class ChangingFleet:
    """Weeks of telemetry and incidents, of which all times are shifted by whole weeks.

    Attributes
    ----------
    fleet : Fleet
    events : DataFrame
        Of `simulate_events`.
    shift : timedelta
        From simulated times to those of the samples.
    """

    fleet: Fleet
    events: pl.DataFrame
    shift: timedelta

    @classmethod
    def until(cls, now: datetime, servers: int = 150, seed: int = 7) -> ChangingFleet:
        """Simulate it so that its last whole week is the last before a moment."""
        monday = datetime(now.year, now.month, now.day) - timedelta(days=now.weekday())
        fleet = Fleet.of(Demo(seed=seed, servers=servers, start=date(2025, 1, 1), months=1, interval=HOUR))
        frail = fleet.servers.with_columns(pl.col("frailty") * 2)  # more crashes, so fewer weeks are enough
        fleet = replace(fleet, start=BEGIN, end=BEGIN + (WEEKS + 1) * WEEK, servers=frail)
        return cls(fleet, changed_events(fleet, BEGIN + KNOWN * WEEK), monday - BEGIN - WEEKS * WEEK)

    @property
    def start(self) -> datetime:
        """The time of the first sample."""
        return BEGIN + self.shift

    def telemetry(self, first: int, last: int) -> pl.DataFrame:
        """Return the samples of some weeks, the last one excluded."""
        frames = []
        for task in simulator.rendering_tasks(self.fleet, self.events, "week")[first:last]:
            frames.append(render(task.partition, **task.inputs)[0])
        return self._shifted(pl.concat(frames))

    def incidents(self, weeks: int) -> pl.DataFrame:
        """Return the incidents that are known after so many weeks."""
        return self._shifted(simulator.tickets(self._known(weeks), self.events))

    def coverage(self, weeks: int) -> pl.DataFrame:
        return self._shifted(simulator.coverage(self._known(weeks)))

    def _known(self, weeks: int) -> Fleet:
        return replace(self.fleet, end=BEGIN + weeks * WEEK)

    def _shifted(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.with_columns(pl.col(tables.TIMESTAMP) + self.shift)
