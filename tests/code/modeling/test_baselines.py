from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from crashcast.errors import UserError
from crashcast.modeling.baselines import UNKNOWN, choose_rules, one_rules, read_rules, with_baselines, without_itself


def test_a_rule_that_knows_nothing_raises_no_alarm() -> None:
    """Before the records begin crash history is null; in a split by server or at random such rows are judged too."""
    rows = pl.DataFrame(
        {
            "timestamp": [datetime(2025, 1, 1, hour, tzinfo=UTC) for hour in range(3)],
            "server_id": ["a", "a", "b"],
            "label": [0, 1, 0],
            "observed": True,
            "hours_since_crash": [None, 2.0, 5.0],
        }
    )
    found = with_baselines(rows, one_rules(rows.columns), seed=1)
    assert found["by_hours_since_crash"].to_list() == [UNKNOWN, -2.0, -5.0]
    assert found["by_random"].is_between(0, 1).all()
    assert one_rules(["crashes_7d", "cpu_pct"]) == {"crashes_7d": 1}


NAN = np.nan
CRASH = np.array([1, 1, 0, 0, 0, 0], dtype=bool)
COLUMNS = {
    "constant": [7, 7, 7, 7, 7, 7],
    "unknown": [NAN] * 6,
    "hours_since_crash": [NAN, NAN, 5, 5, 5, NAN],  # the same in every row that has one
    "crashes_7d": [1, 0, 0, 1, 0, 0],
    "memory_pct": [2, 1, 3, 4, 4, 9],  # low before a crash
}


def chosen(names, share=1.0, named=None):
    values = np.array([COLUMNS[name] for name in names], dtype=np.float32).T
    return choose_rules(names, values, CRASH, share, named or {})


def test_the_rules_to_beat_are_the_usual_ones_and_the_best_feature_in_either_direction() -> None:
    assert chosen([*COLUMNS]) == {"crashes_7d": 1, "memory_pct": -1}
    assert chosen(["crashes_7d", "constant"]) == {"crashes_7d": 1}
    assert chosen(["constant", "unknown", "hours_since_crash"]) == {}  # constant features are no baseline


def test_rules_that_params_yaml_names_are_to_be_beaten_too() -> None:
    named = {"hours_since_crash": -1, "memory_pct": 1}
    assert chosen(["crashes_7d", "hours_since_crash", "memory_pct"], named=named) == {
        "crashes_7d": 1,
        "memory_pct": -1,  # the best feature; of a direction that is worse there is no need
    }
    assert chosen(["crashes_7d", "memory_pct", "constant"], named={"constant": 1}) == {
        "crashes_7d": 1,
        "memory_pct": -1,
    }


def test_a_rule_is_not_to_beat_itself() -> None:
    rules = {"crashes_7d": 1, "hours_since_crash": -1}
    assert without_itself(rules, "one_rule", {"crashes_7d": 1}) == {"hours_since_crash": -1}
    assert without_itself(rules, "one_rule", {"crashes_7d": -1}) == rules
    assert without_itself(rules, "logistic_regression", {"crashes_7d": 1}) == rules


def test_rows_that_were_not_sampled_count() -> None:
    """Two crashes and twenty other rows: one crash above all, or both below a single row."""
    columns = {"one": [9, 0, *[1] * 20], "both": [5, 4, 9, *[1] * 19]}
    values = np.array([*columns.values()], dtype=np.float32).T
    crash = np.arange(22) < 2
    assert choose_rules([*columns], values, crash, 1.0, {}) == {"both": 1}  # 1/2 + 1/2 x 2/22 < 1/2 x 1/2 + 1/2 x 2/3
    assert choose_rules([*columns], values, crash, 0.01, {}) == {"one": 1}  # the single row stands for a hundred


def test_a_file_that_holds_no_rules_is_refused(tmp_path) -> None:
    file = tmp_path / "baselines.json"
    assert read_rules(file, ["crashes_7d", "cpu_pct"]) == {"crashes_7d": 1}
    file.write_text('{"cpu_pct": -1}')
    assert read_rules(file, ["crashes_7d", "cpu_pct"]) == {"cpu_pct": -1}
    for content in ('{"other": 1}', '{"cpu_pct": 2}', "[1]", "{"):
        file.write_text(content)
        with pytest.raises(UserError, match=r"baselines\.json is unreadable"):
            read_rules(file, ["cpu_pct"])
