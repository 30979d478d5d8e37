"""What does a newly added server get in its first week, from a model that was trained without it?

    python benchmarks/new_servers.py                 # three fleets; those that have results already are left out
    python benchmarks/new_servers.py --seeds 4 5     # others

Each fleet is the demo's with another seed. Then every other server is added during the test part, one after the other:
its telemetry, tickets and coverage begin on its first day. All else is the pipeline's, and the figures are those of the
stage `evaluate`, beside the false alarms.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
from demo_claims import BELIEVED, FEATURES, LABELS, MODELS, RAW, SPLIT, label_featurize_split
from project import ROOT, clean_demo, run_fleets

from crashcast import tables
from crashcast.incidents import read_covered_crashes
from crashcast.modeling import alarms
from crashcast.modeling.model import load
from crashcast.modeling.slices import beginnings, in_first_week
from crashcast.modeling.split_rule import period, read_rule
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.paths import COVERAGE_PATH, INCIDENTS_PATH, PREDICTIONS_PATH
from stages import clean, evaluate, train

OUT = ROOT / "benchmarks" / "results" / "new_servers.json"
SEEDS = (1201, 1202, 1203)
FIRST_ADDED, LAST_ADDED = datetime(2025, 7, 27), datetime(2025, 8, 23)  # the test part ends on 31 August
SLICES = {"trained_on": "seen_servers", "first_week": "first_week"}
FIGURES = Path("metrics/evaluate.json")


def main() -> None:
    """Run every fleet that has no results yet, write them, and print what they add up to."""
    run_fleets(__doc__.splitlines()[0], SEEDS, OUT, one_fleet, "summary", summary)


def one_fleet(seed: int) -> dict[str, Any]:
    """Simulate a fleet in the current folder, add half of its servers late, train, and judge both halves."""
    cleaned = clean_demo(demo={"seed": seed})
    added = tables.read(COVERAGE_PATH)["server_id"].unique().sort().gather_every(2).to_list()
    add_late(added)
    clean.main(RAW, Path("data/validated.json"), cleaned, Path("metrics/clean.json"))
    label_featurize_split(cleaned)
    figures = Path("metrics/candidates.json"), Path("metrics/train.json")
    train.main(FEATURES, LABELS, SPLIT, BELIEVED, COVERAGE_PATH, MODELS, *figures)
    outputs = PREDICTIONS_PATH, Path("plots"), FIGURES
    evaluate.main(FEATURES, LABELS, SPLIT, BELIEVED, COVERAGE_PATH, MODELS, *outputs)
    of_slices, false_alarms = json.loads(FIGURES.read_text())["slices"], false_alarms_of_slices(added)
    return {
        name: {
            "pr_auc": of_slices[part]["pr_auc"],
            "lift": of_slices[part]["pr_auc"] / of_slices[part]["base_rate"],
            "crashes": of_slices[part]["crashes"],
            "caught": round(of_slices[part]["crashes"] * of_slices[part]["event_recall"]),
            **false_alarms[name],
        }
        for name, part in SLICES.items()
    }


def add_late(servers: list[str]) -> None:
    """Let these servers begin one after the other, each at an hour of its own."""
    apart = (LAST_ADDED - FIRST_ADDED) / len(servers)
    begins = {
        server: FIRST_ADDED + timedelta(hours=number * apart // timedelta(hours=1))
        for number, server in enumerate(servers)
    }
    start = pl.col("server_id").replace_strict(begins, default=datetime.min, return_dtype=pl.Datetime("us"))
    start = start.dt.replace_time_zone("UTC")
    for partition in tables.partitions(RAW):
        tables.write(partition.path(RAW), tables.read(partition.path(RAW), where=pl.col("timestamp") >= start))
    tables.write(INCIDENTS_PATH, tables.read(INCIDENTS_PATH, where=pl.col("started_at") >= start))
    covered = tables.read(COVERAGE_PATH)
    tables.write(COVERAGE_PATH, covered.with_columns(covered_from=pl.max_horizontal("covered_from", start)))


def false_alarms_of_slices(added: list[str]) -> dict[str, dict[str, float | None]]:
    """Return the false alarms per server-day of the servers that were trained on, and of the others' first week."""
    rows = pl.concat(tables.read(partition.path(PREDICTIONS_PATH)) for partition in tables.partitions(PREDICTIONS_PATH))
    crashes = read_covered_crashes(BELIEVED, COVERAGE_PATH, Incidents.read())
    window, threshold = alarms.AlarmWindow.of(Label.read(), Telemetry.read().interval), load(MODELS).threshold
    parts = {
        "trained_on": ~pl.col("server_id").is_in(added),
        "first_week": in_first_week("timestamp", beginnings(LABELS)),
    }
    found = {}
    for name, inside in parts.items():
        judged = alarms.judge(rows.filter(inside), crashes, threshold, window, period(read_rule(SPLIT), "test")).metrics
        found[name] = {
            "server_days": judged.server_days,
            "false_alarms_per_server_day": judged.false_alarms_per_server_day,
        }
    return found


def summary(fleets: dict[str, Any]) -> dict[str, Any]:
    """Average figures over the fleets, and add up crashes."""
    found: dict[str, Any] = {}
    for name in SLICES:
        of_slice = [fleet[name] for fleet in fleets.values()]
        crashes, caught = (sum(one[count] for one in of_slice) for count in ("crashes", "caught"))
        found[name] = {"fleets": len(of_slice), "crashes": crashes, "caught": caught, "event_recall": caught / crashes}
        for figure in ("pr_auc", "lift", "false_alarms_per_server_day"):
            found[name][figure] = sum(one[figure] for one in of_slice) / len(of_slice)
    return found


if __name__ == "__main__":
    main()
