"""Reasons: which features belong to a metric, and which replacement lowers the risk."""

from __future__ import annotations

from datetime import datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from crashcast import tables
from crashcast.operate.reasons import HISTORY, MISSING, Reason, reasons, sources
from crashcast.operate.score import Scores
from crashcast.params.features import Features
from crashcast.params.telemetry import Telemetry
from stages.featurize import featurize_partition

FEATURES = Features.model_validate(
    {
        "columns": "all",
        "interactions": {"cpu_x_latency": ["cpu", "latency_ms"]},
        "categories": {"group": ["web", "db"]},
        "rolling_mean": ["2h"],
        "rolling_std": ["2h"],
        "rolling_max": ["2h"],
        "differences": ["1h"],
        "fleet_relative": True,
        "missing_share": ["2h"],
        "incident_counts": ["7d"],
        "history_cap": "30d",
    }
)
WHEN = datetime(2026, 1, 5)


def names_of(*metrics: str) -> list[str]:
    """Return the features that `featurize` makes of some metrics."""
    telemetry = Telemetry.model_validate(
        {"interval": "1h", "partition": "day", "metrics": {name: {"min": 0, "max": 100} for name in metrics}}
    )
    rows = pl.DataFrame(schema={**tables.KEYS, **dict.fromkeys(metrics, pl.Float32)})
    crashes = pl.DataFrame(
        schema={"server_id": pl.String, "started_at": tables.TIMESTAMP, "reported_at": tables.TIMESTAMP}
    )
    records = pl.DataFrame(schema={"server_id": pl.String, "known_since": tables.TIMESTAMP})
    day = tables.partition_at(WHEN, "day")
    kinds = pl.DataFrame(schema={"feature": pl.String, "server_id": pl.String, "since": tables.TIMESTAMP})
    return featurize_partition(day, rows, crashes, records, kinds, telemetry, FEATURES)[0].columns[2:]


def test_every_feature_belongs_to_what_it_is_made_of() -> None:
    found = sources(names_of("cpu", "latency_ms"), FEATURES)
    of_both = [f"cpu_x_latency{end}" for end in ("", "_mean_2h", "_std_2h", "_max_2h", "_diff_1h", "_vs_fleet")]
    assert set(found) == {"cpu", "latency_ms", MISSING, HISTORY, "group"}
    for metric in ("cpu", "latency_ms"):
        own = [f"{metric}{end}" for end in ("", "_mean_2h", "_std_2h", "_max_2h", "_diff_1h", "_vs_fleet")]
        assert found[metric] == own + of_both
    assert found[MISSING] == ["missing_share_2h"]
    assert found[HISTORY] == ["hours_since_crash", "crashes_7d"]
    assert found["group"] == ["group_is_web", "group_is_db"]


def test_a_metric_may_be_named_like_another_ones_window() -> None:
    """`cpu_max_2h` is a window of `cpu`, unless a metric has that name."""
    found = sources(names_of("cpu", "cpu_max", "latency_ms"), FEATURES)
    assert "cpu_max_max_2h" in found["cpu_max"]
    assert "cpu_max_2h" in found["cpu"]
    assert not {"cpu", "cpu_max_2h"} & {*found["cpu_max"]}


class Linear:
    """A model whose risk is the mean of two features in percent; missing counts as 0."""

    features = ("cpu", "latency_ms")
    threshold = 0.5

    def predict(self, rows: pl.DataFrame) -> np.ndarray[Any, Any]:
        return rows.select(pl.col(self.features).fill_null(0)).to_numpy().mean(axis=1) / 100


def scores(cpu: float, latency_ms: float | None) -> Scores:
    """Return scores of a fleet of three whose server `c` has these values; the others are at 10 and 20."""
    features = pl.DataFrame(
        {
            "timestamp": [WHEN] * 3,
            "server_id": ["a", "b", "c"],
            "cpu": [10.0, 10.0, cpu],
            "latency_ms": [20.0, 20.0, latency_ms],
        },
        schema={**tables.KEYS, "cpu": pl.Float32, "latency_ms": pl.Float32},
    )
    rows = features.select(*tables.KEYS, risk=pl.Series(Linear().predict(features)))
    deployment: Any = SimpleNamespace(model=Linear(), features=FEATURES)
    return Scores(deployment, WHEN, rows, [], [], features)


def test_what_lowers_the_risk_most_comes_first() -> None:
    first, second = reasons(scores(90, 60), "c")
    assert first == Reason("cpu", "cpu", 90, 10, pytest.approx(0.75), pytest.approx(0.35))
    assert second == Reason("latency_ms", "latency_ms", 60, 20, pytest.approx(0.75), pytest.approx(0.55))
    assert str(first) == "cpu 90 (fleet 10): risk 0.75 -> 0.35"


def test_what_does_not_raise_the_risk_is_no_reason() -> None:
    assert [reason.source for reason in reasons(scores(90, 5), "c")] == ["cpu"]
    assert reasons(scores(10, None), "c") == []


def test_of_a_category_the_own_value_is_shown_and_all_are_replaced() -> None:
    names = ["group_is_web", "group_is_db"]
    scored = scores(90, 60)
    web, db = pl.Series([1.0, 1.0, 0.0]), pl.Series([0.0, 0.0, 1.0])
    features = scored.features.with_columns(group_is_web=web, group_is_db=db)

    class Grouped(Linear):
        features = (*names,)  # type: ignore[assignment]

        def predict(self, rows: pl.DataFrame) -> np.ndarray[Any, Any]:
            risk = 0.5 + 0.25 * pl.col("group_is_db") - 0.125 * pl.col("group_is_web")
            return rows.select(risk).to_series().to_numpy()

    rows = scored.rows.with_columns(risk=pl.Series(Grouped().predict(features)))
    deployment: Any = SimpleNamespace(model=Grouped(), features=FEATURES)
    found = Scores(deployment, WHEN, rows, [], [], features)
    assert reasons(found, "c") == [Reason("group", "group_is_db", 1, 0, pytest.approx(0.75), pytest.approx(0.375))]
    assert reasons(found, "a") == []
