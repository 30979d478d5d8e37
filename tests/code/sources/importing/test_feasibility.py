"""What an import says about crashes, horizon and the verdict that a fleet can reach."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from crashcast.sources.importing.feasibility import report_outlook
from crashcast.sources.importing.report import Report
from crashcast.tables import TIMESTAMP

ROOT = Path(__file__).parents[4]
START = datetime(2026, 1, 1, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder with the default params.yaml the current one."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)


def outlook(
    crashes: list[tuple[str, float]], servers: int = 50, days: float = 200, interval: timedelta = HOUR
) -> Report:
    """Report on crashes of (server, day)."""
    rows = [(server, START + day * DAY) for server, day in crashes]
    frame = pl.DataFrame(rows, schema={"server_id": pl.String, "started_at": TIMESTAMP}, orient="row")
    report = Report()
    report_outlook(frame, servers, (START, START + days * DAY), interval, report)
    return report


def test_a_fleet_that_is_large_enough() -> None:
    # two crashes in each group, 45 groups in the last 30 days
    days = [*range(155)] + [170 + n * 2 / 3 + hours / 24 for n in range(45) for hours in (0.5, 7)]
    found = outlook([(f"s{n % 40}", day) for n, day in enumerate(days)])
    assert found.inferred == [
        "245 crashes in the telemetry's period, in 200 groups (crashes within 8h of each other are one)",
        "the test part, the last 30 days, holds 45 groups of crashes on 40 servers; "
        "a verdict needs 40 groups on 20 servers",
    ]
    assert found.assumed == []


def test_a_fleet_that_is_too_small_learns_when_it_will_not_be() -> None:
    # a crash each second day: 15 groups in 30 days, so 40 in 80; that is 15 % of 533 days
    found = outlook([(f"s{n % 30}", 2 * n) for n in range(100)])
    has = "the test part, the last 30 days, holds 14 groups of crashes on 14 servers"
    needs = "a verdict needs 40 groups on 20 servers; at this rate it will in about 11 months"
    enough = "with acceptance.windows: 3 recipes are judged now, on 44 groups (docs/review.md)"
    assert found.assumed == [f"{has}, but {needs}; {enough}"]


def test_a_horizon_that_is_longer_than_the_time_between_crashes() -> None:
    found = outlook([("a", 10 + n / 6) for n in range(30)])
    assert "a server that crashes usually does again within 4.0 h, so with label.horizon 6h most" in found.assumed[-1]
    many = [(f"s{n}", n / 20) for n in range(300)]
    assert "with label.horizon 6h about 30% of rows precede a crash" in outlook(many, servers=10, days=25).assumed[-1]


def test_a_long_cadence_makes_groups_longer() -> None:
    found = outlook([(f"s{n % 30}", 2 * n) for n in range(100)], interval=7 * DAY)
    assert found.inferred[0].endswith("in 25 groups (crashes within 7d of each other are one)")
    assert found.assumed[-1].startswith(
        "acceptance.block (8h) must be at least label.lead + label.horizon, and the inter"
    )


def test_a_budget_of_many_false_alarms_for_each_crash() -> None:
    # 0.02 a day of 50 servers is 200 in 200 days
    assert outlook([(f"s{n}", 10 + 20 * n) for n in range(9)]).assumed[-1] == (
        "alarms.false_alarms_per_server_day (0.02) allows 22 false alarms for each crash of such a fleet: lower it, "
        "or nobody will act on an alarm"
    )
    assert "alarms." not in str(outlook([(f"s{n}", 10 + 18 * n) for n in range(10)]).assumed)


def test_without_crashes_nothing_is_said() -> None:
    found = outlook([("a", 300)])
    assert found.inferred == found.assumed == []
