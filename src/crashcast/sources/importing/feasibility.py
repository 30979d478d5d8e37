"""Whether crashes, horizon, cadence and fleet fit together: said when data comes in, not after a failed review."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl

from crashcast import crash_groups
from crashcast.params.acceptance import Acceptance
from crashcast.params.alarms import Alarms
from crashcast.params.base import DAY, format_duration
from crashcast.params.label import Label
from crashcast.sources.importing.report import Report
from crashcast.text import counted

FEWEST_RETURNS = 5  # of crashes of one server, to tell how soon it usually crashes again
DENSE = 0.2  # of all rows: if more precede a crash, alarms mean little
MANY_FALSE = 20  # alarms for each crash: with so many, nobody acts on one


def report_outlook(
    crashes: pl.DataFrame, servers: int, period: tuple[datetime, datetime], interval: timedelta, report: Report
) -> None:
    """Report how many groups of crashes there are, and whether they suffice for a verdict.

    Parameters
    ----------
    crashes : DataFrame
        `server_id` and `started_at` of all crashes.
    servers : int
        Number of all servers.
    period : (datetime, datetime)
        The first and the last moment of all telemetry.
    interval : timedelta
        The cadence.
    report : Report
    """
    label, acceptance = Label.read(), Acceptance.read()
    first, last = period
    within = crashes.filter(pl.col("started_at").is_between(first, last))
    if within.is_empty() or last <= first:
        return
    block = crash_groups.shortest_block(acceptance, interval)
    known = counted(crash_groups.incident_groups(within["started_at"], block), "group")
    apart = f"crashes within {format_duration(block)} of each other are one"
    report.inferred.append(f"{within.height:,} crashes in the telemetry's period, in {known} ({apart})")
    found = crash_groups.outlook(within.select("server_id", "started_at").rows(), period, interval)
    if found:
        (report.inferred if found.is_enough else report.assumed).append(str(found))
    _report_density(within, servers, last - first, label, report)
    budget = Alarms.read().false_alarms_per_server_day
    for_each_crash = budget * servers * ((last - first) / DAY) / within.height
    if for_each_crash > MANY_FALSE:
        allowed = f"alarms.false_alarms_per_server_day ({budget:g}) allows {for_each_crash:.0f} false alarms"
        report.assumed.append(f"{allowed} for each crash of such a fleet: lower it, or nobody will act on an alarm")
    if block > acceptance.block:
        least = f"label.lead + label.horizon, and the interval: {format_duration(block)}"
        report.assumed.append(f"acceptance.block ({format_duration(acceptance.block)}) must be at least {least}")


def _report_density(crashes: pl.DataFrame, servers: int, period: timedelta, label: Label, report: Report) -> None:
    again = crashes.sort("server_id", "started_at").select(pl.col("started_at").diff().over("server_id")).to_series()
    usual, horizon = again.median(), format_duration(label.horizon)
    if again.count() >= FEWEST_RETURNS and isinstance(usual, timedelta) and label.horizon >= usual:
        soon = f"a server that crashes usually does again within {usual / timedelta(hours=1):.1f} h"
        report.assumed.append(f"{soon}, so with label.horizon {horizon} most of its rows precede a crash: shorten it")
    elif (share := crashes.height * label.horizon / (servers * period)) > DENSE:
        report.assumed.append(
            f"with label.horizon {horizon} about {min(share, 1):.0%} of rows precede a crash: shorten it"
        )
