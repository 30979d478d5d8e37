"""Why a server's risk is high, in the terms of its metrics.

All features of one metric (its level, windows, differences and interactions) are replaced at the same time, by the
median of the fleet's rows that are scored. The metric whose replacement lowers the risk most is the first reason. This
asks the model itself, so it works with any algorithm.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl

from crashcast.modeling.model import Model
from crashcast.operate.score import Scores
from crashcast.params.features import Features

HISTORY, MISSING = "crash history", "missing rows"
SUFFIX = r"(_(mean|std|max|diff)_\d+[smhd]|_vs_fleet)?"  # as `featurize` names what it makes of a level


class Reason(NamedTuple):
    """What raises a server's risk.

    Attributes
    ----------
    source : str
        A metric, a category such as group, `HISTORY` or `MISSING`.
    feature : str
        The feature of it that is shown.
    value, fleet : float or None
        Its value, and the median of the fleet's newest rows; None if missing.
    risk, risk_without : float
        The risk as it is, and with the fleet's medians in place of all features of this source.
    """

    source: str
    feature: str
    value: float | None
    fleet: float | None
    risk: float
    risk_without: float

    def __str__(self) -> str:
        """Say it in a line."""
        value, fleet = ("missing" if number is None else f"{number:.4g}" for number in (self.value, self.fleet))
        return f"{self.feature} {value} (fleet {fleet}): risk {self.risk:.2g} -> {self.risk_without:.2g}"


def sources(names: Sequence[str], features: Features) -> dict[str, list[str]]:
    """Group the features of a model by the metric that they are made of, or the category.

    An interaction belongs to both of its metrics.

    Parameters
    ----------
    names : sequence of str
        The features.
    features : Features
        The parameters that they were computed by.
    """
    found: dict[str, list[str]] = {}
    flags = features.flags()
    for name in names:
        level = next((part for part in _levels(name) if part in features.interactions), None)
        if name in flags:
            owners: Sequence[str] = [flags[name][0]]
        elif level:
            owners = features.interactions[level]
        elif name.startswith("missing_share_"):
            owners = [MISSING]
        elif name == "hours_since_crash" or re.fullmatch(r"crashes_\d+[smhd]", name):
            owners = [HISTORY]
        else:
            owners = [min(_levels(name), key=len)]
        for owner in owners:
            found.setdefault(owner, []).append(name)
    return found


def _levels(name: str) -> list[str]:
    """Return what a feature may be named after: its own name, and that without the suffix of a window."""
    without = re.sub(rf"{SUFFIX}$", "", name)
    return [name, without] if without != name else [name]


def reasons(scores: Scores, server_id: str) -> list[Reason]:
    """Return what raises the risk of a server, the largest effect first; what lowers it is left out."""
    row = scores.rows.row(by_predicate=pl.col("server_id") == server_id, named=True)
    own = scores.features.filter(server_id=server_id)
    model: Model = scores.deployment.model
    medians = scores.medians
    groups = sources(model.features, scores.deployment.features)
    flags = scores.deployment.features.flags()
    variants = [own.with_columns(**{name: pl.lit(medians[name]) for name in some}) for some in groups.values()]
    without = model.predict(pl.concat([one.select("server_id", *model.features) for one in variants]))
    found = []
    for (source, some), risk in zip(groups.items(), without.tolist(), strict=True):
        # of a category the own value, if it is a feature
        shown = source if source in some else max(some, key=lambda name: name in flags and own[name][0])
        found.append(Reason(source, shown, own[shown][0], medians[shown][0], row["risk"], risk))
    return sorted((one for one in found if one.risk_without < one.risk), key=lambda one: one.risk_without)
