"""Accept or reject: the policy of params.yaml, applied to a comparison. Nothing here reads, measures or words anything.

A challenger is accepted as an improvement if the lower bound of its gain in the primary metric exceeds the least gain
that a new model must bring. If the champion is stale, it may also be accepted as a renewal: if the bound excludes a
loss of more than a margin, against the champion and against the last model that was accepted as an improvement.
Guardrails and slices can only veto. What is missing is never a pass. `report/reasons.py` puts the reasons into words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from crashcast.params.acceptance import ERROR, Acceptance, look_error
from crashcast.review.comparison import ANCHOR, Comparison, Difference, Slice
from crashcast.review.report.schema import Form, Outcome, Verdict

POWER = 0.8
MIN_BLOCKS = 8
# the base's own test rows, or later than all that it has seen; or windows, whose models have seen nothing of them
JUDGED_ROWS = ("own", "later", "own and later", "windows")
MODELS = "the models themselves, on the test part"


class Both(NamedTuple):
    """One figure of both models or commits."""

    champion: float
    challenger: float


@dataclass(frozen=True)
class Facts:
    """What the decision needs beside the comparison.

    Attributes
    ----------
    look : float
        Number of this look at these test rows, from 1: see `ledger`.
    rows_kind : str
        "own": the base's own test rows; "later": later than all rows that the base used; "own and later"; "other";
        "windows": recipes are judged.
    n_windows : int
        Above 1 if recipes are judged.
    models : Comparison or None
        Of the models themselves, if recipes are judged: what would be registered can only be vetoed by it.
    is_stale : bool
        Whether the champion's data is so old that a model that is as good may replace it.
    has_anchor : bool
        Whether the last model accepted as an improvement is another than the champion.
    no_anchor : str or None
        Why that model, though another, is not compared.
    is_first : bool
        Whether there is no champion; each comparison is then with one baseline.
    latency, size : Both or None
        Of the models, in ms and MB; None in a first review.
    denominators : mapping of str to Both
        Crashes, server-days and scored rows as the base's and the challenger's commit count them.
    budget : Both or None
        False alarms per server and day that each commit allows.
    policy_changes : sequence of (name, base, challenger)
        Of `acceptance`: shown, never applied.
    """

    look: float
    rows_kind: str
    n_windows: int = 1
    models: Comparison | None = None
    is_stale: bool = False
    has_anchor: bool = False
    no_anchor: str | None = None
    is_first: bool = False
    latency: Both | None = None
    size: Both | None = None
    denominators: Mapping[str, Both] | None = None
    budget: Both | None = None
    policy_changes: tuple[tuple[str, Any, Any], ...] = ()


class Gain(NamedTuple):
    """The gain in the primary metric, and the outcome against the last improvement (`margin` may be lost to it)."""

    rival: Literal["baseline", "champion"]
    figure: Difference
    low: float
    high: float
    error: float
    needed: float
    against_anchor: Outcome
    margin: float


class Renewal(NamedTuple):
    """The change in the primary metric against a stale champion and the anchor: name, difference and lower bound.

    `outcome` is "pass" if a loss of more than `margin` is excluded against both, "fail" if it is certain.
    """

    changes: tuple[tuple[Literal["champion", "anchor"], float | None, float | None], ...]
    margin: float
    error: float
    outcome: Outcome


class Loss(NamedTuple):
    """A guardrail's figure; of a slice, its name and crashes too."""

    figure: Difference
    margin: float
    part: str | None = None
    crashes: int = 0


class Spending(NamedTuple):
    """How many times the alarm budget the challenger's stored threshold spends, and how many it may."""

    times: float
    limit: float


class SampleSize(NamedTuple):
    """What there is to decide on, and the minimum: groups of crashes, servers with crashes, blocks of time."""

    crashes: int
    has: tuple[int, int, int]
    needs: tuple[int, int, int]


class Limit(NamedTuple):
    """A figure of both models, None if not measured, and the most that the challenger's may be (or may lose)."""

    both: Both | None
    limit: float


class Denominator(NamedTuple):
    """A count by the base's and by the challenger's commit, and the share that may be lost."""

    name: str
    both: Both
    limit: float


class Change(NamedTuple):
    """A parameter in both commits."""

    name: str
    base: Any
    challenger: Any


Figures = Gain | Renewal | Loss | Spending | SampleSize | Limit | Denominator | Change | str | None
Check = Literal[
    "primary", "guardrail", "slice", "sample size", "latency", "size", "denominator", "alarm budget", "rows", "anchor",
    "policy",
]  # fmt: skip


class Reason(NamedTuple):
    """One check of the policy.

    Attributes
    ----------
    check, outcome : str
    figures : Figures
        What was measured and what it was held to. The kind of rows for "rows", the cause for "anchor"; None if the
        primary metric could not be measured.
    under : str
        The definition of a crash, or the baseline, if there are several.
    """

    check: Check
    outcome: Outcome
    figures: Figures
    under: str = ""


@dataclass(frozen=True)
class Decision:
    """What was decided, and why.

    Attributes
    ----------
    verdict : {"ACCEPT", "REJECT", "INCONCLUSIVE"}
    form : {"improvement", "renewal", "first"} or None
        What the challenger was accepted as.
    reasons : tuple of Reason
    error : float
        One-sided, of the primary metric's bound at this attempt.
    detectable : float or None
        The smallest true gain that would have been accepted with a probability of `POWER`; None if none would.
    """

    verdict: Verdict
    form: Form | None
    reasons: tuple[Reason, ...]
    error: float
    detectable: float | None

    @property
    def deciding(self) -> Reason:
        """The reason that matters most: the first veto, or what is lacking, or the primary metric."""
        if self.verdict == "ACCEPT":
            return self.reasons[0]
        wanted = "fail" if self.verdict == "REJECT" else "open"
        found = [reason for reason in self.reasons if reason.outcome == wanted]
        return min(found, key=lambda reason: wanted == "open" and reason.check != "sample size")


def decide(comparisons: Mapping[str, Comparison], acceptance: Acceptance, facts: Facts) -> Decision:
    """Apply the policy.

    Parameters
    ----------
    comparisons : mapping of str to Comparison
        By definition of a crash (the base's first, then the challenger's if it differs), or, in a first review, by
        baseline. All must pass.
    acceptance : Acceptance
        The base's.
    facts : Facts

    Returns
    -------
    Decision
        REJECT if anything vetoes or the primary metric certainly falls short; ACCEPT if it passes and there is enough
        to decide on; INCONCLUSIVE otherwise.
    """
    error = look_error(facts.look)
    form: Form = "first" if facts.is_first else "improvement"
    renewed: list[Reason] = []
    primary: list[Reason] = []
    checks: list[Reason] = []
    for name, found in comparisons.items():
        under = name if len(comparisons) > 1 else ""
        primary.append(_improvement(found, acceptance, facts, error, under))
        if not facts.is_first:
            if facts.is_stale:
                renewed.append(_renewal(found, acceptance, facts, error, under))
            checks += _vetoes(found, acceptance, facts, under)
            checks += [_spending(found, acceptance, under), _sample_size(found, acceptance, under)]
    if facts.is_first:  # the rows, and what the challenger spends on them, are the same beside every baseline
        any_one = next(iter(comparisons.values()))
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
    if facts.models:
        checks += _of_models(facts.models, acceptance, facts)
    checks += _limits(acceptance, facts)
    worst = _worst([*outcomes, *(reason.outcome for reason in checks)])
    verdict: Verdict = {"fail": "REJECT", "open": "INCONCLUSIVE", "pass": "ACCEPT"}[worst]  # type: ignore[assignment]
    reasons = [*renewed, *primary] if form == "renewal" else [*primary, *renewed]
    enough = all(reason.outcome != "open" for reason in checks if reason.check in ("sample size", "rows"))
    detectable = min_detectable(next(iter(comparisons.values())), acceptance, error, facts) if enough else None
    return Decision(verdict, form if verdict == "ACCEPT" else None, (*reasons, *checks), error, detectable)


_ORDER = {"fail": 0, "open": 1, "pass": 2, "shown": 3}


def _worst(outcomes: list[Outcome]) -> Outcome:
    return min(outcomes, key=_ORDER.__getitem__)


def _improvement(found: Comparison, acceptance: Acceptance, facts: Facts, error: float, under: str) -> Reason:
    gain = found.differences["pr_auc"]
    if gain.difference is None:
        return Reason("primary", "open", None, under)
    low, high = _bounds(gain.difference, gain, error)
    outcome = _beyond(gain, acceptance.min_gain, error)
    anchor = _beyond(found.differences.get(ANCHOR), -acceptance.margin, error) if facts.has_anchor else "pass"
    rival: Literal["baseline", "champion"] = "baseline" if facts.is_first else "champion"
    figures = Gain(rival, gain, low, high, error, acceptance.min_gain, anchor, acceptance.margin)
    if outcome == "pass" or anchor == "fail":
        outcome = anchor
    return Reason("primary", outcome, figures, under)


def _bounds(difference: float, of: Difference, error: float) -> tuple[float, float]:
    """Return the lower bound at the attempt's error and the upper one, which is not adjusted for attempts."""
    return difference - of.reach(error), difference + of.reach(ERROR)


def _beyond(gain: Difference | None, limit: float, error: float) -> Outcome:
    """Tell whether a gain is certainly above the limit, or certainly below it, or open; unmeasured gains are open."""
    if gain is None or gain.difference is None:
        return "open"
    low, high = _bounds(gain.difference, gain, error)
    return "pass" if low > limit else "fail" if high < limit else "open"


def _renewal(found: Comparison, acceptance: Acceptance, facts: Facts, error: float, under: str) -> Reason:
    rivals: dict[Literal["champion", "anchor"], Difference | None] = {"champion": found.differences["pr_auc"]}
    if facts.has_anchor:
        rivals["anchor"] = found.differences.get(ANCHOR)
    changes = tuple(
        (rival, gain.difference, _bounds(gain.difference, gain, error)[0])
        if gain is not None and gain.difference is not None
        else (rival, None, None)
        for rival, gain in rivals.items()
    )
    outcome = _worst([_beyond(gain, -acceptance.margin, error) for gain in rivals.values()])
    return Reason("primary", outcome, Renewal(changes, acceptance.margin, error, outcome), under)


def is_vetoed(difference: Difference, margin: float) -> bool:
    """Tell whether a loss exceeds its margin and chance does not explain it (unadjusted, one-sided, 95 %)."""
    return difference.gain is not None and difference.gain < -max(margin, difference.reach(ERROR))


def guardrail_margins(found: Comparison, acceptance: Acceptance, is_first: bool = False) -> dict[str, float]:
    """Return each guardrail's margin in its unit; in a first review no Brier score: rules give no probabilities."""
    rails = acceptance.guardrails
    margins = {"event_recall": rails.event_recall, "lead_h": rails.lead_h}
    return margins if is_first else margins | {"brier": rails.brier * (found.differences["brier"].champion or 0.0)}


def slice_margin(part: Slice, acceptance: Acceptance) -> float:
    """Return the margin of a slice, in its figure's unit."""
    return acceptance.slices.pr_auc if part.difference.name == "pr_auc" else acceptance.slices.event_recall


def is_judged(part: Slice, acceptance: Acceptance, facts: Facts) -> bool:
    """Tell whether a slice may veto; in a first review none does: baselines' scores are no probabilities."""
    return part.crashes >= acceptance.slices.min_crashes and part.difference.gain is not None and not facts.is_first


def _vetoes(found: Comparison, acceptance: Acceptance, facts: Facts, under: str) -> list[Reason]:
    reasons = []
    for name, margin in guardrail_margins(found, acceptance).items():
        difference = found.differences[name]
        if difference.gain is None:
            outcome: Outcome = "open" if difference.champion is not None else "shown"
        else:
            outcome = "fail" if is_vetoed(difference, margin) else "pass"
        reasons.append(Reason("guardrail", outcome, Loss(difference, margin), under))
    for name, part in found.slices.items():
        margin = slice_margin(part, acceptance)
        if is_judged(part, acceptance, facts):
            outcome = "fail" if is_vetoed(part.difference, margin) else "pass"
        else:
            outcome = "shown"
        reasons.append(Reason("slice", outcome, Loss(part.difference, margin, name, part.crashes), under))
    return reasons


def _of_models(found: Comparison, acceptance: Acceptance, facts: Facts) -> list[Reason]:
    """Return what the models themselves can be vetoed by if recipes are judged; they need not show a gain."""
    spending = _spending(found, acceptance, MODELS)
    if facts.is_first:
        return [spending]
    primary = found.differences["pr_auc"]
    outcome: Outcome = "fail" if is_vetoed(primary, acceptance.margin) else "pass"
    ranking = Reason("guardrail", outcome, Loss(primary, acceptance.margin), MODELS)
    return [ranking, *_vetoes(found, acceptance, facts, MODELS), spending]


def _spending(found: Comparison, acceptance: Acceptance, under: str = "") -> Reason:
    spending = Spending(found.false_alarms_over_budget["challenger"], acceptance.guardrails.false_alarms_over_budget)
    return Reason("guardrail", "pass" if spending.times <= spending.limit else "fail", spending, under)


def _sample_size(found: Comparison, acceptance: Acceptance, under: str = "") -> Reason:
    has = found.groups, found.servers_with_crashes, found.blocks
    needs = acceptance.min_groups, acceptance.min_servers, MIN_BLOCKS
    enough = all(one >= least for one, least in zip(has, needs, strict=True))
    return Reason("sample size", "pass" if enough else "open", SampleSize(found.crashes, has, needs), under)


def _limits(acceptance: Acceptance, facts: Facts) -> list[Reason]:
    reasons = []
    limits: dict[Check, Limit] = {
        "latency": Limit(facts.latency, acceptance.max_latency_ms),
        "size": Limit(facts.size, acceptance.max_size_mb),
    }
    for check, limit in limits.items():
        if limit.both is not None:
            reasons.append(Reason(check, "pass" if limit.both.challenger <= limit.limit else "fail", limit))
        elif not facts.is_first:
            reasons.append(Reason(check, "open", limit))
    most = acceptance.max_denominator_loss
    for name, both in (facts.denominators or {}).items():
        loss = 1 - both.challenger / both.champion if both.champion > 0 else 0.0
        reasons.append(Reason("denominator", "pass" if loss <= most else "fail", Denominator(name, both, most)))
    if facts.budget and facts.budget.champion != facts.budget.challenger:
        reasons.append(Reason("alarm budget", "open", Change("false_alarms_per_server_day", *facts.budget)))
    reasons.append(Reason("rows", "pass" if facts.rows_kind in JUDGED_ROWS else "open", facts.rows_kind))
    if facts.no_anchor:
        reasons.append(Reason("anchor", "shown", facts.no_anchor))
    reasons += [Reason("policy", "shown", Change(*change)) for change in facts.policy_changes]
    return reasons


def min_detectable(found: Comparison, acceptance: Acceptance, error: float, facts: Facts) -> float | None:
    """Return the smallest true gain that the whole policy accepts as an improvement with a probability of `POWER`.

    Each replicate is what may be observed: the true gain in PR-AUC, the same in every slice of servers, no change in
    anything else, and the deviations. Each has a smallest gain that is accepted; the answer is the quantile of those.

    Parameters
    ----------
    found : Comparison
    acceptance : Acceptance
    error : float
        One-sided, of the look.
    facts : Facts

    Returns
    -------
    float or None
        In units of the primary metric; None if vetoes alone come too often.
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


def difference_rows(
    found: Comparison, acceptance: Acceptance, form: Form | None, error: float, is_first: bool = False
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


def slice_rows(found: Comparison, acceptance: Acceptance, facts: Facts) -> list[dict[str, Any]]:
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
