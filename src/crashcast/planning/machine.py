"""Whether this machine suffices: what breaks first as the fleet grows, and which setting mends it."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NamedTuple

import psutil

from crashcast.planning.cost_model import Estimate
from crashcast.planning.project import Project
from crashcast.planning.records import COMPARE, FIT
from crashcast.planning.report import Curve
from crashcast.planning.run_cost import BY_PARTITION, Cost, RunModel, Size, disk_bytes, highest, total
from crashcast.text import all_of

GB, HOUR = 1e9, timedelta(hours=1)
MOST_OF_MEMORY = 0.9


class Limit(NamedTuple):
    """Something that this machine has, and a run needs.

    Attributes
    ----------
    what, unit : str
    need : Estimate
    have : float
    breaks_at : pair of float
        Times the servers: from the first on, the upper limit of the need exceeds what there is; from the second on, the
        need itself does.
    mend : str
    """

    what: str
    unit: str
    need: Estimate
    have: float
    breaks_at: tuple[float, float]
    mend: str

    @property
    def is_short(self) -> bool:
        """Whether it does not suffice."""
        return self.need.value > self.have

    @property
    def is_doubtful(self) -> bool:
        """Whether it may not suffice."""
        return not self.is_short and self.need.high > self.have


@dataclass(frozen=True)
class Need:
    """What a whole run at the end of the year needs, by the upper limits."""

    model: RunModel
    project: Project
    end: Size

    def costs(self, size: Size, side_by_side: int | None = None) -> dict[str, Cost]:
        """Forecast a run."""
        workers = side_by_side or self.project.workers
        return self.model.run(size, workers, psutil.cpu_count() or 1)

    def memory_gb(self, size: Size, side_by_side: int | None = None) -> Estimate:
        """Return the highest peak of a run."""
        return highest(self.costs(size, side_by_side)) * (1 / GB)

    def disk_gb(self, size: Size) -> Estimate:
        """Return what a run leaves on disk, raw data included."""
        return disk_bytes(self.model, size, self.costs(size)) * (1 / GB)

    def hours(self, size: Size) -> Estimate:
        """Return how long a run takes."""
        return total([cost.wall_s for cost in self.costs(size).values()]) * (1 / 3600)

    def tick_s(self, size: Size) -> Estimate:
        """Return how long a tick of `crashcast serve` takes."""
        return self.project.tick_cpu_s(size, [])

    def breaks_at(self, need: Callable[[Size], Estimate], end: str, have: float) -> float:
        """Return how many times the servers are too many, by bisection; infinity above a million times."""

        def is_enough(times: float) -> bool:
            return bool(getattr(need(self.grown(times)), end) <= have)

        low, high = 1 / self.end.servers, 1e6
        if is_enough(high):
            return math.inf
        while high / low > 1.01:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if is_enough(middle) else (low, middle)
        return high

    def grown(self, times: float) -> Size:
        """Return the size with so many times the servers."""
        return replace(self.end, servers=max(1, round(self.end.servers * times)))

    def curves(self, limits: list[Limit]) -> list[Curve]:
        """Draw memory and disk over the number of servers."""
        drawn = []
        for name, need in (("memory", self.memory_gb), ("disk", self.disk_gb)):
            limit = next(one for one in limits if one.what.startswith(name))
            reach = 1.25 * max(1.0, min(limit.breaks_at[1], 40.0))
            sizes = [self.grown(reach * step / 12) for step in range(1, 13)]
            points = [(f"{size.servers:,}", need(size)) for size in sizes]
            title = f"{name.capitalize()} of a whole run at the end of the year, over the number of servers"
            drawn.append(Curve(title, "GB", points, limit.have if limit.breaks_at[0] <= reach else None))
        return drawn


def limits_of(need: Need, every: timedelta) -> Iterator[Limit]:
    """Yield what this machine has, and what a run needs at the end of the year."""
    end, project = need.end, need.project

    def limit(what: str, unit: str, of: Callable[[Size], Estimate], have: float, mend: str) -> Limit:
        breaks_at = need.breaks_at(of, "high", have), need.breaks_at(of, "value", have)
        return Limit(what, unit, of(end), have, breaks_at, mend)

    part = max(costs := need.costs(end), key=lambda name: costs[name].peak_bytes.value)
    memory = psutil.virtual_memory().total * MOST_OF_MEMORY / GB
    yield limit(f"memory ({part})", "GB", need.memory_gb, memory, _mend(need, memory, part))
    # what a run of today's size leaves is there already
    room = shutil.disk_usage(".").free / GB + need.disk_gb(project.size).value
    yield limit("disk", "GB", need.disk_gb, room, "a larger disk")
    mend = "more `execution.workers` on a machine with more cores, or a cluster (docs/cluster.md)"
    yield limit("time of a whole run", "h", need.hours, every / HOUR, mend)
    yield limit("time of a tick", "s", need.tick_s, end.interval.total_seconds(), "a longer `telemetry.interval`")


def _mend(need: Need, have: float, part: str) -> str:
    """Name the first setting with which a run fits into memory: by the upper limit, or else by the value."""
    end, names = need.end, ("month", "week", "day")
    finer = [replace(end, partition=name) for name in names[names.index(end.partition) :]]
    options = [(size, workers) for size in finer for workers in (None, 1)] if part in BY_PARTITION else []
    for limit in ("high", "value"):
        for size, workers in options:
            if getattr(need.memory_gb(size, workers), limit) <= have:
                settings = [f"`telemetry.partition: {size.partition}`"] * (size.partition != end.partition)
                return all_of(settings + ["`execution.workers: 1`"] * (workers == 1))
    if options:
        return "a cluster with more memory in each worker (docs/cluster.md)"
    if part in (setting := {FIT: "train.max_rows", COMPARE: "train.max_compared_rows"}):
        return f"a smaller `{setting[part]}`"
    return f"`execution.workers: 1`, or a machine with {need.memory_gb(end).value / MOST_OF_MEMORY:,.0f} GB or more"
