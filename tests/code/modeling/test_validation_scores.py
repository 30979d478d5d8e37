"""The validation part: whose rows and crashes set a threshold, and which rows a score belongs to."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from crashcast import tables
from crashcast.modeling.alarms import AlarmWindow
from crashcast.modeling.validation_scores import score_validation
from crashcast.params.alarms import Alarms
from crashcast.params.evaluate import Evaluate
from crashcast.tables import partition_at

START, HOUR = datetime(2025, 3, 3), timedelta(hours=1)
WINDOW = AlarmWindow(HOUR, 6 * HOUR, HOUR)
RESAMPLING = Evaluate(replicates=400, confidence=0.9, block="365d", seed=1)  # of servers alone: one block of time
SPAN = {"from": START.isoformat(), "to": (START + 48 * HOUR).isoformat()}
BY_SERVER = {
    "method": "server",
    "servers": {"train": ["t"], "validation": ["a", "b"], "test": ["x"]},
    "periods": dict.fromkeys(("train", "validation", "test"), SPAN),
}


def moments(*hours):
    return pl.Series([START + hour * HOUR for hour in hours], dtype=pl.Datetime("us")).dt.replace_time_zone("UTC")


@pytest.fixture
def fleet(tmp_path):
    """Write two days of four servers; the feature is a server's score: 0.9 at a's hour 4, b's 8, 0.5 at b's 20."""
    scores = {("a", 4): 0.9, ("b", 8): 0.9, ("b", 20): 0.5, ("a", 21): None}
    keys = [(hour, name) for hour in range(48) for name in "abtx"]
    frame = pl.DataFrame({"timestamp": moments(*(hour for hour, _ in keys)), "server_id": [name for _, name in keys]})
    risk = [scores.get((name, hour), 0.1) for hour, name in keys]
    label = [None if scores.get((name, hour), 0.1) is None else int((name, hour) == ("a", 4)) for hour, name in keys]
    columns = {
        "labels": {"label": pl.Series(label, dtype=pl.Int8)},
        "features": {"noise": pl.lit(7.0, pl.Float32), "risk": pl.Series(risk, dtype=pl.Float32)},
    }
    for name, own in columns.items():
        for (day,), rows in frame.with_columns(**own).group_by(
            pl.col("timestamp").dt.truncate("1d"), maintain_order=True
        ):
            tables.write(partition_at(day, "day").path(tmp_path / name), rows)
    return tmp_path


def scored(fleet, budget, crashes, confidence=0.5, servers=None):
    """Score with two models: the risk itself, and twice that."""
    scorers = [lambda values, times=times: times * values[:, 0].astype(np.float64) for times in (1, 2)]
    frame = pl.DataFrame({"server_id": [name for name, _ in crashes], "started_at": moments(*(h for _, h in crashes))})
    limits = Alarms(false_alarms_per_server_day=budget, confidence=confidence)
    tables_read = fleet / "features", fleet / "labels", BY_SERVER, ["risk"]
    return score_validation(*tables_read, scorers, frame, limits, WINDOW, RESAMPLING, servers)


def test_every_known_row_of_the_part_is_scored_once_by_every_model(fleet):
    validation = scored(fleet, 1, [])
    assert validation.rows.height == 2 * 48 - 1
    assert set(validation.rows["server_id"]) == {"a", "b"}
    assert validation.labels.sum() == 1
    expected = np.full(95, 0.1)
    expected[[8, 17, 41]] = 0.9, 0.9, 0.5  # two servers an hour: a at 4, b at 8, b at 20
    for number in (1, 0, 1):  # read in any order, again and again
        assert validation.scores(number) == pytest.approx((number + 1) * expected)


def test_servers_without_a_row_have_a_part_without_rows(fleet):
    validation = scored(fleet, 1, [("a", 5), ("t", 6)], servers=["t", "gone"])
    assert validation.rows.schema == scored(fleet, 1, []).rows.schema
    assert validation.rows.is_empty()
    assert validation.crashes.is_empty()
    assert validation.labels.sum() == len(validation.labels) == 0
    assert [validation.scores(number).size for number in range(2)] == [0, 0]


def test_an_observed_row_of_unknown_label_is_scored_and_has_no_label(fleet):
    for partition in tables.partitions(fleet / "labels"):
        path = partition.path(fleet / "labels")
        tables.write(path, tables.read(path).with_columns(observed=pl.lit(True)))
    validation = scored(fleet, 1, [])
    assert validation.rows.height == 2 * 48
    assert np.flatnonzero(~validation.known).tolist() == [42]  # two servers an hour: a at 21
    assert validation.labels.tolist() == [int(row == 8) for row in range(95)]  # a's at 4
    assert validation.cells.tolist() == [row % 2 for row in range(96) if row != 42]  # of a and b, in one block of time


def test_some_servers_are_scored_with_their_own_crashes(fleet):
    validation = scored(fleet, 1, [("a", 9), ("b", 9), ("x", 30)], servers=["b", "x"])
    assert set(validation.rows["server_id"]) == set(validation.crashes["server_id"]) - {"x"} == {"b"}
    assert validation.scores(1) == pytest.approx(
        np.where(np.arange(48) == 8, 1.8, np.where(np.arange(48) == 20, 1, 0.2))
    )


def test_the_threshold_is_set_by_the_crashes_of_the_parts_own_servers(fleet):
    # 95 hours of telemetry allow one false alarm; a's alarm at 4 is true of the crash at 9
    crashes = [("a", 9), ("x", 9), ("x", 30), ("t", 20)]
    validation = scored(fleet, 24 / 95, crashes)
    assert validation.crashes["server_id"].to_list() == ["a"]
    threshold, judgement = validation.at_budget(validation.scores(0))
    assert threshold == pytest.approx((0.9 + 0.5) / 2)
    assert (judgement.metrics.alarms_true, judgement.metrics.alarms_false) == (1, 1)
    assert (judgement.metrics.crashes, judgement.metrics.event_recall) == (
        1,
        1.0,
    )  # those of other parts are not missed
    assert judgement.metrics.pages_per_day == 1.0  # two in the two days of the part
    assert validation.at_budget(validation.scores(1))[0] == pytest.approx(0.9 + 0.5)


@pytest.mark.parametrize(
    ("confidence", "threshold"),
    # b is drawn never, once or twice: with probabilities of 1/4, 1/2, 1/4. Its alarm at 8 alone is within the budget
    # unless it is drawn twice, and both of its alarms only if it is never drawn
    [(0.9, None), (0.6, (0.9 + 0.5) / 2), (0.4, (0.9 + 0.5) / 2), (0.1, (0.5 + 0.1) / 2)],
)
def test_the_budget_holds_in_the_share_of_resamples_that_is_asked_for(fleet, confidence, threshold):
    validation = scored(fleet, 24 / 95, [("a", 9)], confidence)
    found, judgement = validation.at_budget(validation.scores(0))
    if threshold is None:
        assert found > validation.scores(0).max()
        assert judgement.metrics.alarms == 0
    else:
        assert found == pytest.approx(threshold)
    spent = validation.spent(validation.scores(0)).replicates(0.7)
    assert np.mean(spent == 0) == pytest.approx(1 / 4, abs=0.08)
    assert np.mean(spent > 1) == pytest.approx(1 / 4, abs=0.08)


def test_without_its_crash_the_same_alarms_exceed_the_budget(fleet):
    threshold, judgement = (validation := scored(fleet, 24 / 95, [])).at_budget(validation.scores(0))
    assert threshold > validation.scores(0).max()
    assert judgement.metrics.alarms == 0


def test_an_alarm_that_somebody_acted_on_counts_against_the_budget_and_is_not_false(fleet):
    is_acted_on = (pl.col("server_id") == "b") & (pl.col("timestamp").dt.hour() == 8)
    for partition in tables.partitions(fleet / "labels"):
        path = partition.path(fleet / "labels")
        rows = tables.read(path).with_columns(observed=pl.col("label").is_not_null())
        first = is_acted_on & (pl.col("timestamp").dt.day() == START.day)
        reason = pl.when(first).then(pl.lit("mitigated"))
        tables.write(path, rows.with_columns(label=pl.when(~first).then("label"), reason=reason))
    validation = scored(fleet, 24 / 95, [("a", 9)])
    assert validation.rows.filter("mitigated").height == 1
    assert validation.labels.size == 94
    threshold, judgement = validation.at_budget(validation.scores(0))
    assert threshold == pytest.approx((0.9 + 0.5) / 2)  # at 0.5 there would be a second one without a crash
    assert (judgement.metrics.alarms_true, judgement.metrics.alarms_false, judgement.metrics.alarms_unknown) == (
        1,
        0,
        1,
    )
