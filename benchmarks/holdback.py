"""What a holdback costs and buys: intervals of `crashcast outcomes` on simulated fleets whose truth is known.

    python benchmarks/holdback.py

Nothing but alarms is simulated: servers and days differ in how often an alarm is right, on-call acts on 80 % of those
that are delivered, and an action prevents 70 % of the crashes. Two tables come out, which docs/outcomes.md has: how
often intervals hold the truth, and how wide they are after three months.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
from project import ROOT

from crashcast.canonical import write_json
from crashcast.operate.outcomes import MONTH, figures
from crashcast.params.evaluate import Evaluate
from crashcast.params.label import Label

OUT = ROOT / "benchmarks" / "results" / "holdback.json"
EVALUATE, REACH = Evaluate.read(ROOT / "params.yaml"), Label.read(ROOT / "params.yaml").reach
SERVERS, HOURS = 200, 24
START = datetime(2026, 1, 5, 12)
ACTED_SHARE, PREVENTED_SHARE = 0.8, 0.7
COVERAGE_FLEETS, WIDTH_FLEETS = 200, 60
HOLDBACK = 0.05
COVERED = [(90, 10, 0.4), (90, 10, 0.15), (90, 3, 0.4), (30, 6, 0.15), (30, 30, 0.4), (180, 10, 0.4)]  # see `simulated`
WIDTHS = [(3, 0.05), (3, 0.1), (10, 0.02), (10, 0.05), (10, 0.1), (30, 0.02)]  # alarms a day, holdback


def main() -> None:
    """Measure both, print them and write them."""
    found: dict[str, Any] = {"coverage": [], "widths": []}
    for days, per_day, precision in COVERED:
        held, known = coverage(range(COVERAGE_FLEETS), days, per_day, precision)
        about = {"days": days, "alarms_a_day": per_day, "precision": precision, "fleets": known}
        found["coverage"].append(about | dict(zip(("live_precision", "prevented"), held, strict=True)))
        print(found["coverage"][-1], flush=True)
    for per_day, holdback in WIDTHS:
        found["widths"].append({"alarms_a_day": per_day, "holdback": holdback} | widths(per_day, holdback))
        print(found["widths"][-1], flush=True)
    write_json(OUT, found)


def coverage(seeds: range, days: int, per_day: float, precision: float) -> tuple[list[float], int]:
    """Return the shares of fleets whose intervals hold the truth, and in how many there are intervals."""
    held = []
    for seed in seeds:
        frame, truth, prevented = simulated(seed, days, per_day, precision)
        found = figures(frame, [], EVALUATE)
        if found.live_precision is not None and found.prevented_per_month is not None:
            rate = a_month(frame, prevented)
            one, other = found.live_precision, found.prevented_per_month
            held.append((one.low <= truth <= one.high, other.low <= rate <= other.high))
    return np.mean(held, axis=0).tolist(), len(held)


def widths(per_day: float, holdback: float) -> dict[str, float]:
    """Return medians over fleets, three months long and of a precision of 40 %."""
    rows = []
    for seed in range(WIDTH_FLEETS):
        frame, _, prevented = simulated(seed, 90, per_day, 0.4, holdback)
        found = figures(frame, [], EVALUATE)
        if found.live_precision is not None and found.prevented_per_month and found.price_per_month:
            rows.append(
                {
                    "held_back": frame.height - frame["delivered"].sum(),
                    "costs_a_month": found.price_per_month.value,
                    "precision_low": found.live_precision.low,
                    "precision_high": found.live_precision.high,
                    "prevented_low": found.prevented_per_month.low,
                    "prevented_high": found.prevented_per_month.high,
                    "prevented_in_truth": a_month(frame, prevented),
                }
            )
    return {name: float(np.median([row[name] for row in rows])) for name in rows[0]}  # type: ignore[arg-type]


def a_month(frame: pl.DataFrame, crashes: int) -> float:
    """Return crashes a month, since the first alarm was held back."""
    begun = frame.filter(~pl.col("delivered"))["opened_at"].min()
    return float(crashes / ((frame["window_to"].max() - begun) / MONTH))  # type: ignore[operator]


def simulated(
    seed: int, days: int, per_day: float, precision: float, holdback: float = HOLDBACK
) -> tuple[pl.DataFrame, float, int]:
    """Return the alarms of a fleet.

    Returns
    -------
    DataFrame
        Alarms with what followed them.
    float
        The probability that a crash follows if nobody is warned, mean over the alarms.
    int
        Crashes that were prevented since the first alarm was held back.
    """
    rng, hours = np.random.default_rng(seed), HOURS * days
    weight = rng.gamma(1, size=SERVERS)
    chosen = rng.choice(SERVERS, rng.poisson(per_day * days), p=weight / weight.sum())
    server, at_hour = np.divmod(np.unique(chosen * hours + rng.integers(hours, size=len(chosen))), hours)
    logit = np.log(precision / (1 - precision)) + rng.normal(0, 0.7, SERVERS)[server]
    probability = 1 / (1 + np.exp(-logit - rng.normal(0, 0.5, days)[at_hour // HOURS]))
    delivered = rng.random(len(server)) >= holdback
    acted = delivered & (rng.random(len(server)) < ACTED_SHARE)
    would = rng.random(len(server)) < probability
    prevented = would & acted & (rng.random(len(server)) < PREVENTED_SHARE)
    hour = np.timedelta64(timedelta(hours=1))
    opened = pl.Series(np.datetime64(START, "us") + at_hour * hour).dt.replace_time_zone("UTC")
    frame = pl.DataFrame(
        {
            "server_id": pl.Series(server).cast(pl.String), "opened_at": opened, "delivered": delivered,
            "is_acted_on": acted, "is_known": True, "is_crash": would & ~prevented,
        }
    ).with_columns(window_to=pl.col("opened_at") + REACH)  # fmt: skip
    begun = at_hour[~delivered].min(initial=hours)
    return frame.sort("opened_at", "server_id"), float(probability.mean()), int(prevented[at_hour >= begun].sum())


if __name__ == "__main__":
    main()
