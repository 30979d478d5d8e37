"""Which features pay on the demo's fleets? The test part is never read.

    python benchmarks/feature_sets.py                 # four fleets; those that have results already are left out
    python benchmarks/feature_sets.py --seeds 7 8     # others

Each fleet is the demo's, simulated anew. Of every set of features one candidate of the grid, boosting with the smaller
trees, is fitted before each of the three forward-chained folds, on two draws of negatives. A set's figure is the mean
logarithm of PR-AUC over the folds and draws, less that of the features of before: a gain of 0.05 is 5 % of PR-AUC.
Differences are paired over fleets (Student's t). Two fleets came first; what they suggested was compared on two more.
A second question came later, with four fleets of its own: what is unusual for a server, by its own week, and does its
group help? The seeds were named before any of them was run; the group was added for the last two.
"""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from choice import known_rows
from demo_claims import FEATURES, LABELS, SPLIT, label_featurize_split
from label_evidence import interval
from numpy.typing import NDArray
from project import clean_demo, edit, run_fleets
from scipy.ndimage import maximum_filter1d

from crashcast import tables
from crashcast.grid import Grid, encode
from crashcast.modeling import row_metrics
from crashcast.modeling.algorithms import candidates
from crashcast.modeling.folds import Rule, forward_chained
from crashcast.modeling.model import fit, matrix
from crashcast.modeling.sampling import draw_sample, feature_names
from crashcast.modeling.split_rule import period, read_rule
from crashcast.params.features import Features
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Candidates, Train
from crashcast.paths import COVERAGE_PATH

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "feature_sets.json"
SEEDS = (831, 833)
MORE_SEEDS = (835, 837)
WEEK_SEEDS = (832, 834, 836, 838)
GROUP = "group"  # of the server: a column for each role
DRAWS = (1, 2)
BEFORE = "those of before"  # what params.yaml had until then
NOW = "6 h and a day: differences, deviations, fleet"  # what it has since then
WINDOWS = ("mean_6h", "mean_1d", "std_1d", "diff_1d", "vs_fleet")
SINCE = ("diff_6h", "diff_1d", "std_6h", "std_1d", "vs_fleet")
ALL = {
    "rolling_mean": ["3h", "6h", "12h", "1d"],
    "rolling_std": ["6h", "1d"],
    "rolling_max": ["6h", "1d"],
    "differences": ["1h", "3h", "6h", "12h", "1d"],
    "categories": {"group": ["app", "cache", "db", "web", "worker"]},
}
DAY = 24  # rows
Floats = NDArray[np.floating]


def sets() -> dict[str, tuple[str, ...]]:
    """Return what each set has of every metric, beside its level."""

    def without(*some: str) -> tuple[str, ...]:
        return tuple(name for name in WINDOWS if name not in some)

    short = ("diff_1h", "diff_3h", "diff_6h", "diff_12h")
    return {
        BEFORE: WINDOWS,
        "and the difference to 6 h ago": (*WINDOWS, "diff_6h"),
        "and the differences to 3 and 12 h ago": (*WINDOWS, "diff_3h", "diff_12h"),
        "and the differences to 1, 3, 6 and 12 h ago": (*WINDOWS, *short),
        "differences to 3, 12 and 24 h ago in place of means": ("diff_3h", "diff_12h", "diff_1d", "std_1d", "vs_fleet"),
        "differences to 1, 3, 6, 12 and 24 h ago in place of means": (*short, "diff_1d", "std_1d", "vs_fleet"),
        "and means over 3 and 12 h": (*WINDOWS, "mean_3h", "mean_12h"),
        "and the deviation over 6 h": (*WINDOWS, "std_6h"),
        "and the maximum over 6 h": (*WINDOWS, "max_6h"),
        "and the maximum over a day": (*WINDOWS, "max_1d"),
        "and the hours since it was as high": (*WINDOWS, "since_as_high"),
        "and the deviation from its group": (*WINDOWS, "vs_group"),
        "and the deviation from the same hour of seven days": (*WINDOWS, "vs_hour"),
        "without the mean over 6 h": without("mean_6h"),
        "without the mean over a day": without("mean_1d"),
        "without the deviation over a day": without("std_1d"),
        "without the difference to a day ago": without("diff_1d"),
        "without the fleet": without("vs_fleet"),
    }


def more_sets() -> dict[str, tuple[str, ...]]:
    """Return sets that the results of the others suggest."""
    return {
        BEFORE: WINDOWS,
        "and the difference to 6 h ago": (*WINDOWS, "diff_6h"),
        "and the difference to, and the deviation over 6 h": (*WINDOWS, "diff_6h", "std_6h"),
        NOW: SINCE,
        "6 h and a day: differences, deviations": ("diff_6h", "diff_1d", "std_6h", "std_1d"),
        "6 h and a day: differences; deviation over a day, fleet": ("diff_6h", "diff_1d", "std_1d", "vs_fleet"),
        "3, 6, 12 and 24 h: differences; both deviations": (
            "diff_3h",
            "diff_6h",
            "diff_12h",
            "diff_1d",
            "std_6h",
            "std_1d",
        ),
        "3 and 12 h: differences; deviation over 6 h, fleet": ("diff_3h", "diff_12h", "std_6h", "vs_fleet"),
    }


def week_sets() -> dict[str, tuple[str, ...]]:
    """Return sets that compare a server with its own week, and one that extrapolates."""
    return {
        BEFORE: WINDOWS,
        NOW: SINCE,
        "and extrapolated by 6 h": (*SINCE, "ahead"),
        "and the excess over its week's maximum": (*SINCE, "week_excess"),
        "and how much faster than in its week it rises": (*SINCE, "week_rise"),
        "and both": (*SINCE, "week_excess", "week_rise"),
        "and the server's group": (*SINCE, GROUP),
    }


def sets_of(seed: int) -> dict[str, tuple[str, ...]]:
    """Return the sets that are compared on a fleet: other ones on the later fleets."""
    if seed in WEEK_SEEDS:
        return week_sets()
    return sets() if seed in SEEDS else more_sets()


def main() -> None:
    """Run every fleet that has no results yet, write them, and print the gains."""
    run_fleets(__doc__.splitlines()[0], SEEDS + MORE_SEEDS + WEEK_SEEDS, OUT, one_fleet, "gains", gains)


def one_fleet(seed: int) -> dict[str, Any]:
    """Simulate a fleet in the current folder, and return the mean logarithm of PR-AUC of every set."""
    cleaned = clean_demo(demo={"seed": seed})
    edit(Path(), "features", **ALL)
    label_featurize_split(cleaned)
    add_prototypes(cleaned)
    rule, columns, settings = read_rule(SPLIT), feature_names(FEATURES), Label.read()
    folds = forward_chained(rule, Train.read().folds, settings.reach + settings.recovery)
    judged = [validation(fold, columns) for fold in folds]
    chosen = {name: of_set(columns, windows) for name, windows in sets_of(seed).items()}
    logs: dict[str, list[float]] = {name: [] for name in chosen}
    for draw in DRAWS:
        rules = Train.read().model_copy(update={"seed": draw})
        sample = draw_sample(FEATURES, LABELS, rule, columns, rules)
        for (fold, (values, target)), (name, places) in product(zip(folds, judged, strict=True), chosen.items()):
            earlier = sample.before(period(fold, "train")[1])
            own = [columns[place] for place in places]
            model = fit(smaller_trees(own, draw), own, earlier.values[:, places], earlier.crash, earlier.share)
            logs[name].append(float(np.log(row_metrics.pr_auc(target, model.log_odds(values[:, places])))))
    return {name: {"log_pr_auc": float(np.mean(of)), "features": len(chosen[name])} for name, of in logs.items()}


def validation(fold: Rule, columns: list[str]) -> tuple[Floats, NDArray[np.integer]]:
    """Return the features and labels of a fold's validation part."""
    rows = known_rows(fold, "validation")
    return matrix(rows, columns), rows["label"].to_numpy()


def smaller_trees(columns: list[str], seed: int) -> Any:
    """Return the first boosting of the grid."""
    grid = Candidates(hist_gradient_boosting=Train.read().candidates.hist_gradient_boosting)
    return next(one for one in candidates(grid, seed, columns) if one.algorithm == "hist_gradient_boosting")


def of_set(columns: list[str], windows: tuple[str, ...]) -> list[int]:
    """Return the places of a set's columns: levels, these windows of them, and what is of no metric."""
    levels = [*Telemetry.read().metrics, *Features.read().interactions]
    wanted = {*levels, *(f"{level}_{window}" for level in levels for window in windows)}
    of_levels = {name for name in columns if any(name.startswith(level) for level in levels)}
    if GROUP not in windows:
        of_levels |= Features.read().flags().keys()
    return [place for place, name in enumerate(columns) if name in wanted or name not in of_levels]


def add_prototypes(cleaned: Path) -> None:
    """Add features that `featurize` does not compute to the table."""
    telemetry, features = Telemetry.read(), Features.read()
    listed = tables.partitions(cleaned)
    rows = pl.concat([tables.read(partition.path(cleaned)) for partition in listed])
    servers, codes = encode(rows["server_id"])
    grid = Grid.over(listed[0].start, listed[-1].end, telemetry.interval, servers)
    cells = grid.cells(rows["timestamp"], codes)
    group = servers.replace_strict(dict(tables.read(COVERAGE_PATH).select("server_id", "group").iter_rows())).to_numpy()
    added = rows.select(*tables.KEYS)
    for level in [*telemetry.metrics, *features.interactions]:
        factors = features.interactions.get(level, (level,))
        values = np.prod([grid.dense(cells, rows[name].cast(pl.Float32).to_numpy()) for name in factors], axis=0)
        for name, found in (
            ("since_as_high", since_as_high(values)),
            ("vs_group", against_group(values, group)),
            ("vs_hour", against_hour(values)),
            ("ahead", 2 * values - earlier(values, 6)),
            ("week_excess", above_week(values)),
            ("week_rise", above_week(values - earlier(values, 6))),
        ):
            column = pl.Series(f"{level}_{name}", found.ravel()[cells].astype(np.float32), nan_to_null=True)
            added = added.with_columns(column)
    for partition in listed:
        path = partition.path(FEATURES)
        tables.write(path, tables.read(path).join(added, on=list(tables.KEYS), how="left", maintain_order="left"))


def since_as_high(values: Floats) -> Floats:
    """Return how many rows ago a value was last as high, a day at most, shape (T, S)."""
    found = np.full(values.shape, float(DAY))
    for back in range(DAY - 1, 0, -1):
        found[back:][values[:-back] >= values[back:]] = back
    found[np.isnan(values)] = np.nan
    return found


def earlier(values: Floats, rows: int) -> Floats:
    """Return the values some rows ago, shape (T, S)."""
    return np.pad(values, ((rows, 0), (0, 0)), constant_values=np.nan)[: len(values)]


def above_week(values: Floats) -> Floats:
    """Return how much a value is above the maximum of the week that ended a day ago, shape (T, S)."""
    known = np.where(np.isnan(values), -np.inf, values)
    highest = maximum_filter1d(known, 7 * DAY, axis=0, mode="constant", cval=-np.inf, origin=7 * DAY // 2 - 1)
    highest = earlier(highest, DAY)
    return values - np.where(np.isinf(highest), np.nan, highest)


def against_group(values: Floats, group: NDArray[Any]) -> Floats:
    """Return the standard deviations from the mean of the server's group at the same moment, shape (T, S)."""
    found = np.full(values.shape, np.nan)
    for name in np.unique(group):
        members = values[:, group == name]
        mean, spread = np.nanmean(members, axis=1, keepdims=True), np.nanstd(members, axis=1, keepdims=True)
        found[:, group == name] = (members - mean) / np.maximum(spread, 1e-6)
    return found


def against_hour(values: Floats) -> Floats:
    """Return the difference to the mean of the values one to seven days ago, shape (T, S)."""
    days = [earlier(values, DAY * back) for back in range(1, 8)]
    known = [~np.isnan(day) for day in days]
    total, count = sum(np.where(some, day, 0.0) for some, day in zip(known, days, strict=True)), sum(known)
    return values - np.divide(total, count, out=np.full(values.shape, np.nan), where=count > 0)


def gains(fleets: dict[str, Any]) -> dict[str, Any]:
    """Return the mean gain of each set over the features of before, with its interval over fleets."""
    measured: dict[str, list[dict[str, float]]] = {}
    for of_fleet in fleets.values():
        for name, one in of_fleet.items():
            gain = one["log_pr_auc"] - of_fleet[BEFORE]["log_pr_auc"]
            measured.setdefault(name, []).append({"features": one["features"], "gain": gain})
    return {
        name: {"features": of_set[0]["features"], **interval([one["gain"] for one in of_set])}
        for name, of_set in measured.items()
    }


if __name__ == "__main__":
    main()
