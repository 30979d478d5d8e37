"""The training sample and its weights, by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from crashcast import tables
from crashcast.modeling import sampling
from crashcast.modeling.sampling import Sample
from crashcast.params.train import Train
from crashcast.tables import CRASH, MAINTENANCE, partition_at

START, HOUR = datetime(2025, 3, 3), timedelta(hours=1)
RULES = {"candidates": {}, "negatives_per_positive": 10, "max_rows": 1_000_000, "seed": 1, "weigh_by_confidence": False}
RULE = {
    "method": "time",
    "periods": {
        part: {"from": (START + first * HOUR).isoformat(), "to": (START + last * HOUR).isoformat()}
        for part, first, last in (("train", 0, 8000), ("validation", 8000, 8010), ("test", 8010, 8020))
    },
}


def train_of(**changes):
    return Train.model_validate(RULES | changes)


def keys_of(*rows):
    """Lay (server, hour) out as keys of rows."""
    hours = pl.Series([START + hour * HOUR for _, hour in rows], dtype=pl.Datetime("us")).dt.replace_time_zone("UTC")
    return pl.DataFrame({"timestamp": hours, "server_id": pl.Series([name for name, _ in rows], dtype=pl.Categorical)})


@pytest.mark.parametrize(
    ("negatives", "positives", "changes", "shares"),
    [
        pytest.param(40_000, 400, {}, (0.1, 1.0), id="ten negatives for each crash row"),
        pytest.param(4_000, 400, {}, (1.0, 1.0), id="all, if there are so few"),
        pytest.param(3_000, 400, {}, (1.0, 1.0), id="all, if there are fewer"),
        pytest.param(40_000, 400, {"max_rows": 4_400}, (0.1, 1.0), id="just as many as allowed"),
        pytest.param(40_000, 400, {"max_rows": 2_200}, (0.05, 0.5), id="half of both"),
    ],
)
def test_the_shares_drawn(negatives, positives, changes, shares):
    assert sampling.shares_drawn(negatives, positives, train_of(**changes)) == pytest.approx(shares)


def test_of_each_label_its_share_is_drawn():
    keys = keys_of(*(("a", hour) for hour in range(8000)))
    rows = keys.with_columns(label=pl.Series([1, 0, 0, None] * 2000, dtype=pl.Int8))
    for shares in ((0.25, 1.0), (1.0, 0.25), (1.0, 1.0), (0.0, 0.5)):
        drawn = rows.filter(sampling.is_drawn(rows, shares, seed=1))
        found = [rows.filter(label=label).height for rows in (drawn,) for label in (0, 1)]
        # within four standard deviations
        assert found[0] == pytest.approx(4000 * shares[0], abs=110 * (0 < shares[0] < 1))
        assert found[1] == pytest.approx(2000 * shares[1], abs=80 * (0 < shares[1] < 1))


def test_the_rows_before_a_moment_keep_all_that_belongs_to_them():
    keys = keys_of(("a", 0), ("b", 1), ("a", 2), ("b", 3))
    values, crash, weight = np.arange(8, dtype=np.float32).reshape(4, 2), np.array([0, 1, 0, 1]) > 0, np.arange(4.0)
    sample = Sample(keys, values, crash, (0.1, 0.5), weight)
    earlier = sample.before(START + 2 * HOUR)
    assert earlier.keys.equals(keys[:2])
    assert earlier.values.tolist() == [[0, 1], [2, 3]]
    assert earlier.crash.tolist() == [False, True]
    assert (earlier.shares, earlier.weight.tolist()) == ((0.1, 0.5), [0, 1])
    assert Sample(keys, values, crash, (0.1, 0.5)).before(START + HOUR).weight is None
    assert sample.before(START + 4 * HOUR) is sample


def test_a_row_before_a_crash_weighs_what_the_crash_that_labels_it_does(tmp_path):
    crashes = [("a", 6, CRASH, None), ("a", 2.5, CRASH, 0.5), ("b", 3.5, CRASH, 0.25), ("a", 4, CRASH, 0.75)]
    incidents = pl.DataFrame(
        [
            (name, kind, START + hour * HOUR, sure)
            for name, hour, kind, sure in [*crashes, ("a", 3.25, MAINTENANCE, 0.1)]
        ],
        schema={"server_id": pl.String, "kind": pl.String, "started_at": pl.Datetime("us"), "confidence": pl.Float64},
        orient="row",
    ).with_columns(pl.col("started_at").dt.replace_time_zone("UTC"))
    tables.write(tmp_path / "incidents.parquet", incidents)
    rows = {
        ("a", 1): (True, 0.5),
        ("a", 1.5): (True, 0.75),  # the crash at 2.5 comes no later than the lead: the next one labels this row
        ("b", 2): (True, 0.25),
        ("a", 2): (True, 0.75),
        ("a", 3): (True, 1.0),  # a crash whose confidence is not known
        ("a", 5.5): (True, 1.0),  # no crash follows
        ("a", 0): (False, 1.0),  # no row before a crash
    }
    crash = np.array([is_crash for is_crash, _ in rows.values()])
    sample = Sample(keys_of(*rows), np.empty((len(rows), 0), dtype=np.float32), crash, (1.0, 1.0))
    weights = sampling.confidence_weights(sample, tmp_path / "incidents.parquet", HOUR)
    assert weights.tolist() == [weight for _, weight in rows.values()]


@pytest.fixture
def guesses(tmp_path):
    """Write 8,000 rows that nobody labelled, of which the model is certain in half; give what guesses at them."""
    risk = np.tile([0.7, 0.02, 0.0201, 0.69], 2000).astype(np.float32)
    rows = keys_of(*(("a", hour) for hour in range(8000))).with_columns(pl.col("server_id").cast(pl.String))
    nothing = {"label": pl.lit(None, pl.Int8), "reason": pl.lit(tables.UNCOVERED)}
    for name, columns in {"labels": nothing, "features": {"risk": pl.Series(risk)}}.items():
        for (month,), part in rows.with_columns(**columns).group_by(
            pl.col("timestamp").dt.truncate("1mo"), maintain_order=True
        ):
            tables.write(partition_at(month, "month").path(tmp_path / name), part)
    model = SimpleNamespace(features=["risk"], predict=lambda rows: rows["risk"].to_numpy().astype(np.float64).round(6))

    def run(shares=(1.0, 1.0), weight=None, **changes):
        # one row in fifteen of those known is one before a crash, once the sample's shares are undone
        crash = np.array([True] * round(10 * shares[1]) + [False] * round(140 * shares[0]))
        sample = Sample(keys_of(*[("b", 0)] * len(crash)), np.zeros((len(crash), 1), np.float32), crash, shares, weight)
        rules = train_of(self_training={"certainty": 0.7}, **changes)
        whole = sampling.with_pseudo_labels(tmp_path / "features", tmp_path / "labels", RULE, model, sample, rules)
        return sample, whole

    return run


def test_rows_of_high_and_of_low_risk_are_labelled_by_the_model(guesses):
    sample, whole = guesses()  # 0.3 of the base rate is 0.02
    added = slice(len(sample.crash), None)
    assert np.array_equal(whole.crash[: len(sample.crash)], sample.crash)
    assert dict(zip(*np.unique(whole.values[added, 0].round(4), return_counts=True), strict=True)) == {
        np.float32(0.02): 2000,
        np.float32(0.7): 2000,
    }
    assert np.array_equal(whole.crash[added], whole.values[added, 0] > 0.5)
    assert whole.keys.height == len(whole.values) == len(whole.crash)
    assert whole.shares == sample.shares
    assert whole.weight is None


def test_guessed_rows_are_drawn_in_the_samples_shares(guesses):
    sample, whole = guesses(shares=(0.1, 0.5))
    guessed = whole.crash[len(sample.crash) :]
    assert guessed.sum() == pytest.approx(1000, abs=90)
    assert (~guessed).sum() == pytest.approx(200, abs=55)


def test_guessed_rows_are_at_most_as_many_as_training_takes(guesses):
    sample, whole = guesses(max_rows=2_000)  # of 8,000, half of which the model is certain about
    assert len(whole.crash) - len(sample.crash) == pytest.approx(1000, abs=110)
    sample, whole = guesses(shares=(0.5, 1.0), max_rows=2_000)  # half of the negatives would be 4,000
    guessed = whole.crash[len(sample.crash) :]
    assert guessed.sum() == pytest.approx(1000, abs=90)
    assert (~guessed).sum() == pytest.approx(500, abs=80)


def test_guessed_rows_count_as_one_beside_the_weights_of_the_others(guesses):
    weight = np.linspace(0.1, 0.9, 150)
    sample, whole = guesses(weight=weight)
    assert np.array_equal(whole.weight, [*weight, *np.ones(4000)])
    assert len(sample.crash) == 150
