"""Ways to more and better labels: what each takes, and what it bought if it was measured.

The figures are those of this project's benchmarks on demo fleets (docs/annotation.md, docs/labels.md), and what
`crashcast learning-curve` and `crashcast transfer` found on the project's own data.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from crashcast.planning.forecast import Forecast
from crashcast.planning.machine import HOUR
from crashcast.planning.report import Block

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"
CURVE, TRANSFER = Path("reports/learning_curve.csv"), Path("reports/transfer.csv")
CROWD = 3  # answers to each question, so that a majority decides
NOT_MEASURED = "not measured here"


def block(found: Forecast) -> Block:
    """Compare the ways, each with people's hours, money and what it bought."""
    price, currency = found.project.plan.prices.person_hour, found.project.plan.prices.currency
    rows = [
        (
            way,
            "not known" if hours is None else f"{hours:,.3g}",
            "" if price is None or hours is None else f"{hours * price:,.0f}",
            bought,
            source,
        )
        for way, hours, bought, source in _ways(found)
    ]
    note = (
        "Gains in PR-AUC are means over ten demo fleets with 95 % intervals, unless a file of this project is "
        f"named. An answer takes {found.project.plan.hours.answer / HOUR:.3g} h ({found.project.answers})."
    )
    return Block(("more labels from", "people's hours", currency, "what it bought", "measured by"), rows, 2, note)


def _ways(found: Forecast) -> Iterator[tuple[str, float | None, str, str]]:
    """Yield the name of a way, the hours it takes, what it bought and where that was measured."""
    answer = found.project.plan.hours.answer / HOUR
    if (evidence := _results("label_evidence")) is not None:
        gains = evidence["choosing"]["summary"]["gains_over_tickets"]
        crashes, area = gains["dawid_skene: recall"], gains["model of dawid_skene: pr_auc"]
        bought = f"{_gain(area)} PR-AUC over tickets alone; {crashes['mean']:+.0%} of crashes found"
        yield "rules on telemetry (label.evidence)", 0.0, bought, "benchmarks/label_evidence.py"
    if (asked := _results("active_learning")) is not None:
        needed = [one["active_learning"]["annotations_needed"]["selected"] for one in asked["fleets"].values()]
        by_lot = asked["all"]["fewest_by_lot"]
        bought = f"{median(needed):,.0f} chosen answers find 90 % of the crash days that 2,000 find"
        source = "benchmarks/active_learning.py"
        yield "an expert, questions chosen", median(needed) * answer, bought, source
        yield "an expert, questions by lot", by_lot * answer, f"{by_lot:,} answers find fewer than that", source
        bought = f"{NOT_MEASURED}; as one expert if {CROWD} people err independently, and seldom"
        yield f"a crowd, {CROWD} answers each", CROWD * median(needed) * answer, bought, ""
    if (trained := _results("self_training")) is not None:
        gains, source = trained["gains"], "benchmarks/self_training.py"
        for part in ("a third", "a tenth"):
            area = gains[f"{part} labelled, certainty 0.75: pr_auc"]
            yield f"self-training, {part} labelled", 0.0, f"{_gain(area)} PR-AUC", source
            area = gains[f"{part} labelled, all labels: pr_auc"]
            yield f"older tickets, {part} labelled", None, f"{_gain(area)} PR-AUC if all had labels", source
    yield "another fleet, or public data", 0.0, _transferred(), "crashcast transfer OTHER"
    yield "twice the labels", None, _learning(), "crashcast learning-curve"


def _results(name: str) -> dict[str, Any] | None:
    """Return a benchmark's results; None if they do not lie beside the code."""
    try:
        found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        return found
    except FileNotFoundError:
        return None


def _gain(area: dict[str, float]) -> str:
    return f"{area['mean']:+.3f} ({area['low']:+.3f} to {area['high']:+.3f})"


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [*csv.DictReader(file)]
    except FileNotFoundError:
        return []


def _learning() -> str:
    for row in _rows(CURVE):
        if row.get("axis") == "labels" and float(row["times"]) == 2:
            low, gain, high = (float(row[f"pr_auc_gain{end}"]) for end in ("_low", "", "_high"))
            return f"{gain:+.3f} ({low:+.3f} to {high:+.3f}) PR-AUC ({CURVE})"
    return NOT_MEASURED


def _transferred() -> str:
    gains = [row for row in _rows(TRANSFER) if row.get("pr_auc_gain")]
    if not gains:
        return NOT_MEASURED
    best = max(gains, key=lambda row: float(row["pr_auc_gain"]))
    low, gain, high = (float(best[f"pr_auc_gain{end}"]) for end in ("_low", "", "_high"))
    return f"at best {gain:+.3f} ({low:+.3f} to {high:+.3f}) PR-AUC ({TRANSFER})"
