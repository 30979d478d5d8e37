from __future__ import annotations

from functools import partial
from time import sleep

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, logit
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_info, threadpool_limits

from crashcast.modeling.algorithms import ALGORITHMS, candidates, logistic_regression
from crashcast.modeling.algorithms.base import LEARNED_DIGITS, significant
from crashcast.modeling.algorithms.one_rule import OneRule
from crashcast.modeling.model import fit, side_by_side
from crashcast.params.train import Candidates

BOOSTING = {
    "learning_rate": [0.1],
    "max_iter": 40,
    "max_leaf_nodes": [6],
    "min_samples_leaf": 20,
    "l2_regularization": 1.0,
}
TREES = {"n_estimators": 60, "min_samples_leaf": [20], "max_features": [0.7]}
RULES = {"rules": {"product": 1}}
GRIDS = {
    "one_rule": RULES,
    "logistic_regression": {"C": [1.0]},
    "hist_gradient_boosting": BOOSTING,
    "extra_trees": TREES,
}
CPU, LATENCY, PRODUCT, EMPTY = range(4)
FEATURES = ["cpu", "latency", "product", "empty"]


def competing(**grids):
    return list(candidates(Candidates(**grids), 1, FEATURES))


def only(algorithm, **grid):
    """Return the one candidate of an algorithm."""
    found = [candidate for candidate in competing(**{algorithm: grid}) if candidate.algorithm == algorithm]
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def fleet():
    """Rows where CPU x latency causes crashes: the features, with gaps and a column of nothing but gaps; the labels."""
    draw = np.random.default_rng(0)
    cpu, latency = draw.uniform(0, 100, 4000), draw.gamma(2, 60, 4000)
    crash = draw.random(4000) < expit((cpu * latency - 15_000) / 3_000)
    features = np.column_stack([cpu, latency, cpu * latency, np.full(4000, np.nan)]).astype(np.float32)
    features[draw.random(4000) < 0.05, CPU] = np.nan
    return features, crash


@pytest.fixture(scope="module", params=GRIDS)
def fitted(request, fleet):
    return fit(only(request.param, **GRIDS[request.param]), FEATURES, *fleet)


def test_every_algorithm_is_tested_here():
    assert GRIDS.keys() | {"dummy"} == ALGORITHMS.keys()


def test_candidates_come_the_simplest_first():
    grid = BOOSTING | {"learning_rate": [0.1, 0.05], "max_leaf_nodes": [4, 8]}
    found = competing(hist_gradient_boosting=grid, logistic_regression={"C": [1.0, 0.1]})
    assert [candidate.name for candidate in found] == [
        "dummy",
        "logistic_regression C=1",
        "logistic_regression C=0.1",
        "hist_gradient_boosting learning_rate=0.1 max_leaf_nodes=4",
        "hist_gradient_boosting learning_rate=0.1 max_leaf_nodes=8",
        "hist_gradient_boosting learning_rate=0.05 max_leaf_nodes=4",
        "hist_gradient_boosting learning_rate=0.05 max_leaf_nodes=8",
    ]


def test_the_dummy_competes_alone_if_nothing_else_is_named():
    assert [candidate.name for candidate in competing()] == ["dummy"]


def test_the_dummy_says_the_base_rate(fleet):
    dummy = fit(competing()[0], FEATURES, *fleet)
    assert dummy.log_odds(fleet[0]) == pytest.approx(np.full(4000, logit(fleet[1].mean())))


def test_logarithms_have_the_sign_of_the_values():
    found = logistic_regression.signed_log(np.array([0, 1, -1, np.e**9 - 1, np.nan]))
    assert found == pytest.approx([0, np.log(2), -np.log(2), 9, np.nan], nan_ok=True)


def test_a_heavy_tail_does_not_hide_what_smaller_values_tell():
    """Of a counter, 20 against 10 tells of a crash, and one value in a hundred is a million."""
    draw = np.random.default_rng(0)
    crash = draw.random(5000) < 0.2
    counter = np.where(draw.random(5000) < 0.01, 1e6, np.where(crash, 20, 10) * draw.gamma(9, 1 / 9, 5000))
    model = fit(only("logistic_regression", C=[1.0]), ["counter"], counter[:, None].astype(np.float32), crash)
    typical = model.log_odds(np.array([[10], [20]], dtype=np.float32))
    assert typical[1] - typical[0] > 0.5


@pytest.mark.parametrize("sign", [1, -1])
def test_a_rule_ranks_as_its_feature_does_and_a_missing_value_last(sign):
    values = np.array([[2, 9], [5, 9], [np.nan, 9], [3, 9], [-1, 9]], dtype=np.float32)
    crash = np.array([True, False, False, False, False])
    _, rule = candidates(Candidates(one_rule={"rules": {"b": sign}}), 1, ["a", "b"])
    assert rule.name == f"one_rule b={sign}"
    model = fit(rule, ["a", "b"], values[:, ::-1], crash)
    scores = model.log_odds(values[:, ::-1])
    known = [0, 1, 3, 4]
    assert np.argsort(scores[known]).tolist() == np.argsort(sign * values[known, 0]).tolist()
    assert scores[2] == scores.min()
    # in standard deviations around the log-odds of one crash row in five
    mean, scale = np.mean(values[known, 0]), np.std(values[known, 0])
    assert scores[1] == pytest.approx(sign * (5 - mean) / scale + np.log(1 / 4), rel=1e-6)
    tenth = fit(rule, ["a", "b"], values[:, ::-1], crash, share=0.1)  # of the negatives
    assert tenth.log_odds(values[:, ::-1]) == pytest.approx(scores + np.log(0.1))


def test_a_rule_of_a_feature_without_any_value_ranks_nothing():
    model = fit(only("one_rule", rules={"empty": 1}), FEATURES, np.full((9, 4), np.nan, np.float32), np.arange(9) < 3)
    assert model.log_odds(np.full((2, 4), np.nan, np.float32)) == pytest.approx([np.log(0.5)] * 2)


def test_a_rule_of_a_feature_that_is_not_there_does_not_compete():
    found = competing(one_rule={"rules": {"crashes_30d": 1, "latency": -1}})
    assert [candidate.name for candidate in found] == ["dummy", "one_rule latency=-1"]


@pytest.mark.parametrize(("C", "share"), [(0.01, 1.0), (1.0, 1.0), (100.0, 1.0), (1.0, 0.1)])
def test_logistic_regression_is_at_its_optimum(fleet, C, share):
    """The gradient of C x log-loss + |w|^2 / 2 vanishes; a convex function has no other optimum.

    A negative that was kept speaks for 1 / share of them.
    """
    features, crash = fleet
    draw = np.random.default_rng(1)
    # a large level that hardly moves, and a metric sent twice: what float32 stops far from the optimum on
    uptime, again = 50_000 + 3 * draw.normal(size=4000), features[:, LATENCY] + 0.01 * draw.normal(size=4000)
    features = np.column_stack([features, uptime, again]).astype(np.float32)
    names = [*FEATURES, "uptime", "again"]
    pipeline = fit(only("logistic_regression", C=[C]), names, features, crash, share).estimator
    scaled, solver = pipeline[:-1].transform(features.astype(np.float64)), pipeline[-1]
    speaks_for = np.where(crash, 1, 1 / share)
    error = speaks_for * (expit(scaled @ solver.coef_[0] + solver.intercept_[0]) - crash)
    gradient = np.append(C * scaled.T @ error + solver.coef_[0], C * error.sum())
    # what rounding the coefficients costs: their error, times a second derivative of at most n C / 4 + 1
    rounding = 0.5 * 10.0 ** (1 - LEARNED_DIGITS) * np.abs(np.append(solver.coef_, solver.intercept_)).sum()
    assert np.abs(gradient).max() < (speaks_for.sum() * C / 4 + 1) * rounding
    loose = LogisticRegression(C=C).fit(scaled, crash, sample_weight=speaks_for)
    assert np.abs(loose.coef_ - solver.coef_).max() > np.abs(rounding)  # sklearn's own tolerance stops elsewhere


def test_learned_numbers_are_rounded(fitted):
    estimator = fitted.estimator
    if isinstance(estimator, HistGradientBoostingClassifier):
        nodes = np.concatenate([tree.nodes for trees in estimator._predictors for tree in trees])
        learned = np.concatenate([nodes["value"], nodes["gain"]])
    elif isinstance(estimator, ExtraTreesClassifier):
        learned = np.concatenate([tree.tree_.value.ravel() for tree in estimator.estimators_])
    elif isinstance(estimator, OneRule):
        learned = np.array([estimator.mean_, estimator.scale_, estimator.log_odds_])
    else:
        learned = np.concatenate([estimator[-1].coef_[0], estimator[-1].intercept_])
    assert learned.size
    assert learned.tolist() == [float(f"{value:.{LEARNED_DIGITS}g}") for value in learned.tolist()]


def test_a_score_does_not_depend_on_the_rows_beside_it(fitted, fleet):
    features = fleet[0][:500]
    whole = fitted.log_odds(features)
    assert whole.shape == (500,)
    assert np.isfinite(whole).all()
    apart = np.concatenate([fitted.log_odds(features[:7]), fitted.log_odds(features[7:])])
    np.testing.assert_array_max_ulp(whole, apart, maxulp=64)


def test_fitting_is_the_same_whatever_was_fitted_before(fleet):
    for algorithm, grid in GRIDS.items():
        candidate = only(algorithm, **grid)
        scores = [fit(candidate, FEATURES, *fleet).log_odds(fleet[0]) for _ in range(2)]
        assert (scores[0] == scores[1]).all()


def test_models_fitted_side_by_side_are_the_same_and_in_order(fleet):
    fit_one = partial(fit, features=FEATURES, values=fleet[0], crash=fleet[1])
    several = competing(**GRIDS | {"logistic_regression": {"C": [0.01, 1.0, 100.0]}})
    for candidate, model in zip(several, side_by_side(fit_one, several), strict=True):
        assert (model.algorithm, model.hyperparameters) == (candidate.algorithm, candidate.hyperparameters)
        assert (model.log_odds(fleet[0]) == fit_one(candidate).log_odds(fleet[0])).all()


def test_side_by_side_blas_keeps_to_one_thread_and_later_to_as_many_as_before():
    """A sum split over threads has other last digits, and BLAS has one limit for all of them."""

    def limits():
        return {(one["internal_api"], one["num_threads"]) for one in threadpool_info() if one["user_api"] == "blas"}

    def fit_one(wait_s):
        with threadpool_limits(1, user_api="blas"):
            sleep(wait_s)
        sleep(0.2 - wait_s)  # the limit of the other ends meanwhile
        return limits()

    with threadpool_limits(3, user_api="blas"):
        assert {count for found in side_by_side(fit_one, [0.0, 0.1, 0.05]) for _, count in found} == {1}
        assert {count for _, count in limits()} == {3}


@pytest.mark.parametrize("feature", [CPU, LATENCY])
def test_the_score_rises_with_each_of_what_causes_crashes(fitted, feature):
    other = LATENCY if feature == CPU else CPU
    levels = {CPU: [15, 35, 55, 75, 95], LATENCY: [40, 90, 160, 260, 400]}
    for fixed in levels[other][1:]:
        rows = np.full((5, 4), np.nan, dtype=np.float32)
        rows[:, feature], rows[:, other] = levels[feature], fixed
        rows[:, PRODUCT] = rows[:, CPU] * rows[:, LATENCY]
        scores = fitted.log_odds(rows)
        assert (np.diff(scores) > -0.25).all()  # trees fit noise within a plateau
        assert scores[-1] - scores[0] > 1


def test_both_together_score_above_either_alone(fitted):
    rows = np.array([[95, 40], [15, 400], [95, 400]], dtype=np.float32)
    rows = np.column_stack([rows, rows[:, 0] * rows[:, 1], np.full(3, np.nan)]).astype(np.float32)
    cpu, latency, both = fitted.log_odds(rows)
    assert both > cpu + 2
    assert both > latency + 2


numbers = st.floats(-1e300, 1e300)


@given(numbers, st.integers(1, 15))
def test_rounding_is_as_close_as_its_digits_say(number, digits):
    rounded = float(significant(np.array([number]), digits)[0])
    nearest = float(f"{number:.{digits}g}")
    # halves may go either way, and what is below 1e-285 may be too small for all its digits
    assert abs(rounded - number) <= abs(nearest - number) + 1e-14 * abs(number) + 1e-300


@given(numbers, st.integers(1, 15))
def test_rounding_again_changes_nothing(number, digits):
    once = significant(np.array([number]), digits)
    assert np.isfinite(once).all()
    assert significant(once, digits).tolist() == pytest.approx(once.tolist(), rel=1e-15, abs=0)


@given(numbers, st.integers(1, 15))
def test_rounding_keeps_the_sign(number, digits):
    plus, minus = significant(np.array([number, -number]), digits)
    assert plus == -minus
    assert number == 0 or plus == 0 or (plus > 0) == (number > 0)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=20), st.integers(6, 12))
def test_rounding_keeps_the_order(values, digits):
    rounded = significant(np.sort(values), digits)
    assert (np.diff(rounded) >= 0).all()


def test_rounding_by_hand():
    values = np.array([0.0, 123456789.12, -0.00012345678912, 1e-300, 9.99999999, np.inf, -np.inf, np.nan])
    expected = [0.0, 123456790.0, -0.00012345679, 1e-300, 10.0, np.inf, -np.inf, np.nan]
    assert significant(values, 8).tolist() == pytest.approx(expected, rel=1e-15, nan_ok=True)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("raw", [-690, -700, -720, -744, -800, 800])
def test_a_score_as_sure_as_a_float_can_be_stays_a_number(raw):
    assert 0 <= significant(np.array([expit(raw)]), 9)[0] <= 1


def test_missing_values_are_filled_as_if_all_rows_had_been_shown_at_once(monkeypatch):
    monkeypatch.setattr(logistic_regression, "PIECE_ROWS", 7)
    draw = np.random.default_rng(3)
    features = draw.gamma(2, 10, (400, 4)).astype(np.float32)
    features[draw.random(features.shape) < 0.3] = np.nan
    features[:, 3] = np.nan
    crash = draw.random(400) < 0.3
    logistic = only("logistic_regression", C=[1.0])
    whole = clone(logistic.estimator).fit(features.astype(float), crash)
    model = fit(logistic, FEATURES, features, crash)
    fitted = model.estimator
    assert (fitted[0].statistics_ == whole[0].statistics_).all()
    assert fitted[2].mean_ == pytest.approx(whole[2].mean_, rel=1e-12)
    assert fitted[2].scale_ == pytest.approx(whole[2].scale_, rel=1e-12)
    assert model.log_odds(features) == pytest.approx(whole.decision_function(features.astype(float)), abs=1e-6)
