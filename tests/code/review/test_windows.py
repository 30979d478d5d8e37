"""Test windows before the test part, by hand: a split of 20 days whose test part has 3."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashcast import tables
from crashcast.errors import UserError
from crashcast.modeling import split_rule
from crashcast.review import windows

DAY = timedelta(days=1)
BEGIN = datetime(2026, 1, 1)


def rule_of(train: float, validation: tuple[float, float], test: tuple[float, float]) -> dict:
    spans = {"train": (0.0, train), "validation": validation, "test": test}
    return {
        "method": "time",
        "periods": {
            part: {"from": (BEGIN + start * DAY).isoformat(), "to": (BEGIN + end * DAY).isoformat()}
            for part, (start, end) in spans.items()
        },
    }


RULE = rule_of(13.5, (14, 16.5), (17, 20))


def test_each_window_is_the_split_a_test_part_earlier_and_trains_from_the_beginning() -> None:
    assert windows.rules(RULE, 1) == [RULE]
    assert windows.rules(RULE, 3) == [
        rule_of(7.5, (8, 10.5), (11, 14)),
        rule_of(10.5, (11, 13.5), (14, 17)),
        RULE,
    ]
    assert windows.pooled(windows.rules(RULE, 3)) == rule_of(7.5, (8, 10.5), (11, 20))
    assert windows.pooled([RULE]) == RULE
    assert windows.name(RULE) == "2026-01-18T00:00:00/2026-01-21T00:00:00"


def test_windows_before_which_there_is_no_data_are_refused_and_the_most_are_told() -> None:
    assert len(windows.rules(RULE, 5)) == 5  # the first one has 1.5 days to train on
    with pytest.raises(UserError, match=r"acceptance\.windows is 6, and before the first .* at most 5 fit"):
        windows.rules(RULE, 6)


def test_only_a_split_by_time_has_earlier_windows() -> None:
    by_server = {**RULE, "method": "server", "servers": {}}
    assert windows.rules(by_server, 1) == [by_server]
    with pytest.raises(UserError, match=r"acceptance\.windows is 2, and the split is by server"):
        windows.rules(by_server, 2)


def test_shared_training_rows_make_the_variance_larger() -> None:
    """Two windows of 3 days, whose models learned from 10.5 and 13.5."""
    assert windows.variance_factor(windows.rules(RULE, 2)) == pytest.approx(1 + 2 * 3 / 12)


@given(st.integers(1, 4), st.floats(0.1, 2))
def test_no_model_is_trained_on_a_row_of_its_window_nor_within_the_embargo(n_windows: int, embargo: float) -> None:
    found = windows.rules(rule_of(14 - embargo, (14, 17 - embargo), (17, 20)), n_windows)
    for earlier, later in pairwise(found):
        assert split_rule.period(earlier, "test")[1] == split_rule.period(later, "test")[0]
    for rule in found:
        train, validation, test = (split_rule.period(rule, part) for part in split_rule.PARTS)
        assert abs((validation[0] - train[1]) / DAY - embargo) < 1e-9
        assert abs((test[0] - validation[1]) / DAY - embargo) < 1e-9


@pytest.mark.parametrize(
    ("crashes", "refused"),
    [
        ((1, 8, 12, 14), None),
        ((1, 12, 14), r"validation part of window 1 \(2026-01-09 to 2026-01-11\) holds no crash: set it to 2"),
        ((8, 12, 14), r"train part of window 1 \(2026-01-01 to 2026-01-08\) holds no crash: set it to 2"),
        ((1, 8, 14), r"validation part of window 2 .* set it to 1"),
    ],
)
def test_a_window_without_crashes_to_learn_from_is_refused(
    crashes: tuple[int, ...], refused: str | None, tmp_path: Path
) -> None:
    days = pl.DataFrame({"day": range(20)})
    rows = days.select(
        timestamp=(pl.lit(BEGIN) + pl.col("day") * pl.duration(days=1)).dt.replace_time_zone("UTC"),
        server_id=pl.lit("a"),
        label=pl.col("day").is_in(crashes).cast(pl.Int8),
    )
    tables.write(tmp_path / "month=2026-01" / tables.FILE_NAME, rows)
    if refused is None:
        windows.check(windows.rules(RULE, 3), tmp_path)
    else:
        with pytest.raises(UserError, match=refused):
            windows.check(windows.rules(RULE, 3), tmp_path)
