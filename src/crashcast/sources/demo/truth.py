"""The truth about the simulated fleet: which crashes happened, and how well an oracle could predict them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl

from crashcast import tables
from crashcast.sources.demo.mechanisms import (
    JITTER_MINUTES,
    PRECURSORS,
    RACK_HIT_SHARE,
    RACK_OUTAGES_PER_DAY,
    TROUBLES,
    Fleet,
    Floats,
    minutes_of,
    repeat_factor,
    timestamps_of,
)
from crashcast.tables import TIMESTAMP


def truth(fleet: Fleet, events: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Return the crashes that happened, and what an oracle needs to predict them: episodes and servers.

    Returns
    -------
    crashes : DataFrame
        `server_id`, `kind`, `crashed_at`, `resolved_at`, `has_precursor`.
    episodes : DataFrame
        `server_id`, `kind`, `onset_at`, `planned_at`, `ended_at`, `crash_probability`, `crashed`: all that began, with
        or without a crash.
    servers : DataFrame
        `server_id`, `role`, `site`, `rack`, `frailty`.
    """
    end = minutes_of(fleet.end)
    named = events.with_columns(fleet.servers["server_id"].gather(events["server"])).sort("ended", "server")
    crashes = named.filter(pl.col("crashed") & (pl.col("ended") < end)).select(
        "server_id",
        "kind",
        crashed_at=timestamps_of(pl.col("ended")),
        resolved_at=timestamps_of(pl.col("up_again")),
        has_precursor=pl.col("kind").is_in(PRECURSORS),
    )
    episodes = (
        named.filter(pl.col("kind").is_in(PRECURSORS) & (pl.col("onset") < end))
        .sort("onset", "server")
        .select(
            "server_id",
            "kind",
            onset_at=timestamps_of(pl.col("onset")),
            planned_at=timestamps_of(pl.col("planned")),
            ended_at=timestamps_of(pl.col("ended")),
            crash_probability=pl.col("kind").replace_strict(
                {kind: TROUBLES[kind].crash_probability for kind in PRECURSORS}, return_dtype=pl.Float64
            ),
            crashed="crashed",
        )
    )
    return crashes, episodes, fleet.servers.select("server_id", "role", "site", "rack", "frailty")


def oracle_scores(keys: pl.DataFrame, lead: timedelta, horizon: timedelta, folder: Path) -> pl.DataFrame:
    """Score rows by the probability of a crash in (t + lead, t + lead + horizon], given the hidden state at t.

    The oracle knows the active episode, its planned end and its kind's crash probability, the server's frailty and its
    last crash. It also knows that no crash comes within the lead, because those labels are unknown. It does not know
    the jitter, whether the episode will end without a crash, and episodes that have not begun.

    Parameters
    ----------
    keys : DataFrame
        `timestamp` and `server_id`, in any order.
    lead, horizon : timedelta
        Of the label.
    folder : Path
        data/demo, to which `crashcast demo` wrote the truth.

    Returns
    -------
    DataFrame
        `timestamp`, `server_id`, `score`, in the order of `keys`.
    """
    episodes = tables.read(folder / "episodes.parquet").rename({"onset_at": "timestamp"}).sort("timestamp")
    crashes = tables.read(folder / "truth.parquet", ["server_id", "resolved_at"]).sort("resolved_at")
    state = (
        keys.select(pl.col("timestamp").cast(TIMESTAMP), "server_id")
        .with_row_index("row")
        .sort("timestamp")
        .join_asof(episodes, on="timestamp", by="server_id", strategy="backward", check_sortedness=False)
        .join_asof(
            crashes, left_on="timestamp", right_on="resolved_at", by="server_id", strategy="backward",
            check_sortedness=False,
        )
        .join(tables.read(folder / "servers.parquet", ["server_id", "frailty"]), on="server_id", how="left")
        .sort("row")
    )  # fmt: skip

    def hours(column: str) -> Floats:
        return state.select((pl.col("timestamp") - pl.col(column)).dt.total_seconds() / 3600).to_series().to_numpy()

    first, last = lead / timedelta(hours=1), (lead + horizon) / timedelta(hours=1)
    since_planned, jitter_h = hours("planned_at"), JITTER_MINUTES / 60

    def ended_by(later_h: float) -> Floats:
        """Probability that the episode has ended `later_h` from now: uniform around its planned end."""
        return np.clip((since_planned + later_h + jitter_h) / (2 * jitter_h), 0, 1)

    with np.errstate(invalid="ignore", divide="ignore"):  # NaN without an episode: not chosen below
        probability = state["crash_probability"].to_numpy()
        neither_yet_nor_within_lead = 1 - ended_by(0) - probability * (ended_by(first) - ended_by(0))
        coming = probability * (ended_by(last) - ended_by(first)) / neither_yet_nor_within_lead
    days = np.nan_to_num(hours("resolved_at") / 24, nan=np.inf)
    per_day = TROUBLES["hardware"].crashes_per_1000_server_days / 1000 * state["frailty"].to_numpy()
    per_day = per_day * repeat_factor(days) + RACK_OUTAGES_PER_DAY * RACK_HIT_SHARE
    background = -np.expm1(-per_day * (horizon / timedelta(days=1)))
    active = (state["timestamp"] < state["ended_at"]).fill_null(False).to_numpy()
    return state.select("timestamp", "server_id", score=pl.Series(np.where(active, coming, background)))
