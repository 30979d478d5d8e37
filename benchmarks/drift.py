"""How often `crashcast drift` is wrong about a fleet that does not change, and how soon it sees one that does.

    python benchmarks/drift.py                       # what is not in the results yet
    python benchmarks/drift.py --stationary 701 702  # some fleets that do not change
    python benchmarks/drift.py --changed 721 722     # some that do, with every change
    python benchmarks/drift.py --report

Fleets of 300 servers are simulated anew. Half a year is the training period, and a model is validated and tested on
three months more; each week of the next year is one look at a fleet that does not change. Beside it: the
Kolmogorov-Smirnov test of all rows of a metric at the same false-alarm budget, and the population stability index (PSI)
above 0.1. Of a fleet that changes, the two weeks after the change count: whether it is seen, and how high its cause
stands in the report. A model is trained for the change that only its scores and alarms can tell of.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from dateutil.relativedelta import relativedelta
from feedback_loop import ORACLE, Loop, set_up
from project import ROOT
from scipy.stats import ks_2samp

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.grid import floats
from crashcast.incidents import complete_incidents, read_covered_crashes
from crashcast.modeling import split_rule
from crashcast.modeling.alarms import AlarmWindow
from crashcast.params.clean import Clean
from crashcast.params.demo import Demo
from crashcast.params.drift import Drift
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.sources.demo import simulator
from crashcast.sources.demo.mechanisms import PRECURSORS, Fleet, minutes_of, simulate_events
from crashcast.sources.demo.telemetry import render
from crashcast.watch import drift, weekly_statistics
from crashcast.watch.weekly_statistics import WEEK, Series, Weeks
from stages.clean import clean_partition, samples_period

OUT = ROOT / "benchmarks" / "results" / "drift.json"
PARAMS = ROOT / "params.yaml"
STATIONARY, CHANGED = tuple(range(701, 721)), tuple(range(721, 731))
SERVERS, REFERENCE, LOOKS, LOOKS_AFTER = 300, 26, 52, 2
KNOWN_MONTHS, SHARES = 9, {"train": 2 / 3, "validation": 1 / 6, "test": 1 / 6}  # of the model; 26 weeks are two thirds
PSI_ALARM = 0.1


def main() -> None:
    """Run what is not in the results yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stationary", type=int, nargs="*", default=STATIONARY)
    parser.add_argument("--changed", type=int, nargs="*", default=CHANGED)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = json.loads(OUT.read_text()) if OUT.exists() else {"stationary": {}, "changed": {}}
    for kind, seeds, measure in (("stationary", options.stationary, stationary), ("changed", options.changed, changed)):
        for seed in () if options.report else seeds:
            if str(seed) not in found[kind]:
                with tempfile.TemporaryDirectory() as folder:
                    os.chdir(folder)
                    found[kind][str(seed)] = measure(seed)
                    os.chdir(ROOT)
                print(f"{kind}, seed {seed}: {json.dumps(found[kind][str(seed)])}", file=sys.stderr, flush=True)
                write_json(OUT, found | {"summary": summary(found)})
    print(json.dumps(summary(found), indent=1))


def stationary(seed: int) -> dict[str, int]:
    """Return in how many weeks of a year each way raises an alarm about a fleet that does not change."""
    fleet, settings = set_up_fleet(seed, KNOWN_MONTHS + 13), Drift.read()
    loop = Loop(ORACLE, fleet, simulate_events(fleet))
    weeks, series, first = figures_of_model(loop)
    looks = range(first, first + LOOKS)
    judged = (drift.judge(series, weeks.reference, look, settings) for look in looks)
    found = {"weeks": sum(any(one.is_shift for one in findings) for findings in judged)}
    return found | by_rows(loop.path("clean"), weeks, looks, settings)


def changed(seed: int) -> dict[str, dict[str, int | None]]:
    """Return of each change the week in which it is seen, from 1 on, and how high its cause stands; None: not seen."""
    fleet, found = fleet_of(seed, REFERENCE + LOOKS_AFTER), dict[str, dict[str, int | None]]()
    weeks = Weeks(fleet.start, REFERENCE + LOOKS_AFTER, REFERENCE)
    since = weeks.start(REFERENCE)
    for name, (change, causes) in CHANGES.items():
        events = simulate_events(fleet)
        if name == DOUBLED:
            frail = simulate_events(replace(fleet, servers=fleet.servers.with_columns(pl.col("frailty") * 2)))
            is_later = pl.col("onset") >= minutes_of(since)
            events = pl.concat([events.filter(~is_later), frail.filter(is_later)])
        folder = Path(name)
        write(folder, fleet, events, change, since)
        found[name] = seen(figures(folder, fleet, events, weeks), REFERENCE, REFERENCE, causes)
    return found | {REPLACED: mechanism_replaced(seed)}


def mechanism_replaced(seed: int) -> dict[str, int | None]:
    """Return `changed` of a fleet whose crashes have no precursor any more, and are as many as before."""
    fleet = set_up_fleet(seed, KNOWN_MONTHS + 1)
    events = simulate_events(fleet)
    since = Weeks(fleet.start, 0, 0).start(-(-(known_to(fleet) - fleet.start) // WEEK))
    is_changed = pl.col("kind").is_in(PRECURSORS) & pl.col("crashed") & (pl.col("onset") >= minutes_of(since))
    sudden = {"kind": pl.lit("hardware"), "onset": "ended", "planned": "ended"}
    events = events.with_columns(**{name: pl.when(is_changed).then(to).otherwise(name) for name, to in sudden.items()})
    weeks, series, first = figures_of_model(Loop(ORACLE, fleet, events))
    return seen(series, weeks.reference, first, {("scores", "log-odds"), ("performance", "alarms")})


def seen(series: list[Series], reference: int, first: int, causes: set[tuple[str, str]]) -> dict[str, int | None]:
    """Return in which week from `first` on a cause is named, from 1 on, and how high it stands; None: in none."""
    for look in range(LOOKS_AFTER):
        shifts = [one for one in drift.judge(series, reference, first + look, Drift.read(PARAMS)) if one.is_shift]
        names = list(dict.fromkeys((one.layer, one.name) for one in shifts))
        if ranks := [rank for rank, one in enumerate(names, 1) if one in causes]:
            return {"week": look + 1, "rank": ranks[0]}
    return {"week": None, "rank": None}


def scaled(metric: str, factor: float) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """Return what multiplies a metric."""
    return lambda rows: rows.with_columns((pl.col(metric) * factor).cast(pl.Float32))


def broken(rows: pl.DataFrame) -> pl.DataFrame:
    """Lose a metric of a tenth of the servers, as if a collector had broken."""
    lost = pl.col("server_id").hash(1) % 10 == 0
    return rows.with_columns(pl.when(~lost).then("memory_pct").alias("memory_pct"))


def joined(rows: pl.DataFrame) -> pl.DataFrame:
    """Add servers of a new role, 15 % of the fleet: copies of databases with names of their own."""
    servers = rows["server_id"].unique().sort()
    copied = servers.filter(servers.str.starts_with("db")).head(round(0.15 * len(servers)))
    new = rows.filter(pl.col("server_id").is_in(copied)).with_columns(
        pl.format("gpu-{}", "server_id").alias("server_id")
    )
    new = new.with_columns((pl.col("cpu_pct") * 2).clip(0, 100), (pl.col("network_mbps") * 3).cast(pl.Float32))
    return pl.concat([rows, new]).sort("timestamp", "server_id", maintain_order=True)


DOUBLED, REPLACED = "twice the crashes", "crashes without a precursor"
CHANGES: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], set[tuple[str, str]]]] = {
    "one metric x 1.3": (scaled("disk_io_mbps", 1.3), {("data", "disk_io_mbps")}),
    "latency + 10 %": (scaled("latency_ms", 1.1), {("data", "latency_ms")}),
    "a new role, 15 % of servers": (joined, {("fleet", "servers"), ("fleet", "groups")}),
    "a broken collector": (broken, {("data", "memory_pct")}),
    DOUBLED: (lambda rows: rows, {("labels", "crashes")}),
}


def fleet_of(seed: int, weeks: int) -> Fleet:
    """Return a fleet that begins on a Monday and has so many whole weeks."""
    demo = Demo.read(PARAMS).model_copy(update={"seed": seed, "servers": SERVERS, "start": date(2024, 1, 1)})
    return replace(Fleet.of(demo), start=datetime(2024, 1, 1), end=datetime(2024, 1, 1) + weeks * WEEK)


def write(
    folder: Path,
    fleet: Fleet,
    events: pl.DataFrame,
    change: Callable[[pl.DataFrame], pl.DataFrame] | None = None,
    since: datetime | None = None,
) -> None:
    """Write the fleet's clean rows, a partition a week; from a moment on its samples are changed."""
    telemetry, clean = Telemetry.read(PARAMS), Clean.read(PARAMS)
    before = pl.DataFrame()
    for task in simulator.rendering_tasks(fleet, events, "week"):
        samples, _ = render(task.partition, **task.inputs)
        if change and since and task.partition.start >= since:
            samples = change(samples)
        both = pl.concat([before, samples], how="vertical_relaxed") if before.height else samples
        start, end = tables.utc(*samples_period(task.partition, telemetry, clean))
        own = both.filter(pl.col("timestamp") > start - telemetry.interval, pl.col("timestamp") < end)
        rows, _ = clean_partition(task.partition, own, telemetry, clean)
        tables.write(task.partition.path(folder), rows)
        before = samples


def figures(clean: Path, fleet: Fleet, events: pl.DataFrame, weeks: Weeks) -> list[Series]:
    """Return the series of the metrics, of the fleet and of the crashes."""
    telemetry, incidents = Telemetry.read(PARAMS), Incidents.read(PARAMS)
    tickets = complete_incidents(simulator.tickets(fleet, events), incidents)
    groups = dict(fleet.servers.select("server_id", "role").iter_rows())
    return [
        *weekly_statistics.of_metrics(clean, list(telemetry.metrics), weeks),
        *weekly_statistics.of_fleet(clean, groups, telemetry.interval, weeks),
        *weekly_statistics.of_crashes(tickets, simulator.coverage(fleet), fleet.end, weeks),
    ]


def set_up_fleet(seed: int, months: int) -> Fleet:
    """Return a fleet whose parameters are those of the current folder."""
    set_up(SHARES, seed=seed, servers=SERVERS, start="2024-01-01", months=months)
    return Fleet.of(Demo.read())


def known_to(fleet: Fleet) -> datetime:
    """Return the end of the data that the model's commit knows."""
    return fleet.start + relativedelta(months=KNOWN_MONTHS)


def figures_of_model(loop: Loop) -> tuple[Weeks, list[Series], int]:
    """Train a model on the fleet's first months; return its weeks, all figures, and the first week to look at."""
    fleet, telemetry, now = loop.fleet, Telemetry.read(), known_to(loop.fleet)
    loop.render([task.partition for task in simulator.rendering_tasks(fleet, loop.events, "month")])
    loop.featurize(fleet.end)
    model, rule = loop.train(now), split_rule.read_rule(loop.path("split.json"))
    loop.label(fleet.end)
    begun, trained_to = split_rule.period(rule, "train")
    weeks = Weeks(*weekly_statistics.span(begun, trained_to, fleet.end))
    judged = weeks.between(trained_to, now)
    crashes = read_covered_crashes(loop.path("confirmed.parquet"), loop.path("coverage.parquet"), Incidents.read())
    window = AlarmWindow.of(Label.read(), telemetry.interval)
    series = [
        *figures(loop.path("clean"), fleet, loop.events, weeks),
        *weekly_statistics.of_scores(loop.path("features"), model, weeks),
        *weekly_statistics.of_alarms(loop.path("features"), loop.path("labels"), crashes, model, window, weeks, judged),
    ]
    return weeks, series, weeks.between(now, fleet.end).start


def by_rows(clean: Path, weeks: Weeks, looks: range, settings: Drift) -> dict[str, int]:
    """Return the alarms of tests that take rows for independent, of the same weeks."""
    metrics = list(Telemetry.read(PARAMS).metrics)
    level = settings.false_alarms_per_year / drift.WEEKS_A_YEAR / len(metrics)
    rows = pl.concat(weekly_statistics.rows_of(clean, ["timestamp", tables.OBSERVED, *metrics], weeks)).filter(
        tables.OBSERVED
    )
    week = pl.Series(weekly_statistics.week_of(rows["timestamp"], weeks))
    past = rows.filter(week < weeks.reference)
    counts = {"Kolmogorov-Smirnov on rows": 0, f"PSI > {PSI_ALARM}": 0}
    for look in looks:
        own = rows.filter(week == look)
        pairs = [(finite(past[name]), finite(own[name])) for name in metrics]
        tests = (ks_2samp(old[:: len(old) // 50_000 + 1], new, method="asymp").pvalue < level for old, new in pairs)
        counts["Kolmogorov-Smirnov on rows"] += any(tests)
        counts[f"PSI > {PSI_ALARM}"] += any(psi(old, new) > PSI_ALARM for old, new in pairs)
    return counts


def finite(values: pl.Series) -> np.ndarray:
    """Return the values that are there."""
    found = floats(values)
    return found[np.isfinite(found)]


def psi(old: np.ndarray, new: np.ndarray) -> float:
    """Return the population stability index over ten bins of the old values."""
    limits = np.unique(np.quantile(old, np.linspace(0, 1, 11)[1:-1]))
    shares = [np.bincount(np.searchsorted(limits, one, side="right"), minlength=len(limits) + 1) for one in (old, new)]
    before, after = (np.maximum(share / share.sum(), 1e-6) for share in shares)
    return float(((after - before) * np.log(after / before)).sum())


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return the alarms in all fleet-years, and how many fleets each change is seen in, and ranked first or second."""
    fleets = list(found["stationary"].values())
    ways = fleets[0] if fleets else {}
    seen = {
        name: {
            "fleets": len(found["changed"]),
            "seen in 14 days": sum(one[name]["week"] is not None for one in found["changed"].values()),
            "cause first or second": sum((one[name]["rank"] or 9) <= 2 for one in found["changed"].values()),
        }
        for name in ((*CHANGES, REPLACED) if found["changed"] else ())
    }
    return {"fleet-years": len(fleets), "alarm-weeks": {way: sum(one[way] for one in fleets) for way in ways}, **seen}


if __name__ == "__main__":
    main()
