"""The validation part: how models score it, and which alarms they raise on it within the alarm budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.execution import runner
from crashcast.execution.runner import SMALL_TO_SCORE_BYTES
from crashcast.execution.task import Folder
from crashcast.modeling import alarms
from crashcast.modeling.alarm_budget import SpentBudget
from crashcast.modeling.algorithms.base import Floats, Matrix
from crashcast.modeling.bootstrap import Ints, TwoWayDraws
from crashcast.modeling.model import loaded, matrix
from crashcast.modeling.part_tasks import part_tasks
from crashcast.modeling.split_rule import (
    KEYS_AND_LABEL,
    Rule,
    crashes_of_part,
    mitigated_in,
    partitions_of,
    period,
    read_pieces,
)
from crashcast.params.alarms import Alarms
from crashcast.params.evaluate import Evaluate
from crashcast.tables import Partition

Scorer = Callable[[Matrix], Floats]


@dataclass(frozen=True)
class Validation:
    """The validation part with the scores of some models.

    Attributes
    ----------
    rows : DataFrame
        n rows: `timestamp`, `server_id` as a category, `label` (null: unknown), `observed`, `mitigated` (whether an
        action may have prevented its crash).
    files : list of files
        The n scores of each model: many models' are more than memory holds.
    crashes : DataFrame
        Covered crashes of servers that can be in the part.
    period : pair of datetime
        Of the part.
    limits : Alarms
        The alarm budget.
    window : AlarmWindow
        When an alarm counts as true.
    resampling : Evaluate
        How servers and blocks of time are drawn.
    """

    rows: pl.DataFrame
    files: list[BinaryIO]
    crashes: pl.DataFrame
    period: tuple[datetime, datetime]
    limits: Alarms
    window: alarms.AlarmWindow
    resampling: Evaluate

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """Of which rows the label is known, shape (n,)."""
        return self.rows["label"].is_not_null().to_numpy()

    @cached_property
    def labels(self) -> NDArray[np.int8]:
        """The known labels, shape (known.sum(),)."""
        return self.rows["label"].drop_nulls().to_numpy()

    @cached_property
    def draws(self) -> TwoWayDraws:
        """How often each server of the rows and each block of the period was drawn."""
        servers, rules = self.rows["server_id"].cast(pl.String), self.resampling
        return TwoWayDraws.draw(servers, self.period, rules.block, rules.replicates, rules.seed)

    @cached_property
    def cells(self) -> Ints:
        """The cells of `draws` that the rows of known label lie in, shape (known.sum(),)."""
        known = self.rows.filter(self.known)
        return self.draws.cells(known["server_id"].cast(pl.String), known["timestamp"])

    def scores(self, number: int) -> Floats:
        """Read the scores of one model, shape (n,)."""
        self.files[number].seek(0)
        return np.frombuffer(self.files[number].read(), dtype=np.float64)

    def at_budget(self, scores: Floats) -> tuple[float, alarms.Judgement]:
        """Return the threshold that keeps to the budget, and the alarms that scores of shape (n,) raise at it."""
        threshold = self.spent(scores).threshold(self.limits.confidence)
        return threshold, self.judge(scores, threshold)

    def spent(self, scores: Floats) -> SpentBudget:
        """Return what alarms on scores of shape (n,) cost.

        An alarm on a mitigated row counts against the budget as a false one. If such alarms were left out, then the
        more of them people acted on, the lower the threshold would be, and the more alarms there would be next month.
        """
        label = pl.when("mitigated").then(pl.lit(0, pl.Int8)).otherwise("label")
        counted = self.rows.with_columns(score=scores, label=label)
        return SpentBudget(counted, self.crashes, self.limits.false_alarms_per_server_day, self.window, self.draws)

    def judge(self, scores: Floats, threshold: float) -> alarms.Judgement:
        """Judge the alarms that scores of shape (n,) raise at a threshold."""
        return alarms.judge(self.rows.with_columns(score=scores), self.crashes, threshold, self.window, self.period)


def score_validation(
    features: Path,
    labels: Path,
    rule: Rule,
    columns: list[str],
    scorers: Sequence[Scorer],
    crashes: pl.DataFrame,
    limits: Alarms,
    window: alarms.AlarmWindow,
    resampling: Evaluate,
    servers: Sequence[str] | None = None,
) -> Validation:
    """Score the validation part in this process.

    Parameters
    ----------
    features, labels, rule, columns
        See `read_part`.
    scorers : sequence of function
        Each turns features, float32 of shape (m, k), into scores of shape (m,).
    crashes : DataFrame
        All covered crashes.
    limits, window, resampling
        See `Validation`.
    servers : sequence of str, optional
        Score the rows of these alone.
    """
    pieces = (
        rows
        for partition in partitions_of(labels, period(rule, "validation"))
        for rows in scored_pieces(
            partition, partition.path(features), partition.path(labels), rule, columns, scorers, servers
        )
    )
    return _gathered(pieces, len(scorers), rule, crashes, limits, window, resampling, servers)


def score_by_tasks(
    features: Path,
    labels: Path,
    rule: Rule,
    models: Sequence[Path],
    crashes: pl.DataFrame,
    limits: Alarms,
    window: alarms.AlarmWindow,
    resampling: Evaluate,
    servers: Sequence[str] | None = None,
) -> Validation:
    """Score the validation part by models of the same features, by tasks of partitions.

    Parameters
    ----------
    features, labels, rule, crashes, limits, window, resampling, servers
        See `score_validation`.
    models : sequence of Path
        Their folders. A score is the log-odds.
    """
    folders = {_score(number): Folder(folder) for number, folder in enumerate(models)}
    listed = None if servers is None else list(servers)
    tasks = part_tasks(features, labels, rule, "validation", servers=listed, **folders)
    scored = map(tables.read, runner.files("scores", score_partition, tasks, SMALL_TO_SCORE_BYTES))
    return _gathered(scored, len(models), rule, crashes, limits, window, resampling, servers)


def score_partition(
    partition: Partition, features: Path, labels: Path, rule: Rule, servers: list[str] | None, **models: Path
) -> tuple[pl.DataFrame, dict[str, int]]:
    """Score the validation rows of one partition's files with models, whose folders are named as the scores are."""
    competing = [loaded(folder) for _, folder in sorted(models.items())]
    scorers = [model.log_odds for model in competing]
    pieces = [*scored_pieces(partition, features, labels, rule, competing[0].features, scorers, servers)]
    found = pl.concat(pieces) if pieces else pl.DataFrame()
    return found, {"rows": found.height}


def scored_pieces(
    partition: Partition,
    features: Path,
    labels: Path,
    rule: Rule,
    columns: list[str],
    scorers: Sequence[Scorer],
    servers: Sequence[str] | None,
) -> Iterator[pl.DataFrame]:
    """Yield the validation rows of one partition's files (see `Validation`), with the scores of each scorer."""
    keys = [*tables.KEYS]
    mitigated = mitigated_in(labels, rule, "validation").select(*keys, mitigated=True)
    for rows in read_pieces(partition, features, labels, rule, "validation", columns, servers=servers):
        own = rows.select(*KEYS_AND_LABEL, tables.OBSERVED)
        own = own.join(mitigated, on=keys, how="left", maintain_order="left")
        values = matrix(rows, columns)
        scores = {_score(number): score(values).astype(np.float64) for number, score in enumerate(scorers)}
        yield own.with_columns(pl.col("mitigated").fill_null(False), **scores)


def _score(number: int) -> str:
    return f"score_{number:06}"


def _gathered(
    pieces: Iterable[pl.DataFrame],
    number: int,
    rule: Rule,
    crashes: pl.DataFrame,
    limits: Alarms,
    window: alarms.AlarmWindow,
    resampling: Evaluate,
    servers: Sequence[str] | None,
) -> Validation:
    """Return the rows of all pieces as the validation part, scored by so many models."""
    files: list[BinaryIO] = [TemporaryFile() for _ in range(number)]  # noqa: SIM115 - returned
    columns_of_rows = {**KEYS_AND_LABEL, tables.OBSERVED: pl.Boolean, "mitigated": pl.Boolean}
    rows = [pl.DataFrame(schema=columns_of_rows | {"server_id": pl.Categorical})]  # servers may have no row in a fold
    for piece in pieces:
        rows.append(piece.select(*columns_of_rows).cast({"server_id": pl.Categorical}))
        for one, file in enumerate(files):
            file.write(piece[_score(one)].to_numpy().tobytes())
    crashes = crashes_of_part(crashes, rule, "validation", servers)
    span = period(rule, "validation")
    return Validation(pl.concat(rows, rechunk=True), files, crashes, span, limits, window, resampling)
