"""The folds that candidates are compared on, by hand."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import average_precision_score
from spans import DAY, JANUARY, by_time

from crashcast.errors import UserError
from crashcast.modeling.bootstrap import TwoWayDraws
from crashcast.modeling.folds import FoldFigures, draw_folds, forward_chained, measure
from crashcast.modeling.split_rule import period
from crashcast.params.evaluate import Evaluate


def days(rule: dict, part: str) -> tuple[int, int]:
    first, end = period(rule, part)
    return (first - JANUARY).days, (end - JANUARY).days


def test_each_fold_trains_on_what_came_before_its_validation_part() -> None:
    split = by_time((0, 70), (72, 87))  # an embargo of two days
    folds = forward_chained(split, 3, 2 * DAY)
    assert [days(fold, "validation") for fold in folds] == [(38, 53), (55, 70), (72, 87)]
    assert [days(fold, "train") for fold in folds] == [(0, 36), (0, 53), (0, 70)]
    assert folds[-1] is split
    assert {days(fold, "test") for fold in folds} == {(200, 210)}


def test_a_fold_with_less_to_train_on_than_to_validate_is_left_out() -> None:
    split = by_time((0, 70), (72, 87))
    assert [days(fold, "train") for fold in forward_chained(split, 9, 2 * DAY)] == [(0, 19), (0, 36), (0, 53), (0, 70)]
    assert forward_chained(by_time((0, 20), (22, 37)), 3, 2 * DAY) == [by_time((0, 20), (22, 37))]
    just_enough = forward_chained(by_time((0, 32), (34, 49)), 3, 2 * DAY)
    assert [days(fold, "train") for fold in just_enough] == [(0, 15), (0, 32)]


def test_one_fold_is_the_split_itself_as_is_a_split_without_an_order() -> None:
    split = by_time((0, 70), (72, 87))
    assert forward_chained(split, 1, 2 * DAY) == [split]
    others = split | {"method": "server"}
    assert forward_chained(others, 3, 2 * DAY) == [others]


def scored(rule: dict, crashes: bool = True) -> SimpleNamespace:
    """Return a validation part of 20 servers and a row a day, scored by two models; some labels are unknown."""
    rng, (first, end) = np.random.default_rng(days(rule, "validation")[0]), period(rule, "validation")
    moments = pl.datetime_range(first, end, "1d", closed="left", time_unit="us", time_zone="UTC", eager=True)
    servers = pl.DataFrame({"server_id": [f"s{number:02}" for number in range(20)]})
    rows = moments.alias("timestamp").to_frame().join(servers, how="cross")
    risk = rng.random(rows.height)
    label = pl.Series((rng.random(rows.height) < 0.5 * risk * crashes).astype(np.int8))
    known = rng.random(rows.height) > 0.1
    rows = rows.with_columns(label=pl.when(pl.Series(known)).then(label).cast(pl.Int8))
    scores = [risk, rng.random(rows.height)]
    return SimpleNamespace(
        rows=rows, known=known, labels=rows["label"].drop_nulls().to_numpy(), files=scores, scores=scores.__getitem__
    )


def test_each_fold_is_measured_on_its_known_rows_with_its_own_days_drawn() -> None:
    folds = forward_chained(by_time((0, 70), (72, 87)), 3, 2 * DAY)
    parts = [scored(folds[0]), scored(folds[1], crashes=False), scored(folds[2])]
    servers = parts[0].rows["server_id"].unique().sort().to_list()
    resampling = Evaluate(replicates=100, confidence=0.9, block="2d", seed=3)
    draws = draw_folds(folds, servers, resampling)
    assert draws.servers == servers
    assert draws.replicates == 100
    last, found = measure(folds, parts, draws)
    assert last is parts[2]
    assert found.pr_auc.shape == (2, 2)  # the second fold has no crash row
    for place, fold in ((0, 0), (1, 2)):
        part, own = parts[fold], draws.during(period(folds[fold], "validation"))
        known = part.rows.filter(part.known)
        cells = own.cells(known["server_id"], known["timestamp"])
        assert found.base_rate[place] == pytest.approx(part.labels.mean())
        for number in range(2):
            scores = part.files[number][part.known]
            assert found.pr_auc[place, number] == pytest.approx(average_precision_score(part.labels, scores))
            for replicate in (0, 99):
                weight = own.weights(replicate)[cells]
                area = average_precision_score(part.labels, scores, sample_weight=weight)
                assert found.pr_auc_replicates[place, number, replicate] == pytest.approx(area, rel=0.05)
                rate = np.average(part.labels, weights=weight)
                assert found.base_rate_replicates[place, replicate] == pytest.approx(rate)


def test_candidates_cannot_be_compared_without_rows_before_a_crash() -> None:
    split = by_time((0, 70), (72, 87))
    draws = TwoWayDraws.draw(pl.Series(["a"]), period(split, "validation"), DAY, 10, 1)
    healthy = SimpleNamespace(labels=np.zeros(5))
    with pytest.raises(UserError, match=r"raise train\.max_compared_rows"):
        measure([split], [healthy], draws)


def test_without_rows_before_a_crash_in_the_last_fold_nothing_can_be_chosen() -> None:
    folds = forward_chained(by_time((0, 70), (72, 87)), 2, 2 * DAY)
    parts = [scored(folds[0]), scored(folds[1], crashes=False)]
    draws = draw_folds(
        folds, parts[0].rows["server_id"].unique(), Evaluate(replicates=100, confidence=0.9, block="2d", seed=3)
    )
    with pytest.raises(UserError, match=r"servers compared on: 20\).*raise train\.max_compared_rows"):
        measure(folds, parts, draws)


def figures(areas: list[list[float]], noise: float = 0.0, shared: float = 0.0, replicates: int = 2000) -> FoldFigures:
    """Return the figures of F folds and K candidates whose logarithms have an error of their own and a shared one."""
    rng, area = np.random.default_rng(0), np.array(areas)
    own = rng.normal(0, noise, (*area.shape, replicates))
    common = rng.normal(0, shared, (area.shape[0], 1, replicates))
    base_rate = np.full(len(area), 0.01)
    return FoldFigures(base_rate, area, np.full((len(area), replicates), 0.01), area[..., None] * np.exp(own + common))


def test_the_lift_is_the_mean_over_the_folds() -> None:
    found = figures([[0.01, 0.04], [0.03, 0.02], [0.02, 0.06]])
    assert found.lift == pytest.approx([2, 4])
    assert found.lift_replicates[:, 0] == pytest.approx([2, 4])


def test_a_replicate_without_crashes_has_no_skill_and_tells_nothing_of_differences() -> None:
    one = FoldFigures(np.array([0.5]), np.array([[0.5]]), np.array([[0.5, 0.0]]), np.array([[[1.0, 0.0]]]))
    assert one.lift_replicates.tolist() == [[2, 0]]
    assert one.score_errors.tolist() == [[0, 0]]


ALL = np.ones(3, dtype=bool)


def test_of_candidates_within_the_error_of_the_best_the_simplest_is_taken() -> None:
    """Two folds; errors of one candidate's mean 0.2 / sqrt(2), of a difference 0.2."""
    areas = [[0.1, 0.19, 0.2], [0.1, 0.19, 0.2]]
    found = figures(areas, noise=0.2)
    assert found.standard_errors[0] == pytest.approx([0, 0.2, 0.2], rel=0.1)
    assert found.simplest_of_the_best(ALL) == 1
    assert found.simplest_of_the_best(np.array([True, False, True])) == 2
    assert found.simplest_of_the_best(np.array([True, False, False])) == 0
    assert found.simplest_of_the_best(ALL, score=np.array([5.0, 4.0, 3.0])) == 0


def test_an_error_that_all_candidates_share_tells_nothing_of_their_difference() -> None:
    found = figures([[0.1, 0.19, 0.2]] * 2, noise=0.01, shared=3.0)
    assert found.simplest_of_the_best(ALL) == 2


def test_a_fold_with_few_crashes_decides_no_more_than_the_others() -> None:
    """A rule beats nothing where it counts, though its lift is huge in replicates with next to no crash."""
    one = figures([[0.012, 0.24], [0.012, 0.24]], noise=0.3)
    rare = np.array([0.01] * 1990 + [1e-6] * 10)
    few = FoldFigures(one.base_rate, one.pr_auc, np.stack([rare, rare]), one.pr_auc_replicates)
    assert few.simplest_of_the_best(np.ones(2, dtype=bool)) == 1


def test_equal_candidates_are_told_by_their_order() -> None:
    assert figures([[0.1, 0.1, 0.1]]).simplest_of_the_best(ALL) == 0


def test_what_is_expected_of_the_only_candidate_is_its_mean() -> None:
    """The error of a new period and, half as large in variance, that of the mean of two: 1.64 x sqrt(1.5)."""
    only = figures([[0.1], [0.4]], noise=0.2, replicates=20_000)
    found = only.expected(0, np.ones(1, dtype=bool), 0.9)
    assert found["pr_auc"] == pytest.approx(0.2, rel=0.01)  # the geometric mean
    assert found["lift"] == pytest.approx(20, rel=0.01)
    for name in ("pr_auc", "lift"):
        for limit, sign in (("low", -1), ("high", 1)):
            width = np.log(found[f"{name}_{limit}"] / found[name])
            assert width == pytest.approx(sign * 1.645 * 0.2 * 1.5**0.5, rel=0.05)


def test_no_pr_auc_above_one_is_expected() -> None:
    found = figures([[0.9], [0.9]], noise=0.3).expected(0, np.ones(1, dtype=bool), 0.9)
    assert found["pr_auc_high"] == 1
    assert found["lift_high"] > 90


def test_what_is_expected_after_a_choice_among_equals_is_lower() -> None:
    """Of ten equal candidates whose logarithms have an error of 0.1, the best one is 0.154 above the truth."""
    equal = figures([[0.2] * 10], noise=0.1)
    object.__setattr__(equal, "standard_errors", np.zeros((10, 10)))  # the best, not the simplest near it
    found = equal.expected(0, np.ones(10, dtype=bool), 0.9)
    assert np.log(found["pr_auc"] / 0.2) == pytest.approx(-0.154, abs=0.01)
