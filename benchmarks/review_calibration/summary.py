"""What the reviews of pairs of known difference say about the judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from fleets import ROOT  # type: ignore[import-not-found]
from scipy.stats import beta, t
from sklearn.linear_model import LogisticRegression

from crashcast.canonical import write_json
from crashcast.params.acceptance import ERROR, Acceptance, look_error
from crashcast.review.policy import POWER

RESULTS = ROOT / "benchmarks" / "results" / "review_calibration.json"
STEP = 0.02  # of true gains, in PR-AUC
Pair = dict[str, Any]


def report(folder: Path, conditions: tuple[str, ...], chain: str, windows: str) -> None:
    """Summarise every fleet that has been run, print it and write it to benchmarks/results, beside what is there."""
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for condition in conditions:
        fleets = [json.loads(file.read_text()) for file in sorted((folder / condition).glob("fleet-*.json"))]
        if fleets:
            results[condition] = summarise(fleets)
    chains = [json.loads(file.read_text())["chain"] for file in sorted((folder / chain).glob("fleet-*.json"))]
    if chains:
        margin = Acceptance.read(ROOT / "params.yaml").margin
        results[chain] = rate(
            [any(step["verdict"] == "ACCEPT" and step["true_gain"] < -margin for step in steps) for steps in chains]
        )
    small = [json.loads(file.read_text()) for file in sorted((folder / windows).glob("fleet-*.json"))]
    if small:
        results[windows] = of_recipes([pair for fleet in small for pair in fleet["pairs"]])
    write_json(RESULTS, results)
    print(json.dumps(results, indent=2))


def of_recipes(pairs: list[Pair]) -> dict[str, Any]:
    """Summarise small fleets: how often recipes are accepted on windows, if they are equal and if there is a gain.

    By test rows alone: if the interval did not cover other training rows.
    """
    found: dict[str, Any] = {}
    for kind in ("equal", "gain"):
        of_kind = [pair for pair in pairs if pair["kind"] == kind]
        gain, error, _ = np.array([pair["gain"] for pair in of_kind]).T
        found[kind] = {
            "pairs": len(of_kind),
            "groups": quartiles([pair["groups"] for pair in of_kind]),
            "groups_of_test_part": quartiles([pair["groups_of_test_part"] for pair in of_kind]),
            "true_gain": float(np.mean([pair["true_gain"] for pair in of_kind])),
            "gain_sd": float(np.std(gain)),
            "standard_error": float(np.median(error)),
            "accepted": share(of_kind, "accepted", True),
            "accepted_by_test_rows_alone": share(of_kind, "accepted_by_test_rows_alone", True),
        }
    return found


def summarise(fleets: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarise the fleets of one condition."""
    pairs = [pair for fleet in fleets for pair in fleet["pairs"]]
    equal = [pair for pair in pairs if pair["kind"] == "equal"]
    true, gain, error, df = (np.array(values) for values in zip(*map(of_primary, pairs), strict=True))
    result: dict[str, Any] = {
        "fleets": len(fleets),
        "crashes": quartiles([pair["crashes"] for pair in equal]),
        "groups": quartiles([pair["groups"] for pair in equal]),
        "pr_auc": quartiles([pair["differences"]["pr_auc"][0] for pair in equal]),
        "equal": {
            "true_gain_sd": float(np.std([pair["true_gain"] for pair in equal])),
            "verdicts": {word: share(equal, "verdict", word) for word in ("ACCEPT", "REJECT", "INCONCLUSIVE")},
            "accepted_if_stale": share(equal, "verdict_if_stale", "ACCEPT"),
            "accepted_by_higher_pr_auc": share(equal, "accepted_by_higher_pr_auc", True),
            "accepted_by_independent_rows": share(equal, "accepted_by_independent_rows", True),
            "vetoed": rate([bool(pair["vetoes"]) for pair in equal]),
            "detectable": quartiles([pair["detectable"] for pair in equal if pair["detectable"] is not None]),
            "detectable_unknown": rate([pair["detectable"] is None for pair in equal]),
        },
        # how often a bound lies beyond the truth, whatever it is
        "lower_bound_above_truth": {
            f"{at:.4f}": rate((gain - t.isf(at, df) * error > true).tolist()) for at in (ERROR, look_error(1), 0.01)
        },
        "upper_bound_below_truth": {f"{ERROR:.4f}": rate((gain + t.isf(ERROR, df) * error < true).tolist())},
        "error_over_standard_error": float(np.sqrt(np.mean(((gain - true) / error) ** 2))),
        "standard_error": quartiles(error.tolist()),
        "levels": [
            level([pair for pair in pairs if (pair["kind"], pair["noise"]) == key])
            for key in sorted({(pair["kind"], pair["noise"]) for pair in pairs})
        ],
    }
    result["by_true_gain"] = by_true_gain(pairs)
    losses = [pair for pair in pairs if pair["true_gain"] < 0]
    excluded = [lower(pair) > pair["true_gain"] for pair in losses]
    result["true_loss_taken_for_less"] = rate(excluded)  # a margin equal to the loss, as a renewal
    stated = [pair["detectable"] for pair in pairs if pair["kind"] == "gain" and pair["detectable"] is not None]
    if stated:
        result["power"] = power(pairs, float(np.median(stated)))
    runs = [fleet["looks"] for fleet in fleets if "looks" in fleet]
    if runs:
        result["looks"] = rate([any(look["verdict"] == "ACCEPT" for look in run) for run in runs])
    return result


def by_true_gain(pairs: list[Pair]) -> list[dict[str, Any]]:
    """Return how often the review and two simpler rules accept, by what the challenger truly gains."""
    rules = {
        "review": [pair["verdict"] == "ACCEPT" for pair in pairs],
        "higher_pr_auc": [pair["accepted_by_higher_pr_auc"] for pair in pairs],
        "independent_rows": [pair["accepted_by_independent_rows"] for pair in pairs],
    }
    cell = np.floor(np.array([pair["true_gain"] for pair in pairs]) / STEP + 0.5).astype(int)
    return [
        {"true_gain": round(number * STEP, 4), "pairs": int(np.sum(cell == number))}
        | {rule: float(np.mean(np.array(accepted)[cell == number])) for rule, accepted in rules.items()}
        for number in np.unique(cell).tolist()
    ]


def of_primary(pair: Pair) -> tuple[float, float, float, float]:
    """Return a pair's true gain, and the measured one with its standard error and degrees of freedom."""
    _, gain, error, df = pair["differences"]["pr_auc"]
    return pair["true_gain"], gain, error, df


def lower(pair: Pair) -> float:
    """Return the bound that decides at the first look."""
    _, gain, error, df = of_primary(pair)
    return float(gain - t.isf(look_error(1), df) * error)


def power(pairs: list[Pair], stated: float) -> dict[str, Any]:
    """Compare the gain that the review says it can show with the one that it accepts as often as it says."""
    true = np.array([[pair["true_gain"]] for pair in pairs])
    accepted = np.array([pair["verdict"] == "ACCEPT" for pair in pairs])
    found: dict[str, Any] = {"stated_median": stated}
    if accepted.any() and not accepted.all():
        fitted = LogisticRegression(C=1e9).fit(true * 100, accepted)
        slope, intercept = fitted.coef_[0, 0], fitted.intercept_[0]
        found["true_gain_at_power"] = float((np.log(POWER / (1 - POWER)) - intercept) / slope / 100)
        found["stated_over_true"] = stated / found["true_gain_at_power"]
        found["accepted_at_stated"] = float(1 / (1 + np.exp(-(slope * stated * 100 + intercept))))
    far = [pair for pair in pairs if pair["true_gain"] <= -stated]
    found["accepted_at_loss_of_stated"] = rate(["ACCEPT" in (one["verdict"], one["verdict_if_stale"]) for one in far])
    return found


def level(pairs: list[Pair]) -> dict[str, Any]:
    """Summarise pairs of one kind and noise."""
    return {
        "kind": pairs[0]["kind"],
        "noise": pairs[0]["noise"],
        "pairs": len(pairs),
        "true_gain": float(np.mean([pair["true_gain"] for pair in pairs])),
        "accepted": share(pairs, "verdict", "ACCEPT"),
        "rejected": share(pairs, "verdict", "REJECT"),
        "accepted_if_stale": share(pairs, "verdict_if_stale", "ACCEPT"),
        "vetoed": rate([bool(pair["vetoes"]) for pair in pairs]),
    }


def share(pairs: list[Pair], key: str, value: Any) -> dict[str, Any]:
    """Return how many pairs have this value."""
    return rate([pair[key] == value for pair in pairs])


def rate(found: list[bool]) -> dict[str, Any]:
    """Return a share with its one-sided 95 % upper limit (Clopper, Pearson, 1934)."""
    n, hits = len(found), int(np.sum(found))
    high = 1.0 if hits == n else float(beta.ppf(0.95, hits + 1, n - hits))
    return {"of": n, "share": hits / n if n else None, "upper_limit": high}


def quartiles(values: list[float]) -> list[float]:
    """Return the three quartiles."""
    return [float(value) for value in np.quantile(values, [0.25, 0.5, 0.75])] if values else []
