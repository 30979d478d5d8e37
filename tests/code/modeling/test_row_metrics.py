from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

from crashcast.errors import UserError
from crashcast.modeling import row_metrics

LABELS = np.array([1, 0, 1, 0])
SCORES = np.array([0.9, 0.8, 0.7, 0.1])

both_classes = st.lists(
    st.tuples(st.integers(0, 1), st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])), min_size=2, max_size=40
).filter(lambda rows: 0 < sum(label for label, _ in rows) < len(rows))


def as_arrays(rows):
    labels, scores = zip(*rows, strict=True)
    return np.array(labels), np.array(scores)


def test_ranking_by_hand():
    assert row_metrics.ranking(LABELS, SCORES) == {
        "pr_auc": pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3),
        "lift": pytest.approx((1 / 2 + 1 / 3) / 0.5),
        "roc_auc": 3 / 4,  # of four pairs, 0.7 against 0.8 is in the wrong order
    }


def test_decisions_by_hand():
    assert row_metrics.brier(LABELS, SCORES) == pytest.approx((0.01 + 0.64 + 0.09 + 0.01) / 4)
    assert row_metrics.accuracy(LABELS, SCORES, threshold=0.8) == 2 / 4
    assert row_metrics.precision_recall(LABELS, SCORES, threshold=0.8) == (1 / 2, 1 / 2)
    assert row_metrics.precision_recall(LABELS, SCORES, threshold=0.95) == (None, 0)


def test_equal_scores_have_no_skill_in_any_order():
    for labels in (LABELS, LABELS[::-1]):
        assert row_metrics.ranking(labels, np.full(4, 0.3)) == {"pr_auc": 0.5, "lift": 1, "roc_auc": 0.5}


def test_accuracy_of_a_silent_model_is_the_majority_baseline():
    labels = np.array([0] * 199 + [1])
    figures = row_metrics.row_metrics(labels, np.full(200, 0.005), threshold=0.5)
    assert figures["accuracy"] == figures["accuracy_of_majority"] == 0.995
    assert figures["brier"] == pytest.approx(figures["brier_of_base_rate"])
    assert figures["precision"] is None
    assert figures["recall"] == 0


@given(both_classes)
def test_ranking_is_that_of_scikit_learn(rows):
    labels, scores = as_arrays(rows)
    area = average_precision_score(labels, scores)
    expected = {"pr_auc": area, "lift": area / labels.mean(), "roc_auc": roc_auc_score(labels, scores)}
    assert row_metrics.ranking(labels, scores) == pytest.approx(expected)
    assert row_metrics.pr_auc(labels, scores) == pytest.approx(area)


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize(
    "figure", [row_metrics.pr_auc, row_metrics.ranking, row_metrics.pr_curve, row_metrics.roc_curve]
)
def test_one_class_cannot_be_ranked(figure, label):
    with pytest.raises(UserError, match=r"of the 3 rows precede a crash.*params\.yaml: split"):
        figure(np.full(3, label), np.array([0.1, 0.2, 0.3]))


def test_reliability_by_hand():
    labels = np.array([0, 0, 0, 1, 1, 1])
    scores = np.array([0.1, 0.1, 0.2, 0.5, 0.8, 0.9])
    table = row_metrics.reliability(labels, scores, quantiles=[0.5, 0.9])
    assert table.rows() == [
        (2, 0, pytest.approx(0.1), 0.0),
        (3, 2, pytest.approx(0.5), pytest.approx(2 / 3)),
        (1, 1, pytest.approx(0.9), 1.0),
    ]


@given(both_classes)
def test_reliability_accounts_for_every_row_and_splits_no_tie(rows):
    labels, scores = as_arrays(rows)
    table = row_metrics.reliability(labels, scores)
    assert table["rows"].sum() == len(rows)
    assert table["positives"].sum() == labels.sum()
    assert (table["rows"] * table["mean_score"]).sum() == pytest.approx(scores.sum())
    assert table["mean_score"].is_sorted()
    assert table.height <= len(set(scores))


@given(both_classes, st.integers(2, 5))
def test_pr_curve_keeps_true_points_and_both_ends(rows, max_points):
    labels, scores = as_arrays(rows)
    curve = row_metrics.pr_curve(labels, scores, max_points)
    assert 1 <= curve.height <= max_points
    assert curve["threshold"][0] == scores.max()
    assert curve["recall"][-1] == 1
    for threshold, recall, precision in curve.rows():
        assert row_metrics.precision_recall(labels, scores, threshold) == pytest.approx((precision, recall))


@given(both_classes)
def test_pr_curve_is_that_of_scikit_learn_where_recall_grows(rows):
    labels, scores = as_arrays(rows)
    curve = row_metrics.pr_curve(labels, scores, max_points=1000)
    precision, recall, _ = precision_recall_curve(labels, scores)
    best = {share: precision[recall == share].max() for share in recall if share}
    assert {share: value for share, value in curve.select("recall", "precision").rows() if share} == pytest.approx(best)


def test_roc_curve_by_hand():
    curve = row_metrics.roc_curve(LABELS, SCORES)
    assert curve.rows() == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]


@given(both_classes, st.integers(4, 12))
def test_roc_curve_keeps_true_points_and_both_ends(rows, max_points):
    labels, scores = as_arrays(rows)
    curve = row_metrics.roc_curve(labels, scores, max_points)
    true_points = {
        (np.mean(scores[labels == 0] >= threshold), np.mean(scores[labels == 1] >= threshold))
        for threshold in [*scores, np.inf]
    }
    assert set(curve.rows()) <= true_points
    assert curve.height <= max_points
    assert (curve.row(0), curve.row(-1)) == ((0, 0), (1, 1))
    assert all(column.is_sorted() for column in curve)


@given(both_classes)
def test_an_unthinned_roc_curve_holds_the_whole_area(rows):
    labels, scores = as_arrays(rows)
    curve = row_metrics.roc_curve(labels, scores, max_points=10_000)
    assert np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"]) == pytest.approx(
        roc_auc_score(labels, scores)
    )


def test_an_unthinned_pr_curve_holds_the_whole_area():
    rng = np.random.default_rng(1)
    labels, scores = rng.integers(0, 2, 300), rng.random(300)
    curve = row_metrics.pr_curve(labels, scores, max_points=10_000)
    area = np.sum(np.diff(curve["recall"], prepend=0) * curve["precision"].to_numpy())
    assert area == pytest.approx(average_precision_score(labels, scores))


def test_every_figure_by_hand():
    labels, scores = np.array([1, 1, 1, 0]), np.array([0.9, 0.6, 0.2, 0.5])
    assert row_metrics.row_metrics(labels, scores, threshold=0.5) == {
        "rows": 4,
        "positives": 3,
        "base_rate": 0.75,
        "pr_auc": pytest.approx((1 + 1 + 3 / 4) / 3),
        "lift": pytest.approx((1 + 1 + 3 / 4) / 3 / 0.75),
        "roc_auc": pytest.approx(2 / 3),
        "brier": pytest.approx((0.01 + 0.16 + 0.64 + 0.25) / 4),
        "brier_of_base_rate": 0.1875,
        "accuracy": 0.5,
        "accuracy_of_majority": 0.75,
        "precision": 2 / 3,
        "recall": 2 / 3,
    }
    assert row_metrics.row_metrics(1 - labels, scores, threshold=0.5)["accuracy_of_majority"] == 0.75


def test_without_a_positive_there_is_no_recall():
    assert row_metrics.precision_recall(np.zeros(2, int), np.array([0.1, 0.9]), threshold=0.5) == (0, None)


def test_rows_are_looked_at_in_pieces_each_once(monkeypatch):
    monkeypatch.setattr(row_metrics, "CHUNK_ROWS", 2)
    assert [list(range(5))[some] for some in row_metrics.chunks(5)] == [[0, 1], [2, 3], [4]]
    assert [list(range(4))[some] for some in row_metrics.chunks(4)] == [[0, 1], [2, 3]]
    assert list(row_metrics.chunks(0)) == []


@pytest.mark.parametrize("chunk_rows", [1, 2, 5, 100])
def test_steps_and_their_curve_by_hand(monkeypatch, chunk_rows):
    monkeypatch.setattr(row_metrics, "CHUNK_ROWS", chunk_rows)
    labels, scores = np.array([1, 0, 1, 0, 1]), np.array([0.9, 0.8, 0.7, 0.1, 0.7])
    steps = row_metrics.steps_of(labels, scores)
    assert steps.tolist() == [2, 1, 1, 0, 1]
    gained, precision, taken = row_metrics.Curve.of(labels, steps)
    assert gained.tolist() == [0, 2, 1]
    assert precision.tolist() == pytest.approx([3 / 5, 3 / 4, 1])
    assert taken.tolist() == [5, 4, 1]


def test_reliability_is_by_deciles_and_in_the_top_percent_and_the_top_tenth_of_one():
    table = row_metrics.reliability(np.zeros(1000, int), np.arange(1, 1001))
    assert table["rows"].to_list() == [99, *[100] * 8, 90, 9, 2]  # a bin begins at its quantile: at the 100th, ...


def test_a_thinned_pr_curve_is_evenly_spaced_in_recall():
    labels = np.array([0] + [1] * 100 + [0] * 9)
    curve = row_metrics.pr_curve(labels, np.arange(110, 0, -1), max_points=5)
    assert curve["recall"].to_list() == [0, 0.25, 0.5, 0.75, 1]
    assert curve["threshold"].to_list() == [110, 85, 60, 35, 10]
    assert curve["precision"].to_list() == pytest.approx([0, 25 / 26, 50 / 51, 75 / 76, 100 / 101])
    assert row_metrics.pr_curve(np.tile([1, 0], 2000), np.arange(4000)).height == 500


def test_a_thinned_roc_curve_is_evenly_spaced_along_both_axes():
    labels = np.array([1] * 100 + [0] * 100)
    steep = row_metrics.roc_curve(labels, np.arange(200, 0, -1), max_points=10)
    assert steep.rows() == [(0, 0), (0, 0.25), (0, 0.5), (0, 0.75), (0, 1), (1, 1)]
    mixed = row_metrics.roc_curve(np.tile([1, 0], 2000), np.arange(4000, 0, -1))
    assert 250 <= mixed.height <= 500
