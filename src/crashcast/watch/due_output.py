"""Whether a retraining is due, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rich.console import Console

from crashcast.operate.textfile import Sample
from crashcast.watch.due import Due


def show(found: Due, console: Console) -> None:
    """Print the answer, what speaks for it, what against it, and what is not known."""
    about = f"The model {found.model} knows crashes until {found.trained_on_to:%Y-%m-%d %H:%M} UTC."
    console.print(f"{'A retraining is due.' if found.is_due else 'No retraining is due.'} {about}", highlight=False)
    for title, lines in (("For it:", found.reasons), ("Against it:", found.against), ("Not known:", found.notes)):
        if lines:
            console.print(title, highlight=False)
        for line in lines:
            console.print(f"  - {line}", highlight=False)
    if not (found.reasons or found.against):
        console.print(f"New crashes since: {found.new_crashes:,}. Nothing else has changed.", highlight=False)


def as_json(found: Due) -> dict[str, Any]:
    """Return the answer as plain values."""
    moments = {"trained_on_to": found.trained_on_to, "known_to": found.known_to}
    plain = {name: moment and moment.isoformat() for name, moment in moments.items()}
    return {**asdict(found), **plain, "is_due": found.is_due}


def samples(found: Due) -> Iterator[Sample]:
    """Yield the gauges of the answer."""
    model = {"model": found.model}
    yield Sample("crashcast_retrain_due", "Whether the model is to be trained again.", found.is_due, model)
    yield Sample(
        "crashcast_retrain_new_crashes", "Confirmed crashes that the model does not know.", found.new_crashes, model
    )
