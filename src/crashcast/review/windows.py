"""Rolling-origin evaluation: a recipe judged on several test windows, for fleets whose test part has too few crashes.

The last window is the test part of a split by time. Each earlier one is the same split, with all borders moved into the
past by one length of the test part more; the train part still begins with the data. So windows adjoin and do not
overlap, each has the embargo of the split, and no model scores a row that it was trained on.

Source: Tashman, Out-of-sample tests of forecasting accuracy: an analysis and review, International Journal of
Forecasting 16(4), 2000.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import polars as pl

from crashcast.errors import UserError
from crashcast.modeling import split_rule
from crashcast.review.test_set import Rule

LEARNS = ("train", "validation")


def rules(rule: Rule, windows: int) -> list[Rule]:
    """Return the split of each window, the oldest first; the last one is the split itself.

    Raises
    ------
    UserError
        If it is no split by time, or the oldest window would have no train part.
    """
    if windows > 1 and rule["method"] != "time":
        raise UserError(
            f"acceptance.windows is {windows}, and the split is by {rule['method']}: only a split by time has earlier "
            "windows. Set split.method to time, or acceptance.windows to 1"
        )
    parts = {part: split_rule.period(rule, part) for part in split_rule.PARTS}
    begin, length = parts["train"][0], parts["test"][1] - parts["test"][0]
    found = []
    for back in reversed(range(windows)):
        moved = {part: (start - back * length, end - back * length) for part, (start, end) in parts.items()}
        moved["train"] = begin, moved["train"][1]
        if moved["train"][1] <= begin:
            most = -((begin - parts["train"][1]) // length)
            raise UserError(
                f"acceptance.windows is {windows}, and before the first of them there is no data to train on: at most "
                f"{most} fit into this history"
            )
        found.append(rule if back == 0 else {**rule, "periods": {part: _span(*span) for part, span in moved.items()}})
    return found


def pooled(rules: Sequence[Rule]) -> Rule:
    """Return the rule whose test part is that of all windows, and whose other parts are those of the oldest one."""
    oldest, newest = rules[0], rules[-1]
    span = split_rule.period(oldest, "test")[0], split_rule.period(newest, "test")[1]
    return {**oldest, "periods": {**oldest["periods"], "test": _span(*span)}}


def check(rules: Sequence[Rule], labels: Path) -> None:
    """Refuse windows before which there is nothing to learn from.

    Parameters
    ----------
    rules : sequence of dict
    labels : Path
        The labels of their whole period.

    Raises
    ------
    UserError
        Naming the first window whose train or validation part holds no crash.
    """
    counts = [Counter[str]() for _ in rules]
    for _, rows in split_rule.labelled(labels):
        positive = rows.filter(pl.col("label") == 1)
        for rule, count in zip(rules, counts, strict=True):
            count.update(split_rule.assign(positive, rule).drop_nulls().cast(pl.String).to_list())
    for number, (rule, count) in enumerate(zip(rules, counts, strict=True)):
        for part in LEARNS:
            if not count[part]:
                start, end = split_rule.period(rule, part)
                raise UserError(
                    f"acceptance.windows is {len(rules)}, and the {part} part of window {number + 1} "
                    f"({start:%Y-%m-%d} to {end:%Y-%m-%d}) holds no crash: set it to {len(rules) - number - 1 or 1}"
                )


def variance_factor(rules: Sequence[Rule]) -> float:
    """Return by how much the variance of a figure on all windows exceeds what their test rows alone give it.

    Each recipe would have made other models of other training rows, and neighbouring windows share most of those. So
    the variance of a mean over J test sets of n2 rows, whose models learned from n1 rows, is not in proportion to 1 / J
    but to 1 / J + n2 / n1. Rows are in proportion to time.

    Source: Nadeau, Bengio, Inference for the generalization error, Machine Learning 52(3), 2003, section 3.
    """
    learned, tested = (
        sum((end - start).total_seconds() for start, end in (split_rule.period(rule, part) for rule in rules))
        for part in ("train", "test")
    )
    return 1 + len(rules) * tested / learned


def name(rule: Rule) -> str:
    """Return a window's test period, such as 2026-01-01/2026-01-15."""
    return "/".join(moment.isoformat() for moment in split_rule.period(rule, "test"))


def _span(start: datetime, end: datetime) -> dict[str, str]:
    return {"from": start.isoformat(), "to": end.isoformat()}
