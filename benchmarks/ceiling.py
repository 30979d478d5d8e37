"""How well could any model of telemetry predict on the demo's fleets? Compared with the oracle, by the true crashes.

    python benchmarks/ceiling.py                 # four fleets; those that have results already are left out
    python benchmarks/ceiling.py --seeds 7 8     # others

The oracle knows when an episode is planned to end, which telemetry does not show. An observer here knows what could be
read from perfect telemetry and records: the kind and age of the episode, every metric, what it would be without the
episode, the server's frailty and its last crash. There are no harmless patterns, no lost samples and no broken sensors;
one observer sees the metrics without noise, the other with the noise of the sensors. Scores are those of boosting,
fitted to a fleet of 1,000 servers and applied to all labelled rows of other fleets. No feature of the pipeline can tell
more.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import chdir
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from demo_claims import TRUE_LABELS, label_truth
from label_evidence import interval
from numpy.typing import NDArray
from project import clean_demo, run_fleets
from sklearn.ensemble import HistGradientBoostingClassifier

from crashcast import tables
from crashcast.modeling import row_metrics
from crashcast.modeling.split_rule import labelled
from crashcast.params.demo import Demo
from crashcast.params.label import Label
from crashcast.sources.demo.mechanisms import (
    PRECURSORS,
    Fleet,
    generator,
    minutes_of,
    simulate_events,
    timestamps_of,
)
from crashcast.sources.demo.telemetry import LIMITS_PCT, NOISE, Window, add_episodes, ordinary
from crashcast.sources.demo.truth import oracle_scores

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "results" / "ceiling.json"
SEEDS = (831, 833, 835, 837)  # those of feature_sets.py
TAUGHT_BY = {"seed": 900, "servers": 1000}
NEGATIVES = 0.1  # the share of them that an observer is fitted to
DAYS = 8  # at a time
Floats = NDArray[np.floating]


def main() -> None:
    """Fit the observers, run every fleet that has no results yet, write them, and print the means."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        observers = fitted()

    def one_fleet(seed: int) -> dict[str, Any]:
        keys, target, known = rows_of({"seed": seed}, share=1.0)
        rules = Label.read()
        scores = oracle_scores(keys, rules.lead, rules.horizon, Path("data/demo"))["score"]
        oracle = row_metrics.pr_auc(target, scores.to_numpy())
        of_observer = {
            name: row_metrics.pr_auc(target, observer.predict_proba(known[name])[:, 1]) / oracle
            for name, observer in observers.items()
        }
        return {"oracle": oracle} | of_observer

    run_fleets(__doc__.splitlines()[0], SEEDS, OUT, one_fleet, "share_of_oracle", shares)


def fitted() -> dict[str, HistGradientBoostingClassifier]:
    """Fit every observer to a fleet of its own, in the current folder."""
    _, target, known = rows_of(TAUGHT_BY, NEGATIVES)
    weight = np.where(target == 1, 1, 1 / NEGATIVES)
    boosting = {"max_iter": 400, "learning_rate": 0.06, "min_samples_leaf": 100, "early_stopping": True}
    return {
        name: HistGradientBoostingClassifier(**boosting, random_state=0).fit(values, target, weight)
        for name, values in known.items()
    }


def rows_of(demo: dict[str, Any], share: float) -> tuple[pl.DataFrame, NDArray[np.integer], dict[str, Floats]]:
    """Simulate a fleet, and label its rows by what really happened.

    Parameters
    ----------
    demo : dict
        Parameters of its section.
    share : float
        Of the rows without a crash, those wanted.

    Returns
    -------
    DataFrame
        The n rows' keys: `timestamp` and `server_id`.
    int array of shape (n,)
        Their labels.
    dict of str to array of shape (n, k)
        What each observer knows of them.
    """
    clean_demo(demo=demo)
    label_truth()
    fleet, rows = Fleet.of(Demo.read()), pl.concat(piece for _, piece in labelled(TRUE_LABELS))
    drawn = generator(fleet.seed, "observed", 0).random(rows.height) < share
    rows = rows.filter((pl.col("label") == 1) | pl.Series(drawn)).sort(*tables.KEYS)
    seen = pl.concat(observations(fleet, simulate_events(fleet)))
    seen = rows.join(seen, on=list(tables.KEYS), how="left", maintain_order="left").drop(*rows.columns)
    last = tables.read(Path("data/demo/truth.parquet"), ["server_id", "resolved_at"]).sort("resolved_at")
    since = rows.sort("timestamp").join_asof(
        last, left_on="timestamp", right_on="resolved_at", by="server_id", check_sortedness=False
    )
    seen = seen.with_columns(since.sort(*tables.KEYS).select(since=pl.col("timestamp") - pl.col("resolved_at")))
    exact, noisy = pl.selectors.starts_with("exact_"), pl.selectors.starts_with("noisy_")
    known = {"without noise": seen.drop(noisy), "with noise": seen.drop(exact)}
    values = {name: of.cast(pl.Float32).to_numpy() for name, of in known.items()}
    return rows.select(*tables.KEYS), rows["label"].to_numpy(), values


def observations(fleet: Fleet, events: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield what there is to see of every server at every moment, some days at a time."""
    start = fleet.start
    while start < fleet.end:
        end = min(start + timedelta(days=DAYS), fleet.end)
        window = Window(fleet, start, end)
        without = ordinary(window)
        metrics = {name: values.copy() for name, values in without.items()}
        first, last = minutes_of(start), minutes_of(end)
        touching = events.filter((pl.col("onset") < last) & (pl.col("up_again") > first))
        add_episodes(window, metrics, touching)

        kind, age = np.full((2, len(window.minutes), len(fleet)), np.nan)
        episodes = touching.filter(pl.col("kind").is_in(PRECURSORS))
        onset, server = episodes["onset"].to_numpy(), episodes["server"].to_numpy()
        episode, row = window.spread(onset, episodes["ended"].to_numpy())
        kind[row, server[episode]] = episodes["kind"].cast(pl.Enum(PRECURSORS)).to_physical().to_numpy()[episode]
        age[row, server[episode]] = window.minutes[row] - onset[episode]
        columns = {"kind": kind, "age": age, "frailty": np.broadcast_to(fleet.trait("frailty"), kind.shape)}
        for name, values in metrics.items():
            noise = NOISE[name] * window.white(name)
            noisy = values + noise if name in LIMITS_PCT else values * np.exp(noise)
            columns |= {f"without_{name}": without[name], f"exact_{name}": values, f"noisy_{name}": noisy}
            columns |= {f"exact_{name}_ratio": values / without[name], f"noisy_{name}_ratio": noisy / without[name]}
        minutes = np.repeat(window.minutes.astype(np.int64), len(fleet))
        servers = np.tile(fleet.servers["server_id"].to_numpy(), len(window.minutes))
        keys = pl.DataFrame({"minutes": minutes, "server_id": servers}).select(
            timestamps_of(pl.col("minutes")).alias("timestamp"), "server_id"
        )
        yield keys.with_columns(pl.Series(name, of.ravel().astype(np.float32)) for name, of in columns.items())
        start = end


def shares(fleets: dict[str, Any]) -> dict[str, Any]:
    """Return each observer's mean share of the oracle's PR-AUC, with its interval over fleets."""
    names = [name for name in next(iter(fleets.values())) if name != "oracle"]
    return {name: interval([of_fleet[name] for of_fleet in fleets.values()]) for name in names}


if __name__ == "__main__":
    main()
