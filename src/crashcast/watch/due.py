"""Whether the model in use is to be trained again, and why (docs/retraining.md).

What is new is counted from the end of the data that the model's commit split into its parts: a crash counts once it
is confirmed, and covered by records. Without enough new crashes the review could not tell the new model from the old
one, so then no retraining is due.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import polars as pl

from crashcast import tables
from crashcast.incidents import read_covered_crashes
from crashcast.modeling import alarms
from crashcast.modeling.alarms import AlarmWindow
from crashcast.modeling.split_rule import period, read_labels
from crashcast.operate.deployment import Deployment
from crashcast.params.base import DAY, format_duration
from crashcast.params.retrain import Retrain
from crashcast.params.split import Split
from crashcast.paths import CONFIRMED_PATH, COVERAGE_PATH, FEATURES_PATH, LABELS_PATH
from crashcast.review import ledger
from crashcast.review.test_set import read_rule
from crashcast.text import some_of
from crashcast.versioning import git
from crashcast.versioning.revision import EVALUATION, REGISTERED, Revision
from crashcast.watch import drift, drift_output, reported_changes


@dataclass(frozen=True)
class Due:
    """Whether a retraining is due.

    Attributes
    ----------
    model : str
        The version in use, or its commit.
    trained_on_to : datetime
        End of the data that the model's commit knew; naive, meaning UTC.
    known_to : datetime or None
        End of the labels that are known now; None if there are none.
    known_crashes, new_crashes : int
        Confirmed crashes until `trained_on_to`, and after it.
    reasons : list of str
        Why it is due.
    against : list of str
        Why it is not, whatever the reasons.
    notes : list of str
        What could not be found out.
    """

    model: str
    trained_on_to: datetime
    known_to: datetime | None
    known_crashes: int
    new_crashes: int
    reasons: list[str] = field(default_factory=list)
    against: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def is_due(self) -> bool:
        """Whether there is a reason, and nothing against it."""
        return bool(self.reasons) and not self.against


def read(used: Deployment, revision: Revision, looked_at: datetime | None, now: datetime) -> Due:
    """Say whether a retraining is due.

    Parameters
    ----------
    used : Deployment
        The model in use.
    revision : Revision
        Its commit.
    looked_at : datetime or None
        When a model was last compared with the registered one; None if none ever was. Naive, meaning UTC, as is `now`.
    now : datetime

    Raises
    ------
    UserError
        If an output of the pipeline is missing.
    """
    policy, window = Retrain.read(), AlarmWindow.of(used.label, used.telemetry.interval)
    ended = data_end(revision)
    crashes = read_covered_crashes(CONFIRMED_PATH, COVERAGE_PATH, used.incidents)
    rows = new_rows(ended)
    labelled = rows.drop_nulls("label")["timestamp"].max()
    known_to = labelled.replace(tzinfo=None) if isinstance(labelled, datetime) else None
    is_new = pl.col("started_at") >= ended.replace(tzinfo=UTC)
    known, new = crashes.filter(~is_new), crashes.filter(is_new)
    found = Due(used.name, ended, known_to, known.height, new.height)
    found.reasons.extend(_by_data(found, policy))
    since = period(read_rule(revision), "train")[0]
    found.reasons.extend(_by_changes(found, policy, since, Split.read()))
    if known_to is not None and new.height >= policy.min_crashes:
        found.reasons.extend(_by_performance(used, revision, rows, new, window, (ended, known_to + DAY)))
    report = drift.read(used, revision)
    if report.alarms:
        found.reasons.append(drift_output.verdict(report))
    elif not report.is_known:
        found.notes.append(f"Drift: {drift_output.verdict(report)}")
    found.against.extend(_against(found, policy, looked_at, now))
    return found


def data_end(revision: Revision) -> datetime:
    """Return the end of the data that a commit split into its parts; naive, meaning UTC."""
    return max(period(read_rule(revision), part)[1] for part in ("train", "validation", "test"))


def last_look() -> datetime | None:
    """Return when a model was last registered or, as far as this clone knows, compared; naive, meaning UTC."""
    refs = f"refs/tags/{REGISTERED}@*", ledger.REF
    form = "--format=%(creatordate:unix)"
    dates = git.run("for-each-ref", "--sort=-creatordate", "--count=1", form, *refs).text.split()
    return datetime.fromtimestamp(int(dates[0]), UTC).replace(tzinfo=None) if dates else None


def new_rows(since: datetime) -> pl.DataFrame:
    """Return the labels of rows from a moment on: `timestamp`, `server_id`, `label`, `observed`."""
    frames = [
        read_labels(partition.path(LABELS_PATH))
        for partition in tables.partitions(LABELS_PATH)
        if partition.end > since
    ]
    schema: dict[str, Any] = {**tables.KEYS, "label": pl.Int8, tables.OBSERVED: pl.Boolean}
    return pl.concat([pl.DataFrame(schema=schema), *frames]).filter(pl.col("timestamp") >= since.replace(tzinfo=UTC))


def _by_data(found: Due, policy: Retrain) -> Iterator[str]:
    age = (found.known_to or found.trained_on_to) - found.trained_on_to
    if age >= policy.max_age:
        days = f"{age / DAY:.0f} days"
        yield f"The model's data ended {days} before the newest labels (max_age: {format_duration(policy.max_age)})."
    if found.new_crashes >= policy.new_crashes * found.known_crashes:
        share = found.new_crashes / max(1, found.known_crashes)
        yield (
            f"New crashes to learn from: {found.new_crashes:,}, {share:.0%} of the {found.known_crashes:,} before "
            f"(new_crashes: {policy.new_crashes:.0%})."
        )


def _by_changes(found: Due, policy: Retrain, since: datetime, split: Split) -> Iterator[str]:
    """Yield the changes of the fleet as a reason, and when the train part of a history since then holds them."""
    if policy.after_change is None or found.known_to is None:
        return
    if not (known := reported_changes.between(found.trained_on_to, found.known_to - policy.after_change)):
        return
    beyond = format_duration(policy.after_change)
    reason = f"Changed since: {some_of([*map(str, known)])}; labels reach {beyond} beyond it (after_change)"
    reached = since + (max(change.at for change in known) + policy.after_change - since) / split.train
    if split.method == "time" and not split.since and reached > found.known_to:
        reason += (
            f", but the train part, {split.train:.0%} of the history since {since:%Y-%m-%d}, will only with labels to "
            f"{reached:%Y-%m-%d}: a larger split.train or a shorter history helps (docs/retraining.md)"
        )
    yield f"{reason}."


def _by_performance(
    used: Deployment,
    revision: Revision,
    rows: pl.DataFrame,
    crashes: pl.DataFrame,
    window: AlarmWindow,
    span: tuple[datetime, datetime],
) -> Iterator[str]:
    """Yield a reason if the model catches fewer of the new crashes than the interval of its test says."""
    promised = revision.metrics.get(EVALUATION, {})
    low = promised.get("event_recall_low")
    if low is None:
        return
    frames = []
    for partition in tables.partitions(FEATURES_PATH):
        if partition.end > span[0]:
            features = tables.read(partition.path(FEATURES_PATH), [*tables.KEYS, *used.model.features])
            own = rows.join(features, on=list(tables.KEYS), how="inner", maintain_order="left")
            if own.height:
                frames.append(own.select(rows.columns).with_columns(score=pl.Series(used.model.predict(own))))
    scored = pl.concat(frames).filter(pl.col("timestamp") < span[1].replace(tzinfo=UTC))
    recall = alarms.judge(scored, crashes, used.model.threshold, window, span).metrics.event_recall
    if recall is not None and recall < low:
        yield (
            f"The model warned of {recall:.0%} of the new crashes; in its test it was {promised['event_recall']:.0%} "
            f"(interval from {low:.0%})."
        )


def _against(found: Due, policy: Retrain, looked_at: datetime | None, now: datetime) -> Iterator[str]:
    if (missing := policy.min_crashes - found.new_crashes) > 0:
        yield (
            f"Too few new crashes to tell a new model from the old one: {found.new_crashes:,}; {missing:,} are missing "
            f"(min_crashes: {policy.min_crashes:,})."
        )
    if looked_at is not None and now - looked_at < policy.min_interval:
        ends = looked_at + policy.min_interval
        yield (
            f"The last comparison was on {looked_at:%Y-%m-%d}; each one spends error probability, so the next is due "
            f"from {ends:%Y-%m-%d} on (min_interval: {format_duration(policy.min_interval)})."
        )
