"""The validation part: how models score it, and which alarms they raise on it within the alarm budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.modeling import alarms
from crashcast.modeling.alarm_budget import SpentBudget
from crashcast.modeling.algorithms.base import Floats, Matrix
from crashcast.modeling.bootstrap import Ints, TwoWayDraws
from crashcast.modeling.model import matrix
from crashcast.modeling.split_rule import KEYS_AND_LABEL, crashes_of_part, mitigated_rows, period, read_part
from crashcast.params.alarms import Alarms
from crashcast.params.evaluate import Evaluate

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
    rule: dict[str, Any],
    columns: list[str],
    scorers: Iterable[Scorer],
    crashes: pl.DataFrame,
    limits: Alarms,
    window: alarms.AlarmWindow,
    resampling: Evaluate,
    servers: Sequence[str] | None = None,
) -> Validation:
    """Score the validation part with every model, a piece at a time.

    Parameters
    ----------
    features, labels, rule, columns
        See `read_part`.
    scorers : iterable of function
        Each turns features, float32 of shape (m, k), into scores of shape (m,).
    crashes : DataFrame
        All covered crashes.
    limits, window, resampling
        See `Validation`.
    servers : sequence of str, optional
        Score the rows of these alone.
    """
    files: list[tuple[Scorer, BinaryIO]] = [(score, TemporaryFile()) for score in scorers]  # noqa: SIM115 - returned
    columns_of_rows = {**KEYS_AND_LABEL, tables.OBSERVED: pl.Boolean, "mitigated": pl.Boolean}
    keys = [pl.DataFrame(schema=columns_of_rows | {"server_id": pl.Categorical})]  # servers may have no row in a fold
    mitigated = mitigated_rows(labels, rule, "validation").select("timestamp", "server_id", mitigated=True)
    for _, rows in read_part(features, labels, rule, "validation", columns, servers=servers):
        own = rows.select("timestamp", "server_id", "label", "observed")
        own = own.join(mitigated, on=["timestamp", "server_id"], how="left", maintain_order="left")
        keys.append(own.with_columns(pl.col("server_id").cast(pl.Categorical), pl.col("mitigated").fill_null(False)))
        values = matrix(rows, columns)
        for score, file in files:
            file.write(score(values).astype(np.float64).tobytes())
    crashes = crashes_of_part(crashes, rule, "validation", servers)
    rows = pl.concat(keys, rechunk=True)
    span = period(rule, "validation")
    return Validation(rows, [file for _, file in files], crashes, span, limits, window, resampling)
