from __future__ import annotations

from datetime import datetime, timedelta
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from crashcast.errors import UserError
from crashcast.modeling import alarms, bootstrap
from crashcast.modeling.alarms import AlarmWindow
from crashcast.modeling.bootstrap import TwoWayDraws, pr_auc_replicates
from crashcast.modeling.row_metrics import steps_of
from crashcast.params.acceptance import Acceptance
from crashcast.review import comparison
from crashcast.review.alarm_curve import between, place_of
from crashcast.review.standard_error import pr_auc_influence, spread, total_influence

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
START = datetime(2025, 3, 3)
WINDOW = AlarmWindow(lead=HOUR, horizon=6 * HOUR, interval=HOUR)
BUDGET = 0.05
POLICY = Acceptance.model_validate(
    {
        "metric": "pr_auc",
        "min_gain": 0.005,
        "margin": 0.02,
        "stale_after": "60d",
        "block": "8h",
        "replicates": 400,
        "seed": 1,
        "min_groups": 40,
        "min_servers": 20,
        "max_denominator_loss": 0.005,
        "max_latency_ms": 100,
        "max_size_mb": 50,
        "guardrails": {"event_recall": 0.05, "lead_h": 0.5, "brier": 0.05, "false_alarms_over_budget": 2},
        "slices": {"pr_auc": 0.05, "event_recall": 0.1, "min_crashes": 30},
    }
)


def moments(hours):
    return pl.Series(
        np.datetime64(START, "us") + (np.asarray(hours) * 3.6e9).astype("timedelta64[us]")
    ).dt.replace_time_zone("UTC")


def fleet(seed=1, servers=40, days=20, crashes=120, outages=0, signals=(2.0, 2.0)):
    """Hourly rows of servers of which some crash, alone or together, and two models that see part of it."""
    rng = np.random.default_rng(seed)
    hours = 24 * days
    frailty = rng.gamma(2, 1, servers)
    crashed, at = rng.choice(servers, crashes, p=frailty / frailty.sum()), rng.uniform(0, hours, crashes)
    warned = rng.exponential(1, crashes) * (rng.random(crashes) < 0.7)
    together = np.zeros(crashes)
    for _ in range(outages):
        hit = np.flatnonzero(rng.random(servers) < 0.4)
        crashed, at = np.append(crashed, hit), np.append(at, np.full(len(hit), rng.uniform(8, hours)))
        warned = np.append(warned, np.full(len(hit), rng.exponential(1)))
        together = np.append(together, np.full(len(hit), rng.normal()))
    label, score = np.zeros((hours, servers), dtype=np.int8), rng.normal(size=(2, hours, servers))
    score += rng.normal(size=servers)
    for server, hour, strength, shared in zip(crashed, at, warned, together, strict=True):
        rows = slice(max(int(np.floor(hour - 7)) + 1, 0), max(int(np.ceil(hour - 1)), 0))
        label[rows, server] = 1
        for model, signal in enumerate(signals):
            own = rng.normal() + (2 * model - 1) * shared  # what one model sees of an outage the other does not
            score[model, rows, server] += signal * strength * np.exp(0.4 * own)
    names = np.array([f"s{i:03d}" for i in range(servers)])
    champion, challenger = 1 / (1 + np.exp(4 - score))
    rows = pl.DataFrame(
        {
            "timestamp": moments(np.repeat(np.arange(hours), servers)),
            "server_id": pl.Series(np.tile(names, hours)).cast(pl.Categorical),
            "label": label.ravel(),
            "champion": champion.ravel(),
            "challenger": challenger.ravel(),
        }
    )
    return SimpleNamespace(
        rows=rows,
        crashes=pl.DataFrame({"server_id": names[crashed], "started_at": moments(at)}),
        period=(START, START + days * DAY),
        window=WINDOW,
        thresholds={"champion": 0.9, "challenger": 0.9},
        slices={"group_even": frozenset(names[::2]), "group_odd": frozenset(names[1::2])},
    )


def altered(rescored, **columns):
    return SimpleNamespace(**{**vars(rescored), "rows": rescored.rows.with_columns(**columns)})


@pytest.fixture(scope="module")
def rescored():
    return fleet()


@pytest.fixture(scope="module")
def found(rescored):
    return comparison.compare(rescored, POLICY, BUDGET)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(2, 40), st.integers(1, 15))
def test_influence_is_the_derivative_by_a_cells_weight(seed, n, n_scores):
    rng = np.random.default_rng(seed)
    labels, scores, cells = rng.integers(0, 2, n), rng.integers(0, n_scores, n) / 7, rng.integers(0, 6, n)
    labels[0] = 1
    area, influence = pr_auc_influence(labels, steps_of(labels, scores), cells, 6)
    assert area == pytest.approx(average_precision_score(labels, scores))
    assert influence.sum() == pytest.approx(0, abs=1e-12)
    step = 1e-6
    for cell in range(6):
        more, less = (
            average_precision_score(labels, scores, sample_weight=np.where(cells == cell, 1 + sign * step, 1.0))
            for sign in (1, -1)
        )
        assert influence[cell] == pytest.approx((more - less) / (2 * step), abs=1e-6)


def test_a_ratio_of_totals_and_its_influence():
    ratio, influence = total_influence(np.array([1.0, 0.0]), np.array([2, 2]))
    assert ratio == 0.25
    assert influence.tolist() == [0.125, -0.125]


def test_a_spread_of_independent_cells_counts_each_once():
    rng = np.random.default_rng(1)
    errors = [spread(rng.normal(size=(200, 100))).standard_error for _ in range(50)]
    # not three times their variance, as replicates would; a little more, as the larger of three estimates is taken
    assert 1 < np.mean(errors) / np.sqrt(200 * 100) < 1.15


def test_what_servers_or_the_whole_fleet_share_adds_up_before_it_is_squared():
    of_server = np.array([1.0, -1.0, 2.0, -2.0])
    alone = np.repeat(of_server[:, None], 3, axis=1)
    assert spread(alone).standard_error == pytest.approx(3 * np.sqrt(4 / 3 * 10))
    at_once = np.repeat(np.array([[5.0, 0.0, -5.0, 0.0, 0.0, 0.0]]), 4, axis=0)
    assert spread(at_once).standard_error >= 4 * 5 * np.sqrt(2)


def test_an_outage_that_two_blocks_share_weighs_as_much_as_in_one():
    rng = np.random.default_rng(2)
    sizes = rng.normal(size=60)
    sizes -= sizes.mean()
    whole, split = np.zeros((30, 180)), np.zeros((30, 180))
    whole[:, ::3] = sizes
    split[:, ::3], split[:, 1::3] = 0.5 * sizes, 0.5 * sizes
    assert spread(split).standard_error == pytest.approx(spread(whole).standard_error, rel=0.03)


def test_few_that_weigh_much_leave_few_degrees_of_freedom():
    rng = np.random.default_rng(3)
    even = rng.choice([-1.0, 1.0], size=(50, 60))
    assert spread(even).degrees_of_freedom > 25
    even[:2] *= 100
    assert spread(even).degrees_of_freedom < 6


def test_nothing_that_differs_is_certain():
    assert spread(np.zeros((5, 5))).standard_error == 0


def draws_of(rescored, replicates=50):
    draws = TwoWayDraws.draw(rescored.rows["server_id"].cast(pl.String), rescored.period, 8 * HOUR, replicates, 1)
    return draws, draws.cells(rescored.rows["server_id"], rescored.rows["timestamp"])


@pytest.mark.parametrize("tied", [False, True])
def test_merged_steps_hardly_move_a_difference(rescored, tied):
    draws, cells = draws_of(rescored, replicates=200)
    labels, exact, merged = rescored.rows["label"].to_numpy(), [], []
    for model in ("champion", "challenger"):
        scores = rescored.rows[model].to_numpy()
        scores = np.where(scores < 0.1, 0.0, scores.round(2)) if tied else scores
        exact.append(pr_auc_replicates(labels, steps_of(labels, scores), cells, draws, growth=1e-6))
        merged.append(pr_auc_replicates(labels, steps_of(labels, scores), cells, draws))
    assert np.std(np.subtract(*merged) - np.subtract(*exact)) < 0.04 * np.std(np.subtract(*exact))


def test_heavy_steps_are_summed_to_the_same(rescored, monkeypatch):
    draws, cells = draws_of(rescored)
    labels, scores = rescored.rows["label"].to_numpy(), rescored.rows["champion"].to_numpy()
    monkeypatch.setattr(bootstrap, "DENSE_GROWTH", 1)  # as fine as the others
    listed = pr_auc_replicates(labels, steps_of(labels, scores), cells, draws)
    monkeypatch.setattr(bootstrap, "DENSE", 1e-4)
    again = pr_auc_replicates(labels, steps_of(labels, scores), cells, draws)
    assert again == pytest.approx(listed, rel=1e-6)


def test_points_are_those_of_the_plain_metrics(rescored, found):
    labels = rescored.rows["label"].to_numpy()
    area = found.differences["pr_auc"]
    for model, figure in (("champion", area.champion), ("challenger", area.challenger)):
        assert figure == pytest.approx(average_precision_score(labels, rescored.rows[model].to_numpy()))
    brier = found.differences["brier"]
    assert brier.champion == pytest.approx(np.mean((rescored.rows["champion"].to_numpy() - labels) ** 2))
    assert brier.gain == pytest.approx(brier.champion - brier.challenger)
    inside = rescored.rows.filter(pl.col("server_id").cast(pl.String).is_in(sorted(rescored.slices["group_odd"])))
    part = found.slices["group_odd"]
    assert part.rows == inside.height
    assert part.difference.champion == pytest.approx(average_precision_score(inside["label"], inside["champion"]))


def test_recall_is_taken_where_the_budget_is_spent(rescored, found):
    for model in ("champion", "challenger"):
        rows = rescored.rows.select("timestamp", "server_id", "label", score=model)
        point = alarms.choose_threshold(rows, rescored.crashes, BUDGET, WINDOW)
        judged = alarms.judge(rows, rescored.crashes, point.threshold, WINDOW, rescored.period).metrics
        assert getattr(found.differences["event_recall"], model) == pytest.approx(judged.event_recall, abs=0.02)
    assert found.slices["fresh_crashes"].crashes + found.slices["repeated_crashes"].crashes == found.crashes


def test_a_curve_is_read_where_false_alarms_first_come_to_what_is_allowed():
    false, caught = np.array([[2.0], [4.0], [8.0], [6.0]]), np.array([[1.0], [3.0], [4.0], [9.0]])

    def at(allowed):
        return between(caught, place_of(false, np.array([allowed])))[0]

    assert at(1) == 0.5  # half way from nothing to the first threshold
    assert at(4) == 3
    assert at(6) == 3.5  # the fourth threshold fits too, but lies beyond where the budget is first exceeded
    assert at(99) == 9


def test_replicates_move_as_the_influences_say(rescored):
    draws, cells = draws_of(rescored, replicates=400)
    labels, scores = rescored.rows["label"].to_numpy(), rescored.rows["champion"].to_numpy()
    steps = steps_of(labels, scores)
    _, influence = pr_auc_influence(labels, steps, cells, draws.shape[0] * draws.shape[1])
    linear, exact = draws.total(influence), pr_auc_replicates(labels, steps, cells, draws)
    assert np.corrcoef(linear, exact)[0, 1] > 0.97


def test_deviations_have_the_spread_of_the_standard_error(found):
    for difference in [*found.differences.values(), *(part.difference for part in found.slices.values())]:
        assert difference.standard_error > 0
        assert difference.deviations.std() == pytest.approx(difference.standard_error)


def test_equal_models_do_not_differ(rescored):
    same = comparison.compare(altered(rescored, challenger=pl.col("champion")), POLICY, BUDGET)
    for difference in [*same.differences.values(), *(part.difference for part in same.slices.values())]:
        assert difference.difference == 0
        assert difference.reach(0.01) == 0


def test_to_swap_the_models_turns_every_difference_around(rescored, found):
    names = {"champion": pl.col("challenger"), "challenger": pl.col("champion")}
    swapped = comparison.compare(altered(rescored, **names), POLICY, BUDGET)
    for name, difference in found.differences.items():
        assert swapped.differences[name].difference == pytest.approx(-difference.difference)
        assert swapped.differences[name].standard_error == pytest.approx(difference.standard_error)


def test_the_order_of_rows_and_repeated_calls_change_nothing(rescored, found):
    again = comparison.compare(rescored, POLICY, BUDGET)
    shuffled = comparison.compare(
        SimpleNamespace(**{**vars(rescored), "rows": rescored.rows.sample(fraction=1, shuffle=True, seed=3)}),
        POLICY,
        BUDGET,
    )
    for name, difference in found.differences.items():
        assert again.differences[name].standard_error == difference.standard_error
        assert (again.differences[name].deviations == difference.deviations).all()
        assert shuffled.differences[name].standard_error == pytest.approx(difference.standard_error)


def test_an_anchor_is_compared_too(rescored, found):
    with_anchor = comparison.compare(altered(rescored, anchor=pl.col("champion")), POLICY, BUDGET)
    own, against = with_anchor.differences["pr_auc"], with_anchor.differences[comparison.ANCHOR]
    assert (against.difference, against.standard_error) == (own.difference, own.standard_error)
    assert comparison.ANCHOR not in found.differences


def test_false_alarms_are_counted_at_the_stored_thresholds(rescored):
    eager = SimpleNamespace(**{**vars(rescored), "thresholds": {"champion": 2.0, "challenger": 0.0}})
    spent = comparison.compare(eager, POLICY, BUDGET).false_alarms_over_budget
    assert spent["champion"] == 0
    assert spent["challenger"] > 2 / BUDGET  # always on: one after another


def test_a_model_without_any_alarm_in_time_has_no_lead(rescored):
    is_late = pl.when(label=1).then(0.0).otherwise(pl.col("challenger"))
    blind = comparison.compare(altered(rescored, challenger=is_late), POLICY, BUDGET).differences
    assert blind["event_recall"].difference < 0
    constant = comparison.compare(altered(rescored, challenger=pl.lit(0.1)), POLICY, BUDGET).differences
    assert constant["event_recall"].challenger < 0.05  # budget / (24 / 7) of always on


def test_crashes_within_a_block_of_the_first_are_one_group():
    assert comparison.incident_groups(moments([0, 3, 7.9]), 8 * HOUR) == 1
    assert comparison.incident_groups(moments([20, 0, 8, 15]), 8 * HOUR) == 3
    assert comparison.incident_groups(moments([]), 8 * HOUR) == 0


def test_counts(rescored, found):
    assert (found.rows, found.servers, found.blocks) == (rescored.rows.height, 40, 60)
    assert found.server_days == 800
    assert found.crashes == pytest.approx(120, abs=2)  # but for those too early or late to warn of
    assert found.groups < 60 < found.crashes
    assert found.servers_with_crashes <= 40


def test_where_no_crash_belongs_to_the_period_there_is_no_recall(rescored):
    nothing = SimpleNamespace(**{**vars(rescored), "crashes": rescored.crashes.clear()})
    found = comparison.compare(nothing, POLICY, BUDGET)
    assert (found.crashes, found.groups, found.servers_with_crashes) == (0, 0, 0)
    for name in ("event_recall", "lead_h"):
        assert found.differences[name].difference is None
        assert found.differences[name].gain is None


def test_a_block_shorter_than_a_label_is_refused(rescored):
    with pytest.raises(UserError, match="at least lead \\+ horizon"):
        comparison.compare(rescored, POLICY.model_copy(update={"block": 6 * HOUR}), BUDGET)


def test_rows_without_a_crash_are_refused(rescored):
    with pytest.raises(UserError, match="0 of the 19200 rescored rows"):
        comparison.compare(altered(rescored, label=pl.lit(0, pl.Int8)), POLICY, BUDGET)


@pytest.mark.parametrize("outages", [0, 8])
def test_the_standard_error_is_how_much_differences_differ(outages):
    """Also where crashes come all at once, which rows taken as independent would not see."""
    differences, errors = [], []
    for seed in range(120):
        one = fleet(seed, servers=30, days=14, crashes=100 if outages == 0 else 20, outages=outages)
        draws, cells = draws_of(one, replicates=1)
        labels, n_cells = one.rows["label"].to_numpy(), draws.shape[0] * draws.shape[1]
        champion, challenger = (
            pr_auc_influence(labels, steps_of(labels, one.rows[name].to_numpy()), cells, n_cells)
            for name in ("champion", "challenger")
        )
        differences.append(challenger[0] - champion[0])
        errors.append(spread((challenger[1] - champion[1]).reshape(draws.shape)).standard_error)
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(differences), rel=0.2)
