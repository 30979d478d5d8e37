"""Champion and challenger on the same rows, by the same rules.

Two models' own figures cannot be compared: they come from other rows, other labels, other data. So both score the
challenger's test period, less what either was trained on and the embargo around it, on data with the base's history,
under the base's cleaning, coverage and labels; each on the features that its own commit computes from that data.
"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.errors import UserError
from crashcast.execution import code_hash
from crashcast.incidents import read_covered_crashes
from crashcast.modeling import model, ranking, split_rule
from crashcast.modeling.alarms import choose_threshold, crashes_of
from crashcast.modeling.baselines import one_rules, with_baselines
from crashcast.params.alarms import Alarms
from crashcast.params.base import DAY
from crashcast.params.evaluate import Evaluate
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.review import scoring
from crashcast.review.data_changes import History, partition_of
from crashcast.tables import Partition
from crashcast.versioning import cache, committed_model, environment, worktree_runs
from crashcast.versioning.revision import COVERAGE, INCIDENTS, MODELS, Revision
from crashcast.versions.reproduced import TOLERANCE

LABELS, FEATURES, SPLIT = "data/labels", "data/features", "data/split.json"
BELIEVED = "data/incidents.parquet"  # what labels take for crashes; before labels weighed evidence, the records
EVALUATION = "metrics/evaluate.json"
CHAMPION, CHALLENGER, ANCHOR = "champion", "challenger", "anchor"
OWN, LATER, OWN_AND_LATER, OTHER = "own", "later", "own and later", "other"
DUMMY = "dummy"
APART = "apart from the longest stretch that is left"

Period = tuple[datetime, datetime]
Rule = dict[str, Any]


@dataclass(frozen=True)
class Rescored:
    """Scores of two models, or three, on the same rows.

    Attributes
    ----------
    rows : DataFrame
        `timestamp`, `server_id` (Categorical), `label` (0 or 1), and a probability of each model: `champion`,
        `challenger` and, where there is one, `anchor`; sorted by (timestamp, server_id).
    crashes : DataFrame
        `server_id`, `started_at`: covered crashes of the servers in question, also those outside the period.
    period : pair of datetime
        From (included) and to (excluded); naive, meaning UTC.
    timing : dict
        What alarms are judged by (`Label.timing`).
    thresholds : dict of str to float
        At which each model raises alarms, as it was trained.
    groups : dict of str to frozenset
        The servers of each slice.
    """

    rows: pl.DataFrame
    crashes: pl.DataFrame
    period: Period
    timing: dict[str, timedelta]
    thresholds: dict[str, float]
    groups: dict[str, frozenset[str]]


@dataclass(frozen=True)
class Rescoring:
    """Everything that a verdict is based on.

    Attributes
    ----------
    forward : Rescored
        On the challenger's test period.
    definitions : dict of str to Rescored
        The same under the challenger's own labels and history, where those differ, by what differs.
    reverse : Rescored or str
        On what remains of the champion's test period, or why that says nothing.
    kind : {"own", "later", "own and later", "other"}
        Whether the rows are the base's own test rows, or later than those.
    excluded : dict of str to int
        Rows of the challenger's test period that were left out, by reason.
    denominators : dict
        `crashes` and `server_days`: what the test period holds by the base's rules (`expected`), and what the
        challenger's commit judged itself by (`found`). `scored_rows`: what is to be scored, and what the challenger
        gives a score.
    ends : dict of str to datetime
        Until when each model learned: the end of its train part; naive, meaning UTC.
    latency_ms : dict of str to float
        Of scoring 1,000 rows.
    size_bytes : dict of str to int
        Of each model's file.
    history : History
        Corrections of what the base already had.
    rows_hash : str
        Names the test rows of known label by the base's rules: nothing in the challenger's commit but its raw data
        changes it.
    """

    forward: Rescored
    definitions: dict[str, Rescored]
    reverse: Rescored | str
    kind: str
    excluded: dict[str, int]
    denominators: dict[str, dict[str, float]]
    ends: dict[str, datetime]
    latency_ms: dict[str, float]
    size_bytes: dict[str, int]
    history: History
    rows_hash: str


@dataclass(frozen=True)
class Exam:
    """Labels and crashes, and the commit by whose rules they are."""

    rules: Revision
    labels: str
    incidents: str
    coverage: str

    @property
    def timing(self) -> dict[str, timedelta]:
        """What alarms are judged by."""
        return self.rules.section(Label).timing(self.rules.section(Telemetry).interval)

    @property
    def rules_of_crashes(self) -> tuple[Any, ...]:
        """What decides which crashes count, and which alarms are true of them."""
        return self.rules.section(Incidents), self.timing, self.incidents, self.coverage

    def crashes(self) -> pl.DataFrame:
        """Return the covered crashes."""
        incidents, coverage = (cache.locate(digest, "records") for digest in (self.incidents, self.coverage))
        return read_covered_crashes(incidents, coverage, self.rules.section(Incidents))

    def groups(self) -> dict[str, frozenset[str]]:
        """Return the servers of each group."""
        rows = tables.read(cache.locate(self.coverage, "raw data"), ["server_id", "group"]).drop_nulls()
        last = rows.sort("server_id", "group").unique("server_id", keep="last")
        return {
            f"group_{group}": frozenset(members["server_id"]) for (group,), members in sorted(last.group_by("group"))
        }

    def labels_of(self, period: Period, folder: Path) -> Path:
        """Lay out the partitions of labels that a period touches."""
        return _lay_out(self.labels, period, folder, f"{LABELS} by the rules of commit {self.rules.name}")


@dataclass(frozen=True)
class Contestant:
    """A model: the commit that made it, the features it scores, and the split it was trained by."""

    revision: Revision
    features: str
    rule: Rule

    @property
    def embargo(self) -> timedelta:
        """How far a label reaches beyond its row."""
        label = self.revision.section(Label)
        return label.reach + label.recovery


@dataclass(frozen=True)
class Region:
    """Rows of a test part that no model was trained on.

    Attributes
    ----------
    rule : dict
        The split whose test part it is.
    period : pair of datetime
        The longest stretch of the test part's period that is open; empty where none is.
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
    def of(cls, rule: Rule, contestants: Mapping[str, Contestant]) -> Self:
        """Leave out every model's train and validation part, and the embargo around them."""
        embargo = max(contestant.embargo for contestant in contestants.values())
        inside: list[tuple[str, datetime, datetime]] = []
        around: list[tuple[str, datetime, datetime]] = []
        servers: dict[str, frozenset[str]] = {}
        for name, contestant in contestants.items():
            for part in ("train", "validation"):
                if contestant.rule["method"] == "server":
                    servers[f"on a server of the {name}'s {part} part"] = frozenset(contestant.rule["servers"][part])
                else:
                    start, end = split_rule.period(contestant.rule, part)
                    inside.append((f"in the {name}'s {part} part", start, end))
                    around.append((f"within the embargo of the {name}'s {part} part", start - embargo, end + embargo))
        whole = split_rule.period(rule, "test")
        return cls(rule, longest_open(whole, [(start, end) for _, start, end in around]), inside + around, servers)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return self.period[0] >= self.period[1]

    def reasons(self, rows: pl.DataFrame) -> pl.Series:
        """Return why each row is left out; null where it is not."""
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


def longest_open(period: Period, closed: Iterable[Period]) -> Period:
    """Return the longest stretch of a period, the first of equals, that touches none of the closed ones."""
    stretches, begun = [], period[0]
    for start, end in sorted(closed):
        stretches.append((begun, min(start, period[1])))
        begun = max(begun, end)
    stretches.append((begun, period[1]))
    return max(stretches, key=lambda stretch: max(stretch[1] - stretch[0], timedelta(0)))


def rescore(base: Revision, head: Revision, anchor: Revision | None = None) -> Rescoring:
    """Score the models of two commits, and of a third, on the same rows.

    Parameters
    ----------
    base, head, anchor : Revision
        Whose models are champion and challenger, and the last one that was accepted as an improvement. Each has passed
        `revisions.check`.

    Raises
    ------
    UserError
        Where a split was random, no rows are left, data or models cannot be had, or a commit's code cannot compute
        its features from the data that both are judged on.
    """
    revisions = {CHAMPION: base, CHALLENGER: head} | ({ANCHOR: anchor} if anchor and anchor != base else {})
    rules = {name: _rule(revision) for name, revision in revisions.items()}
    known, history = worktree_runs.recorded(*revisions.values()), History.of(base, head)
    metrics_of_base = base.section(Telemetry).metrics.keys()

    def made_from(revision: Revision, *paths: str) -> dict[str, str]:
        is_like_base = revision.section(Telemetry).metrics.keys() == metrics_of_base
        return worktree_runs.compute(revision, history.base if is_like_base else history.head, paths, known)

    judged = made_from(base, LABELS, SPLIT, FEATURES, *({BELIEVED} & base.outs.keys()))
    exam = Exam(base, judged[LABELS], judged.get(BELIEVED, history.base[INCIDENTS]), history.base[COVERAGE])
    contestants = {
        name: Contestant(revision, made_from(revision, FEATURES)[FEATURES], rules[name])
        for name, revision in revisions.items()
    }
    forward = _rescored(exam, rules[CHALLENGER], contestants)
    if isinstance(forward, str):
        raise UserError(f"there is nothing to judge the challenger on: {forward}")
    reverse = _rescored(exam, rules[CHAMPION], contestants, unlike=forward)

    own = _own_exam(head)
    has_other_labels = own.labels != exam.labels or own.rules_of_crashes != exam.rules_of_crashes
    differing = {
        "the challenger's labels": has_other_labels
        and not (history.is_corrected and worktree_runs.recipe(base, LABELS) == worktree_runs.recipe(head, LABELS)),
        "the corrected history": history.is_corrected,
    }
    definitions, under_own = {}, forward
    if any(differing.values()):
        raw = head.raw if history.is_corrected else history.base
        theirs = {
            name: Contestant(
                contestant.revision,
                head.outs[FEATURES]
                if name == CHALLENGER
                else worktree_runs.compute(contestant.revision, raw, [FEATURES], known)[FEATURES],
                contestant.rule,
            )
            for name, contestant in contestants.items()
        }
        name = " and ".join(name for name, differs in differing.items() if differs)
        found = _rescored(own, rules[CHALLENGER], theirs)
        if isinstance(found, str):
            raise UserError(f"there is nothing to judge the challenger on under {name}: {found}")
        definitions[name], under_own = found.rescored, found
    _confirm(head, CHALLENGER, under_own)

    expected = _TestPart.of(exam, split_rule.read_rule(cache.locate(judged[SPLIT], SPLIT)))
    found_itself = _TestPart.of(own, rules[CHALLENGER])
    denominators = {
        name: {"expected": amount, "found": found_itself.amount[name]} for name, amount in expected.amount.items()
    }
    return Rescoring(
        forward.rescored,
        definitions,
        reverse if isinstance(reverse, str) else reverse.rescored,
        kind_of(forward.rescored.rows, rules[CHAMPION]),
        forward.excluded,
        denominators | {"scored_rows": forward.scored},
        {name: split_rule.period(rule, "train")[1] for name, rule in rules.items()},
        forward.latency_ms,
        {name: _model_size(revision) for name, revision in revisions.items()},
        history,
        expected.rows_hash,
    )


def rescore_first(head: Revision) -> dict[str, Rescoring]:
    """Score a model that has no champion to beat, and each baseline in the champion's place, on its own test part.

    The baselines are those of the evaluation: a constant, and one rule each. What they give are no probabilities, so
    only rankings and alarms compare; their thresholds spend the alarm budget on validation.
    """
    rule = _rule(head)
    exam = _own_exam(head)
    contestant = Contestant(head, head.outs[FEATURES], rule)
    scored = _rescored(exam, rule, {CHALLENGER: contestant})
    if isinstance(scored, str):
        raise UserError(f"there is nothing to judge the first model on: {scored}")
    _confirm(head, CHALLENGER, scored)
    mine, whole = scored.rescored, _TestPart.of(exam, rule)
    rules, seed = one_rules(committed_model.describe(head)["features"]), head.section(Evaluate).seed
    rows: dict[str, pl.DataFrame] = {}
    with cache.temporary() as place:
        for part in ("validation", "test"):
            period = split_rule.period(rule, part)
            labels = exam.labels_of(period, place / part / "labels")
            table = _lay_out(head.outs[FEATURES], period, place / part / "features", f"{FEATURES} of {head.name}")
            pieces = split_rule.read_part(table, labels, rule, part, list(rules))
            rows[part] = pl.concat(with_baselines(piece, rules, seed) for _, piece in pieces)
    crashes = split_rule.crashes_of_part(exam.crashes(), rule, "validation")
    budget = head.section(Alarms).false_alarms_per_server_day
    found = {}
    for name in (DUMMY, *rules):
        score = pl.lit(0.0) if name == DUMMY else pl.col(f"by_{name}").cast(pl.Float64)
        of_validation, of_test = (rows[part].select(*tables.KEYS, score=score) for part in ("validation", "test"))
        threshold = choose_threshold(of_validation, crashes, budget, **exam.timing).threshold
        champion = of_test.rename({"score": CHAMPION})
        rescored = replace(
            mine,
            rows=mine.rows.join(champion, on=list(tables.KEYS), how="left", maintain_order="left"),
            thresholds={CHAMPION: threshold, **mine.thresholds},
        )
        found[name] = Rescoring(
            forward=rescored,
            definitions={},
            reverse="there is no champion",
            kind=OWN,
            excluded=scored.excluded,
            denominators={figure: {"expected": value, "found": value} for figure, value in whole.amount.items()},
            ends={CHALLENGER: split_rule.period(rule, "train")[1]},
            latency_ms=scored.latency_ms,
            size_bytes={CHALLENGER: _model_size(head)},
            history=History(dict(head.raw), dict(head.raw)),
            rows_hash=whole.rows_hash,
        )
    return found


def _own_exam(revision: Revision) -> Exam:
    incidents = revision.outs.get(BELIEVED, revision.raw[INCIDENTS])
    return Exam(revision, revision.outs[LABELS], incidents, revision.raw[COVERAGE])


def kind_of(rows: pl.DataFrame, rule: Rule) -> str:
    """Say whether rows are the test rows of a split, or later than them."""
    end, _ = tables.utc(split_rule.period(rule, "test")[1], datetime.max)
    if rule["method"] == "server":
        rows = rows.with_columns(pl.col("server_id").cast(pl.String))
    own = (split_rule.assign(rows, rule) == "test").fill_null(False)
    later = rows.select(pl.col("timestamp") >= end).to_series()
    if not (own | later).all():
        return OTHER
    if own.all():
        return OWN
    return OWN_AND_LATER if own.any() else LATER


@dataclass(frozen=True)
class _Scored:
    rescored: Rescored
    region: Region
    exam: Exam
    excluded: dict[str, int]
    scored: dict[str, float]
    latency_ms: dict[str, float]


def _rescored(
    exam: Exam, rule: Rule, contestants: Mapping[str, Contestant], unlike: _Scored | None = None
) -> _Scored | str:
    """Score the test part of a split, or say why not; not where its rows are those of `unlike`."""
    region = Region.of(rule, contestants)
    if region.is_empty:
        return "every row of its test period lies in a train or validation part, or in the embargo around one"
    if unlike and region.rule == unlike.region.rule:
        return "its rows are the same"
    with cache.temporary() as place:
        labels = exam.labels_of(split_rule.period(rule, "test"), place / "labels")
        rows, excluded = _select(labels, region, place / "rows")
        if rows.is_empty():
            return "no row of its test period has a known label and is new to every model"
        if unlike and rows.select("timestamp", "server_id").equals(unlike.rescored.rows.select(*tables.KEYS)):
            return "its rows are the same"
        latency_ms = {}
        for name, contestant in contestants.items():
            print(f"review: the {name} scores {rows.height:,} rows", file=sys.stderr)
            scores, latency_ms[name] = _score(contestant, place / "rows", place / name)
            rows = rows.with_columns(pl.Series(name, scores))
    unscored = int(rows[CHALLENGER].is_nan().sum())
    scored: dict[str, float] = {"expected": rows.height, "found": rows.height - unscored}
    for name in contestants:
        has_none = rows[name].is_nan()
        if has_none.any():
            excluded[f"without features of the {name}"] += int(has_none.sum())
            rows = rows.filter(~has_none)
    if rows.is_empty():
        return "no row of its test period has features of every model"
    challenger = contestants[CHALLENGER]
    rescored = Rescored(
        rows,
        region.crashes(exam.crashes()),
        region.period,
        exam.timing,
        {name: committed_model.describe(contestant.revision)["threshold"] for name, contestant in contestants.items()},
        _seen(challenger.revision, challenger.rule, _names(rows["server_id"])) | exam.groups(),
    )
    return _Scored(rescored, region, exam, dict(excluded), scored, latency_ms)


def _select(labels: Path, region: Region, out: Path) -> tuple[pl.DataFrame, Counter[str]]:
    """Choose the rows to score.

    Returns
    -------
    DataFrame
        `timestamp`, `server_id` (Categorical), `label`. The table `out` holds all rows of their period and which of
        them are `wanted`, as they lie beside their features.
    Counter
        How many rows of the test part are left out, by reason.
    """
    kept, excluded = [], Counter[str]()
    for partition in tables.partitions(labels):
        rows = tables.read(partition.path(labels), split_rule.KEYS_AND_LABEL)
        is_test = (split_rule.assign(rows, region.rule) == "test").fill_null(False)
        reasons = region.reasons(rows)
        excluded.update(dict(reasons.filter(is_test).drop_nulls().value_counts().iter_rows()))
        wanted = is_test & reasons.is_null()
        if wanted.any():
            inside = pl.col("timestamp").is_between(*tables.utc(*region.period), closed="left")
            listed = rows.select("timestamp", "server_id", wanted=wanted).filter(inside)
            tables.write(partition.path(out), listed)
            kept.append(rows.filter(wanted).select("timestamp", pl.col("server_id").cast(pl.Categorical), "label"))
    return pl.concat(kept, rechunk=True) if kept else pl.DataFrame(schema=split_rule.KEYS_AND_LABEL), excluded


def _score(contestant: Contestant, rows: Path, place: Path) -> tuple[NDArray[np.float64], float]:
    """Return a model's scores of the wanted rows, NaN where its features have none, and the latency in ms."""
    revision, commit = contestant.revision, f"of commit {contestant.revision.name}"
    unit = partition_of(next(iter(cache.members(contestant.features, f"{FEATURES} {commit}")))).unit
    rows = _repartitioned(rows, unit, place / "rows")
    names = {partition.name for partition in tables.partitions(rows)}
    features = cache.lay_out(
        contestant.features, place / "features", f"{FEATURES} {commit}", lambda path: Path(path).parts[0] in names
    )
    model_folder = cache.lay_out(revision.outs[MODELS], place / "model", f"the model {commit}")
    (place / "scores").mkdir()
    arguments = (model_folder, features, rows, place / "scores")
    python = environment.interpreter(revision, cache.review_folder())
    if python == Path(sys.executable) and _is_our_code(revision):
        latency_ms = scoring.score(*arguments)["latency_ms"]
    else:
        latency_ms = _score_elsewhere(revision, python, arguments)
    scores = [np.load(file) for file in sorted((place / "scores").iterdir())]
    return np.concatenate(scores), latency_ms


def _repartitioned(rows: Path, unit: str, out: Path) -> Path:
    """Return the table with partitions of another length: the features of another commit may have them."""
    listing = tables.partitions(rows)
    if listing[0].unit == unit:
        return rows
    for partition in listing:
        table = tables.read(partition.path(rows))
        days = table["timestamp"].dt.truncate("1d").unique().dt.replace_time_zone(None)
        for piece in sorted({tables.partition_at(day, unit) for day in days}):
            inside = pl.col("timestamp").is_between(*tables.utc(piece.start, piece.end), closed="left")
            path = piece.path(out)
            before = [tables.read(path)] if path.exists() else []
            tables.write(path, pl.concat([*before, table.filter(inside)]))
    return out


def _is_our_code(revision: Revision) -> bool:
    """Tell whether the code that runs a model is the same here and in a commit."""
    return all(
        revision.find_file(f"src/{file.relative_to(code_hash.SRC).as_posix()}") == file.read_bytes()
        for file in code_hash.closure([Path(model.__file__)])
    )


def _score_elsewhere(revision: Revision, python: Path, arguments: tuple[Path, ...]) -> float:
    """Score with a commit's own code, in its own environment."""
    with worktree_runs.worktree(revision) as project:
        variables = {"PYTHONPATH": str(project / "src"), "OMP_WAIT_POLICY": "PASSIVE"}
        done = subprocess.run(
            # -P: the script's folder is part of another version of the project
            [python, "-P", scoring.__file__, *arguments], cwd=project, text=True, capture_output=True, check=False,
            env=environment.variables(python) | variables,
        )  # fmt: skip
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"the model of commit {revision.name} cannot be run with that commit's code: {reason}")
    latency_ms: float = json.loads(done.stdout)["latency_ms"]
    return latency_ms


def _seen(revision: Revision, rule: Rule, servers: frozenset[str]) -> dict[str, frozenset[str]]:
    """Say which servers have rows in the train part; reading stops, from its end backwards, once all have."""
    if rule["method"] == "server":
        unseen = servers - frozenset(rule["servers"]["train"])
    else:
        what, period, unseen = f"{LABELS} of commit {revision.name}", split_rule.period(rule, "train"), servers
        listing = cache.members(revision.outs[LABELS], what)
        in_train = pl.col("label").is_not_null() & pl.col("timestamp").is_between(*tables.utc(*period), closed="left")
        for path in sorted(listing, key=lambda path: partition_of(path).start, reverse=True):
            if unseen and _touches(partition_of(path), period):
                where = in_train & pl.col("server_id").is_in(sorted(unseen))
                rows = tables.read(cache.locate(listing[path], what), split_rule.KEYS_AND_LABEL, where)
                unseen = unseen - _names(rows["server_id"])
    return {"seen_servers": servers - unseen, "unseen_servers": unseen}


class _TestPart(NamedTuple):
    """The covered crashes and the server-days of known rows of a test part, and what names those rows."""

    amount: dict[str, float]
    rows_hash: str

    @classmethod
    def of(cls, exam: Exam, rule: Rule) -> Self:
        known, digest, period = 0, hashlib.sha256(), split_rule.period(rule, "test")
        with cache.temporary() as place:
            labels = exam.labels_of(period, place / "labels")
            for partition in tables.partitions(labels):
                rows = tables.read(partition.path(labels), split_rule.KEYS_AND_LABEL)
                rows = rows.filter(split_rule.assign(rows, rule) == "test")
                known += rows.height
                names = rows["server_id"].unique().sort()
                digest.update(json.dumps(names.to_list()).encode())
                for column in rows.with_columns(pl.col("server_id").cast(pl.Enum(names))):
                    digest.update(column.to_physical().to_numpy().tobytes())
        crashes = crashes_of(split_rule.crashes_of_part(exam.crashes(), rule, "test"), period, exam.timing["lead"])
        amount = {"crashes": crashes.height, "server_days": known * (exam.timing["interval"] / DAY)}
        return cls(amount, digest.hexdigest())


def _confirm(revision: Revision, name: str, scored: _Scored) -> None:
    """Refuse a commit whose own figures are not what its model gives on its own test rows.

    Raises
    ------
    UserError
        Where they are further apart than two types of CPU could bring them.
    """
    told, rows, threshold = revision.metrics[EVALUATION], scored.rescored.rows, scored.rescored.thresholds[name]
    found: dict[str, float | None] = {"rows": rows.height + sum(scored.excluded.values()), "threshold": threshold}
    if not scored.excluded:  # it judged itself on these rows
        measured = ranking.row_metrics(rows["label"].to_numpy(), rows[name].to_numpy(), threshold)
        found |= {figure: measured[figure] for figure in ("positives", "pr_auc", "brier")}
    for figure, value in found.items():
        if not math.isclose(_number(told.get(figure)), value or 0.0, rel_tol=TOLERANCE):
            raise UserError(
                f"{EVALUATION} of commit {revision.name} says {figure} {told.get(figure)}, and its model gives "
                f"{value:g} on the same rows: `dvc repro --force evaluate` there, and commit what it writes"
            )


def _number(figure: Any) -> float:
    """Return a figure of a metrics file, NaN where it is no number."""
    try:
        return math.nan if isinstance(figure, str) else float(figure)
    except (TypeError, OverflowError):
        return math.nan


def _rule(revision: Revision) -> Rule:
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


def _model_size(revision: Revision) -> int:
    file = cache.locate(committed_model.files_of(revision)["model.skops"], f"the model of commit {revision.name}")
    return file.stat().st_size


def _lay_out(table: str, period: Period, folder: Path, what: str) -> Path:
    """Lay out the partitions of a table that a period touches."""
    return cache.lay_out(table, folder, what, lambda path: _touches(partition_of(path), period))


def _touches(partition: Partition, period: Period) -> bool:
    return partition.start < period[1] and period[0] < partition.end


def _names(servers: pl.Series) -> frozenset[str]:
    return frozenset(servers.unique().cast(pl.String))
