"""How models age and which cadence pays, for people."""

from __future__ import annotations

from crashcast.annotation.refitting import FIGURES
from crashcast.planning.decay import Cadence, Decay, best, mean_age
from crashcast.planning.report import Block


def cadence_block(found: Decay, options: list[Cadence], missed_crash: float | None, currency: str, now: int) -> Block:
    """Word what each cadence costs, and which one pays."""
    has_money = missed_crash is not None and options[0].money is not None
    rows = []
    for one in options:
        money = one.total(missed_crash) if has_money and missed_crash is not None else None
        rows.append(
            (
                f"{one.times}{' (now)' if one.times == now else ''}",
                f"{mean_age(one.times):.2g}",
                f"{one.missed.value:,.1f} ({one.missed.low:,.1f} to {one.missed.high:,.1f})",
                f"{one.hours:,.1f}",
                "" if money is None else f"{money.value:,.0f} ({money.low:,.0f} to {money.high:,.0f})",
            )
        )
    header = ("retrainings a year", "mean age, months", "crashes missed by age", "people's hours", currency)
    loss = found.loss
    words = (
        f"Event recall changes by {-100 * loss.value:+.2g} points with each month of age ({-100 * loss.high:+.2g} to "
        f"{-100 * loss.low:+.2g}): models fitted to {found.months:.2g} months each, the newest until "
        f"{found.until[:10]}, measured on the same rows. Crashes missed = that loss x mean age x crashes a year; mean "
        "age = 6 / (retrainings + 1) months."
    )
    if loss.low <= 0:
        words += " The interval includes 0: it is not shown that models age, or that retraining for age alone pays."
    if has_money and missed_crash is not None:
        limits = [best(options, missed_crash, end) for end in ("low", "high")]
        words += (
            f" Cheapest: {best(options, missed_crash)} a year (by the limits of the decay {limits[0]} to {limits[1]})."
        )
    elif (gain := options[0].missed.value - options[1].missed.value) > 0:
        each = options[1].hours - options[0].hours
        words += (
            f" The first retraining of the year pays if a missed crash costs more than {each / gain:.2g} hours of work "
            f"({each:.3g} h / {gain:.3g} crashes); plan.prices in params.yaml make it money."
        )
    return Block(header, rows, 4, words)


def recall_block(found: Decay) -> Block:
    """Word what models of several ages reach."""
    rows = [
        (
            f"{one['age']:g}",
            *(f"{one[name]:.3f} ({one[f'{name}_low']:.3f} to {one[f'{name}_high']:.3f})" for name in FIGURES),
        )
        for one in found.ages
    ]
    return Block(("age of the model, months", "PR-AUC", "event recall"), rows, 2)
