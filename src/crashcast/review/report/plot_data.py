"""What the review's page draws of two models on the same rows; plain lists, so that JSON can hold them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import polars as pl

from crashcast import tables
from crashcast.modeling import alarms, row_metrics
from crashcast.modeling.alarms import HOUR
from crashcast.modeling.split_rule import HAS_LABEL
from crashcast.review.rescoring import CHALLENGER, CHAMPION, ScoredRows

MODELS = (CHAMPION, CHALLENGER)
POINTS = 200  # of a curve
TIMELINES = 20
AROUND = timedelta(hours=48)
DIGITS = 6


def draw(scored: ScoredRows) -> dict[str, Any]:
    """Return curves, crashes and timelines of both models.

    Parameters
    ----------
    scored : ScoredRows
        Rows of both kinds.

    Returns
    -------
    dict
        `precision_recall` and `calibration` of each model, `base_rate`, `thresholds`, `warning_h` (from how many hours
        before a crash, and until how many, an alarm counts), and `crashes`: by whom each was caught and how early, and
        for at most 20 that one model caught and the other missed, the scores around it. Each has the `thresholds` of
        the models that could warn of it: every window has models of its own.
    """
    known = scored.rows.filter(HAS_LABEL)
    target = known["label"].to_numpy()
    scores = {name: known[name].to_numpy() for name in MODELS}
    curves = {name: row_metrics.pr_curve(target, score, POINTS) for name, score in scores.items()}
    bins = {name: row_metrics.reliability(target, score) for name, score in scores.items()}
    return {
        "precision_recall": {name: _lists(curve, "recall", "precision") for name, curve in curves.items()},
        "calibration": {name: _lists(found, "mean_score", "crash_rate", "rows") for name, found in bins.items()},
        "base_rate": float(target.mean()),
        "thresholds": {name: scored.thresholds[name] for name in MODELS},
        "warning_h": [scored.window.duration / HOUR, scored.window.lead / HOUR],
        "crashes": crashes(scored),
    }


def crashes(scored: ScoredRows) -> list[dict[str, Any]]:
    """Return the period's crashes in order of time: who caught each, and how early.

    Timelines go first to the crashes that were caught earliest by the one model and missed by the other.
    """
    rows = [row for one in scored.by_model for row in _judged(one)]
    alone = [row for row in rows if row["caught_by"] in MODELS]
    alone.sort(key=lambda row: -row["lead_h"][row["caught_by"]])
    shown = {(row["server_id"], row["started_at"]) for row in alone[:TIMELINES]}
    return [
        {**row, "started_at": row["started_at"].replace(tzinfo=None).isoformat()}
        | ({"timeline": _timeline(scored, row)} if (row["server_id"], row["started_at"]) in shown else {})
        for row in rows
    ]


def _judged(scored: ScoredRows) -> list[dict[str, Any]]:
    """Return the crashes that one set of models could warn of, in order of time."""
    keys = ["server_id", "started_at"]
    found = alarms.crashes_of(scored.crashes, scored.period, scored.window.lead).sort("started_at", "server_id")
    for name in MODELS:
        judged = alarms.judge(
            scored.rows.select("timestamp", "server_id", "label", "observed", score=name), scored.crashes,
            scored.thresholds[name], scored.window, scored.period,
        ).crashes  # fmt: skip
        lead_h = (pl.col("lead_time") / HOUR).round(2).alias(name)
        found = found.join(judged.select(*keys, lead_h), on=keys, how="left", maintain_order="left")
    caught = {name: pl.col(name).is_not_null() for name in MODELS}
    by = (
        pl.when(caught[CHAMPION] & caught[CHALLENGER]).then(pl.lit("both"))
        .when(caught[CHAMPION]).then(pl.lit(CHAMPION))
        .when(caught[CHALLENGER]).then(pl.lit(CHALLENGER))
        .otherwise(pl.lit("neither"))
    )  # fmt: skip
    return [
        {
            "server_id": row["server_id"],
            "started_at": row["started_at"],
            "caught_by": row["caught_by"],
            "lead_h": {name: row[name] for name in MODELS},
            "thresholds": {name: scored.thresholds[name] for name in MODELS},
        }
        for row in found.with_columns(caught_by=by).to_dicts()
    ]


def _timeline(scored: ScoredRows, crash: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return both models' scores of a crash's server, `hours` after its start (negative: before)."""
    moment = crash["started_at"].replace(tzinfo=None)
    around = pl.col("timestamp").is_between(*tables.utc(moment - AROUND, moment + AROUND))
    rows = scored.rows.filter(around).filter(pl.col("server_id").cast(pl.String) == crash["server_id"])
    hours = rows.select(hours=(pl.col("timestamp") - tables.utc(moment, moment)[0]) / HOUR)
    return _lists(rows.hstack(hours), "hours", *MODELS)


def _lists(frame: pl.DataFrame, *names: str) -> dict[str, list[float]]:
    return {name: frame[name].cast(pl.Float64).round_sig_figs(DIGITS).to_list() for name in names}
