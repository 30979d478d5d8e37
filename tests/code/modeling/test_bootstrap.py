from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from crashcast.errors import UserError
from crashcast.modeling import bootstrap
from crashcast.modeling.bootstrap import TwoWayDraws
from crashcast.modeling.row_metrics import steps_of

DAY = timedelta(days=1)
START = datetime(2025, 3, 3)


def draw(n_servers, n_blocks, replicates, seed=1):
    servers = pl.Series([f"s{i:03d}" for i in range(n_servers)])
    return TwoWayDraws.draw(servers, (START, START + n_blocks * DAY), DAY, replicates, seed)


def moments(*values):
    return pl.Series(values).dt.replace_time_zone("UTC").cast(pl.Datetime("us", "UTC"))


def test_each_replicate_draws_as_many_servers_and_blocks_as_there_are():
    draws = draw(n_servers=7, n_blocks=5, replicates=400)
    assert draws.shape == (7, 5)
    assert (draws.of_servers.sum(axis=1) == 7).all()
    assert (draws.of_blocks.sum(axis=1) == 5).all()
    # every server and every block as often as any other, and every cell too, for the two draws are independent
    assert draws.of_servers.mean(axis=0) == pytest.approx(1, abs=0.25)
    assert draws.of_blocks.mean(axis=0) == pytest.approx(1, abs=0.25)
    assert np.mean([draws.weights(r) for r in range(400)], axis=0) == pytest.approx(1, abs=0.45)
    correlation = np.corrcoef(draws.of_servers[:, 0], draws.of_blocks[:, 0])[0, 1]
    assert abs(correlation) < 0.2


def test_the_same_seed_draws_the_same():
    one, same, other = draw(9, 6, 10), draw(9, 6, 10), draw(9, 6, 10, seed=2)
    assert (one.of_servers == same.of_servers).all()
    assert (one.of_blocks == same.of_blocks).all()
    assert (one.of_servers != other.of_servers).any()
    # a longer period draws other blocks, but the same servers
    assert (one.of_servers == draw(9, 8, 10).of_servers).all()


def test_draws_are_the_same_on_every_machine():
    draws = draw(4, 3, 2, seed=7)
    assert draws.of_servers.tolist() == [[2, 1, 0, 1], [0, 0, 2, 2]]
    assert draws.of_blocks.tolist() == [[0, 2, 1], [2, 1, 0]]
    assert draws.weights(0).tolist() == [0, 4, 2, 0, 2, 1, 0, 0, 0, 0, 2, 1]  # server by server


def test_cells_are_calendar_blocks_of_each_server():
    period = (datetime(2025, 3, 3, 6), datetime(2025, 3, 5))
    draws = TwoWayDraws.draw(pl.Series(["b", "a", "b"]), period, DAY, 1, 1)
    assert draws.servers == ["a", "b"]
    assert draws.shape == (2, 2)  # 3 and 4 March: the 5th is not reached
    at = moments(datetime(2025, 3, 3, 6), datetime(2025, 3, 3, 23, 59), datetime(2025, 3, 4), datetime(2025, 3, 4))
    assert draws.cells(pl.Series(["a", "a", "a", "b"]), at).tolist() == [0, 0, 1, 3]


def test_a_period_touches_a_block_if_an_instant_of_it_does():
    for instants, blocks in ((0, 1), (1, 2)):
        period = (START, START + DAY + instants * timedelta.resolution)
        assert TwoWayDraws.draw(pl.Series(["a"]), period, DAY, 1, 1).shape == (1, blocks)


def test_the_draws_of_a_shorter_period_are_those_of_its_blocks():
    draws = draw(3, 6, 4)
    part = draws.during((START + 2 * DAY + timedelta(hours=5), START + 4 * DAY))
    assert part.shape == (3, 2)
    assert (part.of_servers == draws.of_servers).all()
    assert (part.of_blocks == draws.of_blocks[:, 2:4]).all()
    at = moments(START + 2 * DAY, START + 3 * DAY)
    assert part.cells(pl.Series(["s000", "s001"]), at).tolist() == [0, 3]
    assert draws.during((START, START + 6 * DAY)).of_blocks.tolist() == draws.of_blocks.tolist()


def test_a_block_of_seven_days_is_a_week_from_monday():
    period = (datetime(2025, 3, 7), datetime(2025, 3, 18))  # Friday to Tuesday: three weeks are touched
    draws = TwoWayDraws.draw(pl.Series(["a"]), period, 7 * DAY, 1, 1)
    at = moments(datetime(2025, 3, 9, 23), datetime(2025, 3, 10), datetime(2025, 3, 17))
    assert draws.cells(pl.Series(["a"] * 3), at).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("server", "moment", "message"),
    [
        ("s009", START, "servers"),
        ("s000", START - timedelta(seconds=1), "moments"),
        ("s000", START + 2 * DAY, "moments"),
    ],
)
def test_cells_beyond_what_was_drawn_are_refused(server, moment, message):
    with pytest.raises(ValueError, match=message):
        draw(2, 2, 1).cells(pl.Series([server]), moments(moment))
    with pytest.raises(ValueError, match=message):
        draw(2, 2, 1).cells(pl.Series(["s000", server]), moments(START, moment))


EXACT = 1e-6  # growth within which no two steps are merged


def replicates(labels, scores, cells, draws, growth=bootstrap.GROWTH):
    """PR-AUC of every replicate."""
    return bootstrap.pr_auc_replicates(labels, steps_of(labels, scores), cells, draws, growth)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 20), st.integers(1, 4), st.integers(1, 4))
def test_pr_auc_is_that_of_weighted_rows(seed, n, n_scores, n_servers, n_blocks):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, n), rng.integers(0, n_scores, n) / 20
    labels[0] = 1
    draws = draw(n_servers, n_blocks, replicates=5, seed=seed)
    cells = rng.integers(0, n_servers * n_blocks, n)
    for replicate, area in enumerate(replicates(labels, scores, cells, draws, EXACT)):
        weights = draws.weights(replicate)[cells]
        if weights[labels == 1].sum() == 0:
            assert np.isnan(area)
        else:
            assert area == pytest.approx(average_precision_score(labels, scores, sample_weight=weights))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(1, 20), st.sampled_from([1e-9, 0.05, 1]))
def test_steps_that_take_in_many_rows_count_as_exactly_as_the_others(seed, n, n_scores, dense):
    rng = np.random.default_rng(seed)
    labels, scores = rng.integers(0, 2, n), rng.integers(0, n_scores, n) / 20
    labels[0] = 1
    draws, cells = draw(4, 3, replicates=20, seed=seed), rng.integers(0, 12, n)
    listed = replicates(labels, scores, cells, draws, EXACT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "DENSE", dense)
        patch.setattr(bootstrap, "DENSE_GROWTH", 1)
        summed = replicates(labels, scores, cells, draws, EXACT)
    assert np.allclose(listed, summed, rtol=1e-12, equal_nan=True)


def ranked(skill, n=200_000):
    """Label and score rows of 40 servers in 40 days, 10 % before a crash; scores are tied as those of trees are."""
    rng = np.random.default_rng(1)
    labels = rng.random(n) < 0.1
    scores = rng.normal(size=n) + skill * labels * rng.exponential(1, n)
    return labels, scores.round(4), rng.integers(0, 1600, n), draw(40, 40, replicates=50)


@pytest.mark.parametrize("skill", [0, 1, 3, -1])
def test_merging_steps_hardly_moves_a_replicate(skill):
    rows = ranked(skill)
    exact, merged = replicates(*rows, EXACT), replicates(*rows)
    assert (merged != exact).any()
    assert np.abs(merged / exact - 1).max() < 2e-3


def test_a_tie_of_many_rows_is_one_step_however_far_down():
    labels, scores, cells, draws = ranked(1)
    tied = np.where(scores < 0.5, 0.0, scores.round(1))
    exact = replicates(labels, tied, cells, draws, EXACT)
    assert replicates(labels, tied, cells, draws) == pytest.approx(exact, rel=2e-3)


def test_models_on_the_same_draws_are_paired():
    rng = np.random.default_rng(3)
    draws = draw(20, 10, 200)
    cells = rng.integers(0, 200, 2000)
    labels = rng.random(2000) < 0.05
    champion = labels + rng.normal(size=2000)
    challenger = champion + rng.normal(scale=0.2, size=2000)
    one, other = (replicates(labels, scores, cells, draws) for scores in (champion, challenger))
    unpaired = replicates(labels, challenger, cells, draw(20, 10, 200, seed=2))
    assert np.std(one - other) < 0.6 * np.std(one - unpaired)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30))
def test_totals_are_weighted_sums(seed, n):
    rng = np.random.default_rng(seed)
    draws = draw(4, 3, replicates=5, seed=seed)
    cells, values = rng.integers(0, 12, n), rng.integers(0, 9, n)
    expected = [(draws.weights(replicate)[cells] * values).sum() for replicate in range(5)]
    assert bootstrap.total_replicates(values, cells, draws).tolist() == expected


def test_totals_of_groups_are_those_of_weighted_values():
    draws = TwoWayDraws.draw(pl.Series(["a", "b", "c"]), (START, START + DAY), DAY / 3, 20, 1)
    rng = np.random.default_rng(1)
    group, cells, values = rng.integers(0, 4, 30), rng.integers(0, 9, 30), rng.integers(0, 9, 30)
    sums = draws.totals(group, cells, values, 5)
    for replicate in range(20):
        weights = draws.weights(replicate)[cells]
        assert sums[:, replicate].tolist() == np.bincount(group, weights * values, minlength=5).tolist()
    assert draws.total(np.ones(9)).tolist() == [9.0] * 20


def test_event_recall_and_false_alarm_rate_by_hand():
    draws = TwoWayDraws(["a", "b"], 0, DAY, of_servers=np.array([[1, 1], [2, 0]]), of_blocks=np.array([[1, 1], [0, 2]]))
    crash_cells, caught = np.array([0, 1, 3]), np.array([True, False, True])  # a: day 0 and 1, b: day 1
    false_alarm_cells = np.array([1, 1, 2])
    row_cells = np.repeat(np.arange(4), 24)

    crashes = bootstrap.total_replicates(np.ones(3), crash_cells, draws)
    recall = bootstrap.ratio_replicates(bootstrap.total_replicates(caught, crash_cells, draws), crashes)
    assert recall.tolist() == [2 / 3, 0]  # the second replicate is four times server a on day 1

    server_days = bootstrap.total_replicates(np.ones(96), row_cells, draws) / 24
    false_alarms = bootstrap.total_replicates(np.ones(3), false_alarm_cells, draws)
    assert bootstrap.ratio_replicates(false_alarms, server_days).tolist() == [3 / 4, 8 / 4]


def test_a_ratio_to_nothing_is_undefined():
    ratio = bootstrap.ratio_replicates(np.array([0.0, 1.0]), np.array([0.0, 2.0]))
    assert np.isnan(ratio[0])
    assert ratio[1] == 0.5


def test_the_interval_leaves_out_equal_tails():
    assert bootstrap.percentile_interval(np.arange(101.0), confidence=0.9) == (pytest.approx(5), pytest.approx(95), 0)


def test_the_interval_counts_what_it_leaves_out_and_refuses_too_much():
    replicates = np.arange(100.0)
    replicates[:5] = np.nan
    assert bootstrap.percentile_interval(replicates, confidence=0.9).undefined == 5
    replicates[5] = np.nan
    with pytest.raises(UserError, match=r"6 of 100 replicates hold nothing.*params\.yaml: split"):
        bootstrap.percentile_interval(replicates, confidence=0.9)


def test_two_way_intervals_cover_where_servers_and_days_differ():
    # the mean of values that share a server's effect and a day's effect, true mean 0
    n_servers, n_blocks, fleets = 15, 15, 100
    cells = np.arange(n_servers * n_blocks)
    covered, covered_by_rows = 0, 0
    for fleet in range(fleets):
        rng = np.random.default_rng(fleet)
        effects = rng.normal(size=(n_servers, 1)) + rng.normal(size=(1, n_blocks))
        values = (effects + rng.normal(size=(n_servers, n_blocks))).ravel()
        draws = draw(n_servers, n_blocks, replicates=200, seed=fleet)
        means = bootstrap.total_replicates(values, cells, draws) / values.size
        low, high, _ = bootstrap.percentile_interval(means, confidence=0.9)
        covered += low <= 0 <= high
        row_means = values[rng.integers(values.size, size=(200, values.size))].mean(axis=1)
        low, high, _ = bootstrap.percentile_interval(row_means, confidence=0.9)
        covered_by_rows += low <= 0 <= high
    assert covered >= 0.84 * fleets
    assert covered_by_rows <= 0.6 * fleets
