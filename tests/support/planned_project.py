"""A project with a record of runs whose costs are known, for tests of plans."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from crashcast.params.base import parse_duration
from crashcast.params.execution import Execution
from crashcast.params.features import Features
from crashcast.params.label import Label
from crashcast.params.plan import Plan
from crashcast.params.retrain import Retrain
from crashcast.planning.forecast import Forecast, Growth, forecast
from crashcast.planning.project import Project
from crashcast.planning.records import COMPARE, DATA_STAGES, FIT, PARTS, STEPS, Measured
from crashcast.planning.run_cost import Limited, Size

PARAMS = Path(__file__).parents[2] / "params.yaml"
LIMITED = {FIT: Limited(0.04, 1_000_000), COMPARE: Limited(0.4, 6_000_000)}
SIZE = Size(300, 8.0, timedelta(hours=1), 8, "month", 1.0, LIMITED, 8)
OF_STEPS = {FIT: 90.0, COMPARE: 20.0}
RATES = {"validate": 4.0, "clean": 1.0, "label": 1.0, "featurize": 2.0, "split": 0.1, "train": 3.0, **OF_STEPS}


def measured(size: Size) -> list[Measured]:
    """Return one run of each part, with costs of a start of one second and of rates for a million rows."""
    found = []
    for part in PARTS:
        rows = size.rows_of(part)
        cpu_s = 1 + RATES.get(part, 5.0) * rows / 1e6
        held = rows / size.partitions if part in DATA_STAGES else rows
        written = None if part in STEPS else 10.0 * rows
        found.append(
            Measured(
                part, rows, rows, size.rows, size.partitions, 1, cpu_s, cpu_s, 2e8 + 100 * held, written, 5.0 * rows
            )
        )
    return found


def project(name: str = "fleet", crashes: int = 100, **plan: Any) -> Project:
    """Return a project of 300 servers with eight months of hourly data; its test part is a month long."""
    figures = {
        "split": {"test": {"from": "2026-01-01T00:00:00", "to": "2026-01-31T10:30:00"}},
        "evaluate": {"crashes": crashes, "pages_per_day": 10.0},
        "candidates": {"chosen": "logistic_regression C=1"},
    }
    sizes = [SIZE, SIZE.at(2.0), replace(SIZE, servers=50), replace(SIZE, servers=50, months=2.0)]
    section = Plan.read(PARAMS).model_copy(update=plan)
    others = Retrain.read(PARAMS), Execution.read(PARAMS), Label.read(PARAMS)
    task = "metrics", Features.read(PARAMS)
    return Project(name, SIZE, [one for size in sizes for one in measured(size)], figures, section, *others, task)


def forecast_of(name: str = "fleet", crashes: int = 100, every: str = "90d", **plan: Any) -> Forecast:
    """Return the plan of such a project."""
    return forecast(project(name, crashes, **plan), Growth(retrain_every=parse_duration(every)))
