"""The next twelve months: runs, storage, people's hours and money, and whether this machine suffices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple

import psutil

from crashcast.dates import MONTH
from crashcast.params.base import DAY
from crashcast.planning.cost_model import FAR, Estimate, exactly
from crashcast.planning.machine import GB, HOUR, Limit, Need, limits_of
from crashcast.planning.project import Project
from crashcast.planning.records import DATA_STAGES, REVIEW
from crashcast.planning.report import Curve
from crashcast.planning.run_cost import Cost, RunModel, Size, total
from crashcast.text import counted

S3_PART_BYTES, TABLES = 50e6, 4  # raw, clean, labels, features: files for each partition
SMALL_FILES = 40  # of a commit: predictions, plots, the model, lists of folders
PAGE, ANSWER, RETRAINING, UPKEEP = (
    "on-call: pages",
    "annotator: answers",
    "data scientist: retrainings",
    "engineer: upkeep",
)


class Growth(NamedTuple):
    """What the fleet is to be; None: as now."""

    servers: int | None = None
    interval: timedelta | None = None
    months: float | None = None
    metrics: int | None = None
    retrain_every: timedelta | None = None


class Line(NamedTuple):
    """A resource of the year: how much, with an interval if it was measured, and where that comes from."""

    name: str
    unit: str
    amount: Estimate
    price: float | None
    source: str


@dataclass(frozen=True)
class Forecast:
    """What `crashcast plan` says of one project.

    Attributes
    ----------
    project : Project
    size : Size
        At the start of the year.
    every : timedelta
        Between two retrainings.
    times : int
        Retrainings in the year.
    run : dict of str to Cost
        One run of the pipeline, every partition computed.
    retraining : dict of str to Cost
        One in which all partitions but the new ones are remembered, at the middle of the year.
    lines : list of Line
    limits : list of Limit
        What breaks first comes first.
    curves : list of Curve
        Memory and disk by servers.
    assumptions, warnings : list of str
    """

    project: Project
    size: Size
    every: timedelta
    times: int
    run: dict[str, Cost]
    retraining: dict[str, Cost]
    lines: list[Line]
    limits: list[Limit]
    curves: list[Curve]
    assumptions: list[str]
    warnings: list[str]

    @property
    def suffices(self) -> bool:
        """Whether this machine does, by the upper limits too."""
        return not any(one.is_short or one.is_doubtful for one in self.limits)

    @property
    def people(self) -> list[Line]:
        """The lines of people's hours."""
        return [line for line in self.lines if line.name in (PAGE, ANSWER, RETRAINING, UPKEEP)]

    @property
    def hours(self) -> float:
        """People's hours in the year."""
        return sum(line.amount.value for line in self.people)

    @property
    def crashes_a_year(self) -> float:
        """Crashes whose label becomes known in the year, as many for each server as in the test part."""
        test = self.project.figures["split"]["test"]
        length = datetime.fromisoformat(test["to"]) - datetime.fromisoformat(test["from"])
        of_now: float = self.project.figures["evaluate"]["crashes"] * (12 * MONTH / length)
        return of_now * self.size.servers / self.project.size.servers

    @property
    def retraining_hours(self) -> float:
        """People's hours for one retraining."""
        return self.project.plan.hours.retraining / HOUR

    @property
    def retraining_money(self) -> float | None:
        """What one retraining costs, people and CPU; None if a price is missing."""
        prices, cpu_s = self.project.plan.prices, total([one.cpu_s for one in self.retraining.values()]).value
        if prices.person_hour is None or prices.cpu_hour is None:
            return None
        return self.retraining_hours * prices.person_hour + cpu_s / 3600 * prices.cpu_hour

    @property
    def money(self) -> Estimate | None:
        """The sum of all lines, None if a price is missing."""
        if any(line.price is None for line in self.lines):
            return None
        return total([line.amount * (line.price or 0) for line in self.lines])


def forecast(project: Project, growth: Growth) -> Forecast:
    """Forecast the next twelve months."""
    now = project.size
    size = replace(
        now,
        servers=growth.servers or now.servers,
        interval=growth.interval or now.interval,
        months=growth.months or now.months,
        metrics=growth.metrics or now.metrics,
    )
    every = growth.retrain_every or project.retrain.max_age
    model, workers, cores = RunModel.fit(project.measured), project.workers, psutil.cpu_count() or 1
    run = model.run(size, workers, cores)
    times = math.floor(12 * MONTH / every + 1e-9)
    new = _new_partitions(size, every)
    retraining = model.run(size.at(size.months + 6), workers, cores, new)
    at_end = model.run(size.at(size.months + 12), workers, cores)
    assumed = [
        "people's hours, if the table says so: `plan.hours` in params.yaml",
        "one whole run at the start of the year, for a change of code or settings, and "
        f"{counted(times, 'retraining')}; rows are counted as now, {size.density:.0%} of servers x time / interval",
        "DVC's own work (hashing, its cache) is not in it: 3 to 6 % more CPU when measured",
    ]
    lines = [*_lines(project, size, model, run, retraining, at_end, times, new, assumed)]
    if now.metrics != size.metrics:
        assumed.append("the cost of a row is in proportion to the number of metrics, which was never measured")
    need = Need(model, project, size.at(size.months + 12))
    limits = sorted(limits_of(need, every), key=lambda one: one.breaks_at[::-1])
    warnings = _warnings(project, run)
    return Forecast(project, size, every, times, run, retraining, lines, limits, need.curves(limits), assumed, warnings)


def _new_partitions(size: Size, every: timedelta) -> int:
    return min(size.partitions, 1 + size.at(every / MONTH).partitions)  # and the one that was not whole


def _lines(
    project: Project,
    size: Size,
    model: RunModel,
    run: dict[str, Cost],
    retraining: dict[str, Cost],
    at_end: dict[str, Cost],
    times: int,
    new: int,
    assumed: list[str],
) -> Iterator[Line]:
    """Yield the resources of the year."""
    prices, hours = project.plan.prices, project.plan.hours
    cpu_s = total([one.cpu_s for one in run.values()]) + total([one.cpu_s for one in retraining.values()]) * times
    if REVIEW in model.cpu_s:
        cpu_s += model.part(REVIEW, size.at(size.months + 6), None, 1, None).cpu_s * times
    else:
        assumed.append("no review is recorded yet, so its CPU time is not in it")
    cpu_s += project.tick_cpu_s(size, assumed) * (12 * MONTH / size.interval)
    yield Line("CPU", "h", cpu_s * (1 / 3600), prices.cpu_hour, "measured runs")

    raw, written = model.raw(size.at(size.months + 12)), total([one.written_bytes for one in at_end.values()])
    share = new / size.at(size.months + 6).partitions
    # a version keeps its own model, predictions and newest partitions
    versions = total([retraining[part].written_bytes * (share if part in DATA_STAGES else 1) for part in retraining])
    stored = (raw + written + versions * times) * (1 / GB)
    yield Line("local disk", "GB", stored, _times(prices.disk_gb_month, 12), "measured runs")
    yield Line("S3 storage", "GB", stored, _times(prices.s3_gb_month, 12), "measured runs; as large as the disk")
    files, parts = TABLES * size.at(size.months + 12).partitions, stored.value * GB / S3_PART_BYTES
    pushed = times * (TABLES * new + SMALL_FILES) + files + parts
    pulled = times * (files + SMALL_FILES + parts)
    yield Line("S3 writes", "thousand", exactly(pushed / 1000), prices.s3_1000_writes, "files of each version")
    yield Line("S3 reads", "thousand", exactly(pulled / 1000), prices.s3_1000_reads, "one pull for each review")

    pages = project.figures["evaluate"]["pages_per_day"] * size.servers / project.size.servers * (12 * MONTH / DAY)
    people = {
        PAGE: (pages, hours.page, "pages, as many as in the test part", "assumed"),
        ANSWER: (12 * project.plan.answers_a_month, hours.answer, "answers (plan.answers_a_month)", project.answers),
        RETRAINING: (times, hours.retraining, "retrainings", "assumed"),
        UPKEEP: (12, hours.month, "months", "assumed"),
    }
    for role, (number, each, of, source) in people.items():
        amount = exactly(number * (each / HOUR))
        yield Line(role, "h", amount, prices.person_hour, f"{number:,.0f} {of} x {each / HOUR:.3g} h, {source}")


def _times(price: float | None, factor: float) -> float | None:
    return None if price is None else factor * price


def _warnings(project: Project, run: dict[str, Cost]) -> list[str]:
    far = max(cost.cpu_s.beyond for cost in run.values())
    sizes = {one.computed for one in project.measured if one.part == "clean" and one.computed}
    found = []
    if far > FAR:
        found.append(
            f"this extrapolates: a stage costs {far:,.0f} times what the largest recorded run did; a run of a size in "
            "between makes the intervals narrower"
        )
    if len(sizes) < 2:
        found.append("runs of one size alone are recorded: the cost of a start is assumed, not measured")
    return found
