from __future__ import annotations

from types import SimpleNamespace

import pytest
from scored_fleet import BUDGET, POLICY, altered, fleet

from crashcast.params.acceptance import ERROR
from crashcast.review import comparison, review

POOR = POLICY.model_copy(update={"min_groups": 2, "min_servers": 2})


def on_the_champions_rows(rows, policy=POOR):
    return review._reversed(SimpleNamespace(reverse=rows), policy, BUDGET)


def test_on_the_champions_rows_the_same_figures_are_shown_and_nothing_is_decided():
    rows = fleet(servers=30, days=14, signals=(1.0, 3.0))
    measured = comparison.compare(rows, POOR, BUDGET).differences
    shown = on_the_champions_rows(rows)["differences"]
    assert [row["name"] for row in shown] == ["pr_auc", "event_recall", "lead_h", "brier"]
    for row in shown:
        figure = measured[row["name"]]
        assert (row["champion"], row["challenger"]) == (figure.champion, figure.challenger)
        assert (row["role"], row["margin"]) == ("shown", None)
        assert row["high"] - row["difference"] == pytest.approx(figure.reach(ERROR))  # no attempt is counted here
    assert shown[0]["difference"] > 0


def test_why_the_champions_rows_say_nothing_is_told():
    rows = fleet(servers=10, days=7, crashes=12)
    assert on_the_champions_rows("its rows are the same") == {"not_judged": "its rows are the same"}
    assert "0 of the 1680 rescored rows precede a crash" in on_the_champions_rows(altered(rows, label=0))["not_judged"]
    found = comparison.compare(rows, POLICY, BUDGET)
    few = f"{found.groups} groups of crashes on {found.servers_with_crashes} servers are too few"
    assert on_the_champions_rows(rows, POLICY) == {"not_judged": few}
    assert "differences" in on_the_champions_rows(rows)
    for name, has in (("min_groups", found.groups), ("min_servers", found.servers_with_crashes)):
        assert "differences" in on_the_champions_rows(rows, POOR.model_copy(update={name: has}))
        assert "not_judged" in on_the_champions_rows(rows, POOR.model_copy(update={name: has + 1}))
