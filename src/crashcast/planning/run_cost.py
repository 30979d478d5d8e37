"""What one run of the pipeline costs at any size of the fleet, from runs of other sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import NamedTuple, Self

from crashcast.dates import MONTH
from crashcast.execution.runner import SMALL_BYTES
from crashcast.modeling.split_rule import PIECE_ROWS
from crashcast.params.base import DAY
from crashcast.planning.cost_model import NOTHING, CostModel, Estimate, PowerModel
from crashcast.planning.records import DATA_STAGES, FIT, PARTS, REVIEW, STEPS, Measured

PARTITIONS = {"month": MONTH, "week": 7 * DAY, "day": DAY}
MILLION = 1e6
# usual costs of a start (the imports), of a million rows (None: anything) and of a partition; each with a standard
# deviation as large
CPU_S, FILE_BYTES = (1.0, None, 0.05), (50e3, None)
MEMORY_BYTES, FIT_BYTES = (200e6, 200e6, 5e6), (300e6, 1.5e9, 200e6)
BY_PARTITION = (*DATA_STAGES, "split")  # which hold a partition for each worker


class Limited(NamedTuple):
    """The rows of a step: a share of all, up to a limit."""

    share: float
    limit: int


@dataclass(frozen=True)
class Size:
    """How large a fleet and its history are.

    Attributes
    ----------
    servers, metrics : int
    months : float
    interval : timedelta
    partition : str
        month, week or day.
    density : float
        Rows over servers x time / interval: servers that join late have fewer.
    steps : dict of str to Limited
        The rows of each of `records.STEPS`.
    usual_metrics : int
        What the measured runs had; the cost of a row is taken to be in proportion.
    """

    servers: int
    months: float
    interval: timedelta
    metrics: int
    partition: str
    density: float
    steps: dict[str, Limited]
    usual_metrics: int

    @property
    def rows(self) -> float:
        """The rows of the clean table, as many as cost as much with the usual number of metrics."""
        rows = self.servers * self.months * (MONTH / self.interval) * self.density
        return rows * self.metrics / self.usual_metrics

    @property
    def partitions(self) -> int:
        """The number of files of a table."""
        return max(1, math.ceil(self.months * (MONTH / PARTITIONS[self.partition]) - 1e-9))

    def rows_of(self, part: str) -> float:
        """Return the rows that a part of a run works on."""
        if part not in self.steps:
            return self.rows
        share, limit = self.steps[part]
        return min(share * self.rows, limit * self.metrics / self.usual_metrics)

    def at(self, months: float) -> Self:
        """Return the same fleet with another history."""
        return replace(self, months=months)


class Cost(NamedTuple):
    """What a part of a run costs."""

    cpu_s: Estimate
    wall_s: Estimate
    peak_bytes: Estimate
    written_bytes: Estimate


class RunModel(NamedTuple):
    """The models of each part's costs, by name; a part that was never measured has none.

    Attributes
    ----------
    cpu_s : dict of str to CostModel
    wall_per_cpu : dict of str to float
        Wall time x workers / CPU time of the quickest run: others used the machine in the slower ones.
    peak_bytes : dict of str to CostModel or PowerModel
        Data stages and split hold one partition for each worker; train and evaluate read rows in pieces.
    written_bytes : dict of str to CostModel
    raw_bytes : CostModel
    """

    cpu_s: dict[str, CostModel]
    wall_per_cpu: dict[str, float]
    peak_bytes: dict[str, CostModel | PowerModel]
    written_bytes: dict[str, CostModel]
    raw_bytes: CostModel

    @classmethod
    def fit(cls, measured: Sequence[Measured]) -> Self:
        """Fit the models to what was measured, which must have runs of each part of `PARTS` that computed something."""
        done = [one for one in measured if one.computed and one.part in (*PARTS, REVIEW)]
        parts = sorted({one.part for one in done})
        of_part = {part: _least_of_equals([one for one in done if one.part == part]) for part in parts}
        cpu, written = {}, {}
        peak: dict[str, CostModel | PowerModel] = {}
        for part, runs in of_part.items():
            work = [_work(part, one.computed, one.partitions, one.workers) for one in runs]
            cpu[part] = CostModel.fit(work, [max(one.cpu_s, 0.01) for one in runs], CPU_S)
            peaks = [one.peak_bytes for one in runs]
            if part in BY_PARTITION:
                memory = [_memory(one.rows, one.partitions, one.workers) for one in runs]
                peak[part] = CostModel.fit(memory, peaks, MEMORY_BYTES)
            elif part == FIT:
                peak[part] = CostModel.fit(
                    [_fit_memory(one.rows, one.fleet / one.partitions) for one in runs], peaks, FIT_BYTES
                )
            else:
                peak[part] = PowerModel.fit([one.rows / MILLION for one in runs], peaks)
            if sized := [(one.rows, one.written_bytes) for one in runs if one.written_bytes]:
                written[part] = _volume(sized)
        raw = [(one.rows, one.read_bytes) for one in of_part["clean"] if one.read_bytes]
        ratio = {
            part: min(one.wall_s * one.workers / max(one.cpu_s, 0.01) for one in done if one.part == part)
            for part in parts
        }
        return cls(cpu, ratio, peak, written, _volume(raw))

    def run(self, size: Size, workers: int | None, cores: int, new_partitions: int | None = None) -> dict[str, Cost]:
        """Forecast a run of all stages.

        Parameters
        ----------
        size : Size
        workers : int or None
            Processes side by side; None: as many as `execution.workers: auto` takes.
        cores : int
            Of the machine.
        new_partitions : int, optional
            How many are computed, if the others are remembered; by default all.
        """
        return {part: self.part(part, size, workers, cores, new_partitions) for part in PARTS if part in self.cpu_s}

    def part(self, part: str, size: Size, workers: int | None, cores: int, new_partitions: int | None) -> Cost:
        """Forecast one part of a run."""
        rows, partitions, side_by_side = size.rows_of(part), size.partitions, 1
        computed = rows
        if part in DATA_STAGES:
            share = 1.0 if new_partitions is None else min(1.0, new_partitions / partitions)
            computed = rows * share
            is_large = share * self.raw(size).value > SMALL_BYTES
            side_by_side = min(workers or (cores if is_large else 1), math.ceil(share * partitions))
        cpu_s, memory = self.cpu_s[part].predict(_work(part, computed, partitions, side_by_side)), self.peak_bytes[part]
        written = self.written_bytes.get(part)
        if isinstance(memory, PowerModel):
            peak = memory.predict(rows / MILLION)
        elif part == FIT:
            peak = memory.predict(_fit_memory(rows, size.rows / partitions))
        else:
            peak = memory.predict(_memory(rows, partitions, side_by_side))
        return Cost(
            cpu_s,
            cpu_s * (self.wall_per_cpu[part] / side_by_side),
            peak,
            written.predict((1.0, rows / MILLION)) if written else NOTHING,
        )

    def raw(self, size: Size) -> Estimate:
        """Forecast the size of the raw data."""
        return self.raw_bytes.predict((1.0, size.rows / MILLION))


def total(costs: Sequence[Estimate]) -> Estimate:
    """Add up estimates."""
    return sum(costs, start=NOTHING)


def highest(costs: dict[str, Cost]) -> Estimate:
    """Return the highest peak of memory; its limits are the highest ones."""
    low, value, high = (
        max(getattr(cost.peak_bytes, end) for cost in costs.values()) for end in ("low", "value", "high")
    )
    return Estimate(value, low, high)


def disk_bytes(model: RunModel, size: Size, costs: dict[str, Cost]) -> Estimate:
    """Return what a run leaves on disk, raw data included; DVC's cache and the memo are hard links."""
    return total([model.raw(size), *(cost.written_bytes for cost in costs.values())])


def _processes(workers: int) -> int:
    return 1 if workers == 1 else workers + 1  # that which waits for them


def _work(part: str, computed: float, partitions: int, workers: int) -> tuple[float, float, float]:
    return _processes(workers), computed / MILLION, 0 if part in STEPS else partitions


def _memory(rows: float, partitions: int, workers: int) -> tuple[float, float, int]:
    """Return what fills the memory of a data stage: processes, the rows that the workers hold, notes of partitions."""
    return _processes(workers), workers * rows / partitions / MILLION, partitions


def _fit_memory(rows: float, of_partition: float) -> tuple[float, float, float]:
    """Return what fills the memory of the fits: a start, their rows, and the last piece of a partition."""
    return 1.0, rows / MILLION, min(of_partition, PIECE_ROWS) / MILLION


def _volume(sized: Sequence[tuple[float, float]]) -> CostModel:
    return CostModel.fit([(1.0, rows / MILLION) for rows, _ in sized], [size for _, size in sized], FILE_BYTES)


def _least_of_equals(runs: Sequence[Measured]) -> list[Measured]:
    """Return one of all runs of the same size, with the least CPU time: a busy machine makes a run only dearer."""
    least: dict[tuple[float, ...], Measured] = {}
    for one in sorted(runs, key=lambda one: -one.cpu_s):
        size = one.rows, one.computed, one.partitions, one.workers
        peak = max(one.peak_bytes, least[size].peak_bytes if size in least else 0.0)
        least[size] = one._replace(peak_bytes=peak)
    return [*least.values()]
