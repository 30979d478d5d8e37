"""A portfolio's arithmetic, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planned_project import forecast_of

from crashcast.params.plan import Prices
from crashcast.planning.cost_model import Estimate
from crashcast.planning.decay import Decay, best, cadences, mean_age
from crashcast.planning.portfolio import Member, Portfolio, hours, money, plan, suffices, weeks
from crashcast.planning.portfolio_output import as_json, report

PRICES = Prices.model_validate({name: 10.0 for name in Prices.model_fields if name != "currency"})


def member(name: str, loss: float | None, crashes: int = 100, every: str = "90d", **section: Prices) -> Member:
    decay = None if loss is None else Decay(2.0, "2026-01-01", [], Estimate(loss, loss / 2, 2 * loss))
    return Member(forecast_of(name, crashes=crashes, every=every, **section), decay)


def test_retrainings_keep_the_mean_age_low() -> None:
    assert [mean_age(times) for times in (0, 1, 2, 5)] == [6, 3, 2, 1]


def test_the_cadence_that_pays_by_hand() -> None:
    # a tenth of recall a month, 100 crashes a year, a retraining costs 50 and a missed crash 10: 60 crashes are missed
    # without retraining, 30 with one, 20 with two and 15 with three: 600, 300 + 50, 200 + 100, 150 + 150
    found = cadences(Estimate(0.1, 0.0, 0.2), 100, 2.0, 50.0, 5)
    assert [one.total(10).value for one in found[:4]] == pytest.approx([600, 350, 300, 300])
    assert best(found, 10) == 2
    assert best(found, 10, "low") == 0  # no decay is shown
    assert best(found, 10, "high") == 4  # 1,200 / 5 + 200 = 440; with three 450, with five 450


def test_the_least_gain_for_its_cost_is_dropped_first() -> None:
    slow, fast = member("slow", 0.01), member("fast", 0.05)
    assert slow.gain(4) == pytest.approx(0.01 * slow.forecast.crashes_a_year * (6 / 4 - 6 / 5))
    whole = hours(Portfolio([slow, fast]))
    found = plan([slow, fast], whole - 15, None)  # 4 h a retraining: four must go
    assert [(one.name, one.number) for one in found.dropped] == [("slow", 4), ("slow", 3), ("slow", 2), ("fast", 4)]
    assert [one.left for one in found.dropped] == pytest.approx([whole - 4, whole - 8, whole - 12, whole - 16])
    assert hours(found) == pytest.approx(whole - 16)
    crashes = slow.forecast.crashes_a_year
    by_hand = [0.01 * 0.3, 0.01 * 0.5, 0.01 * 1, 0.05 * 0.3]  # decay x the difference in mean age
    assert [one.gain for one in found.dropped] == pytest.approx([crashes * one for one in by_hand])


def test_what_is_not_measured_is_not_dropped_and_the_report_says_so() -> None:
    found = plan([member("unknown", None), member("known", 0.01)], 1, None)
    assert {one.name for one in found.dropped} == {"known"}
    shown = report(found)
    assert not shown.is_good
    assert shown.verdict.startswith("The budget does not suffice, even after 4 retrainings dropped")
    assert any("The decay of unknown is not known" in note for note in shown.notes)


def test_a_budget_that_suffices_drops_nothing() -> None:
    found = plan([member("one", 0.01)], 1e6, None)
    assert found.dropped == []
    assert report(found).verdict.startswith("The budget suffices: ")


def test_retrainings_of_two_projects_are_in_different_weeks() -> None:
    taken = weeks(Portfolio([member("one", 0.01), member("two", 0.01)]))
    assert sum(map(len, taken)) == 8
    assert max(map(len, taken)) == 1


def test_projects_with_the_same_task_could_share_a_model() -> None:
    one, two = member("one", 0.01), member("two", 0.01)
    other = replace(two.forecast, project=replace(two.forecast.project, task=("other",)))
    assert any("one and two have the same metrics" in note for note in report(Portfolio([one, two])).notes)
    assert not any("have the same" in note for note in report(Portfolio([one, Member(other, None)])).notes)


def test_as_json_has_what_was_dropped() -> None:
    found = as_json(plan([member("slow", 0.01), member("fast", 0.05)], 1, None))
    assert found["projects"]["slow"]["retrainings"] == 0
    assert len(found["dropped"]) == 8
    assert not found["suffices"]


def test_a_budget_of_money_counts_people_and_computers() -> None:
    members = [member("slow", 0.01, prices=PRICES), member("fast", 0.05, prices=PRICES)]
    whole = money(Portfolio(members)) or 0.0
    found = plan(members, None, whole - 50)  # a retraining costs 40 and some CPU time: two must go
    assert [(one.name, one.number) for one in found.dropped] == [("slow", 4), ("slow", 3)]
    assert all(40 < (one.money or 0.0) < 41 for one in found.dropped)
    assert suffices(found)
    assert report(found).verdict.startswith("The budget suffices after 2 retrainings dropped: ")


def test_a_budget_of_money_without_prices_is_not_said_to_suffice() -> None:
    found = plan([member("one", 0.01)], None, 1e9)
    assert found.dropped == []
    assert not report(found).is_good
    assert report(found).verdict.startswith("Money is not known")
