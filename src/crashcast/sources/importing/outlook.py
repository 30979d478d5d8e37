"""Whether crashes, horizon, cadence and fleet fit together: said when data comes in, not after a failed review."""

from __future__ import annotations

from datetime import datetime, timedelta

import polars as pl

from crashcast.params.acceptance import Acceptance
from crashcast.params.base import DAY, format_duration
from crashcast.params.label import Label
from crashcast.params.split import Split
from crashcast.sources.importing.report import Report
from crashcast.text import counted

FEWEST_RETURNS = 5  # of crashes of one server, to tell how soon it usually crashes again
DENSE = 0.2  # of all rows: if more precede a crash, alarms mean little
MONTH = timedelta(days=30)


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
    label, acceptance, split = Label.read(), Acceptance.read(), Split.read()
    first, last = period
    within = crashes.filter(pl.col("started_at").is_between(first, last))
    if within.is_empty() or last <= first:
        return
    block = max(acceptance.block, label.reach, interval)
    known = counted(_groups(within, block), "group")
    apart = f"crashes within {format_duration(block)} of each other are one"
    report.inferred.append(f"{within.height:,} crashes in the telemetry's period, in {known} ({apart})")
    if split.method == "time":
        _report_verdict(within, period, split.test, block, acceptance, report)
    _report_density(within, servers, last - first, label, report)
    if block > acceptance.block:
        least = f"label.lead + label.horizon, and the interval: {format_duration(block)}"
        report.assumed.append(f"acceptance.block ({format_duration(acceptance.block)}) must be at least {least}")


def _groups(crashes: pl.DataFrame, block: timedelta) -> int:
    from crashcast.review.comparison import incident_groups  # it loads scikit-learn

    return incident_groups(crashes["started_at"], block)


def _report_verdict(
    crashes: pl.DataFrame,
    period: tuple[datetime, datetime],
    share: float,
    block: timedelta,
    acceptance: Acceptance,
    report: Report,
) -> None:
    first, last = period
    in_test = crashes.filter(pl.col("started_at") > last - share * (last - first))
    groups, servers = _groups(in_test, block), in_test["server_id"].n_unique()
    days = f"the test part, the last {share * (last - first) / DAY:.0f} days, holds"
    has = f"{days} {counted(groups, 'group')} of crashes on {counted(servers, 'server')}"
    needs = f"a verdict needs {acceptance.min_groups} groups on {acceptance.min_servers} servers"
    if groups >= acceptance.min_groups and servers >= acceptance.min_servers:
        report.inferred.append(f"{has}; {needs}")
        return
    per_period = _groups(crashes, block) * share
    longer = (acceptance.min_groups / per_period - 1) * (last - first)
    when = f"; at this rate it will in about {max(longer, MONTH) / MONTH:.0f} months"
    report.assumed.append(f"{has}, but {needs}{when if longer > timedelta(0) else ''}")


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
