"""The quality of sources, by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from evidence import frame_of

from crashcast.labelling import source_quality
from crashcast.labelling.label_model import ABSTAINS, Estimate
from crashcast.tables import TIMESTAMP

NO = ABSTAINS
VOTES = np.array(
    [
        # a, b, c, d
        [1, 1, 1, NO],
        [1, NO, 0, NO],
        [0, 1, NO, NO],
        [0, 0, NO, NO],
        [NO, 1, NO, NO],
    ],
    dtype=np.int8,
)
CONFIDENCE = np.array([0.9, 0.5, 0.49, 0.0, 0.8])  # from 0.5 on it is a crash


def test_votes_of_each_source():
    assert source_quality.of_sources(list("abcd"), VOTES, CONFIDENCE, None) == {
        "a": {"coverage": 0.8, "crashes": 2, "conflicts": 0.0, "alone": 1},
        "b": {"coverage": 0.8, "crashes": 3, "conflicts": 0.25, "alone": 1},
        "c": {"coverage": 0.4, "crashes": 1, "conflicts": 0.5, "alone": 0},
        "d": {"coverage": 0.0, "crashes": 0, "conflicts": 0.0, "alone": 0},
    }


def test_without_events_there_is_nothing_to_divide_by():
    none = np.empty((0, 1), dtype=np.int8)
    expected = {"coverage": 0.0, "crashes": 0, "conflicts": 0.0, "alone": 0}
    assert source_quality.of_sources(["a"], none, np.empty(0), None) == {"a": expected}


def test_each_source_gets_its_own_estimates():
    estimate = Estimate(0.4, np.array([0.9, 0.8]), np.array([0.7, 0.6]), np.empty(0), 0.0)
    found = source_quality.of_sources(["a", "b"], VOTES[:, :2], CONFIDENCE, estimate)
    assert [(found[name]["sensitivity"], found[name]["specificity"]) for name in "ab"] == [(0.9, 0.7), (0.8, 0.6)]


def test_lateness_of_each_systems_tickets():
    events = frame_of(
        {"event": pl.Int64, "started_at": TIMESTAMP, "confidence": pl.Float64},
        [(0, 10, 0.9), (1, 20, 0.5), (2, 30, 0.49)],
    )
    tickets = frame_of(
        {"event": pl.Int64, "started_at": TIMESTAMP, "reported_at": TIMESTAMP, "source": pl.String},
        [
            (0, 10, 10.5, "pager"),
            (0, 12, 13, "phone"),
            (1, 21, 24, "pager, phone"),
            (1, 19.5, 22, "pager"),
            (2, 35, 39, "pager"),  # of no crash
            (0, 10, 10.25, None),
        ],
    )
    assert source_quality.lateness(tickets, events) == {
        "pager": {"late": pytest.approx(1 / 3), "median_late_h": 1.0, "median_reported_after_h": 2.0},
        "phone": {"late": 1.0, "median_late_h": 1.5, "median_reported_after_h": 3.5},
        "records": {"late": 0.0, "median_late_h": 0.0, "median_reported_after_h": 0.25},
    }
