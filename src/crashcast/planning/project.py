"""A project as it is now: its size, what its runs cost, and what its parameters say."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from statistics import fmean, median
from typing import Any

from crashcast import run_record
from crashcast.annotation.label_studio import lead_times_s
from crashcast.dates import MONTH
from crashcast.errors import UserError
from crashcast.modeling.compared_servers import rows_to_compare
from crashcast.params.execution import Execution
from crashcast.params.features import Features
from crashcast.params.label import Label
from crashcast.params.plan import Plan
from crashcast.params.retrain import Retrain
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Train
from crashcast.planning.cost_model import Estimate, exactly
from crashcast.planning.records import COMPARE, FIT, PARTS, TICK, Measured, measurements
from crashcast.planning.run_cost import Limited, Size
from crashcast.run_summary import read as read_metrics
from crashcast.text import all_of, counted

# docs/measured.md: with hourly samples of eight metrics on the demo fleet, for a project that has served nothing yet
USUAL_TICK_CPU_S, USUAL_TICK_CPU_S_PER_SERVER = 0.15, 0.000115
RECENT = 100  # ticks


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
    answers : str
        Where `plan.hours.answer` comes from.
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
    answers: str = "assumed"

    def with_lead_times(self, export: Path) -> Project:
        """Return the project with the median time of an answer in Label Studio's export."""
        known = lead_times_s(export)
        if not known:
            raise UserError(f"{export} does not say how long an answer took (lead_time)")
        hours = self.plan.hours.model_copy(update={"answer": timedelta(seconds=median(known))})
        told = f"median of {counted(len(known), 'answer')} in {export.name}"
        return replace(self, plan=self.plan.model_copy(update={"hours": hours}), answers=told)

    @property
    def workers(self) -> int | None:
        """Processes side by side; None if `execution.workers` leaves it open, or names a cluster."""
        return self.execution.workers if isinstance(self.execution.workers, int) else None

    def tick_cpu_s(self, size: Size, assumed: list[str]) -> Estimate:
        """Return the CPU time of a tick of `crashcast serve`, and say in `assumed` where it comes from."""
        ticks = [one.cpu_s for one in self.measured if one.part == TICK]
        if ticks:
            each = fmean(ticks[-RECENT:])
            grown = each + USUAL_TICK_CPU_S_PER_SERVER * (size.servers - self.size.servers)
            assumed.append(
                f"a tick of `crashcast serve` costs {grown:.2f} CPU-s: measured, and as documented for others"
            )
        else:
            grown = USUAL_TICK_CPU_S + USUAL_TICK_CPU_S_PER_SERVER * size.servers
            assumed.append(
                f"a tick of `crashcast serve` costs {grown:.2f} CPU-s, as on the demo fleet: none is recorded"
            )
        return exactly(max(grown, 0.0))


def read_project(folder: Path = Path()) -> Project:
    """Read what a project's files say of it.

    Raises
    ------
    UserError
        If its pipeline has not run, or no whole run of it is recorded.
    """
    params, figures = folder / "params.yaml", read_metrics(folder / "metrics")
    telemetry, label, train = Telemetry.read(params), Label.read(params), Train.read(params)
    parts = [part for part in figures["split"].values() if "from" in part]
    first, last = (f([datetime.fromisoformat(one[key]) for one in parts]) for f, key in ((min, "from"), (max, "to")))
    servers, rows = figures["validate"]["servers"], figures["clean"]["rows"]
    months = (last - first + telemetry.interval) / MONTH
    sampled, metrics = figures["train"]["training_rows"], len(telemetry.metrics)
    # how many it would be without limits: the known crash rows, each with its negatives; each fold's validation part
    train_rows, folds = figures["split"]["train"], figures["candidates"]["folds"]
    wanted = min(train_rows["rows"], train_rows["crash_rows"] * (1 + train.negatives_per_positive))
    compared, rows_per_crash = figures["split"]["validation"], label.horizon / telemetry.interval
    wanted_rows = rows_to_compare(train.max_compared_rows, compared["base_rate"], rows_per_crash)
    steps = {
        FIT: Limited(max(wanted, sampled) / rows, train.max_rows),
        COMPARE: Limited(folds * compared["rows"] / rows, folds * wanted_rows),
    }
    expected = servers * months * (MONTH / telemetry.interval)
    measured = [*measurements(run_record.runs(folder))]
    if missing := [part for part in PARTS if not any(one.part == part and one.computed for one in measured)]:
        raise UserError(
            f"{folder / run_record.FILE} has no run of {all_of(missing)} that computed anything and was recorded by "
            f"this version: `CRASHCAST_MEMO=off dvc repro --force` in {folder.resolve()} records one"
        )
    size = Size(
        servers, months, telemetry.interval, metrics, telemetry.partition, rows / expected, steps, metrics
    )  # fmt: skip
    task = {*telemetry.metrics}, Features.read(params), telemetry.interval, label.lead, label.horizon
    sections = Plan.read(params), Retrain.read(params), Execution.read(params), label
    return Project(folder.resolve().name, size, measured, figures, *sections, task)
