from __future__ import annotations

import math
from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from crashcast.params.acceptance import Acceptance, look_error
from crashcast.review import policy
from crashcast.review.comparison import ANCHOR, Comparison, Difference, Slice
from crashcast.review.policy import Both, Facts, Reason, decide
from crashcast.review.report import reasons

VALUES = {
    "metric": "pr_auc",
    "min_gain": 0.01,
    "margin": 0.02,
    "stale_after": "60d",
    "block": "8h",
    "replicates": 1000,
    "seed": 1,
    "min_groups": 40,
    "min_servers": 20,
    "max_denominator_loss": 0.005,
    "max_latency_ms": 3,
    "max_size_mb": 10,
    "guardrails": {"event_recall": 0.05, "lead_h": 0.5, "brier": 0.1, "false_alarms_over_budget": 2},
    "slices": {"pr_auc": 0.05, "event_recall": 0.1, "min_crashes": 30},
}
POLICY = Acceptance.model_validate(VALUES)
FACTS = Facts(look=1, rows_kind="own", latency=Both(1, 1), size=Both(1, 1))


def difference(name, gain, error=0.01, champion=0.3, better="higher", seed=1):
    change = gain if better == "higher" else -gain
    deviations = error * np.random.default_rng(seed).normal(size=2000)
    return Difference(name, name, "", better, champion, champion + change, change, error, 100, deviations)


def evidence(gain, error=0.01, *, anchor=None, slices=(), over=1.0, **others):
    """What is said of a challenger that differs by `gain` in PR-AUC and not at all in anything else."""
    differences = {
        "pr_auc": difference("pr_auc", gain, error),
        "event_recall": difference("event_recall", others.get("event_recall", 0.0), 0.02, champion=0.5),
        "lead_h": difference("lead_h", others.get("lead_h", 0.0), 0.2, champion=4.0),
        "brier": difference("brier", others.get("brier", 0.0), 0.0001, champion=0.005, better="lower"),
    }
    if anchor is not None:
        differences[ANCHOR] = difference(ANCHOR, anchor, error)
    return Comparison(
        rows=100_000,
        positives=600,
        crashes=100,
        server_days=4000.0,
        servers=100,
        servers_with_crashes=others.get("servers_with_crashes", 50),
        groups=others.get("groups", 60),
        blocks=others.get("blocks", 90),
        differences=differences,
        false_alarms_over_budget={"champion": 1.0, "challenger": over},
        slices={part.name: part for part in slices},
    )


UNKNOWN = Difference("", "", "", "higher", 4.0, None, None)


def part(name, gain, error=0.01, crashes=50, figure="pr_auc"):
    return Slice(name, 1000, crashes, difference(figure, gain, error, seed=crc32(name.encode())))


def verdict(found, facts=FACTS, acceptance=POLICY):
    return decide({"base": found}, acceptance, facts).verdict


def outcomes(decision, check):
    return [reason.outcome for reason in decision.reasons if reason.check == check]


@pytest.mark.parametrize(
    ("gain", "error", "expected"),
    [
        (0.05, 0.01, "ACCEPT"),  # at least 0.05 - 1.9 x 0.01
        (0.025, 0.01, "INCONCLUSIVE"),  # at least 0.006: not more than the least gain
        (0.0, 0.01, "INCONCLUSIVE"),  # at most 0.017
        (-0.02, 0.01, "REJECT"),  # at most -0.003
        (0.005, 0.001, "REJECT"),  # better for certain, but not by enough
        (0.0, 0.0, "REJECT"),
        (0.01, 0.0, "INCONCLUSIVE"),  # neither above the least gain nor below it
        (0.02, 0.0, "ACCEPT"),
    ],
)
def test_the_primary_metric_must_gain_enough_for_certain(gain, error, expected):
    assert verdict(evidence(gain, error)) == expected


def test_later_looks_are_held_to_less_error():
    assert look_error(1) == pytest.approx(0.05 * 6 / math.pi**2)
    assert look_error(3) == pytest.approx(look_error(1) / 9)
    assert 0.0499 < sum(map(look_error, range(1, 1000))) < 0.05
    assert verdict(evidence(0.035)) == "ACCEPT"
    assert verdict(evidence(0.035), replace(FACTS, look=20)) == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("name", "within", "beyond"),
    [("event_recall", -0.045, -0.055), ("lead_h", -0.4, -0.6), ("brier", -0.0004, -0.0006)],
)
def test_a_guardrail_vetoes_a_loss_beyond_its_margin(name, within, beyond):
    assert verdict(evidence(0.05, **{name: within})) == "ACCEPT"
    decision = decide({"base": evidence(0.05, **{name: beyond})}, POLICY, FACTS)
    assert decision.verdict == "REJECT"
    assert decision.form is None
    assert reasons.headline(decision).startswith("Vetoed by guardrail")
    assert outcomes(decision, "primary") == ["pass"]


def test_a_veto_outweighs_what_is_open():
    assert verdict(evidence(0.0)) == "INCONCLUSIVE"
    assert verdict(evidence(0.0, event_recall=-0.1)) == "REJECT"


def test_a_loss_as_large_as_its_margin_is_no_veto():
    assert not policy.is_vetoed(difference("event_recall", -0.05, error=0.0), 0.05)
    assert policy.is_vetoed(difference("event_recall", -0.0501, error=0.0), 0.05)
    assert not policy.is_vetoed(UNKNOWN, 0.05)


def test_a_loss_that_chance_explains_is_no_veto():
    assert verdict(evidence(0.05, slices=[part("group_a", -0.08, error=0.06)])) == "ACCEPT"
    assert verdict(evidence(0.05, slices=[part("group_a", -0.08, error=0.04)])) == "REJECT"


def test_a_slice_with_few_crashes_is_shown_not_judged():
    decision = decide({"base": evidence(0.05, slices=[part("group_a", -0.2, crashes=29)])}, POLICY, FACTS)
    assert decision.verdict == "ACCEPT"
    assert outcomes(decision, "slice") == ["shown"]


def test_the_least_that_is_asked_for_is_enough():
    decision = decide({"base": evidence(0.05, groups=40, servers_with_crashes=20, blocks=8)}, POLICY, FACTS)
    assert decision.verdict == "ACCEPT"
    assert "100 crashes in 40 groups on 20 servers" in map(reasons.in_words, decision.reasons)
    assert verdict(evidence(0.05, slices=[part("group_a", -0.2, crashes=30)])) == "REJECT"
    assert verdict(evidence(0.05, over=2.0)) == "ACCEPT"
    assert verdict(evidence(0.05), replace(FACTS, latency=Both(1, 3), size=Both(1, 10))) == "ACCEPT"


def test_slices_of_crashes_have_their_own_margin():
    assert verdict(evidence(0.05, slices=[part("fresh_crashes", -0.09, figure="event_recall")])) == "ACCEPT"
    assert verdict(evidence(0.05, slices=[part("fresh_crashes", -0.11, figure="event_recall")])) == "REJECT"


def test_a_slice_without_a_figure_is_shown_not_judged():
    unknown = Slice("fresh_crashes", 1000, 50, UNKNOWN)
    decision = decide({"base": evidence(0.05, slices=[unknown])}, POLICY, FACTS)
    assert decision.verdict == "ACCEPT"
    assert outcomes(decision, "slice") == ["shown"]


numbers = st.floats(-0.3, 0.3)
parts = st.lists(st.tuples(numbers, st.floats(0, 0.1), st.integers(0, 99)), max_size=4)


@settings(deadline=None)
@given(numbers, st.floats(0, 0.1), numbers, parts, parts, st.booleans(), numbers, st.integers(0, 80))
def test_more_slices_never_help(gain, error, recall, some, more, is_stale, anchor, groups):
    facts = replace(FACTS, is_stale=is_stale, has_anchor=is_stale)

    def with_slices(figures):
        slices = [part(f"group_{i}", *figure) for i, figure in enumerate(figures)]
        return verdict(evidence(gain, error, anchor=anchor, event_recall=recall, groups=groups, slices=slices), facts)

    order = ["REJECT", "INCONCLUSIVE", "ACCEPT"]
    assert order.index(with_slices([*some, *more])) <= order.index(with_slices(some))


@settings(deadline=None)
@given(numbers, st.floats(0, 0.1), st.integers(1, 50), st.booleans(), st.sampled_from(["own", "later", "other", "?"]))
def test_the_same_evidence_leads_to_the_same_decision_with_reasons(gain, error, look, is_stale, kind):
    found, facts = evidence(gain, error), replace(FACTS, look=look, is_stale=is_stale, rows_kind=kind)
    decision = decide({"base": found}, POLICY, facts)
    assert decision == decide({"base": found}, POLICY, facts)
    assert reasons.headline(decision).endswith(".")
    assert all(reasons.in_words(reason) for reason in decision.reasons)
    assert (decision.form is not None) == (decision.verdict == "ACCEPT")


@pytest.mark.parametrize(
    ("too_few", "told"),
    [
        ({"groups": 39}, "1 more groups of crashes (39 of 40)"),
        ({"servers_with_crashes": 15}, "5 more servers with crashes (15 of 20)"),
        ({"blocks": 7}, "1 more blocks of time (7 of 8)"),
    ],
)
def test_too_little_is_never_accepted_and_says_how_much_is_lacking(too_few, told):
    decision = decide({"base": evidence(0.2, **too_few)}, POLICY, FACTS)
    assert decision.verdict == "INCONCLUSIVE"
    assert decision.detectable is None
    assert told in reasons.headline(decision)
    assert verdict(evidence(-0.2, **too_few)) == "REJECT"


def test_rows_that_are_neither_the_bases_own_nor_later_cap_the_verdict():
    assert verdict(evidence(0.1), replace(FACTS, rows_kind="other")) == "INCONCLUSIVE"
    for kind in ("later", "own and later"):
        assert verdict(evidence(0.1), replace(FACTS, rows_kind=kind)) == "ACCEPT"
    assert verdict(evidence(-0.1), replace(FACTS, rows_kind="other")) == "REJECT"


ON_WINDOWS = replace(FACTS, rows_kind="windows", n_windows=3)


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (evidence(0.0, groups=5), "ACCEPT"),  # they need not show a gain, nor have enough groups
        (evidence(-0.02), "ACCEPT"),  # certainly worse, by less than the margin
        (evidence(-0.05), "REJECT"),
        (evidence(-0.05, error=0.05), "ACCEPT"),  # chance explains it
        (evidence(0.0, event_recall=-0.2), "REJECT"),
        (evidence(0.0, over=2.1), "REJECT"),
    ],
)
def test_if_recipes_are_judged_the_models_themselves_can_only_veto(models, expected):
    assert verdict(evidence(0.1), replace(ON_WINDOWS, models=models)) == expected
    assert verdict(evidence(0.0, 0.01), replace(ON_WINDOWS, models=evidence(0.3))) == "INCONCLUSIVE"


def test_too_few_groups_on_all_windows_are_too_few():
    found = decide({"base": evidence(0.1, groups=39)}, POLICY, replace(ON_WINDOWS, models=evidence(0.1)))
    assert found.verdict == "INCONCLUSIVE"
    assert "1 more groups of crashes (39 of 40)" in reasons.headline(found, 3)


def test_the_headline_says_that_recipes_were_judged():
    found = decide({"base": evidence(0.1)}, POLICY, replace(ON_WINDOWS, models=evidence(0.1)))
    assert reasons.headline(found, 3).startswith("A better recipe than the champion's on 3 windows: PR-AUC 0.400")
    first = decide({"base": evidence(0.1)}, POLICY, replace(ON_WINDOWS, is_first=True, models=evidence(0.1)))
    assert reasons.headline(first, 3).startswith("A recipe better than every baseline on 3 windows: ")
    assert outcomes(first, "guardrail") == ["pass", "pass"]  # what the recipe and the model itself spend


@pytest.mark.parametrize(
    ("facts", "check"),
    [
        ({"latency": Both(1.0, 3.1)}, "latency"),
        ({"size": Both(100, 1001)}, "size"),
        ({"denominators": {"crashes": Both(1000, 994)}}, "denominator"),
        ({"denominators": {"crashes": Both(100, 120), "server-days": Both(1000, 990)}}, "denominator"),
    ],
)
def test_hard_limits(facts, check):
    decision = decide({"base": evidence(0.1)}, POLICY, replace(FACTS, **facts))
    assert decision.verdict == "REJECT"
    assert "fail" in outcomes(decision, check)
    assert reasons.headline(decision).startswith(f"Vetoed by {check}")


def test_what_fits_the_limits_passes():
    facts = replace(FACTS, latency=Both(1.0, 2.9), denominators={"crashes": Both(1000, 996), "server-days": Both(5, 9)})
    assert verdict(evidence(0.1), facts) == "ACCEPT"
    none = replace(FACTS, denominators={"crashes": Both(0, 0)})  # and none to lose
    assert verdict(evidence(0.1), none) == "ACCEPT"
    assert verdict(evidence(0.1), replace(FACTS, denominators={"crashes": Both(1, 0)})) == "REJECT"
    as_many = replace(FACTS, denominators={"crashes": Both(1000, 1000)})
    assert verdict(evidence(0.1), as_many, POLICY.model_copy(update={"max_denominator_loss": 0.0})) == "ACCEPT"
    assert verdict(evidence(0.1, over=1.9)) == "ACCEPT"
    assert verdict(evidence(0.1, over=2.1)) == "REJECT"


def test_what_was_not_measured_is_no_pass():
    assert verdict(evidence(0.1), replace(FACTS, latency=None)) == "INCONCLUSIVE"
    found = evidence(0.1)
    decision = decide({"base": replace(found, differences={**found.differences, "lead_h": UNKNOWN})}, POLICY, FACTS)
    assert decision.verdict == "INCONCLUSIVE"
    assert decision.detectable is not None
    # a champion that never caught anything loses no lead
    nothing = replace(UNKNOWN, champion=None, challenger=4.0)
    assert verdict(replace(found, differences={**found.differences, "lead_h": nothing})) == "ACCEPT"


STALE = replace(FACTS, is_stale=True, has_anchor=True)


@pytest.mark.parametrize(
    ("gain", "anchor", "expected", "form"),
    [
        (0.005, 0.005, "ACCEPT", "renewal"),
        (0.05, 0.05, "ACCEPT", "improvement"),
        (0.05, 0.0, "ACCEPT", "improvement"),  # at the worst 0.019 less than the anchor
        (0.05, -0.002, "INCONCLUSIVE", None),  # at the worst 0.021 less, and at 95 % 0.019
        (0.05, -0.015, "INCONCLUSIVE", None),  # better than the champion alone, which is worse than the anchor
        (0.05, -0.05, "REJECT", None),
        (0.005, -0.015, "INCONCLUSIVE", None),
        (0.005, -0.05, "REJECT", None),
        (-0.05, 0.05, "REJECT", None),
        (-0.015, 0.005, "INCONCLUSIVE", None),
    ],
)
def test_a_stale_champion_may_be_renewed_by_one_that_is_no_worse(gain, anchor, expected, form):
    decision = decide({"base": evidence(gain, anchor=anchor)}, POLICY, STALE)
    assert (decision.verdict, decision.form) == (expected, form)


@pytest.mark.parametrize(
    ("gain", "error", "anchor", "told"),
    [
        (
            *(0.005, 0.01, 0.005),
            "As good as the stale champion: the champion is stale; against the champion PR-AUC changes by +0.005, at "
            "the worst by -0.014 and against the last model accepted as an improvement PR-AUC changes by +0.005",
        ),
        (0.005, 0.01, -0.015, "Not shown either way: the champion is stale"),  # neither as better nor as good
        (-0.05, 0.01, 0.05, "Not better enough: the champion is stale"),
        (0.05, 0.01, 0.05, "Better than the champion: PR-AUC 0.350 against the champion's 0.300: a gain of +0.050"),
    ],
)
def test_of_a_stale_champion_the_form_that_went_further_is_told(gain, error, anchor, told):
    decision = decide({"base": evidence(gain, error, anchor=anchor)}, POLICY, STALE)
    assert reasons.headline(decision).startswith(told)
    assert sorted(outcomes(decision, "primary")) in (["open", "shown"], ["pass", "shown"], ["fail", "shown"], ["pass"])


def test_only_a_stale_champion_may_be_renewed():
    assert verdict(evidence(0.005, 0.003, anchor=0.005), replace(STALE, is_stale=False)) == "REJECT"
    assert verdict(evidence(0.005, 0.003, anchor=0.005), STALE) == "ACCEPT"


def test_nothing_is_accepted_with_another_alarm_budget() -> None:
    assert verdict(evidence(0.05), replace(FACTS, budget=Both(0.02, 0.02))) == "ACCEPT"
    assert verdict(evidence(0.05), replace(FACTS, budget=Both(0.02, 0.0002))) == "INCONCLUSIVE"


@pytest.mark.parametrize(("error", "said"), [(0.05, "95%"), (0.0304, "97%"), (0.0003, "99.97%"), (0.00004, "99.996%")])
def test_a_confidence_is_never_certainty(error: float, said: str) -> None:
    assert reasons.confidence(error) == f"{said} confidence"


def test_an_anchor_that_cannot_be_compared_is_told_of() -> None:
    decision = decide({"base": evidence(0.05)}, POLICY, replace(FACTS, no_anchor="v1.0.0 is another fleet's"))
    assert decision.verdict == "ACCEPT"
    assert Reason("anchor", "shown", "v1.0.0 is another fleet's") in decision.reasons
    assert reasons.in_words(Reason("anchor", "shown", "v1.0.0 is another fleet's")) == "v1.0.0 is another fleet's"


def test_an_anchor_that_was_not_compared_is_no_pass():
    assert verdict(evidence(0.005, 0.003), STALE) == "INCONCLUSIVE"
    assert verdict(evidence(0.1, 0.003), STALE) == "INCONCLUSIVE"
    assert verdict(evidence(0.005, 0.003), replace(STALE, has_anchor=False)) == "ACCEPT"


@pytest.mark.parametrize("name", ["pr_auc", ANCHOR])
def test_an_unmeasured_ranking_is_no_pass(name):
    found = evidence(0.05, anchor=0.05, groups=3)
    decision = decide({"base": replace(found, differences={**found.differences, name: UNKNOWN})}, POLICY, STALE)
    assert decision.verdict == "INCONCLUSIVE"
    assert any("could not be measured" in reasons.in_words(reason) for reason in decision.reasons)


def test_every_definition_must_pass():
    def both(base, challenger):
        return decide({"the base's labels": base, "the challenger's labels": challenger}, POLICY, FACTS)

    assert both(evidence(0.05), evidence(0.05)).verdict == "ACCEPT"
    assert both(evidence(0.05), evidence(0.0)).verdict == "INCONCLUSIVE"
    assert both(evidence(-0.1), evidence(0.05)).verdict == "REJECT"
    worse = both(evidence(0.05), evidence(0.05, event_recall=-0.1))
    assert worse.verdict == "REJECT"
    assert "(the challenger's labels)" in reasons.headline(worse)


def test_the_first_model_must_beat_every_baseline_and_nothing_else():
    facts = Facts(look=1, rows_kind="own", is_first=True)
    strong, weak = evidence(0.2, event_recall=-0.2, slices=[part("group_a", -0.3)]), evidence(0.01)
    decision = decide({"random": strong}, POLICY, facts)
    assert (decision.verdict, decision.form) == ("ACCEPT", "first")
    told = "Better than every baseline: PR-AUC 0.500 against the baseline's 0.300"
    assert reasons.headline(decision).startswith(told)
    assert decide({"random": strong, "crashes_7d": weak}, POLICY, facts).verdict == "INCONCLUSIVE"
    # scores of a rule are no probabilities
    assert not any("Brier" in reasons.in_words(reason) for reason in decision.reasons)
    assert [row["judged"] for row in policy.slice_rows(strong, POLICY, facts)] == [False]
    assert "brier" not in [row["name"] for row in policy.difference_rows(strong, POLICY, "first", 0.05, is_first=True)]
    assert (
        decide({"random": replace(strong, false_alarms_over_budget={"challenger": 3.0})}, POLICY, facts).verdict
        == "REJECT"
    )


def test_a_first_model_on_too_little_is_told_so_first_and_once():
    facts = Facts(look=1, rows_kind="own", is_first=True)
    few = evidence(0.2, groups=13)
    decision = decide({"random": few, "crashes_7d": evidence(0.01, groups=13)}, POLICY, facts)
    assert decision.verdict == "INCONCLUSIVE"
    assert "too little to accept anything, which takes" in reasons.headline(decision)
    assert outcomes(decision, "sample size") == ["open"]
    assert not any("champion" in reasons.in_words(reason) for reason in decision.reasons)


def test_a_loosened_policy_is_shown_and_not_applied():
    decision = decide({"base": evidence(0.05)}, POLICY, replace(FACTS, policy_changes=(("min_gain", 0.01, 0.0),)))
    assert outcomes(decision, "policy") == ["shown"]
    assert "from 0.01 to 0.0" in next(
        reasons.in_words(reason) for reason in decision.reasons if reason.check == "policy"
    )


def share_accepted(true_gain, found, facts=FACTS, replicates=1000):
    """Of challengers that truly gain this much, with errors as the evidence says."""
    accepted = 0
    for replicate in range(replicates):
        observed = {}
        for name, one in found.differences.items():
            true = true_gain if name == "pr_auc" else 0.0
            observed[name] = replace(one, difference=true + one.deviations[replicate])
        slices = {
            name: replace(
                one, difference=replace(one.difference, difference=true_gain + one.difference.deviations[replicate])
            )
            for name, one in found.slices.items()
        }
        accepted += verdict(replace(found, differences=observed, slices=slices), facts) == "ACCEPT"
    return accepted / replicates


def skewed(one, seed):
    """Return a difference whose replicates lie far below it more often than far above."""
    return replace(one, deviations=one.standard_error * (1 - np.random.default_rng(seed).exponential(size=2000)))


@pytest.mark.parametrize("error", [None, 0.06, 0.3])
def test_the_detectable_gain_is_accepted_as_often_as_it_says(error):
    """Also if slices veto by chance."""
    slices = [part(name, 0, error) for name in ("group_a", "group_b", "group_c")] if error else []
    found = evidence(0.0, slices=[replace(one, difference=skewed(one.difference, i)) for i, one in enumerate(slices)])
    found = replace(found, differences=found.differences | {"pr_auc": skewed(found.differences["pr_auc"], 9)})
    detectable = decide({"base": found}, POLICY, FACTS).detectable
    assert detectable > 0.01 + 1.9 * 0.01
    assert share_accepted(detectable, found) == pytest.approx(policy.POWER, abs=0.04)


def test_the_detectable_gain_of_a_first_model_is_accepted_as_often_as_it_says():
    facts = Facts(look=1, rows_kind="own", is_first=True)
    found = evidence(0.0, slices=[part("group_a", 0, 0.06)])
    noisy = {
        name: replace(found.differences[name], deviations=np.full(2000, -1.0)) for name in ("event_recall", "lead_h")
    }
    found = replace(found, differences=found.differences | noisy)  # nothing else can veto
    detectable = decide({"random": found}, POLICY, facts).detectable
    assert share_accepted(detectable, found, facts) == pytest.approx(policy.POWER, abs=0.04)


def test_where_vetoes_come_too_often_no_gain_is_detectable():
    noisy = [part(f"fresh_{i}", 0, 0.5, figure="event_recall") for i in range(8)]
    assert decide({"base": evidence(0.0, slices=noisy)}, POLICY, FACTS).detectable is None


def test_rows_of_the_record():
    slices = [part("group_a", -0.2), part("group_b", -0.2, crashes=3), part("group_c", 0.0)]
    found = evidence(0.05, anchor=0.02, slices=slices)
    decision = decide({"base": found}, POLICY, FACTS)
    primary, anchor, recall, *_ = rows = policy.difference_rows(found, POLICY, decision.form, decision.error)
    assert [row["role"] for row in rows] == ["primary", "shown", "guardrail", "guardrail", "guardrail"]
    assert primary["low"] == pytest.approx(0.05 - 1.9 * 0.01, abs=1e-3)
    assert primary["confidence"] == pytest.approx(1 - 2 * look_error(1))
    assert primary["high"] == pytest.approx(0.05 + 1.9 * 0.01, abs=1e-3)
    assert (primary["margin"], anchor["margin"], recall["margin"]) == (0.01, 0.02, 0.05)
    assert policy.difference_rows(found, POLICY, "renewal", decision.error)[0]["margin"] == 0.02
    assert [row["vetoed"] for row in policy.slice_rows(found, POLICY, FACTS)] == [True, False, False]
    assert [row["judged"] for row in policy.slice_rows(found, POLICY, FACTS)] == [True, False, True]
    shown = policy.slice_rows(found, POLICY, FACTS)[0]
    assert shown["bound"] == shown["high"] == pytest.approx(-0.2 + 1.66 * 0.01, abs=1e-4)
    assert "confidence" not in shown


@pytest.mark.parametrize(
    "wrong", [{"min_gain": -0.1}, {"margin": 0}, {"block": "8"}, {"min_groups": 1}, {"more": 1}, {"metric": "accuracy"}]
)
def test_a_policy_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValidationError):
        Acceptance.model_validate({**VALUES, **wrong})
