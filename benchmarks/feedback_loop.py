"""What becomes of a model if on-call acts on its alarms, and it is trained again each month on what was left to see.

    python benchmarks/feedback_loop.py                    # ten fleets, beginning with those that are not done yet
    python benchmarks/feedback_loop.py --seeds 601 602    # others
    python benchmarks/feedback_loop.py --report           # what the results say

Each fleet is simulated anew. For four months nobody is warned; then a model is trained at the begin of each of twelve
months, and its alarms of that month are delivered. On-call acts on 80 % of the pages after half an hour, and an action
prevents 70 % of the crashes that the alarm speaks of: the episode ends there, and telemetry is that of a server that
recovered. Every month is judged on the twin of the fleet in which nobody ever acts, by the true crashes.

Four loops differ in what the next training reads of the rows before an action after which no crash came:

- `oracle`: nobody acts, so nothing is hidden
- `as 0`: no crash came, so they are healthy
- `unknown`: they are left out: what `label` does with the tables of alarms and actions
- `unknown, 5 % held back`: so they are, and 5 % of the pages are not delivered

Which crashes an action would prevent is drawn once for each fleet: all loops meet the same chances. Intervals are over
fleets (Student's t).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from label_evidence import CANDIDATES, interval
from project import ROOT, no_annotations
from ruamel.yaml import YAML

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.incidents import read_covered_crashes
from crashcast.modeling import alarms, row_metrics
from crashcast.modeling.alarms import AlarmWindow
from crashcast.modeling.model import Model, load
from crashcast.modeling.split_rule import HAS_LABEL
from crashcast.operate.holdback import is_held_back
from crashcast.params.demo import Demo
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.serve import Serve
from crashcast.params.telemetry import Telemetry
from crashcast.sources.demo import simulator
from crashcast.sources.demo.mechanisms import Fleet, generator, minutes_of, simulate_events
from crashcast.sources.demo.telemetry import render
from crashcast.tables import Partition
from stages import clean, featurize, label, split, train

OUT = ROOT / "benchmarks" / "results" / "feedback_loop.json"
SEEDS = tuple(range(601, 611))
SERVERS, MONTHS_BEFORE, MONTHS = 200, 4, 12
ACTED_SHARE, PREVENTED_SHARE, REACTION = 0.8, 0.7, timedelta(minutes=30)
ORACLE, AS_ZERO, UNKNOWN, HELD_BACK = "oracle", "as 0", "unknown", "unknown, 5 % held back"
HOLDBACK = {UNKNOWN: 0.0, HELD_BACK: 0.05, AS_ZERO: 0.0}
JUDGED_FROM = 4  # the month from which the goal counts; 1-based
SHARES = {"train": 0.75, "validation": 0.20, "test": 0.05}
ANNOTATIONS = Path("data/raw/annotations.parquet")


def main() -> None:
    """Run the fleets that are not in the results yet, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--report", action="store_true")
    options = parser.parse_args()
    fleets: dict[str, Any] = json.loads(OUT.read_text())["fleets"] if OUT.exists() else {}
    for seed in [] if options.report else options.seeds:
        if str(seed) not in fleets:
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                fleets[str(seed)] = one_fleet(seed)
                os.chdir(ROOT)
            write_json(OUT, {"fleets": fleets, "summary": summary(fleets)})
            print(f"seed {seed}: done", file=sys.stderr, flush=True)
    print(json.dumps(summary(fleets), indent=1))


@dataclass
class Loop:
    """A fleet whose model is trained again each month, in a folder of its own.

    Attributes
    ----------
    name : str
    fleet : Fleet
    events : DataFrame
        Of `simulate_events`; an action that prevents a crash changes its event.
    issued, acted : list of DataFrame
        The alarms and the actions so far, as raw data has them.
    """

    name: str
    fleet: Fleet
    events: pl.DataFrame
    issued: list[pl.DataFrame] = field(default_factory=list)
    acted: list[pl.DataFrame] = field(default_factory=list)

    def path(self, name: str) -> Path:
        """Return the place of one of its files."""
        return Path("data", self.name.replace(" ", "_"), name)

    def render(self, months: list[Partition]) -> None:
        """Write the telemetry of some months, and clean what changed."""
        for task in simulator.rendering_tasks(self.fleet, self.events, "month"):
            if task.partition in months:
                frame, _ = render(task.partition, **task.inputs)
                tables.write(task.partition.path(self.path("telemetry")), frame)
        clean.main(self.path("telemetry"), Path("data/validated.json"), self.path("clean"), self.path("clean.json"))

    def featurize(self, end: datetime) -> None:
        """Compute the features of all months, with the crashes that are known by then."""
        known = until(self.fleet, end)
        tables.write(self.path("incidents.parquet"), simulator.tickets(known, self.events))
        tables.write(self.path("known.parquet"), simulator.coverage(known))
        featurize.main(
            self.path("clean"), self.path("incidents.parquet"), self.path("known.parquet"), self.path("features")
        )

    def label(self, now: datetime) -> None:
        """Label all rows by what is known at a moment."""
        known = until(self.fleet, now)
        tables.write(self.path("tickets.parquet"), simulator.tickets(known, self.events))
        tables.write(self.path("coverage.parquet"), simulator.coverage(known))
        tables.write(self.path("sources.parquet"), pl.DataFrame(schema=tables.TICKET_SOURCES))
        shown = self.name != AS_ZERO
        tables.write(self.path("alarms.parquet"), joined(self.issued if shown else [], tables.ALARMS, tables.ALARM_KEY))
        tables.write(
            self.path("actions.parquet"), joined(self.acted if shown else [], tables.ACTIONS, tables.ACTION_KEY)
        )
        names = ("tickets", "coverage", "sources", "alarms", "actions")
        inputs = [self.path(f"{name}.parquet") for name in names]
        label.main(
            self.path("clean"), self.path("telemetry"), *inputs, ANNOTATIONS, self.path("labels"),
            self.path("confirmed.parquet"), self.path("votes.parquet"), self.path("label.json"),
        )  # fmt: skip

    def train(self, now: datetime) -> Model:
        """Return a model of what is known at a moment."""
        self.label(now)
        confirmed, rule = self.path("confirmed.parquet"), self.path("split.json")
        split.main(self.path("labels"), self.path("coverage.parquet"), rule, self.path("split_counts.json"))
        train.main(
            self.path("features"), self.path("labels"), rule, confirmed, self.path("coverage.parquet"),
            self.path("models"), self.path("candidates.json"), self.path("train.json"),
        )  # fmt: skip
        return load(self.path("models"))

    def operate(self, model: Model, month: Partition) -> dict[str, int]:
        """Deliver the alarms of a month, and let on-call act on them."""
        window = AlarmWindow.of(Label.read(), Telemetry.read().interval)
        rows = scored(model, month.path(self.path("features")), month.path(self.path("clean")))
        opened = alarms.open_alarms(rows, model.threshold, window)
        opened_at = pl.when("is_page").then("timestamp").forward_fill().over("server_id")
        opened = opened.with_columns(opened_at=opened_at, ends_at=pl.col("timestamp") + window.duration)
        counts = {"pages": int(opened["is_page"].sum()), "held_back": 0, "actions": 0, "prevented": 0}
        chains = opened.group_by("server_id", "opened_at").agg(pl.col("ends_at").max()).sort("opened_at", "server_id")
        for server, begun, ends in chains.rows():
            serve = Serve.read().model_copy(update={"holdback": HOLDBACK[self.name]})
            moment, over = begun.replace(tzinfo=None), ends.replace(tzinfo=None)
            own = opened.filter(pl.col("server_id") == server, pl.col("opened_at") == begun)
            if is_held_back(serve, server, moment):
                counts["held_back"] += 1
                self._issue(own, model, is_delivered=False)
            elif chance(self.fleet.seed, f"acts {server} {moment}") < ACTED_SHARE:
                counts["actions"] += 1
                done, prevented = moment + REACTION, self._act(server, moment + REACTION, over)
                counts["prevented"] += prevented
                self._issue(own.filter(pl.col("timestamp") <= tables.utc(done, done)[0]) if prevented else own, model)
                action = [server, "restart", done, None, "cli", done]
                self.acted.append(pl.DataFrame([action], schema=NAIVE_ACTIONS, orient="row").cast(tables.ACTIONS))
            else:
                self._issue(own, model)
        return counts

    def _issue(self, opened: pl.DataFrame, model: Model, is_delivered: bool = True) -> None:
        values = {"threshold": model.threshold, "model": self.name, "delivered": is_delivered}
        rows = opened.with_columns(score=pl.lit(model.threshold), **{name: pl.lit(one) for name, one in values.items()})
        self.issued.append(rows.select(list(tables.ALARMS)).cast(tables.ALARMS))  # type: ignore[arg-type]

    def _act(self, server: str, done: datetime, over: datetime) -> int:
        """Prevent the server's crashes in (done, over], unless chance is against it; return how many."""
        number, first, last = self.fleet.servers["server_id"].index_of(server), minutes_of(done), minutes_of(over)
        ahead = (
            pl.col("crashed") & (pl.col("server") == number) & pl.col("ended").is_between(first, last, closed="right")
        )
        lucky = pl.col("luck") < PREVENTED_SHARE
        saved = self.events.select((ahead & lucky).sum()).item()
        ended = pl.max_horizontal("onset", pl.lit(first))
        self.events = self.events.with_columns(
            crashed=pl.col("crashed") & ~(ahead & lucky),
            ended=pl.when(ahead & lucky).then(ended).otherwise("ended"),
            up_again=pl.when(ahead & lucky).then(ended).otherwise("up_again"),
        )
        return int(saved)


NAIVE_ACTIONS = {name: pl.Datetime("us") if kind == tables.TIMESTAMP else kind for name, kind in tables.ACTIONS.items()}


def set_up(shares: dict[str, float], **demo: Any) -> None:
    """Write the parameters of a fleet into the current folder, and what the stages ask for beside its tables."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["demo"].update(demo)
    params["label"].update(aggregate="tickets")  # whom to believe is not the question here
    params["split"].update(shares)
    params["train"]["candidates"] = CANDIDATES
    params["execution"]["workers"] = 1
    yaml.dump(params, Path("params.yaml"))
    no_annotations(Path.cwd())
    write_json(Path("data/validated.json"), {"success": True})


def one_fleet(seed: int) -> dict[str, list[dict[str, Any]]]:
    """Return the figures of each loop and month of a fleet, in the current folder."""
    set_up(SHARES, seed=seed, servers=SERVERS, months=MONTHS_BEFORE + MONTHS)
    fleet = Fleet.of(Demo.read())
    events = simulate_events(fleet)
    # by the event, so that every loop meets the same
    events = events.with_columns(luck=pl.Series(generator(seed, "prevented", 0).random(events.height)))
    months = [task.partition for task in simulator.rendering_tasks(fleet, events, "month")]
    twin = Loop(ORACLE, fleet, events)
    twin.render(months)
    twin.featurize(fleet.end)
    truth = label_truly(twin)
    found = {ORACLE: [judge(twin, truth, twin.train(month.start), month) for month in months[MONTHS_BEFORE:]]}
    for name in HOLDBACK:
        loop, found[name] = Loop(name, fleet, events), []
        loop.render(months[:MONTHS_BEFORE])
        for number, month in enumerate(months[MONTHS_BEFORE:], MONTHS_BEFORE):
            loop.render(months[number - 1 : number + 1])
            loop.featurize(month.end)
            model = loop.train(month.start)
            found[name].append(judge(twin, truth, model, month) | loop.operate(model, month))
        print(f"seed {seed}, {name}: {found[name][-1]}", file=sys.stderr, flush=True)
    return found


def label_truly(twin: Loop) -> Path:
    """Label the twin's rows by the crashes that happened; return the folder."""
    crashes, *_ = simulator.truth(twin.fleet, twin.events)
    started = crashes.select("server_id", started_at="crashed_at", resolved_at="resolved_at", kind=pl.lit(tables.CRASH))
    planned = tables.read(twin.path("incidents.parquet")).filter(pl.col("kind") == tables.MAINTENANCE)
    incidents = pl.concat([planned, started], how="diagonal").select(list(tables.INCIDENTS))
    tables.write(twin.path("true_incidents.parquet"), incidents.sort("started_at", "server_id"))
    for name, schema in {
        "no_alarms": tables.ALARMS,
        "no_actions": tables.ACTIONS,
        "none": tables.TICKET_SOURCES,
    }.items():
        tables.write(twin.path(f"{name}.parquet"), pl.DataFrame(schema=schema))
    names = ("true_incidents", "known", "none", "no_alarms", "no_actions")
    label.main(
        twin.path("clean"), twin.path("telemetry"), *(twin.path(f"{name}.parquet") for name in names), ANNOTATIONS,
        twin.path("true_labels"), twin.path("true_confirmed.parquet"), twin.path("votes.parquet"),
        twin.path("true.json"),
    )  # fmt: skip
    return twin.path("true_labels")


def judge(twin: Loop, truth: Path, model: Model, month: Partition) -> dict[str, Any]:
    """Judge a model on a month of the fleet in which nobody acts."""
    rows = scored(model, month.path(twin.path("features")), month.path(truth))
    known = rows.filter(HAS_LABEL)
    crashes = read_covered_crashes(twin.path("true_incidents.parquet"), twin.path("known.parquet"), Incidents.read())
    window = AlarmWindow.of(Label.read(), Telemetry.read().interval)
    found = alarms.judge(rows, crashes, model.threshold, window, (month.start, month.end)).metrics
    return {
        "pr_auc": row_metrics.pr_auc(known["label"].to_numpy(), known["score"].to_numpy()),
        "event_recall": found.event_recall,
        "alarm_precision": found.alarm_precision,
    }


def scored(model: Model, features: Path, rows: Path) -> pl.DataFrame:
    """Return the rows of a month with their scores; the label is null if they have none."""
    kept = tables.read(rows)
    found = kept.join(tables.read(features), on=list(tables.KEYS), how="left", maintain_order="left")
    label = pl.col("label") if "label" in kept.columns else pl.lit(None, pl.Int8).alias("label")
    return found.select(*tables.KEYS, label, tables.OBSERVED, score=pl.Series(model.predict(found)))


def until(fleet: Fleet, end: datetime) -> Fleet:
    """Return the fleet as records know it at a moment."""
    return Fleet(fleet.seed, fleet.start, end, fleet.interval, fleet.servers)


def joined(frames: list[pl.DataFrame], schema: dict[str, Any], key: tuple[str, ...]) -> pl.DataFrame:
    """Return rows as raw data has them."""
    return pl.concat([pl.DataFrame(schema=schema), *frames]).sort(key)


def chance(seed: int, what: str) -> float:
    """Return a number in [0, 1) that depends on nothing but these."""
    return float(generator(seed, what, 0).random())


def summary(fleets: dict[str, Any]) -> dict[str, Any]:
    """Return each loop's figures against the oracle's: the mean over months of one fleet is one number."""
    found: dict[str, Any] = {}
    for name in HOLDBACK if fleets else ():
        of_loop = found[name] = {}
        for figure in ("pr_auc", "event_recall"):
            means = {
                way: np.array(
                    [np.mean([m[figure] for m in fleet[way][JUDGED_FROM - 1 :]]) for fleet in fleets.values()]
                )
                for way in (name, ORACLE)
            }
            of_loop[figure] = interval(list(means[name]))
            of_loop[f"{figure} / oracle's"] = interval(list(means[name] / means[ORACLE]))
            of_loop[f"{figure} by month"] = [
                interval([fleet[name][n][figure] / fleet[ORACLE][n][figure] for fleet in fleets.values()])
                for n in range(MONTHS)
            ]
        for count in ("pages", "actions", "prevented"):
            of_loop[count] = float(np.mean([sum(m[count] for m in fleet[name]) for fleet in fleets.values()]))
    return found


if __name__ == "__main__":
    main()
