from __future__ import annotations

from datetime import UTC, datetime

import polars as pl

from crashcast.modeling.baselines import UNKNOWN, one_rules, with_baselines


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
