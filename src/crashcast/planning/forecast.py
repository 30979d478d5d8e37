"""The next twelve months: runs, storage, people's hours and money, and whether this machine suffices."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from crashcast import run_record
from crashcast.errors import UserError
from crashcast.params.base import DAY
from crashcast.params.execution import Execution
from crashcast.params.features import Features
from crashcast.params.label import Label
from crashcast.params.plan import Plan
from crashcast.params.retrain import Retrain
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Train
from crashcast.planning.cost_model import FAR, Estimate
from crashcast.planning.records import DATA_STAGES, FIT, PARTS, REVIEW, TICK, Measured, measurements
from crashcast.planning.report import Curve
from crashcast.planning.run_cost import MONTH, Cost, RunModel, Size, disk_bytes, highest, total
from crashcast.run_summary import read as read_metrics
from crashcast.text import all_of, counted

HOUR = timedelta(hours=1)
GB, S3_PART_BYTES, TABLES = 1e9, 50e6, 4  # raw, clean, labels, features: files for each partition
SMALL_FILES = 40  # of a commit: predictions, plots, the model, lists of folders
MOST_OF_MEMORY = 0.9
# docs/measured.md: with hourly samples of eight metrics on the demo fleet, for a project that has served nothing yet
USUAL_TICK_CPU_S, USUAL_TICK_CPU_S_PER_SERVER = 0.15, 0.000115
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


class Limit(NamedTuple):
    """Something that this machine has, and the plan needs."""

    what: str
    unit: str
    need: float
    have: float
    breaks_at: float  # times the servers
    mend: str


@dataclass(frozen=True)
class Project:
    """A project as it is now.

    Attributes
    ----------
    name : str
    size : Size
    measured : list of Measured
    figures : dict
        The content of metrics/, by stage.
    plan, retrain, execution, label : sections of params.yaml
    task : tuple
        What a model predicts from what: metrics and features, interval, lead and horizon.
    """

    name: str
    size: Size
    measured: list[Measured]
    figures: dict[str, Any]
    plan: Plan
    retrain: Retrain
    execution: Execution
    label: Label
    task: tuple[Any, ...]


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
    def hours(self) -> float:
        """People's hours in the year."""
        return sum(line.amount.value for line in self.lines if line.unit == "h" and line.name != "CPU")

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


def read_project(folder: Path = Path()) -> Project:
    """Read what a project's files say of it.

    Raises
    ------
    UserError
        If its pipeline has not run, or no whole run of it is recorded.
    """
    params, figures = folder / "params.yaml", read_metrics(folder / "metrics")
    telemetry, train = Telemetry.read(params), Train.read(params)
    parts = [part for part in figures["split"].values() if "from" in part]
    first, last = (f([datetime.fromisoformat(one[key]) for one in parts]) for f, key in ((min, "from"), (max, "to")))
    servers, rows = figures["validate"]["servers"], figures["clean"]["rows"]
    months = (last - first + telemetry.interval) / MONTH
    sampled, metrics = figures["train"]["training_rows"], len(telemetry.metrics)
    # how many it would be without the limit: the known crash rows, each with its negatives
    train_rows = figures["split"]["train"]
    wanted = min(train_rows["rows"], train_rows["crash_rows"] * (1 + train.negatives_per_positive))
    expected = servers * months * (MONTH / telemetry.interval)
    measured = [*measurements(run_record.runs(folder))]
    if missing := [part for part in PARTS if not any(one.part == part and one.computed for one in measured)]:
        raise UserError(
            f"{folder / run_record.FILE} has no run of {all_of(missing)} that computed anything and was recorded by "
            f"this version: `CRASHCAST_MEMO=off dvc repro --force` in {folder.resolve()} records one"
        )
    size = Size(
        servers, months, telemetry.interval, metrics, telemetry.partition, rows / expected,
        max(wanted, sampled) / rows, train.max_rows, metrics,
    )  # fmt: skip
    label = Label.read(params)
    task = {*telemetry.metrics}, Features.read(params), telemetry.interval, label.lead, label.horizon
    sections = Plan.read(params), Retrain.read(params), Execution.read(params), label
    return Project(folder.resolve().name, size, measured, figures, *sections, task)


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
    model, workers, cores = RunModel.fit(project.measured), _workers(project.execution), psutil.cpu_count() or 1
    run = model.run(size, workers, cores)
    times = math.floor(12 * MONTH / every + 1e-9)
    new = _new_partitions(size, every)
    retraining = model.run(size.at(size.months + 6), workers, cores, new)
    at_end = model.run(size.at(size.months + 12), workers, cores)
    assumed = [
        f"people's hours are those of params.yaml (plan.hours): {_hours(project.plan)}",
        "one whole run at the start of the year, for a change of code or settings, and "
        f"{counted(times, 'retraining')}; rows are counted as now, {size.density:.0%} of servers x time / interval",
        "DVC's own work (hashing, its cache) is not in it: 3 to 6 % more CPU when measured",
    ]
    lines = [*_lines(project, size, model, run, retraining, at_end, times, new, assumed)]
    if now.metrics != size.metrics:
        assumed.append("the cost of a row is in proportion to the number of metrics, which was never measured")
    need = Need(model, project, size.at(size.months + 12))
    limits = sorted(_limits(need, every), key=lambda one: one.breaks_at)
    warnings = _warnings(project, run)
    return Forecast(project, size, every, times, run, retraining, lines, limits, need.curves(limits), assumed, warnings)


def _workers(execution: Execution) -> int | None:
    return execution.workers if isinstance(execution.workers, int) else None


def _new_partitions(size: Size, every: timedelta) -> int:
    return min(size.partitions, 1 + size.at(every / MONTH).partitions)  # and the one that was not whole


def _hours(plan: Plan) -> str:
    hours = {name: value / HOUR for name, value in plan.hours}
    return ", ".join(f"{value:.3g} h for each {name}" for name, value in hours.items())


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
    cpu_s += _tick_cpu_s(project, size, assumed) * (12 * MONTH / size.interval)
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
    yield Line("S3 writes", "thousand", _exactly(pushed / 1000), prices.s3_1000_writes, "files of each version")
    yield Line("S3 reads", "thousand", _exactly(pulled / 1000), prices.s3_1000_reads, "one pull for each review")

    pages = project.figures["evaluate"]["pages_per_day"] * size.servers / project.size.servers * (12 * MONTH / DAY)
    people = {
        PAGE: (pages, hours.page, "pages of the test part"),
        ANSWER: (12 * project.plan.answers_a_month, hours.answer, "params.yaml: plan.answers_a_month"),
        RETRAINING: (times, hours.retraining, "retrainings"),
        UPKEEP: (12, hours.month, "months"),
    }
    for role, (number, each, source) in people.items():
        yield Line(
            role, "h", _exactly(number * (each / HOUR)), prices.person_hour, f"{number:,.0f} x {source}, assumed"
        )


def _tick_cpu_s(project: Project, size: Size, assumed: list[str]) -> Estimate:
    """Return the CPU time of a tick of `crashcast serve`."""
    ticks = [one.cpu_s for one in project.measured if one.part == TICK]
    if ticks:
        each = sum(ticks[-100:]) / len(ticks[-100:])
        grown = each + USUAL_TICK_CPU_S_PER_SERVER * (size.servers - project.size.servers)
        assumed.append(f"a tick of `crashcast serve` costs {grown:.2f} CPU-s: measured, and as documented for others")
    else:
        grown = USUAL_TICK_CPU_S + USUAL_TICK_CPU_S_PER_SERVER * size.servers
        assumed.append(f"a tick of `crashcast serve` costs {grown:.2f} CPU-s, as on the demo fleet: none is recorded")
    return _exactly(max(grown, 0.0))


def _exactly(value: float) -> Estimate:
    return Estimate(value, value, value)


def _times(price: float | None, factor: float) -> float | None:
    return None if price is None else factor * price


def _warnings(project: Project, run: dict[str, Cost]) -> list[str]:
    far = max(cost.cpu_s.beyond for cost in run.values())
    sizes = {round(one.rows, -3) for one in project.measured if one.part in DATA_STAGES}
    found = []
    if far > FAR:
        found.append(
            f"this extrapolates: a stage costs {far:,.0f} times what the largest recorded run did; a run of a size in "
            "between makes the intervals narrower"
        )
    if len(sizes) < 2:
        found.append("runs of one size alone are recorded: the cost of a start is assumed, not measured")
    return found


@dataclass(frozen=True)
class Need:
    """What a whole run at the end of the year needs, by the upper limits."""

    model: RunModel
    project: Project
    end: Size

    def costs(self, size: Size, side_by_side: int | None = None) -> dict[str, Cost]:
        """Forecast a run."""
        workers = side_by_side or _workers(self.project.execution)
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
        return _tick_cpu_s(self.project, size, [])

    def breaks_at(self, need: Callable[[Size], Estimate], have: float) -> float:
        """Return how many times the servers are too many, by bisection; infinity above a million times."""
        low, high = 1 / self.end.servers, 1e6
        if need(self.grown(high)).high <= have:
            return math.inf
        while high / low > 1.01:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if need(self.grown(middle)).high <= have else (low, middle)
        return high

    def grown(self, times: float) -> Size:
        """Return the size with so many times the servers."""
        return replace(self.end, servers=max(1, round(self.end.servers * times)))

    def curves(self, limits: list[Limit]) -> list[Curve]:
        """Draw memory and disk over the number of servers."""
        drawn = []
        for name, need in (("memory", self.memory_gb), ("disk", self.disk_gb)):
            limit = next(one for one in limits if one.what.startswith(name))
            reach = 1.25 * max(1.0, min(limit.breaks_at, 40.0))
            sizes = [self.grown(reach * step / 12) for step in range(1, 13)]
            points = [(f"{size.servers:,}", need(size)) for size in sizes]
            title = f"{name.capitalize()} of a whole run at the end of the year, over the number of servers"
            drawn.append(Curve(title, "GB", points, limit.have if limit.breaks_at <= reach else None))
        return drawn


def _limits(need: Need, every: timedelta) -> Iterator[Limit]:
    """Yield what this machine has, and what a run needs at the end of the year."""
    end, project = need.end, need.project

    def limit(what: str, unit: str, of: Callable[[Size], Estimate], have: float, mend: str) -> Limit:
        return Limit(what, unit, of(end).high, have, need.breaks_at(of, have), mend)

    part = max(costs := need.costs(end), key=lambda name: costs[name].peak_bytes.high)
    memory = psutil.virtual_memory().total * MOST_OF_MEMORY / GB
    yield limit(f"memory ({part})", "GB", need.memory_gb, memory, _mend(need, memory, part))
    # what a run of today's size leaves is there already
    room = shutil.disk_usage(".").free / GB + need.disk_gb(project.size).value
    yield limit("disk", "GB", need.disk_gb, room, "a larger disk")
    mend = "more `execution.workers` on a machine with more cores, or a cluster (docs/cluster.md)"
    yield limit("time of a whole run", "h", need.hours, every / HOUR, mend)
    yield limit("time of a tick", "s", need.tick_s, end.interval.total_seconds(), "a longer `telemetry.interval`")


def _mend(need: Need, have: float, part: str) -> str:
    """Name the first setting that makes a run fit into memory."""
    end = need.end
    if need.memory_gb(end).high <= have:
        return ""
    if part in DATA_STAGES:
        names = ("month", "week", "day")
        for name in names[names.index(end.partition) :]:
            for side_by_side in (None, 1):
                settings = [f"`telemetry.partition: {name}`"] * (name != end.partition)
                settings += ["`execution.workers: 1`"] * (side_by_side == 1)
                if settings and need.memory_gb(replace(end, partition=name), side_by_side).high <= have:
                    return all_of(settings)
        return "a cluster with more memory in each worker (docs/cluster.md)"
    if part == FIT:
        return "a smaller `train.max_rows`"
    return (
        f"a machine with {need.memory_gb(end).high / MOST_OF_MEMORY:,.0f} GB: {part} holds its whole part of the rows"
    )
