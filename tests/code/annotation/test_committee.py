"""The committee's votes."""

from __future__ import annotations

import numpy as np
import pytest
from labelled_windows import labelled_windows

from crashcast.annotation.committee import FOLDS, votes_out_of_fold
from crashcast.errors import UserError


def test_no_label_influences_the_votes_on_its_own_server() -> None:
    windows = labelled_windows()
    servers, crash = windows.frame["server_id"].to_numpy(), windows.crash
    before = votes_out_of_fold(windows.evidence, crash, servers, seed=3)
    own = servers == "s07"
    after = votes_out_of_fold(windows.evidence, crash ^ own, servers, seed=3)
    assert np.array_equal(before[own], after[own])
    assert not np.array_equal(before[~own], after[~own])
    assert before.shape == (400, 10)
    assert ((before >= 0) & (before <= 1)).all()


def test_too_few_servers_are_refused() -> None:
    windows = labelled_windows()
    with pytest.raises(UserError, match=f"at least {FOLDS} servers"):
        votes_out_of_fold(windows.evidence, windows.crash, np.full(400, "one"), seed=1)
    with pytest.raises(UserError, match="0 of 400 windows"):
        votes_out_of_fold(windows.evidence, np.zeros(400, bool), windows.frame["server_id"].to_numpy(), seed=1)
