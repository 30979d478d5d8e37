"""What it costs in power that looks at test parts which share rows count: a review each month for a year.

    python benchmarks/look_power.py

Each month brings a month of data, and one challenger is judged on the test part as it is then. By arithmetic: the gain
is normal, and a first look shows it with a probability of 80 %. The power of a look is that at its own error.
"""

from __future__ import annotations

from datetime import datetime

from project import ROOT
from scipy.special import ndtr, ndtri

from crashcast.canonical import write_json
from crashcast.dates import MONTH
from crashcast.params.acceptance import ERROR, look_error
from crashcast.review.ledger import Entry, numbered

START, FIRST, REVIEWS = datetime(2026, 1, 1), 12, 12  # months of history at the first review
SHARE = 0.15  # of the history, as params.yaml has it
MONTHS = (1, 2, 3, 6)  # of a test part whose length stays
POWER = 0.8


def main() -> None:
    """Print and write number, error and power of each month's look."""
    lengths = {f"{SHARE:.0%} of the history": [SHARE * (FIRST + month) for month in range(REVIEWS)]}
    lengths |= {f"{length} months": [float(length)] * REVIEWS for length in MONTHS}
    found = []
    for name, of_reviews in lengths.items():
        looks = numbers(of_reviews)
        powers = [float(ndtr(ndtri(POWER) + ndtri(1 - look_error(1)) - ndtri(1 - look_error(one)))) for one in looks]
        found.append({"test_part": name, "numbers": looks, "powers": powers})
        print(
            f"a test part of {name}: the last look is {looks[-1]:g}, held to {look_error(looks[-1]):.4f} instead of "
            f"{look_error(1):.4f}; its power is {powers[-1]:.0%}, the mean of the year {sum(powers) / len(powers):.0%}"
        )
    print(f"(all looks of one set of rows add up to {ERROR:g})")
    write_json(ROOT / "benchmarks" / "results" / "look_power.json", found)


def numbers(lengths: list[float]) -> list[float]:
    """Return the number of each month's look, by the length of its test part in months."""
    ledger: dict[str, list[Entry]] = {}
    for month, length in enumerate(lengths):
        end = START + (FIRST + month) * MONTH
        entry = Entry("challenger", period=[(end - length * MONTH).isoformat(), end.isoformat()])
        ledger[str(month)] = [numbered(entry, str(month), ledger)]
    return [entry.number or 0.0 for (entry,) in ledger.values()]


if __name__ == "__main__":
    main()
