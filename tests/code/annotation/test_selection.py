"""The choice of windows to ask about."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crashcast.annotation.selection import informativeness, select


def test_informativeness_counts_uncertainty_and_disagreement() -> None:
    votes = np.array([[0.0, 0.0], [0.5, 0.5], [0.0, 1.0], [1.0, 1.0]])
    # nobody doubts; all doubt alike: one bit; each is sure of another: one bit, all of it disagreement
    assert informativeness(votes) == pytest.approx([0, 1, 2, 0])


@settings(max_examples=40)
@given(
    st.integers(1, 60).flatmap(
        lambda n: st.tuples(st.lists(st.floats(0, 1), min_size=n, max_size=n), st.integers(1, 80), st.integers(0, 9))
    )
)
def test_each_window_is_chosen_at_most_once_and_as_many_as_asked_for(drawn) -> None:
    probabilities, budget, seed = drawn
    votes = np.column_stack([probabilities, probabilities[::-1]])
    points = np.round(votes, 1).astype(np.float32)
    chosen = select(votes, points, budget, seed)
    assert len(set(chosen.tolist())) == len(chosen) == min(budget, len(votes))
    assert np.array_equal(chosen, select(votes, points, budget, seed))


def test_of_equally_uncertain_windows_different_ones_are_chosen() -> None:
    votes = np.full((30, 2), 0.5)
    places = np.repeat([[0.0, 0.0], [0.0, 1.0], [1.0, np.nan]], [20, 5, 5], axis=0).astype(np.float32)
    chosen = select(votes, places, 3, seed=1)
    assert sorted(np.searchsorted([20, 25], chosen, side="right")) == [0, 1, 2]


def test_what_nobody_doubts_is_asked_only_by_lot() -> None:
    votes = np.repeat([[0.01, 0.01], [0.4, 0.6]], [900, 100], axis=0)
    places = np.random.default_rng(1).random((1000, 3)).astype(np.float32)
    chosen = select(votes, places, 20, seed=1)
    assert (chosen[:18] >= 900).all()
    assert (select(votes, places, 20, seed=2)[:18] == chosen[:18]).all()
    assert (select(votes, places, 20, seed=2)[18:] != chosen[18:]).any()
