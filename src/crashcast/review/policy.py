"""Accept or reject: the policy of params.yaml, applied to evidence. Nothing here reads or computes anything else.

A challenger is accepted as an improvement where the lower bound of its gain in the primary metric exceeds the least
gain that a new model must bring; where the champion is stale, also as a renewal: where the bound excludes a loss of
more than a margin, against the champion and against the last model that was accepted as an improvement. Guardrails and
slices can only veto. What is missing is never a pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from crashcast.params.acceptance import ERROR, Acceptance, look_error
from crashcast.review.comparison import ANCHOR, Difference, Evidence, Slice

Verdict = Literal["ACCEPT", "REJECT", "INCONCLUSIVE"]
Form = Literal["improvement", "renewal", "first"]
Outcome = Literal["pass", "fail", "open", "shown"]

POWER = 0.8
MIN_BLOCKS = 8
JUDGED_ROWS = ("own", "later", "own and later")  # the base's own test rows, or later than all that it has seen


class Both(NamedTuple):
    """One thing of both models or commits."""

    champion: float
    challenger: float


@dataclass(frozen=True)
class Facts:
    """What the decision needs beside the evidence.

    Attributes
    ----------
    look : int
        The how-manieth distinct challenger this is on these test rows, from 1.
    rows_kind : str
        "own": the base's own test rows; "later": later than all that it has seen; "own and later"; "other".
    is_stale : bool
        Whether the champion's data is so old that a model as good may replace it.
    has_anchor : bool
        Whether the last model accepted as an improvement is another than the champion.
    no_anchor : str or None
        Why that model, though another, is not compared.
    is_first : bool
        Whether there is no champion; each of the evidence is then against one baseline.
    latency, size : Both or None
        Of the models, in ms and MB; None in a first review.
    denominators : mapping of str to Both
        Crashes, server-days and scored rows as the base's and the challenger's commit count them.
    budget : Both or None
        False alarms per server and day that either commit allows.
    policy_changes : sequence of (name, base, challenger)
        Of `acceptance`: shown, never applied.
    """

    look: int
    rows_kind: str
    is_stale: bool = False
    has_anchor: bool = False
    no_anchor: str | None = None
    is_first: bool = False
    latency: Both | None = None
    size: Both | None = None
    denominators: Mapping[str, Both] | None = None
    budget: Both | None = None
    policy_changes: tuple[tuple[str, Any, Any], ...] = ()


class Reason(NamedTuple):
    """One check of the policy, how it ended, and why, in words."""

    check: str
    outcome: Outcome
    text: str


@dataclass(frozen=True)
class Decision:
    """What was decided, and why; `form` is what it was accepted as.

    Attributes
    ----------
    verdict : {"ACCEPT", "REJECT", "INCONCLUSIVE"}
    form : {"improvement", "renewal", "first"} or None
    headline : str
    reasons : tuple of Reason
    error : float
        One-sided, of the primary metric's bound at this look.
    detectable : float or None
        The smallest true gain that would have been accepted with a probability of `POWER`; None where none would.
    """

    verdict: Verdict
    form: Form | None
    headline: str
    reasons: tuple[Reason, ...]
    error: float
    detectable: float | None


def decide(evidence: Mapping[str, Evidence], acceptance: Acceptance, facts: Facts) -> Decision:
    """Apply the policy.

    Parameters
    ----------
    evidence : mapping of str to Evidence
        By definition of a crash (the base's first, then the challenger's where it differs), or, in a first review, by
        baseline. All must pass.
    acceptance : Acceptance
        The base's.
    facts : Facts

    Returns
    -------
    Decision
        REJECT where anything vetoes or the primary metric falls short for certain; ACCEPT where it passes and there is
        enough to judge by; INCONCLUSIVE otherwise.
    """
    error = look_error(facts.look)
    several = len(evidence) > 1
    form: Form = "first" if facts.is_first else "improvement"
    renewed: list[Reason] = []
    primary: list[Reason] = []
    checks: list[Reason] = []
    for name, found in evidence.items():
        where = f" ({name})" * several
        primary.append(_improvement(found, acceptance, facts, error, where))
        if facts.is_stale and not facts.is_first:
            renewed.append(_renewal(found, acceptance, facts, error, where))
        if not facts.is_first:
            checks += [
                *_vetoes(found, acceptance, facts, where),
                _spending(found, acceptance, where),
                _sample_size(found, acceptance, where),
            ]
    if facts.is_first:  # the rows, and what the challenger spends on them, are the same beside every baseline
        any_one = next(iter(evidence.values()))
        checks += [_spending(any_one, acceptance), _sample_size(any_one, acceptance)]
    outcomes = [reason.outcome for reason in primary]
    if renewed and _worst(outcomes) != "pass":
        # the form that went further is the one that decides
        if _ORDER[_worst([reason.outcome for reason in renewed])] >= _ORDER[_worst(outcomes)]:
            primary = [reason._replace(outcome="shown") for reason in primary]
            form, outcomes = "renewal", [reason.outcome for reason in renewed]
        else:
            renewed = [reason._replace(outcome="shown") for reason in renewed]
    else:
        renewed = []
    checks += _limits(acceptance, facts)
    worst = _worst([*outcomes, *(check.outcome for check in checks)])
    verdict: Verdict = {"fail": "REJECT", "open": "INCONCLUSIVE", "pass": "ACCEPT"}[worst]  # type: ignore[assignment]
    reasons = [*renewed, *primary] if form == "renewal" else [*primary, *renewed]
    reasons += checks
    enough = all(check.outcome != "open" for check in checks if check.check in ("sample size", "rows"))
    detectable = min_detectable(next(iter(evidence.values())), acceptance, error, facts) if enough else None
    return Decision(
        verdict,
        form if verdict == "ACCEPT" else None,
        _headline(verdict, form, reasons),
        tuple(reasons),
        error,
        detectable,
    )


_ORDER = {"fail": 0, "open": 1, "pass": 2, "shown": 3}


def _worst(outcomes: list[Outcome]) -> Outcome:
    return min((outcome for outcome in outcomes if outcome != "shown"), key=_ORDER.__getitem__, default="open")


def _improvement(found: Evidence, acceptance: Acceptance, facts: Facts, error: float, where: str) -> Reason:
    gain, least = found.differences["pr_auc"], acceptance.min_gain
    if gain.difference is None:
        return Reason("primary", "open", f"PR-AUC could not be measured{where}")
    low, high = _bounds(gain.difference, gain, error)
    rival = "the baseline's" if facts.is_first else "the champion's"
    text = f"PR-AUC {gain.challenger:.3f} against {rival} {gain.champion:.3f}{where}: a gain of {gain.difference:+.3f}"
    outcome = _beyond(gain, least, error)
    if outcome == "fail":
        return Reason("primary", "fail", f"{text}, at most {high:+.3f} at {_confidence(ERROR)}; {least:g} is needed")
    against_anchor = _beyond(found.differences.get(ANCHOR), -acceptance.margin, error) if facts.has_anchor else "pass"
    if against_anchor == "fail" or (outcome, against_anchor) == ("pass", "open"):
        loss = f"a loss of more than {acceptance.margin:g} against the last model accepted as an improvement"
        end = "is certain" if against_anchor == "fail" else "is not excluded"
        return Reason("primary", against_anchor, f"{text}, but {loss} {end}")
    if outcome == "pass":
        return Reason("primary", "pass", f"{text}, at least {low:+.3f} at {_confidence(error)}; {least:g} is needed")
    return Reason(
        "primary",
        "open",
        f"{text}, which may be as little as {low:+.3f} (at {_confidence(error)}) or as much as {high:+.3f}; more "
        f"than {least:g} is needed for certain",
    )


def _confidence(error: float) -> str:
    """Return the confidence of a one-sided bound in words, with the digits that tell it from certainty."""
    digits = max(1, int(np.ceil(-np.log10(100 * error))))
    return f"{round(100 * (1 - error), digits):g}% confidence"


def _bounds(difference: float, of: Difference, error: float) -> tuple[float, float]:
    """Return the lower bound at the look's error and the upper one, which is not adjusted for looks."""
    return difference - of.reach(error), difference + of.reach(ERROR)


def _beyond(gain: Difference | None, limit: float, error: float) -> Outcome:
    """Say whether a gain is above the limit for certain, or below it, or open; what was not measured is open."""
    if gain is None or gain.difference is None:
        return "open"
    low, high = _bounds(gain.difference, gain, error)
    return "pass" if low > limit else "fail" if high < limit else "open"


def _renewal(found: Evidence, acceptance: Acceptance, facts: Facts, error: float, where: str) -> Reason:
    margin = acceptance.margin
    rivals: list[tuple[str, Difference | None]] = [("the champion", found.differences["pr_auc"])]
    if facts.has_anchor:
        rivals.append(("the last model accepted as an improvement", found.differences.get(ANCHOR)))
    said = []
    for rival, gain in rivals:
        if gain is None or gain.difference is None:
            said.append(f"PR-AUC against {rival} could not be measured")
        else:
            low, _ = _bounds(gain.difference, gain, error)
            said.append(f"against {rival} PR-AUC changes by {gain.difference:+.3f}, at the worst by {low:+.3f}")
    outcome = _worst([_beyond(gain, -margin, error) for _, gain in rivals])
    end = {
        "pass": f"is excluded at {_confidence(error)}",
        "open": f"is not excluded at {_confidence(error)}",
        "fail": f"is certain at {_confidence(ERROR)}",
    }[outcome]
    return Reason(
        "primary", outcome, f"the champion is stale{where}; {' and '.join(said)}: a loss of more than {margin:g} {end}"
    )


def is_vetoed(difference: Difference, margin: float) -> bool:
    """Say whether a loss exceeds its margin and chance does not explain it (unadjusted, one-sided, 95 %)."""
    return difference.gain is not None and difference.gain < -max(margin, difference.reach(ERROR))


def guardrail_margins(found: Evidence, acceptance: Acceptance, is_first: bool = False) -> dict[str, float]:
    """Return each guardrail's margin in its unit; in a first review no Brier score: rules give no probabilities."""
    rails = acceptance.guardrails
    margins = {"event_recall": rails.event_recall, "lead_h": rails.lead_h}
    return margins if is_first else margins | {"brier": rails.brier * (found.differences["brier"].champion or 0.0)}


def slice_margin(part: Slice, acceptance: Acceptance) -> float:
    """Return the margin of a slice, in its figure's unit."""
    return acceptance.slices.pr_auc if part.difference.name == "pr_auc" else acceptance.slices.event_recall


def is_judged(part: Slice, acceptance: Acceptance, facts: Facts) -> bool:
    """Say whether a slice may veto; baselines' scores are no probabilities and their alarms nobody's measure."""
    return part.crashes >= acceptance.slices.min_crashes and part.difference.gain is not None and not facts.is_first


def _vetoes(found: Evidence, acceptance: Acceptance, facts: Facts, where: str) -> list[Reason]:
    reasons = []
    for name, margin in guardrail_margins(found, acceptance).items():
        difference = found.differences[name]
        if difference.gain is None:
            outcome: Outcome = "open" if difference.champion is not None else "shown"
        else:
            outcome = "fail" if is_vetoed(difference, margin) else "pass"
        reasons.append(Reason("guardrail", outcome, f"{_told(difference, margin)}{where}"))
    for name, part in found.slices.items():
        margin, title = slice_margin(part, acceptance), name.replace("_", " ")
        if is_judged(part, acceptance, facts):
            outcome = "fail" if is_vetoed(part.difference, margin) else "pass"
            text = f"{title}: {_told(part.difference, margin)}{where}"
        else:
            outcome = "shown"
            text = f"{title}: {part.crashes} crashes{where}; shown, not judged"
        reasons.append(Reason("slice", outcome, text))
    return reasons


def _spending(found: Evidence, acceptance: Acceptance, where: str = "") -> Reason:
    over, most = found.false_alarms_over_budget["challenger"], acceptance.guardrails.false_alarms_over_budget
    text = f"the challenger's stored threshold spends {over:.2f} times the alarm budget; {most:g} times is the limit"
    return Reason("guardrail", "pass" if over <= most else "fail", text + where)


def _told(difference: Difference, margin: float) -> str:
    if difference.difference is None or difference.gain is None:
        return f"{difference.title} could not be measured for both models"
    figures = [_written(value, difference.unit) for value in (difference.champion, difference.challenger)]
    text = f"{difference.title} {figures[0]} with the champion, {figures[1]} with the challenger"
    if difference.gain >= 0:
        return f"{text}: no loss"
    certain = "more than chance explains" if difference.gain < -difference.reach(ERROR) else "chance may explain it"
    loss, most = (_written(value, difference.unit, is_change=True) for value in (-difference.gain, margin))
    return f"{text}: a loss of {loss}, {certain}; up to {most} is tolerated"


def _written(value: float | None, unit: str, is_change: bool = False) -> str:
    if value is None:
        return "unknown"
    if unit == "share":
        return f"{100 * value:.1f} points" if is_change else f"{value:.1%}"
    return f"{value:.3g} {unit}".rstrip()


def _sample_size(found: Evidence, acceptance: Acceptance, where: str = "") -> Reason:
    needs = [
        (found.groups, acceptance.min_groups, "groups of crashes"),
        (found.servers_with_crashes, acceptance.min_servers, "servers with crashes"),
        (found.blocks, MIN_BLOCKS, "blocks of time"),
    ]
    lacking = [f"{least - has} more {what} ({has} of {least})" for has, least, what in needs if has < least]
    if lacking:
        text = f"too little to accept anything, which takes {', '.join(lacking)}"
    else:
        text = f"{found.crashes} crashes in {found.groups} groups on {found.servers_with_crashes} servers"
    return Reason("sample size", "open" if lacking else "pass", text + where)


def _limits(acceptance: Acceptance, facts: Facts) -> list[Reason]:
    reasons = []
    for what, both, most, unit in (
        ("latency", facts.latency, acceptance.max_latency_ms, "ms for 1,000 rows"),
        ("size", facts.size, acceptance.max_size_mb, "MB"),
    ):
        if both is not None:
            text = f"{what} {both.champion:.3g} before, {both.challenger:.3g} now; {most:g} {unit} is the limit"
            reasons.append(Reason(what, "pass" if both.challenger <= most else "fail", text))
        elif not facts.is_first:
            reasons.append(Reason(what, "open", f"the models' {what} was not measured"))
    for what, both in (facts.denominators or {}).items():
        loss = 1 - both.challenger / both.champion if both.champion > 0 else 0.0
        text = f"{what}: {both.champion:,.6g} by the base's count, {both.challenger:,.6g} by the challenger's"
        fits = loss <= acceptance.max_denominator_loss
        end = "" if fits else f"; a loss of more than {acceptance.max_denominator_loss:.1%} eases the test"
        reasons.append(Reason("denominator", "pass" if fits else "fail", text + end))
    if facts.budget and facts.budget.champion != facts.budget.challenger:
        text = "false alarms per server and day are to be {:g}, not {:g}: how many are bearable is for people to decide"
        reasons.append(Reason("alarm budget", "open", text.format(facts.budget.challenger, facts.budget.champion)))
    if facts.rows_kind in JUDGED_ROWS:
        reasons.append(Reason("rows", "pass", f"the test rows are {_ROWS[facts.rows_kind]}"))
    else:
        text = "the test rows are neither the base's own nor all later than its data: nothing can be accepted on them"
        reasons.append(Reason("rows", "open", text))
    if facts.no_anchor:
        reasons.append(Reason("anchor", "shown", facts.no_anchor))
    for name, base, challenger in facts.policy_changes:
        text = f"acceptance.{name} changes from {base} to {challenger}; this decision is by the base's policy"
        reasons.append(Reason("policy", "shown", text))
    return reasons


_ROWS = {
    "own": "the base's own",
    "later": "later than all that the base has seen",
    "own and later": "the base's own and later ones",
}


def min_detectable(found: Evidence, acceptance: Acceptance, error: float, facts: Facts) -> float | None:
    """Return the smallest true gain that the whole policy accepts as an improvement with a probability of `POWER`.

    Replicates are what may be observed: the true gain in PR-AUC, the same in every slice of servers, no change in
    anything else, and the deviations. In each there is a smallest gain from which on it is accepted; the answer is the
    quantile of those.

    Parameters
    ----------
    found : Evidence
    acceptance : Acceptance
    error : float
        One-sided, of the look.
    facts : Facts

    Returns
    -------
    float or None
        In units of the primary metric; None where vetoes alone come too often.
    """
    gain = found.differences["pr_auc"]
    needed = acceptance.min_gain + gain.reach(error) - gain.deviations
    if facts.is_first:
        return float(np.quantile(needed, POWER, method="higher"))
    for part in found.slices.values():
        if is_judged(part, acceptance, facts):
            needed = _with_veto(needed, part.difference, slice_margin(part, acceptance))
    for name, margin in guardrail_margins(found, acceptance).items():
        if found.differences[name].gain is not None:
            needed = _with_veto(needed, found.differences[name], margin)
    least = float(np.quantile(needed, POWER, method="higher"))
    return least if np.isfinite(least) else None


def _with_veto(needed: np.ndarray, difference: Difference, margin: float) -> np.ndarray:
    bound = -max(margin, difference.reach(ERROR))
    if difference.name == "pr_auc":  # gains as the whole does
        return np.maximum(needed, bound - difference.deviations)
    return np.where(difference.gain_deviations < bound, np.inf, needed)


def _headline(verdict: Verdict, form: Form, reasons: list[Reason]) -> str:
    first = reasons[0].text
    if verdict == "ACCEPT":
        opening = {
            "improvement": "Better than the champion",
            "renewal": "As good as the stale champion",
            "first": "Better than every baseline",
        }[form]
    elif verdict == "REJECT":
        failed = next(reason for reason in reasons if reason.outcome == "fail")
        opening, first = {"primary": "Not better enough"}.get(failed.check, f"Vetoed by {failed.check}"), failed.text
    else:
        unclear = min(
            (reason for reason in reasons if reason.outcome == "open"), key=lambda reason: reason.check != "sample size"
        )
        opening, first = "Not shown either way", unclear.text
    return f"{opening}: {first}."


def difference_rows(
    found: Evidence, acceptance: Acceptance, form: Form | None, error: float, is_first: bool = False
) -> list[dict[str, Any]]:
    """Return the differences as the decision record lists them.

    The primary metric's interval leaves out the look's `error` on either side, so that its limit is the bound that
    decides; the others' leave out 5 %.
    """
    margins = guardrail_margins(found, acceptance, is_first)
    rows = []
    for name in ("pr_auc", ANCHOR, *margins):
        if name not in found.differences:
            continue
        one = found.differences[name]
        is_primary = name in ("pr_auc", ANCHOR)
        rows.append(
            {
                "name": name,
                "title": one.title,
                "unit": one.unit,
                "better": one.better,
                "role": "primary" if name == "pr_auc" else "guardrail" if name in margins else "shown",
                "margin": _primary_margin(name, acceptance, form) if is_primary else margins[name],
                **_interval(one, error if is_primary else ERROR),
            }
        )
    return rows


def _primary_margin(name: str, acceptance: Acceptance, form: Form | None) -> float:
    return acceptance.margin if name == ANCHOR or form == "renewal" else acceptance.min_gain


def slice_rows(found: Evidence, acceptance: Acceptance, facts: Facts) -> list[dict[str, Any]]:
    """Return the slices as the decision record lists them; `bound` is the one that a veto needs beyond zero."""
    rows = []
    for name, part in found.slices.items():
        judged, margin = is_judged(part, acceptance, facts), slice_margin(part, acceptance)
        limits = _interval(part.difference, ERROR)
        rows.append(
            {
                "name": name,
                "metric": part.difference.title,
                "unit": part.difference.unit,
                "rows": part.rows,
                "crashes": part.crashes,
                **{key: value for key, value in limits.items() if key != "confidence"},
                "bound": limits["high"],
                "margin": margin,
                "judged": judged,
                "vetoed": judged and is_vetoed(part.difference, margin),
            }
        )
    return rows


def _interval(one: Difference, error: float) -> dict[str, float | None]:
    measured = one.difference is not None
    return {
        "champion": one.champion,
        "challenger": one.challenger,
        "difference": one.difference,
        "low": one.difference - one.reach(error) if one.difference is not None else None,
        "high": one.difference + one.reach(error) if one.difference is not None else None,
        "confidence": 1 - 2 * error if measured else None,
    }
