"""The validation part: how models score it, and which alarms they raise on it within the alarm budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast.modeling import alarms
from crashcast.modeling.algorithms.base import Floats, Matrix
from crashcast.modeling.model import matrix
from crashcast.modeling.split_rule import crashes_of_part, mitigated_rows, period, read_part

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
    budget : float
        False alarms per server and day.
    window : AlarmWindow
        When an alarm counts as true.
    """

    rows: pl.DataFrame
    files: list[BinaryIO]
    crashes: pl.DataFrame
    period: tuple[datetime, datetime]
    budget: float
    window: alarms.AlarmWindow

    @cached_property
    def known(self) -> NDArray[np.bool_]:
        """Of which rows the label is known, shape (n,)."""
        return self.rows["label"].is_not_null().to_numpy()

    @cached_property
    def labels(self) -> NDArray[np.int8]:
        """The known labels, shape (known.sum(),)."""
        return self.rows["label"].drop_nulls().to_numpy()

    def scores(self, number: int) -> Floats:
        """Read the scores of one model, shape (n,)."""
        self.files[number].seek(0)
        return np.frombuffer(self.files[number].read(), dtype=np.float64)

    def at_budget(self, scores: Floats) -> tuple[float, alarms.Judgement]:
        """Return the threshold that keeps to the budget, and the alarms that scores of shape (n,) raise at it.

        An alarm on a mitigated row counts against the budget as a false one. If such alarms were left out, then the
        more of them people acted on, the lower the threshold would be, and the more alarms there would be next month.
        """
        scored = self.rows.with_columns(score=scores)
        counted = scored.with_columns(label=pl.when("mitigated").then(pl.lit(0, pl.Int8)).otherwise("label"))
        threshold = alarms.choose_threshold(counted, self.crashes, self.budget, self.window).threshold
        return threshold, self.judge(scores, threshold)

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
    budget: float,
    window: alarms.AlarmWindow,
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
    budget, window
        See `Validation`.
    """
    files: list[tuple[Scorer, BinaryIO]] = [(score, TemporaryFile()) for score in scorers]  # noqa: SIM115 - returned
    keys: list[pl.DataFrame] = []
    mitigated = mitigated_rows(labels, rule, "validation").select("timestamp", "server_id", mitigated=True)
    for _, rows in read_part(features, labels, rule, "validation", columns):
        own = rows.select("timestamp", "server_id", "label", "observed")
        own = own.join(mitigated, on=["timestamp", "server_id"], how="left", maintain_order="left")
        keys.append(own.with_columns(pl.col("server_id").cast(pl.Categorical), pl.col("mitigated").fill_null(False)))
        values = matrix(rows, columns)
        for score, file in files:
            file.write(score(values).astype(np.float64).tobytes())
    crashes = crashes_of_part(crashes, rule, "validation")
    rows = pl.concat(keys, rechunk=True)
    return Validation(rows, [file for _, file in files], crashes, period(rule, "validation"), budget, window)
