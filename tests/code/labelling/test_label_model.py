"""Aggregation of votes: against an account written out step by step, known truths, and sources that err together."""

from __future__ import annotations

import sys
from math import log
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from crashcast.labelling import label_model
from crashcast.labelling.label_model import ABSTAINS, dawid_skene, dependence, majority

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
from simulated_votes import poll


def textbook(votes, rounds):
    """Dawid and Skene's formulas 2.3 to 2.5, one event, class and source at a time."""
    events, sources = range(len(votes)), range(len(votes[0]))
    cast = [[vote for vote in row if vote != ABSTAINS] for row in votes]
    belief = [[row.count(k) / len(row) for k in (0, 1)] for row in cast]
    for _ in range(rounds):
        shares = [sum(belief[i][k] for i in events) / len(votes) for k in (0, 1)]
        rates = {}
        for j in sources:
            for k in (0, 1):
                given_k = [(votes[i][j], belief[i][k]) for i in events if votes[i][j] != ABSTAINS]
                total = sum(weight for _, weight in given_k)
                for answer in (0, 1):
                    rates[j, k, answer] = sum(weight for vote, weight in given_k if vote == answer) / total
        belief = []
        for i in events:
            joint = list(shares)
            for k in (0, 1):
                for j in sources:
                    if votes[i][j] != ABSTAINS:
                        joint[k] *= rates[j, k, votes[i][j]]
            belief.append([part / sum(joint) for part in joint])
    sensitivity, specificity = ([rates[j, k, k] for j in sources] for k in (1, 0))
    return np.array(sensitivity), np.array(specificity), np.array(belief)[:, 1]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_estimates_are_those_of_the_textbook(seed):
    votes = poll(seed).votes[:150]
    found = dawid_skene(votes)
    sensitivity, specificity, probability = textbook(votes.tolist(), rounds=400)
    assert np.allclose(found.sensitivity, sensitivity, atol=1e-4)
    assert np.allclose(found.specificity, specificity, atol=1e-4)
    assert np.allclose(found.probability, probability, atol=1e-3)
    assert found.prevalence == pytest.approx(probability.mean(), abs=1e-4)


def test_the_estimates_are_those_of_crowd_kit():
    crowdkit = pytest.importorskip("crowdkit.aggregation.classification.dawid_skene")
    votes = poll(1).votes
    event, source = np.nonzero(votes != ABSTAINS)
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"task": event, "worker": source, "label": votes[event, source]})
    theirs = crowdkit.DawidSkene(n_iter=2000, tol=1e-12).fit(table)
    ours = dawid_skene(votes)
    assert np.allclose(ours.probability, theirs.probas_.sort_index()[1], atol=1e-3)
    rates = theirs.errors_[1].unstack()
    assert np.allclose(ours.sensitivity, rates[1], atol=1e-4)


def test_three_good_sources_against_a_bad_one_by_hand():
    # two that agree outvote a third; where two abstain the last one decides
    votes = np.array([[1, 1, 0]] * 10 + [[0, 0, 1]] * 10 + [[1, 1, 1]] * 10 + [[0, 0, 0]] * 10, dtype=np.int8)
    found = dawid_skene(votes)
    assert found.probability.round(6).tolist() == [1.0] * 10 + [0.0] * 10 + [1.0] * 10 + [0.0] * 10
    assert found.sensitivity.round(6).tolist() == [1, 1, 0.5]
    assert found.prevalence == pytest.approx(0.5)
    assert majority(votes)[[0, 10, 20, 30]].tolist() == pytest.approx([2 / 3, 1 / 3, 1, 0])


def test_an_abstention_says_nothing():
    votes = np.array([[1, 1, 1], [0, 0, 0]] * 20 + [[ABSTAINS, 1, ABSTAINS], [ABSTAINS] * 3], dtype=np.int8)
    found = dawid_skene(votes, prior=1.0)
    assert found.probability[-2] > 0.9
    assert found.probability[-1] == pytest.approx(found.prevalence)
    assert majority(votes)[-2:].tolist() == [1, 0]


def test_a_source_that_never_erred_is_not_thought_infallible():
    votes = np.array([[1, 1, 1], [0, 0, 0]] * 5, dtype=np.int8)
    assert dawid_skene(votes).sensitivity.tolist() == pytest.approx([1] * 3)
    assert dawid_skene(votes, prior=1.0).sensitivity.tolist() == pytest.approx([6 / 7] * 3, abs=0.01)


@hypothesis_settings(max_examples=50)
@given(st.lists(st.lists(st.sampled_from([ABSTAINS, 0, 1]), min_size=4, max_size=4), min_size=1, max_size=30))
def test_any_votes_give_probabilities_and_their_order_none_of_it(rows):
    votes = np.array(rows, dtype=np.int8)
    found, turned = dawid_skene(votes, prior=1.0), dawid_skene(votes[::-1], prior=1.0)
    assert ((found.probability >= 0) & (found.probability <= 1)).all()
    assert np.array_equal(found.probability, turned.probability[::-1])
    same = {}
    for row, probability in zip(map(tuple, rows), found.probability, strict=True):
        assert same.setdefault(row, probability) == probability


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_reliability_is_estimated_to_a_few_points(seed):
    simulated = poll(seed)
    found = dawid_skene(simulated.votes, prior=1.0)
    assert np.abs(found.sensitivity - simulated.sensitivity).mean() < 0.05
    assert np.abs(found.specificity - simulated.specificity).mean() < 0.05


@pytest.mark.parametrize("seed", [11, 12, 13])
def test_two_sources_that_share_errors_are_named(seed):
    assert not [item for item in dependence(poll(seed).votes) if item.correlation > 0]
    first, *_ = dependence(poll(seed, shared=(1, 4)).votes)
    assert first.pair == (1, 4)
    assert 0.3 < first.correlation < 0.7


def test_sources_of_which_one_is_enough_are_not_said_to_share_errors():
    draw = np.random.default_rng(5)
    crashed = draw.random(2000) < 0.4
    who = draw.integers(0, 3, 2000)  # writes the one ticket
    systems = crashed[:, None] & (who[:, None] == np.arange(3))
    others = crashed[:, None] ^ (draw.random((2000, 3)) < 0.1)
    found = dependence(np.concatenate([systems, others], axis=1).astype(np.int8))
    assert {item.pair for item in found} <= {(0, 1), (0, 2), (1, 2)}
    assert found
    assert all(item.correlation < 0 for item in found)


def test_of_three_sources_nothing_can_be_said():
    votes = poll(11, shared=(0, 1)).votes[:, :3]
    assert dependence(votes) == []
    assert label_model.is_identifiable(votes)
    assert not label_model.is_identifiable(votes[:, :2])
    assert label_model.is_identifiable(np.array([[1, 1, 1], [0, 0, 0]], dtype=np.int8))
    silent = np.where(np.arange(3) == 2, 0, votes).astype(np.int8)  # one that always says no tells nothing
    assert not label_model.is_identifiable(silent)


def test_the_likelihood_is_that_of_the_model():
    votes = poll(1).votes  # many events are uncertain
    found = dawid_skene(votes)
    yes, no = found.sensitivity, 1 - found.specificity

    def of(row):
        classes = ((found.prevalence, yes), (1 - found.prevalence, no))
        answers = [np.where(row == 1, rate, np.where(row == 0, 1 - rate, 1)) for _, rate in classes]
        return log(sum(share * np.prod(chances) for (share, _), chances in zip(classes, answers, strict=True)))

    assert found.log_likelihood == pytest.approx(sum(of(row) for row in votes), rel=1e-6)


def test_votes_are_laid_out_by_event_and_source():
    votes = pl.DataFrame({"event": [0, 2, 2], "source": ["b", "a", "b"], "vote": [1, 0, 1]})
    assert label_model.matrix(votes, 3, ["a", "b"]).tolist() == [[-1, 1], [-1, -1], [0, 1]]


@pytest.mark.parametrize(("sources", "pairs"), [(4, 6), (6, 15)])
def test_a_dependence_is_tested_at_one_percent_shared_by_all_pairs(monkeypatch, sources, pairs):
    votes = poll(11).votes[:, :sources]
    asked = []

    def limit(freedom, error):
        asked.append((freedom, error))
        return np.inf

    monkeypatch.setattr(label_model, "chdtri", limit)
    assert dependence(np.abs(votes)) == []  # all of them vote: two answers of two sources, in either class
    assert asked == [(2, pytest.approx(0.01 / pairs))] * pairs


def test_a_dependence_is_reported_if_its_ratio_exceeds_the_limit(monkeypatch):
    votes = poll(11).votes[:, :4]
    monkeypatch.setattr(label_model, "chdtri", lambda freedom, error: 0.0)
    (found,) = dependence(votes)
    for difference, reported in ((-0.5, [found]), (0.5, [])):
        monkeypatch.setattr(label_model, "chdtri", lambda *_, limit=found.log_ratio + difference: limit)
        assert dependence(votes) == reported


def test_the_ratio_of_two_sources_that_always_err_together():
    # three sources are always right; of 20 crashes and 20 others, the other two are both wrong about half
    votes = [[crash] * 3 + [vote] * 2 for crash in (1, 0) for vote in (1, 0) for _ in range(10)]
    (found,) = dependence(np.array(votes, dtype=np.int8))
    assert found.pair == (3, 4)
    assert found.correlation == pytest.approx(1)
    # taken together their answers have a probability of 1/2 each, apart of 1/4
    assert found.log_ratio == pytest.approx(2 * 40 * log((1 / 2) / (1 / 4)))


def test_the_freedom_of_a_pair_counts_the_events_on_which_both_vote(monkeypatch):
    votes = np.array([[1, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 1], [0, 1, 0, 0], [ABSTAINS, 1, 1, 0]] * 9, dtype=np.int8)
    freedoms = []
    monkeypatch.setattr(label_model, "chdtri", lambda freedom, error: freedoms.append(freedom) or np.inf)
    dependence(votes)
    assert freedoms == [2] * 6  # where the first abstains there is nothing to be joint


def test_the_correlation_of_errors_is_that_within_the_classes():
    patterns = np.array([[1, 1], [0, 0], [1, 0], [0, 1], [1, ABSTAINS]], dtype=np.int8)
    weights, certain = np.array([10.0, 10, 10, 10, 99]), np.array([1.0, 1, 0, 0, 1])
    # alike in one class, opposite in the other
    assert label_model._correlation(patterns, weights, certain, 0, 1) == pytest.approx(0)
    assert label_model._correlation(patterns, weights, np.full(5, 0.5), 0, 1) == pytest.approx(0)
    assert label_model._correlation(patterns, np.array([10.0, 10, 0, 0, 99]), certain, 0, 1) == pytest.approx(1)
    weights = np.array([10.0, 10, 15, 15, 99])  # 20 events against 30
    assert label_model._correlation(patterns, weights, certain, 0, 1) == pytest.approx((20 - 30) / 50)


def test_forty_sources_overflow_nothing():
    votes = np.repeat(np.array([[1], [0]] * 20, dtype=np.int8), 40, axis=1)
    found = dawid_skene(votes)
    assert found.probability.tolist() == [1, 0] * 20
    assert found.log_likelihood == pytest.approx(40 * log(0.5))
