"""The year of a project whose costs are known."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from planned_project import PARAMS, RATES, SIZE, forecast_of, project

from crashcast.errors import UserError
from crashcast.params.plan import Plan, Prices
from crashcast.planning import command, plan_output
from crashcast.planning.forecast import ANSWER, PAGE, RETRAINING, Growth, forecast
from crashcast.planning.machine import GB, Need, _mend
from crashcast.planning.project import read_project
from crashcast.planning.records import COMPARE, FIT
from crashcast.planning.run_cost import RunModel, total

PRICES = {name: 1.0 for name in Prices.model_fields if name != "currency"}


def test_rows_and_partitions_follow_from_the_size() -> None:
    assert SIZE.rows == pytest.approx(300 * 8 * 730.5)
    assert SIZE.partitions == 8
    finer = replace(SIZE, interval=timedelta(minutes=5), partition="day", metrics=16)
    assert finer.rows == pytest.approx(24 * SIZE.rows)
    assert finer.partitions == 244
    assert SIZE.rows_of(COMPARE) == 0.4 * SIZE.rows
    assert replace(SIZE, servers=10_000).rows_of(FIT) == 1_000_000  # as train.max_rows has it
    assert replace(SIZE, servers=10_000).rows_of(COMPARE) == 6_000_000


def test_a_larger_run_costs_what_its_rows_cost() -> None:
    size = replace(SIZE, servers=3000)
    model = RunModel.fit(project().measured)
    costs = model.run(size, 1, 2)
    for part, rate in RATES.items():
        rows = size.rows_of(part)
        assert costs[part].cpu_s.value == pytest.approx(1 + rate * rows / 1e6, rel=0.1), part
    assert costs["featurize"].peak_bytes.value == pytest.approx(2e8 + 100 * size.rows / 8, rel=0.2)
    assert costs["clean"].written_bytes.value == pytest.approx(10 * size.rows, rel=0.05)
    assert model.raw(size).value == pytest.approx(5 * size.rows, rel=0.05)


def test_two_workers_take_half_the_time_and_hold_two_partitions() -> None:
    model = RunModel.fit(project().measured)
    one, two = (model.run(replace(SIZE, servers=3000), workers, 2)["featurize"] for workers in (1, 2))
    assert two.wall_s.value == pytest.approx(one.wall_s.value / 2, rel=0.1)
    assert two.peak_bytes.value > 1.9 * one.peak_bytes.value


def test_remembered_partitions_cost_nothing() -> None:
    model = RunModel.fit(project().measured)
    whole, new = (model.run(replace(SIZE, servers=3000), 1, 2, count) for count in (None, 2))
    rows = replace(SIZE, servers=3000).rows / 1e6
    assert new["featurize"].cpu_s.value == pytest.approx(1 + 2 * rows / 4, rel=0.1)
    assert new["train"].cpu_s == whole["train"].cpu_s


def test_the_year_has_every_resource_and_its_money_by_the_prices() -> None:
    found = forecast_of(prices=Prices.model_validate(PRICES))
    amounts = {line.name: line.amount.value for line in found.lines}
    assert amounts[PAGE] == pytest.approx(10 * 365.25 * 0.25)
    assert amounts[RETRAINING] == 4 * 4
    assert found.money is not None
    months = {"local disk": 12, "S3 storage": 12}  # its price is that of a month
    assert found.money.value == pytest.approx(sum(value * months.get(name, 1) for name, value in amounts.items()))
    assert found.crashes_a_year == pytest.approx(1200, rel=0.01)


def test_without_prices_there_is_no_money() -> None:
    assert forecast_of().money is None
    assert forecast_of().retraining_money is None
    assert any("9 prices missing" in row for row in plan_output.report(forecast_of()).blocks[1].rows[-1])


def test_the_time_of_an_answer_comes_from_label_studio() -> None:
    export = Path(__file__).parents[2] / "data" / "label_studio" / "export.json"
    asked = project(answers_a_month=600).with_lead_times(export)
    line = next(line for line in forecast(asked, Growth()).lines if line.name == ANSWER)
    assert line.amount.value == pytest.approx(12 * 600 * 12.5 / 3600)  # each took 12.5 s
    assert line.source.endswith("median of 5 answers in export.json")


def test_a_fleet_too_large_for_the_machine_is_told_what_mends_it() -> None:
    found = forecast(project(), Growth(servers=3_000_000))
    short = [one for one in found.limits if one.is_short]
    assert short[0] is found.limits[0]
    assert short[0].breaks_at[0] <= short[0].breaks_at[1] <= 1.01
    assert plan_output.verdict(found).startswith("This machine does not suffice: ")
    assert any("this extrapolates" in one for one in found.warnings)
    assert plan_output.verdict(forecast_of()).startswith("This machine suffices.")


def test_a_finer_partition_is_proposed_before_a_cluster() -> None:
    model = RunModel.fit(project().measured)
    need = Need(model, project(), replace(SIZE, servers=30_000))
    by_week = need.memory_gb(replace(need.end, partition="week")).high
    assert need.memory_gb(need.end, 1).high > by_week
    assert _mend(need, by_week, "featurize") == "`telemetry.partition: week`"
    assert _mend(need, 0.1, "featurize").startswith("a cluster")
    assert _mend(need, by_week, FIT) == "a smaller `train.max_rows`"
    assert _mend(need, by_week, COMPARE) == "a smaller `train.max_compared_rows`"


def test_runs_of_one_size_are_told_from_runs_of_several() -> None:
    several = project()
    one = replace(several, measured=[one for one in several.measured if one.fleet == SIZE.rows])
    told = "runs of one size alone"
    assert any(told in warning for warning in forecast(one, Growth()).warnings)
    assert not any(told in warning for warning in forecast(several, Growth()).warnings)


def test_json_and_report_say_the_same() -> None:
    found = forecast_of()
    plain = plan_output.as_json(found)
    assert plain["suffices"]
    cpu = total([cost.cpu_s for cost in found.run.values()]).value
    assert sum(one["cpu_s"]["value"] for one in plain["run"].values()) == pytest.approx(cpu)
    assert plan_output.report(found).blocks[0].rows[-1][1].startswith(f"{cpu:,.1f} (")
    assert max(one.peak_bytes.high for one in found.run.values()) / GB == pytest.approx(
        float(plan_output.report(found).blocks[0].rows[-1][4]), abs=0.01
    )


def test_the_section_has_no_default_price() -> None:
    prices = Plan.model_fields["prices"].annotation
    assert prices is Prices
    assert {name for name, value in Prices() if value is not None} == {"currency"}


def test_options_that_do_not_fit_several_projects_are_refused() -> None:
    with pytest.raises(UserError, match="are of one project"):
        command.portfolio([Path("one"), Path("two")], Growth(servers=10), None, None)
    with pytest.raises(UserError, match="two projects are called web"):
        command.portfolio([Path("one/web"), Path("two/web")], Growth(), None, None)


def test_a_project_without_a_run_is_refused(tmp_path: Path) -> None:
    shutil.copy(PARAMS, tmp_path / "params.yaml")
    with pytest.raises(UserError, match="`dvc repro` writes it"):
        read_project(tmp_path)
    shutil.copytree(PARAMS.with_name("metrics"), tmp_path / "metrics")
    with pytest.raises(UserError, match=r"no run of validate, clean, .* that computed anything"):
        read_project(tmp_path)
