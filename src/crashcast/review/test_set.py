"""The rows that models are compared on: one commit's test part, with one commit's labels, new to every model."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

import polars as pl

from crashcast import tables
from crashcast.errors import UserError
from crashcast.incidents import read_covered_crashes
from crashcast.modeling import split_rule
from crashcast.modeling.alarms import AlarmWindow, crashes_of
from crashcast.modeling.slices import server_slices
from crashcast.params.base import DAY
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.review.data_changes import partition_of
from crashcast.tables import Partition
from crashcast.versioning import cache, committed_model
from crashcast.versioning.revision import COVERAGE, INCIDENTS, Revision

LABELS, FEATURES, SPLIT = "data/labels", "data/features", "data/split.json"
CONSENSUS = "data/incidents.parquet"  # the crashes that labels count; commits without it took the records as they were
OWN, LATER, OWN_AND_LATER, OTHER = "own", "later", "own and later", "other"
APART = "apart from the longest stretch that is left"

Period = tuple[datetime, datetime]
Rule = dict[str, Any]


@dataclass(frozen=True)
class GroundTruth:
    """Labels and crashes by one commit's rules; everything else is a hash."""

    rules: Revision
    labels: str
    incidents: str
    coverage: str

    @classmethod
    def of(cls, revision: Revision) -> Self:
        """Return the ground truth that a commit's own pipeline made."""
        incidents = revision.outs.get(CONSENSUS, revision.raw[INCIDENTS])
        return cls(revision, revision.outs[LABELS], incidents, revision.raw[COVERAGE])

    @property
    def window(self) -> AlarmWindow:
        """When an alarm counts as true."""
        return AlarmWindow.of(self.rules.section(Label), self.rules.section(Telemetry).interval)

    def has_the_crashes_of(self, other: GroundTruth) -> bool:
        """Tell whether the same crashes count, and make the same alarms true."""
        mine, theirs = (
            (truth.rules.section(Incidents), truth.window, truth.incidents, truth.coverage) for truth in (self, other)
        )
        return mine == theirs

    def crashes(self) -> pl.DataFrame:
        """Return the covered crashes."""
        incidents, coverage = (cache.locate(digest, "records") for digest in (self.incidents, self.coverage))
        return read_covered_crashes(incidents, coverage, self.rules.section(Incidents))

    def labels_of(self, period: Period, folder: Path) -> Path:
        """Lay out the partitions of labels that a period touches."""
        return lay_out(self.labels, period, folder, f"{LABELS} by the rules of commit {self.rules.name}")


@dataclass(frozen=True)
class ScoredModel:
    """A model: the commit that made it, the hash of the features it scores, and the split it was trained by.

    `model` is its own hash, by default that of the commit's.
    """

    revision: Revision
    features: str
    rule: Rule
    model: str = ""

    @property
    def threshold(self) -> float:
        """At which it raises alarms, as it was trained."""
        threshold: float = committed_model.describe(self.revision, self.model)["threshold"]
        return threshold

    @property
    def embargo(self) -> timedelta:
        """How far a label reaches beyond its row."""
        label = self.revision.section(Label)
        return label.reach + label.recovery

    def slices(self, servers: frozenset[str], coverage: str) -> dict[str, frozenset[str]]:
        """Divide servers by whether this model was trained on them, and by their group in the coverage."""
        what = f"{LABELS} of commit {self.revision.name}"
        files = {partition_of(path): digest for path, digest in cache.members(self.revision.outs[LABELS], what).items()}
        return server_slices(
            servers,
            cache.locate(coverage, "raw data"),
            self.rule,
            files,
            lambda partition: cache.locate(files[partition], what),
        )


@dataclass(frozen=True)
class TestSet:
    """Rows of a test part that no model was trained on.

    Attributes
    ----------
    rule : dict
        The split whose test part it is.
    period : pair of datetime
        The longest stretch of the test part's period that is open; empty if none is.
    closed : list of (reason, start, end)
        Periods that are left out.
    servers : dict of str to frozenset
        Servers that are left out, by reason.
    """

    rule: Rule
    period: Period
    closed: list[tuple[str, datetime, datetime]]
    servers: dict[str, frozenset[str]]

    @classmethod
    def of(cls, rule: Rule, models: Mapping[str, ScoredModel]) -> Self:
        """Leave out every model's train and validation part, and the embargo around them."""
        embargo = max(model.embargo for model in models.values())
        inside: list[tuple[str, datetime, datetime]] = []
        around: list[tuple[str, datetime, datetime]] = []
        servers: dict[str, frozenset[str]] = {}
        for name, model in models.items():
            for part in ("train", "validation"):
                if model.rule["method"] == "server":
                    servers[f"on a server of the {name}'s {part} part"] = frozenset(model.rule["servers"][part])
                else:
                    start, end = split_rule.period(model.rule, part)
                    inside.append((f"in the {name}'s {part} part", start, end))
                    around.append((f"within the embargo of the {name}'s {part} part", start - embargo, end + embargo))
        whole = split_rule.period(rule, "test")
        return cls(rule, longest_open(whole, [(start, end) for _, start, end in around]), inside + around, servers)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return self.period[0] >= self.period[1]

    def reasons(self, rows: pl.DataFrame) -> pl.Series:
        """Return why each row is left out; null if it is not."""
        moment = pl.col("timestamp")
        found = [
            pl.when(moment.is_between(*tables.utc(start, end), closed="left")).then(pl.lit(reason))
            for reason, start, end in self.closed
        ]
        found += [
            pl.when(pl.col("server_id").is_in(sorted(servers))).then(pl.lit(reason))
            for reason, servers in self.servers.items()
        ]
        apart = ~moment.is_between(*tables.utc(*self.period), closed="left")
        return rows.select(pl.coalesce(*found, pl.when(apart).then(pl.lit(APART)))).to_series()

    def crashes(self, crashes: pl.DataFrame) -> pl.DataFrame:
        """Return the crashes of the servers in question."""
        closed = sorted(frozenset().union(*self.servers.values()))
        return split_rule.crashes_of_part(crashes, self.rule, "test").filter(~pl.col("server_id").is_in(closed))

    def select(self, labels: Path, out: Path) -> tuple[pl.DataFrame, Counter[str]]:
        """Choose the rows to score.

        Returns
        -------
        DataFrame
            `timestamp`, `server_id` (Categorical), `label`, `observed`: rows of known label, and all observed ones, on
            which alarms open too. The table `out` holds all rows of their period and which of
            them are `wanted`, in the order of their features.
        Counter
            How many rows of known label of the test part are left out, by reason.
        """
        kept, excluded = [], Counter[str]()
        for partition in tables.partitions(labels):
            rows = split_rule.read_labels(partition.path(labels))
            is_test = (split_rule.assign(rows, self.rule) == "test").fill_null(False)
            is_known, reasons = rows["label"].is_not_null(), self.reasons(rows)
            excluded.update(dict(reasons.filter(is_test & is_known).drop_nulls().value_counts().iter_rows()))
            wanted = is_test & reasons.is_null() & (is_known | rows["observed"])
            if wanted.any():
                inside = pl.col("timestamp").is_between(*tables.utc(*self.period), closed="left")
                listed = rows.select("timestamp", "server_id", wanted=wanted).filter(inside)
                tables.write(partition.path(out), listed)
                kept.append(rows.filter(wanted).with_columns(pl.col("server_id").cast(pl.Categorical)))
        return pl.concat(kept, rechunk=True) if kept else rows.clear(), excluded


def longest_open(period: Period, closed: Iterable[Period]) -> Period:
    """Return the longest stretch of a period, the first of equals, that touches none of the closed ones."""
    stretches, begun = [], period[0]
    for start, end in sorted(closed):
        stretches.append((begun, min(start, period[1])))
        begun = max(begun, end)
    stretches.append((begun, period[1]))
    return max(stretches, key=lambda stretch: max(stretch[1] - stretch[0], timedelta(0)))


def kind_of(rows: pl.DataFrame, rule: Rule) -> str:
    """Tell whether rows are the test rows of a split, or later than them."""
    end, _ = tables.utc(split_rule.period(rule, "test")[1], datetime.max)
    own = (split_rule.assign(rows, rule) == "test").fill_null(False)
    later = rows.select(pl.col("timestamp") >= end).to_series()
    if not (own | later).all():
        return OTHER
    if own.all():
        return OWN
    return OWN_AND_LATER if own.any() else LATER


class PartSize(NamedTuple):
    """The covered crashes and the server-days of known rows of a test part, and a hash that names those rows."""

    crashes: int
    server_days: float
    rows_hash: str

    @classmethod
    def of(cls, truth: GroundTruth, rule: Rule) -> Self:
        """Count what the test part of a split holds."""
        known, digest, period = 0, hashlib.sha256(), split_rule.period(rule, "test")
        with cache.temporary() as place:
            labels = truth.labels_of(period, place / "labels")
            for partition in tables.partitions(labels):
                rows = tables.read(partition.path(labels), split_rule.KEYS_AND_LABEL, split_rule.HAS_LABEL)
                rows = rows.filter(split_rule.assign(rows, rule) == "test")
                known += rows.height
                names = rows["server_id"].unique().sort()
                digest.update(json.dumps(names.to_list()).encode())
                for column in rows.with_columns(pl.col("server_id").cast(pl.Enum(names))):
                    digest.update(column.to_physical().to_numpy().tobytes())
        crashes = crashes_of(split_rule.crashes_of_part(truth.crashes(), rule, "test"), period, truth.window.lead)
        return cls(crashes.height, known * (truth.window.interval / DAY), digest.hexdigest())


def read_rule(revision: Revision) -> Rule:
    """Return the rule by which a commit split its rows.

    Raises
    ------
    UserError
        If it split them at random, or wrote no rule.
    """
    what = f"{SPLIT} of commit {revision.name}"
    if SPLIT not in revision.outs:
        raise UserError(f"no stage of commit {revision.name} writes {SPLIT}: it cannot be compared")
    rule = split_rule.read_rule(cache.locate(revision.outs[SPLIT], what))
    if rule["method"] == "random":
        raise UserError(
            f"commit {revision.name} splits its rows at random: rows of one crash are in train and in test, so nothing "
            "fair can be said of its model; set split.method to time or server (params.yaml), `dvc repro` and commit"
        )
    return rule


def lay_out(table: str, period: Period, folder: Path, what: str) -> Path:
    """Lay out the partitions of a table that a period touches."""
    return cache.lay_out(table, folder, what, lambda path: touches(partition_of(path), period))


def touches(partition: Partition, period: Period) -> bool:
    """Tell whether a partition holds a moment of a period."""
    return partition.start < period[1] and period[0] < partition.end
