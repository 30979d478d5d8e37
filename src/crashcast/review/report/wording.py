"""What a review found, in words that page, comment and terminal share.

Names of servers, parameters and files come from users: `plain` takes out what no name needs, and each writer escapes
for its own format.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from crashcast.review.report.schema import (
    DataChange,
    Difference,
    Form,
    MetricChange,
    NamedChange,
    Outcome,
    Reason,
    Record,
    Slice,
    Verdict,
)
from crashcast.run_summary import NOT_COMPARABLE

LONGEST = 200  # characters of one name or value

MEANING: dict[Verdict, str] = {
    "ACCEPT": "The challenger may replace the champion.",
    "REJECT": "Keep the champion.",
    "INCONCLUSIVE": "Keep the champion for now: this evidence cannot tell.",
}
MEANING_FOR_THE_FIRST: dict[Verdict, str] = {
    "ACCEPT": "There is no champion yet: this model may become the first.",
    "REJECT": "There is no champion yet, and this model should not become the first.",
    "INCONCLUSIVE": "There is no champion yet, and this evidence cannot tell whether to begin with this model.",
}
SIGNS: dict[Verdict, str] = {"ACCEPT": "✓", "REJECT": "✗", "INCONCLUSIVE": "?"}
OUTCOMES: dict[Outcome, str] = {"fail": "failed", "open": "open", "pass": "passed", "shown": "for information"}
MARKS: dict[Outcome, str] = {"fail": "✗", "open": "?", "pass": "✓", "shown": "i"}
KINDS = {
    "own": "the base's own test rows",
    "later": "rows later than any the base used",
    "own and later": "the base's own test rows, and later ones",
    "other": "rows that are neither the base's own test rows nor later",
    "windows": "test windows, each later than all that its models were trained on",
}


class Words(NamedTuple):
    """A difference in words."""

    title: str  # with the unit
    champion: str
    challenger: str
    difference: str
    interval: str  # "" if there is none
    finding: str
    margin: str  # "" if there is none


def meaning(record: Record) -> str:
    """Say what the verdict means for the model in use."""
    return (MEANING_FOR_THE_FIRST if is_first(record) else MEANING)[record["verdict"]]


def is_first(record: Record) -> bool:
    """Tell whether there is no champion to compare with, but baselines."""
    return record["form"] == "first" or record["base"] is None


def rival(record: Record) -> str:
    """Name what the challenger is compared with."""
    return "baseline" if is_first(record) else "champion"


def definition(record: Record, name: str) -> str:
    """Name a table of differences under other rules or, of a first model, against another baseline."""
    return f"{'Against' if is_first(record) else 'Under'} {name}"


def on_rows(record: Record) -> str:
    """Say in a sentence what both models were judged on."""
    rows = record["rows"]
    out = sum(rows["excluded"].values())
    mitigated = _on_mitigated(record)
    return (
        f"Judged on {rows['rows']:,} rows of {rows['servers']:,} servers, {rows['from'][:10]} to {rows['to'][:10]}: "
        f"{rows['crashes']:,} crashes in {rows['groups']:,} incident groups. "
        + (f"{out:,} rows were left out." if out else "No row was left out.")
        + (f" {mitigated}" if mitigated else "")
    )


def recipes(record: Record) -> str:
    """Say that recipes were judged, on which windows, and what the intervals cover; nothing if models were."""
    windows = record.get("windows")
    if not windows:
        return ""
    both = "the challenger's commit" if is_first(record) else "both commits"
    period = f"{windows[0]['from'][:10]} to {windows[-1]['to'][:10]}"
    return (
        f"Recipes were judged, not models: `train` of {both} ran again before each of {len(windows)} test windows, "
        f"{period}, and their rows were pooled. What would be registered is the challenger's model, trained on its "
        "whole train part; on the test part it can only be vetoed. The intervals cover other servers and times and, by "
        "a correction (Nadeau, Bengio, 2003), other training rows, most of which neighbouring windows share. They do "
        "not cover that the authors of a recipe could have seen the older windows."
    )


def windows_head(record: Record) -> tuple[str, ...]:
    """Return the titles of the columns of `windows_rows`."""
    return ("window", "trained until", "rows", "crashes", rival(record), "challenger")


def windows_rows(record: Record) -> list[list[str]]:
    """Return of each window its period, the end of its train part, its size, and the PR-AUC of its models."""
    return [
        [
            f"{one['from'][:10]} to {one['to'][:10]}",
            one["trained_to"][:10],
            f"{one['rows']:,}",
            f"{one['crashes']:,}",
            *("none" if area is None else f"{area:.3f}" for area in (one["champion"], one["challenger"])),
        ]
        for one in record.get("windows", [])
    ]


def _on_mitigated(record: Record) -> str:
    mitigated = record["rows"].get("mitigated")
    if mitigated is None:
        return ""
    champion, challenger = (mitigated["alarms"][name] for name in ("champion", "challenger"))
    return (
        f"Somebody acted, and no crash came, after {mitigated['rows']:,} other rows, so their labels are unknown: "
        f"{champion:,} alarms of the {rival(record)} and {challenger:,} of the challenger are mitigated, neither true "
        f"nor false; {NOT_COMPARABLE}"
    )


def could_show(record: Record) -> str:
    """Say in a sentence how small a gain this much data would have shown, or nothing if that is unknown."""
    primary = next((found for found in record["differences"] if found["role"] == "primary"), None)
    if record["detectable"] is None or primary is None:
        return ""
    least, power = record["detectable"]["difference"], record["detectable"]["power"]
    name = primary["title"] + (" (percentage points)" if primary["unit"] == "share" else "")
    least_text = _three_digits(least * scale(primary))
    return f"A true gain in {name} of {least_text} would have been shown with a probability of {power:.0%}."


def looks(record: Record) -> str:
    """Say in a sentence how often these rows were looked at, or nothing if nobody counts."""
    look = record["look"]
    if look is None:
        return ""
    before = f" Before it: {', '.join(look['previous'])}." if look["previous"] else ""
    error, shared = _three_digits(look["error"]), look["number"] > 1 + len(look["previous"])
    why = ", as earlier looks at other test rows of this period count by their share" if shared else ""
    return f"Look {look['number']:g} at these test rows{why}: held to an error of {error}.{before}"


def how_it_ran(record: Record) -> str:
    """Say how the challenger's code ran and its model came out again, or nothing if an older review did not say."""
    if "run" not in record:
        return ""
    run = record["run"]
    trusted = ", by a reviewer who trusts its authors (--trust-authors)" if run["trusts_authors"] else ""
    where = f"in a sandbox ({run['sandbox']})" if run["sandbox"] != "none" else "without a sandbox"
    again = {"same": "the same bytes", "close": "figures as close as types of CPU let them"}
    came_out = again.get(run.get("trained_again", ""), "an unknown result")
    return (
        f"The challenger's code ran {where}{trusted}. Trained again without the test part, its model gave {came_out}."
    )


def sentence(text: str) -> str:
    """Give a text a full stop and, unless it begins with a name, a capital letter."""
    begun = re.sub("^[a-z](?=[a-z']* )", lambda letter: letter[0].upper(), text)
    return begun if begun.endswith((".", "!", "?")) else f"{begun}."


def sorted_reasons(record: Record) -> list[Reason]:
    """Return the reasons, what failed first."""
    order = list(OUTCOMES)
    return sorted(record["reasons"], key=lambda reason: order.index(reason["outcome"]))


def weighed_reasons(record: Record) -> tuple[list[Reason], list[Reason]]:
    """Return the reasons that a reader must see, and the checks beside the primary one that passed."""
    passed = [reason for reason in record["reasons"] if reason["outcome"] == "pass" and reason["check"] != "primary"]
    return [reason for reason in sorted_reasons(record) if reason not in passed], passed


def in_short(passed: Sequence[Reason]) -> str:
    """Name the checks that passed by their kinds."""
    kinds = dict.fromkeys(reason["check"] for reason in passed)
    return f"{len(passed)} {'check' if len(passed) == 1 else 'checks'} passed: {', '.join(kinds)}"


def as_difference(part: Slice) -> Difference:
    """See a slice as the difference that it is."""
    return {
        "name": part["name"],
        "title": f"{part['name']}, {part['metric']}" if "metric" in part else part["name"],
        "unit": part.get("unit", ""),
        "better": "higher",
        "champion": part["champion"],
        "challenger": part["challenger"],
        "difference": part["difference"],
        "low": part["low"],
        "high": part["high"],
        "confidence": None,
        "margin": part["margin"],
        "role": "guardrail",
    }


def for_information(differences: Sequence[Difference]) -> list[Difference]:
    """Return differences that decide nothing."""
    return [{**found, "role": "shown", "margin": None} for found in differences]


def scale(found: Difference) -> float:
    """Return what a figure is multiplied with before it is written: shares are written in percent."""
    return 100 if found["unit"] == "share" else 1


def gain(found: Difference) -> tuple[float, float] | None:
    """Return the interval, turned so that more is better; none if it is unknown."""
    if found["low"] is None or found["high"] is None:
        return None
    return (found["low"], found["high"]) if found["better"] == "higher" else (-found["high"], -found["low"])


def is_needed(found: Difference, form: Form | None) -> bool:
    """Tell a margin that must be gained from one that may be lost."""
    return found["role"] == "primary" and form != "renewal"


def finding(found: Difference, form: Form | None) -> str:
    """Say what the interval shows, in the terms of the margin that belongs to the figure.

    A primary figure must gain its margin, or in a renewal must surely lose no more than it, as must the one against the
    anchor; any other fails if it surely loses, and more than its margin.
    """
    interval = gain(found)
    if interval is None:
        return "no interval" if found["difference"] is not None else "not measured"
    low, high = interval
    margin, change = found["margin"], abs(found["difference"] or 0.0)
    if low > 0:
        is_sure = margin is None or not is_needed(found, form) or low > margin
        return "better" if is_sure else "better, perhaps by less than needed"
    if high < 0:
        if margin is None or is_needed(found, form):
            return "worse"
        return "worse than its margin" if change > margin else "worse, within its margin"
    if margin is None or is_needed(found, form) or found["role"] == "guardrail":
        return "no clear difference"
    return "no worse than its margin" if low > -margin else "perhaps worse than its margin"


def in_words(found: Difference, form: Form | None, of: Sequence[Difference] = ()) -> Words:
    """Write a difference with as many decimals as its interval is worth.

    Parameters
    ----------
    found : Difference
    form : str, optional
        What the margin of a primary figure means depends on it.
    of : list of Difference
        The table it stands in: if not all have one confidence, each interval names its own.
    """
    unit = "%" if found["unit"] == "share" else found["unit"]
    times, interval = scale(found), gain(found)
    width = times * (interval[1] - interval[0]) if interval else 0.0
    values = [found["champion"], found["challenger"], found["difference"]]
    if width > 0:
        decimals = 1 - math.floor(math.log10(width / 2))
    else:
        largest = max([times * abs(value) for value in values if value is not None], default=0.0)
        decimals = 2 - math.floor(math.log10(largest)) if largest > 0 else 0
    decimals = min(max(decimals, 0), 8)

    def number(value: float | None, sign: str = "") -> str:
        if value is None:
            return "none"
        text = f"{times * value:{sign},.{decimals}f}"
        return text if re.search("[1-9]", text) else text.lstrip("+-")

    several = len({other["confidence"] for other in of if other["low"] is not None}) > 1
    own = f" ({_percent(found['confidence'])})" if several and found["confidence"] is not None else ""
    margin = ""
    if found["margin"] is not None:
        amount = _three_digits(times * abs(found["margin"]))
        margin = f"gain needed: {amount}" if is_needed(found, form) else f"loss tolerated: {amount}"
    return Words(
        title=f"{found['title']} ({unit})" if unit else found["title"],
        champion=number(found["champion"]),
        challenger=number(found["challenger"]),
        difference=number(found["difference"], "+"),
        interval=f"{number(found['low'], '+')} to {number(found['high'], '+')}{own}" if interval else "",
        finding=finding(found, form),
        margin=margin,
    )


def slice_in_words(part: Slice) -> Words:
    """Write a slice like a difference; what was found includes whether it counts."""
    words = in_words(as_difference(part), None)
    if part["vetoed"]:
        return words._replace(finding=f"{words.finding}: veto")
    return words if part["judged"] else words._replace(finding="not judged")


def interval_title(differences: Iterable[Difference]) -> str:
    """Name the column of intervals, with their confidence if it is one."""
    found = {difference["confidence"] for difference in differences if difference["low"] is not None}
    one = next(iter(found)) if len(found) == 1 else None
    return "interval" if one is None else f"{_percent(one)} interval"


def differing(metrics: Iterable[MetricChange]) -> list[MetricChange]:
    """Return the figures that are not the same in both commits."""
    return [figure for figure in metrics if figure["base"] != figure["challenger"]]


def piece_by_piece(change: DataChange) -> list[NamedChange]:
    """Return what is known of some raw data, one by one."""
    base, challenger = change["base"] or {}, change["challenger"] or {}
    names = sorted(base.keys() | challenger.keys())
    return [{"name": name, "base": base.get(name), "challenger": challenger.get(name)} for name in names]


def value_text(value: Any) -> str:
    """Write any JSON value on one line."""
    if value is None:
        return "none"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {value_text(item)}" for name, item in sorted(value.items())) or "none"
    return ", ".join(value_text(item) for item in value) or "none"


def flat(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give every leaf of nested dictionaries with its dotted name, in order of names."""
    for name, item in sorted(value.items()):
        if isinstance(item, dict) and item:
            yield from flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", item


def plain(text: str, longest: int = LONGEST) -> str:
    """Replace what could act on a reader's screen, such as control characters and changes of direction, and cut.

    Spaces of any kind become one space each; so what is left can only be text.
    """
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    return "".join(
        " "
        if unicodedata.category(mark).startswith("Z") or mark in "\t\r\n"
        else mark
        if unicodedata.category(mark)[0] != "C"
        else "\ufffd"
        for mark in cut
    )


def _three_digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.4g}%"
