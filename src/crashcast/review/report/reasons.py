"""The policy's reasons and its headline in words, as the decision record keeps them."""

from __future__ import annotations

import math
from typing import assert_never

from crashcast.params.acceptance import ERROR
from crashcast.review import policy
from crashcast.review.comparison import Difference
from crashcast.review.policy import Decision, Reason
from crashcast.review.report.schema import Outcome

ACCEPTED = {
    "improvement": "Better than the champion",
    "renewal": "As good as the stale champion",
    "first": "Better than every baseline",
}
OF_RECIPES = {"improvement": "A better recipe than the champion's", "first": "A recipe better than every baseline"}
RIVALS = {"champion": "the champion", "anchor": "the last model accepted as an improvement"}
KINDS_OF_ROWS = {
    "own": "the test rows are the base's own",
    "later": "the test rows are later than all that the base has seen",
    "own and later": "the test rows are the base's own and later ones",
    "windows": "the rows of each window are later than all that its models were trained on",
}
OTHER_ROWS = "the test rows are neither the base's own nor all later than its data: nothing can be accepted on them"


def headline(decision: Decision, n_windows: int = 1) -> str:
    """Say in a sentence what was decided and the reason that matters most; with windows, of recipes."""
    deciding = decision.deciding
    if decision.verdict == "INCONCLUSIVE":
        opening = "Not shown either way"
    elif decision.form:
        opening = (ACCEPTED | (OF_RECIPES if n_windows > 1 else {}))[decision.form]
    else:
        opening = "Not better enough" if deciding.check == "primary" else f"Vetoed by {deciding.check}"
    on = f" on {n_windows} windows" if n_windows > 1 else ""
    return f"{opening}{on}: {in_words(deciding)}."


def in_words(reason: Reason) -> str:
    """Say what was measured and what it was held to."""
    figures, under = reason.figures, f" ({reason.under})" if reason.under else ""
    match figures:
        case None:
            return f"PR-AUC could not be measured{under}"
        case policy.Gain():
            return _gain(figures, under)
        case policy.Renewal():
            return _renewal(figures, under)
        case policy.Loss():
            return _loss(figures, reason.outcome, under)
        case policy.Spending(times, limit):
            spends = f"the challenger's stored threshold spends {times:.2f} times the alarm budget"
            return f"{spends}; {limit:g} times is the limit{under}"
        case policy.SampleSize():
            return _sample_size(figures) + under
        case policy.Limit(both, limit):
            if both is None:
                return f"the models' {reason.check} was not measured"
            unit = {"latency": "ms for 1,000 rows", "size": "MB"}[reason.check]
            text = f"{reason.check} {both.champion:.3g} before, {both.challenger:.3g} now"
            return f"{text}; {limit:g} {unit} is the limit"
        case policy.Denominator(name, both, limit):
            text = f"{name}: {both.champion:,.6g} by the base's count, {both.challenger:,.6g} by the challenger's"
            return text if reason.outcome == "pass" else f"{text}; a loss of more than {limit:.1%} eases the test"
        case policy.Change(name, base, challenger):
            if reason.check == "policy":
                return f"{name} changes from {base} to {challenger}; this decision is by the base's policy"
            change = f"false alarms per server and day are to be {challenger:g}, not {base:g}"
            return f"{change}: people decide how many are acceptable"
        case str():
            return KINDS_OF_ROWS.get(figures, OTHER_ROWS) if reason.check == "rows" else figures
        case _:
            assert_never(figures)


def _gain(gain: policy.Gain, under: str) -> str:
    figure, needed = gain.figure, f"{gain.needed:g}"
    text = (
        f"PR-AUC {figure.challenger:.3f} against the {gain.rival}'s {figure.champion:.3f}{under}: "
        f"a gain of {figure.difference:+.3f}"
    )
    if gain.high < gain.needed:
        return f"{text}, at most {gain.high:+.3f} at {confidence(ERROR)}; {needed} is needed"
    is_enough = gain.low > gain.needed
    if gain.against_anchor == "fail" or (is_enough and gain.against_anchor == "open"):
        loss = f"a loss of more than {gain.margin:g} against {RIVALS['anchor']}"
        return f"{text}, but {loss} {'is certain' if gain.against_anchor == 'fail' else 'is not excluded'}"
    if is_enough:
        return f"{text}, at least {gain.low:+.3f} at {confidence(gain.error)}; {needed} is needed"
    return (
        f"{text}, which may be as little as {gain.low:+.3f} (at {confidence(gain.error)}) or as much as "
        f"{gain.high:+.3f}; more than {needed} is needed for certain"
    )


def confidence(error: float) -> str:
    """Return the confidence of a one-sided bound, with enough digits that it never reads as 100%."""
    digits = max(1, math.ceil(-math.log10(100 * error)))
    return f"{round(100 * (1 - error), digits):g}% confidence"


def _renewal(renewal: policy.Renewal, under: str) -> str:
    changes = " and ".join(
        f"PR-AUC against {RIVALS[rival]} could not be measured"
        if difference is None
        else f"against {RIVALS[rival]} PR-AUC changes by {difference:+.3f}, at the worst by {low:+.3f}"
        for rival, difference, low in renewal.changes
    )
    end = {"pass": "is excluded", "open": "is not excluded", "fail": "is certain"}[renewal.outcome]
    sure = confidence(ERROR if end == "is certain" else renewal.error)
    return f"the champion is stale{under}; {changes}: a loss of more than {renewal.margin:g} {end} at {sure}"


def _loss(loss: policy.Loss, outcome: Outcome, under: str) -> str:
    title = "" if loss.part is None else f"{loss.part.replace('_', ' ')}: "
    if loss.part is not None and outcome == "shown":
        return f"{title}{loss.crashes} crashes{under}; shown, not judged"
    return f"{title}{_change(loss.figure, loss.margin)}{under}"


def _change(figure: Difference, margin: float) -> str:
    if figure.difference is None or figure.gain is None:
        return f"{figure.title} could not be measured for both models"
    champion, challenger = (_amount(value, figure.unit) for value in (figure.champion, figure.challenger))
    text = f"{figure.title} {champion} with the champion, {challenger} with the challenger"
    if figure.gain >= 0:
        return f"{text}: no loss"
    certain = "more than chance explains" if figure.gain < -figure.reach(ERROR) else "chance may explain it"
    loss, most = (_amount(value, figure.unit, is_change=True) for value in (-figure.gain, margin))
    return f"{text}: a loss of {loss}, {certain}; up to {most} is tolerated"


def _amount(value: float | None, unit: str, is_change: bool = False) -> str:
    if value is None:
        return "unknown"
    if unit == "share":
        return f"{100 * value:.1f} points" if is_change else f"{value:.1%}"
    return f"{value:.3g} {unit}".rstrip()


def _sample_size(size: policy.SampleSize) -> str:
    names = ("groups of crashes", "servers with crashes", "blocks of time")
    lacking = [
        f"{least - has} more {name} ({has} of {least})"
        for name, has, least in zip(names, size.has, size.needs, strict=True)
        if has < least
    ]
    if lacking:
        return f"too little to accept anything, which takes {', '.join(lacking)}"
    groups, servers, _ = size.has
    return f"{size.crashes} crashes in {groups} groups on {servers} servers"
