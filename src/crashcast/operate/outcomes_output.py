"""What came of the alarms, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from crashcast.operate.outcomes import DELIVERED, HELD_BACK, Counts, Estimate, Outcomes
from crashcast.operate.textfile import Sample
from crashcast.text import counted

ROWS = {
    (DELIVERED, True): "delivered, acted on",
    (DELIVERED, False): "delivered, not acted on",
    (HELD_BACK, False): "held back",
    (HELD_BACK, True): "held back, yet acted on",
}
NAMES = ("live_precision", "prevented_per_month", "price_per_month")
MEANINGS = {
    "live_precision": "Share of alarms that a crash would follow if nobody was warned",
    "prevented_per_month": "Crashes that acting on alarms prevented, a month",
    "price_per_month": "Crashes that held-back alarms let happen, a month",
}


def show(found: Outcomes, console: Console) -> None:
    """Print counts, and what acting was worth."""
    if found.since is None or found.until is None:
        console.print(
            "data/raw/alarms.parquet has no alarm of that time: `crashcast alarms` brings those that serve issued."
        )
        return
    console.print(
        f"Alarms that opened from {found.since:%Y-%m-%d %H:%M} to {found.until:%Y-%m-%d %H:%M} UTC, and what followed "
        "in the time that they covered:",
        highlight=False,
    )
    numbers = (Column(title, justify="right") for title in ("alarms", "crash", "no crash", "not known yet"))
    table = Table(Column("", no_wrap=True), *numbers, box=None, padding=(0, 2, 0, 0))
    for key, title in ROWS.items():
        if found.counts[key].alarms:
            table.add_row(title, *(f"{number:,}" for number in found.counts[key]))
    console.print(table)
    console.print()
    for sentence in _sentences(found):
        console.print(sentence, highlight=False)


def _sentences(found: Outcomes) -> Iterator[str]:
    held_back, delivered = (found.compared[group] for group in (HELD_BACK, DELIVERED))
    precision, prevented, price = found.live_precision, found.prevented_per_month, found.price_per_month
    if precision is None or prevented is None:
        yield "Of none of them the outcome is known yet: the labels (`dvc repro`) end too soon after it."
    elif price is None:
        hidden = found.counts[DELIVERED, True].no_crash
        yield f"Live precision: from {precision.low:.0%} to {precision.high:.0%}."
        yield f"Crashes prevented a month: from 0 to {prevented.high:.1f}."
        if hidden:
            yield (
                f"More is not known: {counted(hidden, 'alarm')} that somebody acted on had no crash, because it was "
                "prevented or because there would have been none. A holdback tells (docs/outcomes.md)."
            )
    else:
        level = f"{found.confidence:.0%} interval"
        share = _with_interval(precision, lambda value: f"{value:.0%}", level)
        yield f"Live precision: {share}, by {counted(held_back, 'alarm')} that were held back."
        number = _with_interval(prevented, lambda value: f"{value:.1f}", level)
        yield f"Crashes prevented a month: {number}, by {counted(delivered, 'delivered alarm')} of the same time."
        number = _with_interval(price, lambda value: f"{value:.1f}", level)
        yield f"Crashes a month that were not prevented, because the alarms were held back: {number}."


def _with_interval(found: Estimate, write: Callable[[float], str], level: str) -> str:
    assert found.value is not None
    return f"{write(found.value)} ({level} {write(found.low)} to {write(found.high)})"


def as_json(found: Outcomes) -> dict[str, Any]:
    """Return the figures as plain values."""
    counts: dict[str, dict[str, dict[str, int]]] = {DELIVERED: {}, HELD_BACK: {}}
    for (group, is_acted_on), numbers in found.counts.items():
        counts[group]["acted_on" if is_acted_on else "not_acted_on"] = numbers._asdict()
    estimates = {name: getattr(found, name) for name in NAMES}
    return {
        "since": _iso(found.since),
        "until": _iso(found.until),
        "counts": counts,
        "compared": found.compared,
        "confidence": found.confidence,
        **{name: estimate and estimate._asdict() for name, estimate in estimates.items()},
    }


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def samples(found: Outcomes) -> Iterator[Sample]:
    """Yield the gauges of the figures."""
    meaning = "Alarms by group, whether somebody acted, and what followed in their time."
    for (group, is_acted_on), numbers in found.counts.items():
        for outcome in Counts._fields[1:]:
            labels = {"group": group, "acted_on": str(is_acted_on).lower(), "outcome": outcome}
            yield Sample("crashcast_outcomes", meaning, getattr(numbers, outcome), labels)
    for name in NAMES:
        estimate: Estimate | None = getattr(found, name)
        if estimate is None:
            continue
        for suffix, part in (("", estimate.value), ("_low", estimate.low), ("_high", estimate.high)):
            if part is not None:
                what = {"": "", "_low": ": lower limit", "_high": ": upper limit"}[suffix]
                yield Sample(f"crashcast_{name}{suffix}", f"{MEANINGS[name]}{what}.", part, {})
