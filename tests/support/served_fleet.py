"""A fleet as `crashcast serve` knows it after a tick: a fitted model, scores with reasons, and open alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from crashcast.modeling import model
from crashcast.modeling.algorithms import Candidate, logistic_regression
from crashcast.operate.deployment import Deployment
from crashcast.operate.reasons import reasons
from crashcast.operate.score import Scores
from crashcast.operate.state import Alarm, State
from crashcast.params.clean import Clean
from crashcast.params.features import Features
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry

PARAMS = Path(__file__).parents[2] / "params.yaml"
HOUR = timedelta(hours=1)
NOW = datetime(2026, 1, 5, 12, 10)
ROW = datetime(2026, 1, 5, 12)
METRICS = ("cpu_pct", "latency_ms")


@cache
def deployment() -> Deployment:
    """Return a model that has learnt that slow servers crash, under the repository's own parameters."""
    rng = np.random.default_rng(1)
    values = np.column_stack([rng.uniform(0, 100, 400), rng.uniform(0, 400, 400)]).astype(np.float32)
    grid, estimator = next(logistic_regression.build(logistic_regression.SMALLEST, 1, METRICS))
    candidate = Candidate("logistic_regression", grid, estimator)
    fitted = replace(model.fit(candidate, [*METRICS], values, values[:, 1] > 200), threshold=0.5)
    telemetry, clean, features, incidents, label = (
        section.read(PARAMS) for section in (Telemetry, Clean, Features, Incidents, Label)
    )
    return Deployment("v1.0.0", fitted, telemetry, clean, features, incidents, label)  # type: ignore[arg-type]


def scores(
    slow: Sequence[str] = (), well: Sequence[str] = (), silent: Sequence[str] = (), at: datetime = ROW
) -> Scores:
    """Return the scores of servers at 12:00, of which some have a latency of 390 ms and the others of about 20 ms."""
    when, used = at.replace(tzinfo=UTC), deployment()
    found = pl.DataFrame(
        {
            "timestamp": [when] * (len(slow) + len(well)),
            "server_id": [*slow, *well],
            "cpu_pct": [50.0] * (len(slow) + len(well)),
            "latency_ms": [390.0] * len(slow) + [20.0 + k % 7 for k in range(len(well))],
        },
        schema_overrides=dict.fromkeys(METRICS, pl.Float32),
    )
    risk = used.model.predict(found)
    rows = found.select(
        "server_id", "timestamp", age=pl.duration(hours=0), risk=pl.Series(risk),
        is_at_risk=pl.Series(risk >= used.model.threshold),
    ).sort("risk", "server_id", descending=[True, False])  # fmt: skip
    return Scores(used, at, rows, [*silent], [], found)


def alarm(scored: Scores, server: str, opened_before: timedelta = timedelta(0), group: str | None = "db") -> Alarm:
    """Return the alarm of a scored server, renewed at its row if it was opened before."""
    row = scored.rows.row(by_predicate=pl.col("server_id") == server, named=True)
    at = row["timestamp"].replace(tzinfo=None)
    ends_at = at + scored.deployment.label.reach
    return Alarm(server, group, at - opened_before, at, ends_at, row["risk"], reasons(scored, server))


def telemetry_of(servers: Sequence[str], until: datetime = ROW) -> pl.DataFrame:
    """Return a day of clean rows of every metric, in which latency rises to 390 ms; disk metrics have a gap."""
    hours = range(24)
    names = [*deployment().telemetry.metrics]
    return pl.DataFrame(
        [
            {
                "timestamp": (until - (23 - hour) * HOUR).replace(tzinfo=UTC),
                "server_id": server,
                **{name: None if name.startswith("disk") and 8 < hour < 12 else 40.0 + hour for name in names},
                "latency_ms": 20.0 if hour < 18 else 20.0 + 74.0 * (hour - 18),
            }
            for server in sorted(servers)
            for hour in hours
        ],
        schema_overrides=dict.fromkeys(names, pl.Float32),
    )


def state(slow: Sequence[str] = ("db-1",), well: Sequence[str] = ("db-2", "web-1", "web-2"), **changes: Any) -> State:
    """Return the state after a tick at 12:10, in which every slow server has an alarm."""
    scored = scores(slow, well)
    alarms = [alarm(scored, server) for server in slow]
    found = State(
        NOW, timedelta(seconds=1.5), scored, alarms, newest_sample=ROW, newest_ticket=ROW - HOUR,
        groups=dict.fromkeys([*slow, *well], "db"), recent=telemetry_of(slow) if slow else None,
    )  # fmt: skip
    return replace(found, **changes)
