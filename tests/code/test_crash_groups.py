"""How many groups of crashes a review would judge, by hand."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
import polars.selectors as cs
import pytest
import yaml

from crashcast import crash_groups, run_summary, tables
from crashcast.paths import CONFIRMED_PATH, COVERAGE_PATH, LABELS_PATH
from crashcast.tables import partition_at

ROOT = Path(__file__).parents[2]
START, DAY, HOUR = datetime(2026, 1, 1), timedelta(days=1), timedelta(hours=1)


@pytest.fixture(autouse=True)
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Make a folder with params.yaml, whose test part is a tenth, the current one."""
    found = yaml.safe_load((ROOT / "params.yaml").read_text())
    found["split"] |= {"train": 0.7, "validation": 0.2, "test": 0.1}
    monkeypatch.chdir(tmp_path)
    return found


def outlook(params: dict, days: list[float], **acceptance: object) -> crash_groups.Outlook | None:
    """Return the outlook of 200 days with a crash on each of some, on 30 servers in turn."""
    params["acceptance"] |= acceptance
    Path("params.yaml").write_text(yaml.safe_dump(params))
    crashes = [(f"s{number % 30}", START + day * DAY) for number, day in enumerate(days)]
    return crash_groups.outlook(crashes, (START, START + 200 * DAY), HOUR)


EACH_DAY = [day + 0.5 for day in range(200)]  # 20 groups in the test part


def test_too_few_groups_come_with_the_months_and_the_windows_that_they_take(params: dict) -> None:
    found = outlook(params, EACH_DAY)
    assert found is not None
    assert (found.has, found.needs, found.is_enough) == ((20, 20), (40, 20), False)
    assert found.months == pytest.approx(200 / (365.25 / 12))  # as much history again
    assert found.more_windows == (2, 40)
    assert str(found) == (
        "the test part, the last 20 days, holds 20 groups of crashes on 20 servers, but a verdict needs 40 groups on "
        "20 servers; at this rate it will in about 7 months; with acceptance.windows: 2 recipes are judged now, on 40 "
        "groups (docs/review.md)"
    )


def test_windows_are_counted_together(params: dict) -> None:
    found = outlook(params, EACH_DAY, windows=2)
    assert found is not None
    assert str(found) == (
        "the 2 test windows, the last 40 days, hold 40 groups of crashes on 30 servers; a verdict needs 40 groups on "
        "20 servers"
    )


def test_no_windows_are_named_if_none_suffice(params: dict) -> None:
    found = outlook(params, EACH_DAY[::8])
    assert found is not None
    assert found.more_windows is None  # 7 windows, the last 140 days, hold 17
    assert str(found).endswith("servers; at this rate it will in about 99 months")  # 40 of 2.5 a test part


def test_crashes_close_together_are_one_group_and_a_coarse_cadence_makes_it_longer(params: dict) -> None:
    assert crash_groups.incident_groups([START, START + 3 * HOUR, START + 7.9 * HOUR], 8 * HOUR) == 1
    assert crash_groups.incident_groups([START + hours * HOUR for hours in (20, 0, 8, 15)], 8 * HOUR) == 3
    outlook(params, EACH_DAY)
    rules = crash_groups.Acceptance.read()
    assert crash_groups.shortest_block(rules, HOUR) == 8 * HOUR
    assert crash_groups.shortest_block(rules, 7 * DAY) == 7 * DAY


@pytest.mark.parametrize(("gap_days", "is_told"), [(1, True), (0.4, False)])  # 20 groups in the test part, or 50
def test_the_verdict_says_if_no_review_accepts_a_model_of_so_few_crashes(
    params: dict, gap_days: float, is_told: bool
) -> None:
    Path("params.yaml").write_text(yaml.safe_dump(params))
    assert run_summary.too_few_crashes() is None  # no data here
    times = pl.datetime_range(START, START + 200 * DAY, "1h", time_unit="us", time_zone="UTC", eager=True)
    keys = pl.DataFrame({"timestamp": times, "server_id": "s0"})
    known = keys.with_columns(label=pl.when(pl.col("timestamp") < times[-12]).then(0).cast(pl.Int8))
    for month, rows in known.group_by(pl.col("timestamp").dt.truncate("1mo"), maintain_order=True):
        tables.write(partition_at(month[0], "month").path(LABELS_PATH), rows)
    crashes = [number * gap_days * DAY for number in range(int(200 / gap_days))]
    incidents = pl.DataFrame(
        {
            "server_id": [f"s{number % 30}" for number in range(len(crashes))],
            "kind": tables.CRASH,
            "started_at": [START + after for after in crashes],
            "resolved_at": [START + after + HOUR for after in crashes],
            "reported_at": [START + after + HOUR for after in crashes],
        }
    ).with_columns(cs.datetime().dt.cast_time_unit("us").dt.replace_time_zone("UTC"))
    tables.write(CONFIRMED_PATH, incidents)
    covered = (
        incidents.select("server_id")
        .unique()
        .with_columns(
            covered_from=pl.lit(START).dt.replace_time_zone("UTC"),
            covered_to=pl.lit(START + 200 * DAY).dt.replace_time_zone("UTC"),
        )
    )
    tables.write(COVERAGE_PATH, covered)
    found = run_summary.too_few_crashes()
    assert (found is not None) == is_told
    if found:
        assert found.has == (20, 20)


@pytest.mark.parametrize("changes", [{"method": "server"}, {"since": ["new-site"]}])
def test_of_another_split_nothing_is_said(params: dict, changes: dict) -> None:
    params["split"] |= changes
    assert outlook(params, EACH_DAY) is None
