"""The quality of each source: its coverage, how often it is alone or contradicted, how late its tickets are."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import polars as pl

from crashcast.labelling import labelling_functions
from crashcast.labelling.confirmed_incidents import THRESHOLD
from crashcast.labelling.label_model import ABSTAINS, CRASH, Estimate, Votes

HOUR = timedelta(hours=1)


def of_sources(
    sources: list[str], votes: Votes, confidence: np.ndarray, estimate: Estimate | None
) -> dict[str, dict[str, Any]]:
    """Describe the votes of each source.

    Parameters
    ----------
    sources : list of str
        The m sources.
    votes : int8 array of shape (n, m)
        See `label_model.matrix`.
    confidence : float array of shape (n,)
        Of each event.
    estimate : Estimate or None
        Of sensitivity and specificity, if there is one.

    Returns
    -------
    dict
        By source: `coverage` (share of events it votes on), `crashes` (its yes votes), `conflicts` (share of its votes
        that contradict the consensus), `alone` (confirmed crashes for which no other source votes), and the estimates.
    """
    confirmed = confidence >= THRESHOLD
    yes = (votes == CRASH).sum(axis=1)
    found = {}
    for position, source in enumerate(sources):
        own = votes[:, position]
        cast = own != ABSTAINS
        against = ((own == CRASH) != confirmed)[cast]
        found[source] = {
            "coverage": cast.mean() if cast.size else 0.0,
            "crashes": int((own == CRASH).sum()),
            "conflicts": against.mean() if against.size else 0.0,
            "alone": int(((own == CRASH) & (yes == 1) & confirmed).sum()),
        }
        if estimate is not None:
            found[source] |= {
                "sensitivity": estimate.sensitivity[position],
                "specificity": estimate.specificity[position],
            }
    return found


def lateness(tickets: pl.DataFrame, events: pl.DataFrame) -> dict[str, dict[str, float]]:
    """Measure how late each system's tickets of confirmed crashes are.

    Parameters
    ----------
    tickets : DataFrame
        Crash tickets with their `event`; `reported_at` filled.
    events : DataFrame
        With `confidence` and the confirmed `started_at`.

    Returns
    -------
    dict
        By source: `late` (share of its tickets that begin after telemetry shows the crash), `median_late_h` (by how
        much, of those) and `median_reported_after_h` (from the confirmed start to the report).
    """
    begun = events.filter(pl.col("confidence") >= THRESHOLD).select("event", confirmed_start="started_at")
    rows = (
        tickets.select("event", "started_at", "reported_at", source=labelling_functions.systems())
        .explode("source")
        .join(begun, on="event")
        .with_columns(
            late_h=(pl.col("started_at") - pl.col("confirmed_start")) / HOUR,
            after_h=(pl.col("reported_at") - pl.col("confirmed_start")) / HOUR,
        )
    )
    is_late = pl.col("late_h") > 0
    per_source = rows.group_by("source").agg(
        late=is_late.mean(),
        median_late_h=pl.col("late_h").filter(is_late).median().fill_null(0.0),
        median_reported_after_h=pl.col("after_h").median(),
    )
    return {row.pop("source"): row for row in per_source.sort("source").to_dicts()}
