"""Recipes of small fleets, judged on one test part and on several windows.

A fleet's rows and features are simulated directly, so that a hundred fleets take minutes. Before a crash three features
rise, by an amount of its own, or not at all; servers differ, and so do days, for the whole fleet. Both recipes of a
pair are the same algorithm. Each learns from 60 servers of its own, and they are judged on 30 of either's: models of
one recipe in neighbouring windows share training rows, as in a review, and the two recipes share none, which is harder
than in a review. Of equal pairs any ACCEPT is false. In pairs with a true gain the champion sees its features through
noise.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from fleets import Fleet, Rows  # type: ignore[import-not-found]
from pairs import ALIKE, PARAMS, Contender, train_on  # type: ignore[import-not-found]

from crashcast.crash_groups import incident_groups
from crashcast.modeling import alarms
from crashcast.modeling.bootstrap import TwoWayDraws
from crashcast.modeling.split_rule import PARTS, assign, period
from crashcast.params.acceptance import Acceptance, look_error
from crashcast.params.alarms import Alarms
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.review import comparison, windows
from crashcast.review.comparison import Difference, compare
from crashcast.review.policy import Facts, decide
from crashcast.review.rescoring import ScoredRows

START, HOUR = datetime(2025, 1, 6), timedelta(hours=1)
SERVERS, DAYS, DAYS_PER_CRASH, WINDOWS = 60, 120, 45, 3  # 60 servers crash 1.3 times a day
GAIN_FLEETS = 12  # the first ones have a pair with a true gain, too
SHARES = (0.7, 0.85)
FEATURES, SIGNALS = 8, 3
LEAD, REACH, UNKNOWN_AFTER = 1, 7, 4  # hours, as params.yaml has them: lead, lead + horizon, outage and recovery
NEGATIVES_PER_POSITIVE = 10
NOISE = 1.0  # in standard deviations
REPLICATES = 100  # they say what gain could be shown, and change no verdict
TRUTH_SEED, TRUTH_SERVERS = 999_999, 60


def one_small(number: int, truth: dict[str, np.ndarray]) -> dict[str, Any]:
    """Review a fleet's pairs of recipes, equal ones and one with a true gain, on its test part and on windows."""
    rows, crashes, rule = simulated(number, 2 * SERVERS)
    rng = np.random.default_rng([number, 3])
    halves = np.array_split(rng.permutation(rows.keys["server_id"].unique().sort().to_numpy()), 2)
    tested = [*halves[0][: SERVERS // 2], *halves[1][: SERVERS // 2]]
    rules = windows.rules(rule, WINDOWS)
    fleets = [fleet_of(rows, crashes, one, tested) for one in rules]
    found = []
    for kind, noise in (("equal", 0.0), ("gain", NOISE))[: 2 if number < GAIN_FLEETS else 1]:
        pairs = [
            (train_on(one, truth, halves[0], noise, rng), train_on(one, truth, halves[1], 0.0, rng)) for one in fleets
        ]
        scored = [scored_by(one, of, pair) for one, of, pair in zip(fleets, rules, pairs, strict=True)]
        gains = [challenger.true_pr_auc - champion.true_pr_auc for champion, challenger in pairs]
        found.append({"kind": kind, "true_gain": float(np.mean(gains)), **judged(scored, tested)})
    return {"pairs": found}


def read_truth() -> dict[str, np.ndarray]:
    """Simulate a fleet ten times as large, on which models are measured."""
    rows, _, rule = simulated(TRUTH_SEED, TRUTH_SERVERS)
    inside = (assign(rows.keys, rule) == "test").fill_null(False).to_numpy()
    labels = rows.keys["label"].to_numpy()[inside]
    return {"values": rows.values[inside], "labels": labels, "weights": np.ones(len(labels))}


def simulated(number: int, servers: int) -> tuple[Rows, pl.DataFrame, dict[str, Any]]:
    """Return the rows of known label with their features, the crashes, and the split of a fleet."""
    rng = np.random.default_rng([number, 4])
    hours = 24 * DAYS
    frailty = rng.gamma(2, 1, servers)
    times = rng.poisson(DAYS / DAYS_PER_CRASH * servers)
    crashed, at = rng.choice(servers, times, p=frailty / frailty.sum()), rng.integers(REACH, hours - REACH, times)
    values = rng.normal(size=(hours, servers, FEATURES)).astype(np.float32)
    values += 0.7 * rng.normal(size=(servers, FEATURES)).astype(np.float32)
    values += 0.7 * rng.normal(size=(DAYS, 1, FEATURES)).repeat(24, axis=0).astype(np.float32)
    label, is_known = np.zeros((hours, servers), dtype=np.int8), np.ones((hours, servers), dtype=bool)
    for server, hour in zip(crashed, at, strict=True):
        label[hour - REACH : hour - LEAD, server] = 1
        strength = rng.exponential(2.5, SIGNALS) * (rng.random() < 0.7)
        values[hour - REACH : hour, server, :SIGNALS] += strength.astype(np.float32)
    for server, hour in zip(crashed, at, strict=True):
        is_known[hour - LEAD : hour + UNKNOWN_AFTER, server] = False
    names = np.array([f"s{server:03d}" for server in range(servers)])
    moments = pl.datetime_range(START, START + (hours - 1) * HOUR, HOUR, time_zone="UTC", eager=True)
    keys = pl.DataFrame(
        {
            "timestamp": moments.gather(np.repeat(np.arange(hours), servers)),
            "server_id": np.tile(names, hours),
            "label": label.ravel(),
            "observed": True,
        }
    )
    kept = is_known.ravel()
    crashes = pl.DataFrame({"server_id": names[crashed], "started_at": moments.gather(at)}).sort("started_at")
    borders = [0, *(round(share * hours) for share in SHARES), hours]
    label_rules = Label.read(PARAMS)
    embargo = label_rules.reach + label_rules.recovery
    spans = [
        (START + first * HOUR, START + last * HOUR - (embargo if part != "test" else timedelta(0)))
        for part, first, last in zip(PARTS, borders[:-1], borders[1:], strict=True)
    ]
    rule = {
        "method": "time",
        "periods": {
            part: {"from": first.isoformat(), "to": last.isoformat()}
            for part, (first, last) in zip(PARTS, spans, strict=True)
        },
    }
    return Rows(keys.filter(kept), values.reshape(-1, FEATURES)[kept]), crashes, rule


def fleet_of(rows: Rows, crashes: pl.DataFrame, rule: dict[str, Any], tested: list[str]) -> Fleet:
    """Return what a pair learns from before a window, and is judged on there, on some servers."""
    part = assign(rows.keys, rule).cast(pl.String).fill_null("").to_numpy()
    positive = rows.keys["label"].to_numpy() == 1
    train = part == "train"
    share = min(1.0, NEGATIVES_PER_POSITIVE * (train & positive).sum() / (train & ~positive).sum())
    drawn = np.random.default_rng([rows.keys.height, int(train.sum())]).random(len(part)) < share

    def some(chosen: np.ndarray) -> Rows:
        return Rows(rows.keys.filter(chosen), rows.values[chosen])

    return Fleet(
        [f"x{number}" for number in range(FEATURES)],
        some(train & (positive | drawn)),
        float(share),
        some(part == "validation"),
        some((part == "test") & rows.keys["server_id"].is_in(tested).to_numpy()),
        crashes,
        {name: period(rule, name) for name in PARTS},
        {},
    )


def scored_by(fleet: Fleet, rule: dict[str, Any], pair: tuple[Contender, Contender]) -> ScoredRows:
    """Return a window's rows as the review has them."""
    champion, challenger = pair
    rows = fleet.test.keys.with_columns(
        pl.col("server_id").cast(pl.Categorical), champion=champion.test, challenger=challenger.test
    )
    window = alarms.AlarmWindow.of(Label.read(PARAMS), Telemetry.read(PARAMS).interval)
    thresholds = {"champion": champion.model.threshold, "challenger": challenger.model.threshold}
    return ScoredRows(rows, fleet.crashes, fleet.periods["test"], window, thresholds, {}, rule=rule)


def judged(scored: list[ScoredRows], tested: list[str]) -> dict[str, Any]:
    """Review a pair of recipes on all windows; the whole policy is applied only if the gain in PR-AUC passes."""
    inside = pl.col("server_id").is_in(tested)
    scored = [replace(one, crashes=one.crashes.filter(inside)) for one in scored]
    acceptance = Acceptance.read(PARAMS).model_copy(update={"replicates": REPLICATES})
    budget = Alarms.read(PARAMS).false_alarms_per_server_day
    together = ScoredRows.pooled(scored, {})
    gain = gain_of(together, acceptance)
    assert gain.gain is not None
    passes = {
        "accepted_by_test_rows_alone": gain.gain - gain.reach(look_error(1)) / together.variance_factor**0.5,
        "accepted": gain.gain - gain.reach(look_error(1)),
    }
    found: dict[str, Any] = {name: bound > acceptance.min_gain for name, bound in passes.items()}
    if found["accepted"]:
        models = compare(scored[-1], acceptance, budget)
        facts = Facts(1, "windows", n_windows=len(scored), models=models, latency=ALIKE, size=ALIKE)
        decision = decide({"base": compare(together, acceptance, budget)}, acceptance, facts)
        found["accepted"] = decision.verdict == "ACCEPT"
    return {
        **found,
        "groups_of_test_part": groups_of(scored[-1], acceptance),
        "groups": groups_of(together, acceptance),
        "pr_auc": [gain.champion, gain.challenger],
        "gain": [gain.gain, gain.standard_error, gain.degrees_of_freedom],
    }


def gain_of(scored: ScoredRows, acceptance: Acceptance) -> Difference:
    """Return the difference in PR-AUC, as the review measures it."""
    rows, labels = scored.rows, scored.rows["label"].to_numpy()
    draws = TwoWayDraws.draw(
        rows["server_id"].unique().cast(pl.String), scored.period, acceptance.block, REPLICATES, acceptance.seed
    )
    cells = draws.cells(rows["server_id"], rows["timestamp"])
    paired = comparison._Paired(draws, labels, cells, scored.variance_factor)
    both = (paired.rank(rows[name].to_numpy(), {}).whole for name in ("champion", "challenger"))
    return paired.difference(comparison.PR_AUC, *both)


def groups_of(scored: ScoredRows, acceptance: Acceptance) -> int:
    """Count the groups of crashes that the review counts."""
    crashes = alarms.crashes_of(scored.crashes, scored.period, scored.window.lead)
    return incident_groups(crashes["started_at"], acceptance.block)
