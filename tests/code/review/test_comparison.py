from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored_fleet import BUDGET, DAY, HOUR, POLICY, START, WINDOW, altered, fleet, moments
from sklearn.metrics import average_precision_score

from crashcast.errors import UserError
from crashcast.modeling import alarms, bootstrap
from crashcast.modeling.bootstrap import TwoWayDraws, pr_auc_replicates
from crashcast.modeling.row_metrics import steps_of
from crashcast.review import alarm_curve, comparison
from crashcast.review.alarm_curve import AlarmCurve, between, false_alarms, mitigated_alarms, place_of
from crashcast.review.rescoring import ScoredRows
from crashcast.review.standard_error import pr_auc_influence, spread, total_influence


@pytest.fixture(scope="module")
def rescored():
    return fleet()


@pytest.fixture(scope="module")
def found(rescored):
    return comparison.compare(rescored, POLICY, BUDGET)


def test_a_bound_is_as_far_off_as_students_table_says():
    found = comparison.Difference("", "", "", "higher", 0.5, 0.6, 0.1, standard_error=2.0, degrees_of_freedom=10)
    assert found.reach(0.05) == pytest.approx(2 * 1.812, abs=1e-3)
    assert found.reach(0.01) == pytest.approx(2 * 2.764, abs=1e-3)


@pytest.mark.parametrize(("better", "sign"), [("higher", 1), ("lower", -1)])
def test_a_gain_is_positive_if_the_challenger_is_better(better, sign):
    found = comparison.Difference("", "", "", better, 0.5, 0.6, 0.1, deviations=np.array([1.0, -2.0]))
    assert found.gain == sign * 0.1
    assert found.gain_deviations.tolist() == [sign * 1.0, sign * -2.0]
    assert comparison.Difference("", "", "", better, 0.5, None, None).gain is None


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


def of_equals(influence):
    """Return the spread if each server and each block holds as much as any other."""
    return spread(influence, np.full(influence.shape, 1 / influence.size))


@pytest.mark.parametrize("shape", [(-1, 1), (1, -1)])
def test_the_spread_of_servers_or_blocks_is_that_of_leaving_out_each_in_turn(shape):
    values, weights = np.array([6.0, 1.0, 2.0, 3.0]), np.array([10.0, 2.0, 3.0, 5.0])
    ratio, influence = total_influence(values, weights)
    without = (values.sum() - values) / (weights.sum() - weights)
    found = spread(influence.reshape(shape), (weights / weights.sum()).reshape(shape))
    assert found.standard_error == pytest.approx(np.sqrt(3 / 4 * np.sum((without - ratio) ** 2)))


def test_a_spread_of_independent_cells_counts_each_once():
    rng = np.random.default_rng(1)
    errors = [of_equals(rng.normal(size=(200, 100))).standard_error for _ in range(50)]
    # not three times their variance, as replicates would; a little more, as the larger of three estimates is taken
    assert 1 < np.mean(errors) / np.sqrt(200 * 100) < 1.15


def test_what_servers_or_the_whole_fleet_share_adds_up_before_it_is_squared():
    of_server = np.array([1.0, -1.0, 2.0, -2.0])
    alone = np.repeat(of_server[:, None], 3, axis=1)
    assert of_equals(alone).standard_error == pytest.approx(3 * np.sqrt(4 / 3 * 10))
    at_once = np.repeat(np.array([[5.0, 0.0, -5.0, 0.0, 0.0, 0.0]]), 4, axis=0)
    assert of_equals(at_once).standard_error >= 4 * 5 * np.sqrt(2)


def test_influences_of_the_same_server_and_of_others_in_blocks_nearby_are_multiplied():
    """Pair by pair. All 5 servers and 7 blocks hold the same, so that leaving out one multiplies by 5/4 and 7/6."""
    rng = np.random.default_rng(4)
    influence = rng.normal(size=(5, 7)) + 2 * rng.normal(size=7)
    influence -= influence.mean()
    pairs = [(s, b, t, c) for s in range(5) for b in range(7) for t in range(5) for c in range(7)]
    same = sum(influence[s, b] * influence[t, c] for s, b, t, c in pairs if s == t)
    others = sum(influence[s, b] * influence[t, c] for s, b, t, c in pairs if s != t and abs(b - c) <= 1)
    assert of_equals(influence).standard_error == pytest.approx(np.sqrt(5 / 4 * same + 7 / 6 * others))


def test_an_outage_that_two_blocks_share_weighs_as_much_as_in_one():
    rng = np.random.default_rng(2)
    sizes = rng.normal(size=60)
    sizes -= sizes.mean()
    whole, split = np.zeros((30, 180)), np.zeros((30, 180))
    whole[:, ::3] = sizes
    split[:, ::3], split[:, 1::3] = 0.5 * sizes, 0.5 * sizes
    assert of_equals(split).standard_error == pytest.approx(of_equals(whole).standard_error, rel=0.03)


def test_few_that_weigh_much_leave_few_degrees_of_freedom():
    rng = np.random.default_rng(3)
    even = rng.choice([-1.0, 1.0], size=(50, 60))
    assert of_equals(even).degrees_of_freedom > 25
    even[:2] *= 100
    assert of_equals(even).degrees_of_freedom < 6


@pytest.mark.parametrize(
    ("of_servers", "of_blocks", "freedom"),
    [
        ([1, -1, 1, -1], [1] * 10, 3),
        ([1] * 10, [1, -1, 1, -1], 3),
        ([1, -1], [1] * 9, 1),
        ([1], [1, -1, 1, -1, 1, -1], 1),  # never none
        ([1, -1] + [0] * 98, [1] * 200, 5),  # two count as six: the fourth moment of normal ones is 3
    ],
)
def test_n_that_weigh_the_same_leave_n_less_one_degrees_of_freedom(of_servers, of_blocks, freedom):
    assert of_equals(np.outer(of_servers, of_blocks).astype(float)).degrees_of_freedom == freedom


def test_nothing_that_differs_is_certain():
    assert of_equals(np.zeros((5, 5))).standard_error == 0


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


def test_a_slice_is_what_its_servers_show_by_themselves(rescored, found):
    inside = pl.col("server_id").cast(pl.String).is_in(sorted(rescored.slices["group_odd"]))
    alone = ScoredRows(
        **{**vars(rescored), "rows": rescored.rows.filter(inside), "crashes": rescored.crashes.filter(inside)}
    )
    part, whole = found.slices["group_odd"], comparison.compare(alone, POLICY, BUDGET)
    assert part.crashes == whole.crashes
    for figure in ("champion", "challenger", "difference", "standard_error", "degrees_of_freedom"):
        assert getattr(part.difference, figure) == pytest.approx(getattr(whole.differences["pr_auc"], figure))


@pytest.mark.parametrize("label", [0, 1])
def test_a_slice_in_which_nothing_can_be_ranked_is_left_out(rescored, label):
    even = pl.col("server_id").cast(pl.String).is_in(sorted(rescored.slices["group_even"]))
    same = pl.when(even).then(pl.lit(label, pl.Int8)).otherwise("label")
    assert comparison.compare(altered(rescored, label=same), POLICY, BUDGET).slices.keys() == {
        "group_odd", "fresh_crashes", "repeated_crashes",
    }  # fmt: skip


def test_a_ranking_is_held_by_positives_and_a_brier_score_by_rows(rescored, found):
    draws, cells = draws_of(rescored, replicates=1)
    labels, n_cells = rescored.rows["label"].to_numpy(), draws.shape[0] * draws.shape[1]
    scores = [rescored.rows[model].to_numpy() for model in ("champion", "challenger")]
    ranked = [pr_auc_influence(labels, steps_of(labels, one), cells, n_cells)[1] for one in scores]
    squared = [total_influence(np.bincount(cells, (one - labels) ** 2), np.bincount(cells))[1] for one in scores]
    for name, (old, new), weight in (("pr_auc", ranked, labels), ("brier", squared, np.ones(len(labels)))):
        share = np.bincount(cells, weight, minlength=n_cells) / weight.sum()
        expected = spread((new - old).reshape(draws.shape), share.reshape(draws.shape))
        assert found.differences[name].standard_error == pytest.approx(expected.standard_error)


def test_replicates_are_the_figures_of_weighted_rows(rescored, found):
    draws, cells = draws_of(rescored, POLICY.replicates)
    labels, gains = rescored.rows["label"].to_numpy(), {"brier": [], "pr_auc": []}
    for replicate in range(40):
        weights = draws.weights(replicate)[cells]
        old, new = (rescored.rows[model].to_numpy() for model in ("champion", "challenger"))
        brier = [np.average((scores - labels) ** 2, weights=weights) for scores in (old, new)]
        area = [average_precision_score(labels, scores, sample_weight=weights) for scores in (old, new)]
        gains["brier"].append(brier[1] - brier[0])
        gains["pr_auc"].append(area[1] - area[0])
    for name, exact in gains.items():
        assert np.corrcoef(exact, found.differences[name].deviations[:40])[0, 1] > 0.999


def test_recall_is_taken_where_the_budget_is_spent(rescored, found):
    for model in ("champion", "challenger"):
        rows = rescored.rows.select("timestamp", "server_id", "label", "observed", score=model)
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


@pytest.mark.parametrize("sampled_rows", [1_000_000, 500])
@pytest.mark.parametrize("budget", [0.005, 0.05])
def test_most_thresholds_lie_where_the_budget_is_spent(rescored, monkeypatch, budget, sampled_rows):
    """Half of them would, if all rows were looked at instead of the highest."""
    monkeypatch.setattr(alarm_curve, "SAMPLED_ROWS", sampled_rows)
    crashes, allowed = alarms.crashes_of(rescored.crashes, rescored.period, WINDOW.lead), budget * 800
    curve = AlarmCurve.of(rescored, "champion", crashes, budget)
    false = np.bincount(curve.false["point"], minlength=curve.points)
    assert false[0] <= allowed / 4
    assert false[-2] <= 4 * allowed < false[-1]
    assert 20 <= curve.points <= alarm_curve.CURVE_POINTS


def test_if_all_rows_spend_less_than_the_budget_the_lowest_threshold_is_the_last(rescored):
    curve = AlarmCurve.of(rescored, "champion", alarms.crashes_of(rescored.crashes, rescored.period, WINDOW.lead), 5)
    lowest = replace(rescored, thresholds={"champion": rescored.rows["champion"].min()})
    false = np.bincount(curve.false["point"], minlength=curve.points)
    assert false[-1] == false_alarms(lowest, "champion") < 5 * 800


def by_hand(champion, challenger, hours=(24, 24, 24, 24), of_servers=((1, 1, 1, 1),), alarms_of_a=(2, 4, 6)):
    """Compare the recall and lead of two models on four servers with a crash each, in one block.

    Server a raises all false alarms, at three falling thresholds. One a day is allowed on each server. What the models
    catch are (threshold, crash, lead).
    """
    week, servers, once = 7 * DAY, list("abcd"), np.ones((len(of_servers), 1), dtype=np.int16)
    draws = TwoWayDraws(servers, (START - bootstrap.MONDAY) // week, week, np.array(of_servers, np.int16), once)
    point = np.repeat([0, 1, 2], alarms_of_a)
    false = pl.DataFrame({"point": point, "server_id": ["a"] * len(point), "timestamp": moments([0] * len(point))})
    crashes = pl.DataFrame({"server_id": servers, "last_warning_at": moments([0] * 4)})
    curves = {
        model: AlarmCurve(3, false, pl.DataFrame(rows, schema=CAUGHT, orient="row"))
        for model, rows in {"champion": champion, "challenger": challenger}.items()
    }
    cells = np.repeat(range(4), hours)
    paired = comparison._Paired(draws, np.zeros(len(cells), dtype=np.int8), cells)
    recalls, lead = paired.alarms(curves, crashes, {comparison.ALL: np.ones(4, dtype=bool)}, 1.0, HOUR)
    return recalls[comparison.ALL], lead


CAUGHT = {"point": pl.Int64, "crash": pl.Int64, "lead_h": pl.Float64}
ALWAYS_B = [(point, 1, 2.0) for point in range(3)]
MORE_AND_MORE = [(0, 1, 2.0), (1, 1, 2.0), (1, 2, 2.0), (2, 1, 2.0), (2, 2, 2.0), (2, 3, 2.0)]  # b, then c, then d


def test_a_server_that_overspends_costs_recall_everywhere():
    """Four false alarms are allowed: the second threshold, with the crashes of b and c. Two more buy a crash more.

    Server a raises three more than its share, the others one less. So for each server's weight the challenger loses
    1.5 crashes, or gains 0.5, beside its own. A weighted mean's influences are these less the mean, 0.5, over four.
    """
    recall, _ = by_hand(ALWAYS_B, MORE_AND_MORE)
    assert (recall.champion, recall.challenger) == (0.25, 0.5)
    expected = spread_of_recall(np.array([-1.5, 1 + 0.5, 1 + 0.5, 0.5]))
    assert recall.standard_error == pytest.approx(expected) == pytest.approx(np.sqrt(76 / 192))


def spread_of_recall(challenger):
    """Return the error beside a champion that always catches b, from what each server adds to the challenger's."""
    change = (challenger - np.mean(challenger)) / 4 - (np.array([0, 1, 0, 0]) - 0.25) / 4
    return np.sqrt(4 / 3 * np.sum(change**2))


def test_the_curve_rises_as_from_half_the_budget_to_twice_the_budget():
    """From 2 false alarms and a crash to 8 and three crashes: a third of a crash for a false alarm."""
    recall, _ = by_hand(ALWAYS_B, MORE_AND_MORE, alarms_of_a=(2, 4, 8))
    assert recall.challenger == pytest.approx(0.5)
    expected = spread_of_recall(np.array([-3 / 3, 1 + 1 / 3, 1 + 1 / 3, 1 / 3]))
    assert recall.standard_error == pytest.approx(expected)


@pytest.mark.parametrize("alarms_of_a", [(1, 2, 3), (2, 3, 4), (0, 0, 0)])
def test_a_threshold_that_cannot_fall_further_does_not_move(alarms_of_a):
    recall, _ = by_hand(ALWAYS_B, MORE_AND_MORE, alarms_of_a=alarms_of_a)
    assert recall.challenger == 0.75
    assert recall.standard_error == pytest.approx(spread_of_recall(np.array([0, 1, 1, 1])))


def test_a_server_that_overspends_costs_lead_everywhere():
    """That of a is caught 2, 4 and 6 hours ahead, that of b 4, 6 and 8: a false alarm more brings two hours more.

    The mean at the budget is 5 hours: a lies an hour below, b an hour above. Server a raises three false alarms more
    than its share, the others one less. Without a or b only one crash would be left, which would then count twice.
    """
    caught = [(point, crash, 2.0 * (point + 1 + crash)) for point in range(3) for crash in (0, 1)]
    _, lead = by_hand([(point, crash, 2.0) for point, crash, _ in caught], caught)
    assert (lead.champion, lead.challenger) == (2, 5)
    influence = (np.array([-3 * 2 - 1, 1 * 2 + 1, 1 * 2, 1 * 2])) / 2
    variance = 3 / 4 * np.sum((influence * [2, 2, 1, 1]) ** 2)
    assert lead.standard_error == pytest.approx(np.sqrt(variance)) == pytest.approx(np.sqrt(45))


def test_a_model_that_catches_nothing_has_no_lead():
    for models, leads in (((ALWAYS_B, []), (2, None)), (([], ALWAYS_B), (None, 2))):
        recall, lead = by_hand(*models)
        assert sorted([recall.champion, recall.challenger]) == [0, 0.25]
        assert (lead.champion, lead.challenger, lead.difference) == (*leads, None)


def test_a_replicate_spends_the_budget_of_the_rows_that_it_drew():
    """Server a has twice the rows, and so twice the budget. By hand, of each draw: false alarms, allowed, caught."""
    draws = (
        (1, 1, 1, 1),  # 2, 4, 6; 5 allowed: half way from b and c to all three
        (2, 1, 1, 0),  # 4, 8, 12; 6 allowed: half way from b to b and c
        (0, 2, 1, 1),  # none: the last threshold, with b twice, c and d
        (3, 1, 0, 0),  # 6, 12, 18; 7 allowed: b, whatever the threshold
    )
    recall, _ = by_hand(ALWAYS_B, MORE_AND_MORE, hours=(48, 24, 24, 24), of_servers=draws)
    gains = np.array([2.5 - 1, 1.5 - 1, 4 - 2, 1 - 1]) / 4
    assert recall.deviations / recall.standard_error == pytest.approx((gains - gains.mean()) / gains.std())


def on_call(*hours_of_alarms):
    """Score one server for two days, with a crash at 13:30 of the first."""
    scores = np.where(np.isin(np.arange(48), hours_of_alarms), 0.9, 0.1)
    rows = pl.DataFrame({"timestamp": moments(range(48)), "server_id": "a", "label": 0, "observed": True})
    rows = rows.with_columns(champion=scores)
    crashes = pl.DataFrame({"server_id": ["a"], "started_at": moments([13.5])})
    return ScoredRows(rows, crashes, (START, START + 2 * DAY), WINDOW, {"champion": 0.5}, {})


@pytest.mark.parametrize(("hours", "false"), [([13], 0), ([8], 0), ([13, 30], 1), ([5, 30], 2), ([14], 1)])
def test_an_alarm_that_comes_too_late_is_not_false(hours, false):
    """It pages, and a crash follows. At 5:00 it is too early, at 14:00 the crash is over."""
    scored = on_call(*hours)
    assert false_alarms(scored, "champion") == false
    crashes = alarms.crashes_of(scored.crashes, (START, START + 2 * DAY), WINDOW.lead)
    curve = AlarmCurve.of(scored, "champion", crashes, 1.0)
    assert curve.false.filter(point=0).height == false


def test_mitigated_alarms_are_those_that_open_on_mitigated_rows():
    scored = on_call(2, 20, 30)
    unknown = pl.col("timestamp").is_in(moments([20, 30]).implode())
    rows = scored.rows.with_columns(label=pl.when(~unknown).then("label"))
    mitigated = rows.filter(pl.col("timestamp") >= moments([30])[0], unknown)
    assert mitigated_alarms(replace(scored, rows=rows, mitigated=mitigated), "champion") == 1


def test_each_window_counts_the_alarms_of_its_own_models_at_its_own_threshold():
    """The alarm at 20:00 is false, that at 13:00 is late; the second window's threshold is above every score."""
    a_day = {"from": START.isoformat(), "to": (START + DAY).isoformat()}
    periods = {part: a_day for part in ("train", "test")}  # noqa: C420
    one = replace(on_call(13, 20), rule={"periods": periods})
    unlike = replace(one, thresholds={"champion": 0.95})
    assert false_alarms(one, "champion") == 1
    assert false_alarms(ScoredRows.pooled([one, unlike], {}), "champion") == 1
    assert false_alarms(ScoredRows.pooled([one, one], {}), "champion") == 2


def test_the_variance_factor_of_windows_widens_every_interval_and_changes_no_figure(rescored, found):
    wider = comparison.compare(replace(rescored, variance_factor=4.0), POLICY, BUDGET)
    for name, difference in found.differences.items():
        other = wider.differences[name]
        assert other.difference == difference.difference
        assert other.standard_error == pytest.approx(2 * difference.standard_error)
        assert other.deviations.std() == pytest.approx(2 * difference.deviations.std())


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
        assert (difference.deviations == 0).all()


def test_to_swap_the_models_turns_every_difference_around(rescored, found):
    names = {"champion": pl.col("challenger"), "challenger": pl.col("champion")}
    swapped = comparison.compare(altered(rescored, **names), POLICY, BUDGET)
    for name, difference in found.differences.items():
        assert swapped.differences[name].difference == pytest.approx(-difference.difference)
        assert swapped.differences[name].standard_error == pytest.approx(difference.standard_error)


def test_the_order_of_rows_and_repeated_calls_change_nothing(rescored, found):
    again = comparison.compare(rescored, POLICY, BUDGET)
    shuffled = comparison.compare(
        ScoredRows(**{**vars(rescored), "rows": rescored.rows.sample(fraction=1, shuffle=True, seed=3)}),
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


@pytest.mark.parametrize(("champion", "challenger"), [(0.3, 0.4), (2.0, 0.0)])
def test_false_alarms_are_counted_at_the_stored_thresholds(rescored, champion, challenger):
    thresholds = {"champion": champion, "challenger": challenger}
    stored = ScoredRows(**{**vars(rescored), "thresholds": thresholds})
    for model, times in comparison.compare(stored, POLICY, BUDGET).false_alarms_over_budget.items():
        rows = rescored.rows.select("timestamp", "server_id", "label", "observed", score=model)
        judged = alarms.judge(rows, rescored.crashes, thresholds[model], WINDOW, rescored.period).metrics
        assert times == pytest.approx(judged.alarms_false / 800 / BUDGET)  # 40 servers for 20 days
        assert (times > 0) == (thresholds[model] < 1)


def test_a_model_without_any_alarm_in_time_has_no_lead(rescored):
    is_late = pl.when(label=1).then(0.0).otherwise(pl.col("challenger"))
    blind = comparison.compare(altered(rescored, challenger=is_late), POLICY, BUDGET).differences
    assert blind["event_recall"].difference < 0
    constant = comparison.compare(altered(rescored, challenger=pl.lit(0.1)), POLICY, BUDGET).differences
    assert constant["event_recall"].challenger < 0.05  # budget / (24 / 6) of always on


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


@pytest.mark.parametrize(("who", "blocks"), [("s000", 60), ("s", 59)])
def test_a_block_counts_if_any_server_has_a_row_in_it(rescored, who, blocks):
    first = pl.col("timestamp") < moments([8])[0]
    rows = rescored.rows.filter(~(first & pl.col("server_id").cast(pl.String).str.starts_with(who)))
    assert comparison.compare(ScoredRows(**{**vars(rescored), "rows": rows}), POLICY, BUDGET).blocks == blocks


def test_where_no_crash_belongs_to_the_period_there_is_no_recall(rescored):
    nothing = ScoredRows(**{**vars(rescored), "crashes": rescored.crashes.clear()})
    found = comparison.compare(nothing, POLICY, BUDGET)
    assert (found.crashes, found.groups, found.servers_with_crashes) == (0, 0, 0)
    for name in ("event_recall", "lead_h"):
        assert found.differences[name].difference is None
        assert found.differences[name].gain is None


def test_a_crash_before_the_period_makes_the_next_of_its_server_a_repeat(rescored):
    crashes = pl.DataFrame({"server_id": ["s000", "s000", "s001"], "started_at": moments([-240, 120, 120])})
    found = comparison.compare(ScoredRows(**{**vars(rescored), "crashes": crashes}), POLICY, BUDGET)
    assert found.crashes == 2
    assert {name: found.slices[name].crashes for name in ("fresh_crashes", "repeated_crashes")} == {
        "fresh_crashes": 1,
        "repeated_crashes": 1,
    }


def test_a_block_shorter_than_a_label_is_refused(rescored):
    with pytest.raises(UserError, match="at least lead \\+ horizon"):
        comparison.compare(rescored, POLICY.model_copy(update={"block": 6 * HOUR}), BUDGET)
    assert (
        comparison.compare(rescored, POLICY.model_copy(update={"block": 7 * HOUR}), BUDGET).blocks == 20 * 24 // 7 + 1
    )


def test_rows_without_a_crash_are_refused(rescored):
    for label, positives in ((0, 0), (1, 19200)):
        with pytest.raises(UserError, match=f"{positives} of the 19200 rescored rows"):
            comparison.compare(altered(rescored, label=pl.lit(label, pl.Int8)), POLICY, BUDGET)
