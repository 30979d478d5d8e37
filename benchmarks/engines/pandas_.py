"""Clean, label and featurize in pandas: python benchmarks/engines/pandas_.py RAW OUT.

Each metric is a wide frame (moments x servers), so that fills, windows and the fleet's mean are pandas' own kernels
over whole columns, which is several times faster than groups of a long frame; incidents come by `merge_asof`. Each
table is one file in OUT, sorted by (timestamp, server_id).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from crashcast.params.base import format_duration
from crashcast.params.clean import Clean
from crashcast.params.features import Features
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry

KEYS = ["timestamp", "server_id"]


def main(raw: Path, out: Path) -> None:
    """Write the three tables."""
    out.mkdir(parents=True, exist_ok=True)
    rows = clean(raw / "telemetry")
    write(rows, out / "clean.parquet")
    incidents, coverage = records(raw, rows["server_id"].dtype)
    write(label(rows[[*KEYS, "observed"]], incidents, coverage), out / "labels.parquet")
    write(featurize(rows.drop(columns="observed"), incidents, coverage), out / "features.parquet")


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a table, server_id as text."""
    table.assign(server_id=table["server_id"].astype("str")).to_parquet(path, compression="zstd", index=False)


def records(raw: Path, servers: pd.CategoricalDtype) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the incidents, what the records leave open filled in, and the coverage; of servers with telemetry."""
    rules = Incidents.read()
    incidents = pd.read_parquet(raw / "incidents.parquet")
    incidents["resolved_at"] = incidents["resolved_at"].fillna(incidents["started_at"] + rules.unresolved_outage)
    incidents["reported_at"] = incidents["reported_at"].fillna(incidents["started_at"] + rules.reporting_delay)
    coverage = pd.read_parquet(raw / "coverage.parquet")
    known = [
        table[table["server_id"].isin(servers.categories)].astype({"server_id": servers})
        for table in (incidents, coverage)
    ]
    return known[0].sort_values("started_at"), known[1].sort_values("covered_from")


def clean(telemetry: Path) -> pd.DataFrame:
    """Return rows at one cadence, without duplicates, impossible values, stuck sensors or short gaps."""
    settings, rules = Telemetry.read(), Clean.read()
    fill, steps = rules.fill_limit // settings.interval, -(-rules.stuck_after // settings.interval)
    samples = pd.read_parquet(telemetry, columns=[*KEYS, *settings.metrics]).astype({"server_id": "category"})
    samples = samples.drop_duplicates(KEYS)
    samples["timestamp"] = samples["timestamp"].dt.ceil(settings.interval)
    for name, metric in settings.metrics.items():
        samples[name] = samples[name].where(samples[name].between(metric.min, metric.max)).astype("float64")
    how = {name: metric.aggregate for name, metric in settings.metrics.items()}
    rows = samples.groupby(KEYS, observed=True).agg(how)
    del samples
    moments = rows.index.levels[0]
    every_moment = pd.date_range(moments[0], moments[-1] + rules.fill_limit, freq=settings.interval, name="timestamp")
    columns, own = {}, pd.DataFrame(False, every_moment, rows.index.levels[1])
    for name, metric in settings.metrics.items():
        values = rows.pop(name).unstack().reindex(every_moment)
        filled, observed = values.ffill(limit=fill), values.notna()
        if metric.can_stick:
            broken = stuck(filled.astype("float32"), observed, steps)
            observed &= ~broken
            filled = filled.mask(broken.astype("float64").where(values.notna()).ffill(limit=fill) == 1)
        columns[name] = filled.astype("float32").stack(future_stack=True)
        own |= observed
    table = pd.DataFrame(columns).assign(observed=own.stack(future_stack=True))
    table = table.dropna(how="all", subset=[*settings.metrics]).reset_index()
    month_of = table["timestamp"].dt.year * 12 + table["timestamp"].dt.month
    return table[month_of.isin((moments.year * 12 + moments.month).unique())]  # filling carries records no further


def stuck(shown: pd.DataFrame, observed: pd.DataFrame, steps: int) -> pd.DataFrame:
    """Mark rows at which a sensor has shown one value for `steps` rows, most of them observed."""
    window = shown.rolling(steps)
    return observed & (window.max() == window.min()) & (2 * observed.rolling(steps).sum() > steps)


def label(rows: pd.DataFrame, incidents: pd.DataFrame, coverage: pd.DataFrame) -> pd.DataFrame:
    """Return for every row 1, 0 or unknown, with the reason why it is unknown."""
    rules = Label.read()
    reach = rules.lead + rules.horizon
    blind = reach + Incidents.read().reporting_delay
    crashes = incidents.loc[incidents["kind"] == "crash", ["server_id", "started_at"]]
    planned = incidents.loc[incidents["kind"] == "maintenance", ["server_id", "started_at"]]
    outages = incidents[["server_id", "started_at"]].assign(
        down_until=incidents.groupby("server_id", observed=True)["resolved_at"].cummax() + rules.recovery
    )
    covered = coverage[["server_id", "covered_from"]].assign(
        covered_to=coverage.groupby("server_id", observed=True)["covered_to"].cummax()
    )
    ahead = {"by": "server_id", "left_on": "timestamp", "direction": "forward", "allow_exact_matches": False}
    moment = rows["timestamp"] = rows["timestamp"].reset_index(drop=True)
    next_crash = pd.merge_asof(rows, crashes, right_on="started_at", **ahead)["started_at"]
    next_planned = pd.merge_asof(rows, planned, right_on="started_at", **ahead)["started_at"]
    so_far = {"by": "server_id", "left_on": "timestamp"}
    down_until = pd.merge_asof(rows, outages, right_on="started_at", **so_far)["down_until"]
    covered_to = pd.merge_asof(rows, covered, right_on="covered_from", **so_far)["covered_to"]
    crash = next_crash <= moment + reach
    table = rows.assign(label=crash.astype("Int8"), reason=None)
    for reason, holds in {
        "maintenance_ahead": ~crash & (next_planned <= moment + reach),
        "records_end": moment >= covered_to - blind,
        "lead": next_crash <= moment + rules.lead,
        "outage": moment < down_until,
        "uncovered": ~(moment < covered_to),
    }.items():
        table.loc[holds, "reason"] = reason
    table["label"] = table["label"].mask(table["reason"].notna())
    return table


def featurize(rows: pd.DataFrame, incidents: pd.DataFrame, coverage: pd.DataFrame) -> pd.DataFrame:
    """Return the features: levels, windows, differences, place in the fleet, missingness, crash history."""
    settings, rules = Telemetry.read(), Features.read()
    metrics = list(settings.metrics) if rules.columns == "all" else rules.columns
    panel = rows.set_index(KEYS).astype("float64").unstack().asfreq(settings.interval)
    wide = {name: panel[name] for name in settings.metrics}
    exists = pd.concat(wide.values()).notna().groupby(level=0).any()
    del panel
    features = {}

    def keep(name: str, values: pd.DataFrame) -> None:
        features[name] = round_bits(values.to_numpy(dtype="float32")[exists])

    names = {name: wide[name] for name in metrics}
    names |= {name: wide[left] * wide[right] for name, (left, right) in rules.interactions.items()}
    for name, values in names.items():
        keep(name, values)
        for window in rules.rolling_mean:
            rolling = values.rolling(window // settings.interval, min_periods=1)
            keep(f"{name}_mean_{format_duration(window)}", rolling.mean())
        for window in rules.rolling_std:
            rolling = values.rolling(window // settings.interval, min_periods=1)
            spread = rolling.std(ddof=0)
            spread = spread.mask(spread <= rolling.mean().abs() * 2.0**-24, 0)  # below the resolution of float32
            keep(f"{name}_std_{format_duration(window)}", spread)
        for window in rules.rolling_max:
            rolling = values.rolling(window // settings.interval, min_periods=1)
            keep(f"{name}_max_{format_duration(window)}", rolling.max())
        for window in rules.differences:
            keep(f"{name}_diff_{format_duration(window)}", values.diff(window // settings.interval))
        if rules.fleet_relative:
            deviation = values.sub(values.mean(axis=1), axis=0).div(values.std(axis=1, ddof=0), axis=0)
            keep(f"{name}_vs_fleet", deviation.fillna(0).where(values.notna()))  # 0 if all are equal
    for window in rules.missing_share:
        steps = window // settings.interval
        keep(f"missing_share_{format_duration(window)}", 1 - exists.rolling(steps, min_periods=1).sum() / steps)
    keys = rows[KEYS].reset_index(drop=True)
    return pd.concat([keys, pd.DataFrame(features), history(keys, incidents, coverage, rules)], axis=1)


def history(rows: pd.DataFrame, incidents: pd.DataFrame, coverage: pd.DataFrame, rules: Features) -> pd.DataFrame:
    """Return the hours since the last known crash and how many there were, null if the records do not reach back."""
    crashes = incidents[incidents["kind"] == "crash"]
    known_at = crashes[["started_at", "reported_at"]].max(axis=1)
    counts = {f"crashes_{format_duration(window)}": window for window in rules.incident_counts}
    changes = [crashes[["server_id", "started_at"]].assign(moment=known_at, **dict.fromkeys(counts, 1))]
    for name, window in counts.items():
        ends = known_at.where(known_at > crashes["started_at"] + window, crashes["started_at"] + window)
        changes.append(crashes[["server_id"]].assign(moment=ends, **{name: -1}))
    known = pd.concat(changes).sort_values("moment")
    by_server = known.groupby("server_id", observed=True)
    known["last_crash"] = by_server["started_at"].cummax()
    known["last_crash"] = known.groupby("server_id", observed=True)["last_crash"].ffill()
    known[list(counts)] = known[list(counts)].fillna(0).groupby(known["server_id"], observed=True).cumsum()

    before = coverage.groupby("server_id", observed=True)["covered_to"].cummax()
    before = before.groupby(coverage["server_id"], observed=True).shift()
    stretches = coverage.loc[~(coverage["covered_from"] <= before), ["server_id", "covered_from"]]
    columns = ["server_id", "moment", "last_crash", *counts]
    asof = {"by": "server_id", "left_on": "timestamp"}
    found = pd.merge_asof(rows, known[columns], right_on="moment", **asof)
    moment = found["timestamp"]
    known_since = pd.merge_asof(rows, stretches, right_on="covered_from", **asof)["covered_from"]

    cap, hour = rules.history_cap, pd.Timedelta(hours=1)
    since = (moment - found["last_crash"]) / hour
    since = since.where((found["last_crash"] >= known_since) & (since <= cap / hour))
    since = since.mask(since.isna() & (moment - cap >= known_since), cap / hour)
    columns = {"hours_since_crash": round_bits(since.to_numpy(dtype="float32"))}
    for name, window in counts.items():
        columns[name] = found[name].fillna(0).where(moment - window >= known_since).astype("float32")
    return pd.DataFrame(columns)


def round_bits(values: np.ndarray) -> np.ndarray:
    """Round float32 to 12 significant bits (Veltkamp's splitting)."""
    scaled = values * np.float32(2**12 + 1)
    return scaled - (scaled - values)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
