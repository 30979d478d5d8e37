"""How fast a model ages, and how often it pays to train it again.

Models whose training data ended 0, 1, 2 and 3 months earlier are fitted to as many months each, and measured on the
same rows, those of validation. The slope of event recall over age, with the interval of the paired replicates, is the
decay. What a retraining brings beyond that, because there are more data, `crashcast learning-curve` estimates.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from crashcast import tables
from crashcast.annotation.refitting import FIGURES, chosen_candidate, measure, training_sample
from crashcast.canonical import write_json
from crashcast.dates import MONTH
from crashcast.errors import UserError
from crashcast.modeling.bootstrap import Floats, percentile_interval
from crashcast.modeling.model import fit
from crashcast.modeling.sampling import feature_names
from crashcast.modeling.split_rule import period, read_rule
from crashcast.params.train import Train
from crashcast.paths import FEATURES_PATH, SPLIT_PATH
from crashcast.planning.cost_model import CONFIDENCE, Estimate, exactly

PATH = Path("reports/plan/decay.json")
AGES = (0, 1, 2, 3)  # months
OPTIONS = (0, 1, 2, 3, 4, 6, 9, 12, 17, 26, 52)  # retrainings a year
LEAST_MONTHS = 1.0  # of training data for each model


@dataclass(frozen=True)
class Decay:
    """What models of several ages reach on the same rows.

    Attributes
    ----------
    months : float
        Of training data, for each model.
    until : str
        When the newest training data ended.
    ages : list of dict
        `age` in months, and each of `pr_auc` and `event_recall` with `_low` and `_high`.
    loss : Estimate
        Of event recall a month; above 0 if older models are worse.
    """

    months: float
    until: str
    ages: list[dict[str, float]]
    loss: Estimate


def measure_decay() -> Decay:
    """Fit the models and measure them; takes as long as some fits, and a pass over the validation part for each.

    Raises
    ------
    UserError
        If the training part is too short.
    """
    rule, columns, train = read_rule(SPLIT_PATH), feature_names(FEATURES_PATH), Train.read()
    start, end = period(rule, "train")
    months = (end - start) / MONTH - AGES[-1]
    if rule["method"] != "time" or months < LEAST_MONTHS:
        raise UserError(
            f"the decay needs `split.method: time` and {AGES[-1] + LEAST_MONTHS:g} months of training data or more"
        )
    candidate, sample = chosen_candidate(train), training_sample(train)
    models = []
    for age in AGES:
        first, last = tables.utc(end - (age + months) * MONTH, end - age * MONTH)
        inside = sample.keys.select(pl.col("timestamp").is_between(first, last)).to_series().to_numpy()
        models.append(fit(candidate, columns, sample.values[inside], sample.crash[inside], sample.share))
    measured = [*measure(rule, columns, [model.log_odds for model in models])]
    ages = []
    for age, found in zip(AGES, measured, strict=True):
        row: dict[str, float] = {"age": age}
        for figure in FIGURES:
            value, replicates = found[figure]
            low, high, _ = percentile_interval(replicates, CONFIDENCE)
            row |= {figure: value, f"{figure}_low": low, f"{figure}_high": high}
        ages.append(row)
    recalls = np.array([np.append(*found["event_recall"]) for found in measured])  # the value, then its replicates
    losses = -_slope(np.array(AGES, dtype=np.float64), recalls)
    low, high, _ = percentile_interval(losses[1:], CONFIDENCE)
    return Decay(months, end.isoformat(), ages, Estimate(float(losses[0]), low, high))


def _slope(x: Floats, y: Floats) -> Floats:
    """Return the least-squares slope of each column of y, shape (n, r)."""
    centred = x - x.mean()
    slope: Floats = centred @ y / np.sum(centred**2)
    return slope


def write(found: Decay) -> None:
    """Keep what was measured, for later plans."""
    PATH.parent.mkdir(parents=True, exist_ok=True)
    loss = found.loss._asdict()
    write_json(PATH, {"months": found.months, "until": found.until, "ages": found.ages, "loss": loss})


def read(project: Path = Path()) -> Decay | None:
    """Return what was measured last; None if nothing was."""
    try:
        content: dict[str, Any] = json.loads((project / PATH).read_text(encoding="utf-8"))
        return Decay(content["months"], content["until"], content["ages"], Estimate(**content["loss"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{project / PATH} is unreadable ({error}): `crashcast plan --measure-decay` writes it"
        ) from None


class Cadence(NamedTuple):
    """What a number of retrainings a year costs.

    Attributes
    ----------
    times : int
        Retrainings in the year, evenly spaced.
    missed : Estimate
        Crashes missed in the year because the model has aged.
    hours, money : float
        Of the retrainings; money None if a price is missing.
    """

    times: int
    missed: Estimate
    hours: float
    money: float | None

    def total(self, missed_crash: float) -> Estimate:
        """Return the cost of the year, with a price for a missed crash in the unit of `money`."""
        assert self.money is not None
        return self.missed * missed_crash + exactly(self.money)


def mean_age(times: int) -> float:
    """Return the mean age in months of a model that is trained again so many times a year, evenly spaced."""
    return 12 / (times + 1) / 2


def cadences(loss: Estimate, crashes_a_year: float, hours: float, money: float | None, now: int) -> list[Cadence]:
    """Return what several numbers of retrainings a year cost.

    Parameters
    ----------
    loss : Estimate
        Of event recall for each month of age; a gain with age counts as no loss.
    crashes_a_year : float
    hours, money : float
        Of one retraining.
    now : int
        The number that is planned.
    """
    low, value, high = (max(0.0, getattr(loss, end)) for end in ("low", "value", "high"))
    found = []
    for times in sorted({*OPTIONS, now}):
        missed = Estimate(value, low, high) * (mean_age(times) * crashes_a_year)
        found.append(Cadence(times, missed, times * hours, None if money is None else times * money))
    return found


def best(found: list[Cadence], missed_crash: float, end: str = "value") -> int:
    """Return the number of retrainings a year that costs least, by the value or a limit of the decay."""
    return min(found, key=lambda one: getattr(one.total(missed_crash), end)).times
