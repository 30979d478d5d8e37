"""Pairs of models of known true difference, trained and reviewed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from fleets import CHAIN_MONTHS, CHAIN_SHARES, ROOT, Fleet, Rows, boosting, read_fleet  # type: ignore[import-not-found]
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.metrics import average_precision_score

from crashcast.modeling import alarms
from crashcast.modeling.model import Model, calibration, fit
from crashcast.modeling.row_metrics import steps_of
from crashcast.params.acceptance import Acceptance, look_error
from crashcast.params.alarms import Alarms
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.review.comparison import Comparison, compare
from crashcast.review.policy import Both, Facts, Reason, decide
from crashcast.review.report.reasons import in_words
from crashcast.review.rescoring import ScoredRows
from crashcast.review.standard_error import pr_auc_influence

PARAMS = ROOT / "params.yaml"
NOISE = (0.6, 0.9)  # of each sensor's feature, in its standard deviations
LOOKS = 20
RETRAININGS = 12
FIRST_SEED, FIRST_SEED_OF_CHAINS = 1_000, 10_000
ALIKE = Both(1.0, 1.0)


class Contender(NamedTuple):
    """A model that sees its features through noise, with its probabilities on the test rows and its true PR-AUC.

    `blur` is noise on its log-odds instead, in the calibrated ones' unit.
    """

    model: Model
    test: np.ndarray
    true_pr_auc: float
    blur: float = 0.0

    def on(self, values: np.ndarray, rng: np.random.Generator) -> Contender:
        """Return it with its probabilities on other test rows."""
        clear = self.model.probability(self.model.log_odds(values))
        return self._replace(test=expit(logit(clear) + self.blur * rng.standard_normal(len(clear))))


def truth_of(path: Path, read_truth: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Read the large fleet; simulate it if it is not there yet."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part.npz")
        np.savez(aside, **read_truth())
        aside.rename(path)
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def one_fleet(condition: str, number: int, truth: dict[str, np.ndarray], with_looks: bool) -> dict[str, Any]:
    """Train, review and measure the pairs of one fleet."""
    fleet = read_fleet(condition, FIRST_SEED + number)
    rng = np.random.default_rng([number, 1])
    servers = fleet.test.keys["server_id"].unique().sort().to_numpy()
    halves = np.array_split(rng.permutation(servers), 2)

    def contender(half: int, noise: float) -> Contender:
        return train_on(fleet, truth, halves[half], noise, rng)

    plain = [contender(half, 0.0) for half in (0, 1)]
    found = [reviewed("equal", 0.0, fleet, *plain)]
    if condition == "plain":
        for noise in NOISE:
            worse = [contender(half, noise) for half in (0, 1)]
            found.append(reviewed("gain", noise, fleet, worse[0], plain[1]))
            found.append(reviewed("loss", noise, fleet, plain[0], worse[1]))
    result: dict[str, Any] = {"pairs": found}
    if with_looks:
        result["looks"] = looks(fleet, truth, halves, rng)
    return result


def train_on(
    fleet: Fleet, truth: dict[str, np.ndarray], servers: np.ndarray, noise: float, rng: np.random.Generator
) -> Contender:
    """Train on some servers (one named twice counts twice), choose the threshold on their validation rows, score."""
    label, budget = Label.read(PARAMS), Alarms.read(PARAMS).false_alarms_per_server_day
    window = alarms.AlarmWindow.of(label, Telemetry.read(PARAMS).interval)
    scale = np.nan_to_num(np.nanstd(fleet.train.values, axis=0))

    def seen(values: np.ndarray) -> np.ndarray:
        return values + noise * scale * rng.standard_normal(values.shape, dtype=np.float32) if noise else values

    own = of_servers(fleet.train, servers)
    crash = own.keys["label"].to_numpy() == 1
    model = fit(boosting(), fleet.columns, seen(own.values), crash, fleet.share)

    def raw(values: np.ndarray) -> np.ndarray:
        return model.log_odds(seen(values))

    validation = of_servers(fleet.validation, np.unique(servers))
    scores = raw(validation.values)
    slope, intercept = calibration(scores, validation.keys["label"].to_numpy() == 1)
    model = replace(model, slope=slope, intercept=intercept)
    inside = fleet.crashes.filter(pl.col("server_id").is_in(servers.tolist()))
    rows = validation.keys.with_columns(score=model.probability(scores))
    threshold = alarms.choose_threshold(rows, inside, budget, window).threshold
    area = average_precision_score(truth["labels"], raw(truth["values"]), sample_weight=truth["weights"])
    model = replace(model, threshold=threshold)
    return Contender(model, model.probability(raw(fleet.test.values)), float(area))


def of_servers(rows: Rows, servers: np.ndarray) -> Rows:
    """Return the rows of some servers; those of one that is named twice come twice."""
    names, counts = np.unique(servers, return_counts=True)
    times = dict(zip(names.tolist(), counts.tolist(), strict=True))
    repeats = rows.keys["server_id"].cast(pl.String).replace_strict(times, default=0, return_dtype=pl.Int64).to_numpy()
    index = np.repeat(np.arange(rows.keys.height), repeats)
    return Rows(rows.keys[index], rows.values[index])


def compared(
    fleet: Fleet, champion: Contender, challenger: Contender, acceptance: Acceptance, anchor: Contender | None = None
) -> Comparison:
    """Compare the models on the fleet's test rows."""
    scores = {"champion": champion.test, "challenger": challenger.test}
    if anchor is not None:
        scores["anchor"] = anchor.test
    thresholds = {"champion": champion.model.threshold, "challenger": challenger.model.threshold}
    rows = fleet.test.keys.with_columns(pl.col("server_id").cast(pl.Categorical), **scores)
    window = alarms.AlarmWindow.of(Label.read(PARAMS), Telemetry.read(PARAMS).interval)
    rescored = ScoredRows(rows, fleet.crashes, fleet.periods["test"], window, thresholds, fleet.groups)
    return compare(rescored, acceptance, Alarms.read(PARAMS).false_alarms_per_server_day)


def reviewed(kind: str, noise: float, fleet: Fleet, champion: Contender, challenger: Contender) -> dict[str, Any]:
    """Review a pair: what was decided, on what, and what two simpler rules would have said."""
    acceptance = Acceptance.read(PARAMS)
    found = compared(fleet, champion, challenger, acceptance)
    fresh = decide({"base": found}, acceptance, Facts(look=1, rows_kind="own", latency=ALIKE, size=ALIKE))
    stale = Facts(look=1, rows_kind="later", is_stale=True, latency=ALIKE, size=ALIKE)
    renewal = decide({"base": found}, acceptance, stale)
    gain = found.differences["pr_auc"]
    assert gain.difference is not None
    return {
        "kind": kind,
        "noise": noise,
        "true_gain": challenger.true_pr_auc - champion.true_pr_auc,
        "true_champion": champion.true_pr_auc,
        "verdict": fresh.verdict,
        "vetoes": vetoes(fresh.reasons),
        "verdict_if_stale": renewal.verdict,
        "form_if_stale": renewal.form,
        "detectable": fresh.detectable,
        "differences": {
            name: [one.champion, one.gain, one.standard_error, one.degrees_of_freedom]
            for name, one in {
                **found.differences,
                **{name: part.difference for name, part in found.slices.items()},
            }.items()
        },
        "false_alarms_over_budget": found.false_alarms_over_budget["challenger"],
        "crashes": found.crashes,
        "groups": found.groups,
        "accepted_by_higher_pr_auc": gain.difference > 0,
        "accepted_by_independent_rows": gain.difference
        - norm.isf(look_error(1)) * row_error(fleet, champion, challenger)
        > acceptance.min_gain,
    }


def vetoes(reasons: tuple[Reason, ...]) -> list[str]:
    """Return what vetoed."""
    return sorted(
        in_words(reason).split(":")[0][:60]
        for reason in reasons
        if reason.outcome == "fail" and reason.check != "primary"
    )


def row_error(fleet: Fleet, champion: Contender, challenger: Contender) -> float:
    """Return the standard error that takes every row as independent of all others."""
    labels = fleet.test.keys["label"].to_numpy()
    each = np.arange(len(labels))
    old, new = (
        pr_auc_influence(labels, steps_of(labels, one.test), each, len(labels))[1] for one in (champion, challenger)
    )
    return float(np.sqrt(np.sum((new - old) ** 2)))


def looks(
    fleet: Fleet, truth: dict[str, np.ndarray], halves: list[np.ndarray], rng: np.random.Generator
) -> list[dict[str, Any]]:
    """Review one equal challenger after the other against one champion on the same rows."""
    acceptance = Acceptance.read(PARAMS)
    champion = train_on(fleet, truth, rng.choice(halves[0], len(halves[0])), 0.0, rng)
    found = []
    for look in range(1, LOOKS + 1):
        challenger = train_on(fleet, truth, rng.choice(halves[1], len(halves[1])), 0.0, rng)
        both = {"base": compared(fleet, champion, challenger, acceptance)}
        decision = decide(both, acceptance, Facts(look, "own", latency=ALIKE, size=ALIKE))
        found.append({"verdict": decision.verdict, "true_gain": challenger.true_pr_auc - champion.true_pr_auc})
    return found


def one_chain(number: int, truth: dict[str, np.ndarray]) -> dict[str, Any]:
    """Retrain again and again, each model half a margin worse than the last, each judged on later rows."""
    acceptance = Acceptance.read(PARAMS)
    fleet = read_fleet("plain", FIRST_SEED_OF_CHAINS + number, CHAIN_MONTHS, CHAIN_SHARES)
    rng = np.random.default_rng([number, 2])
    servers = fleet.test.keys["server_id"].unique().sort().to_numpy()
    one_row = Rows(fleet.test.keys[:1], fleet.test.values[:1])
    untested = fleet._replace(test=one_row)  # `on` scores what each is judged on
    models = [train_on(untested, truth, rng.choice(servers, len(servers)), 0.0, rng) for _ in range(RETRAININGS + 1)]
    best = models[0].true_pr_auc
    start, end = fleet.periods["test"]
    steps = []
    champion = anchor = models[0]
    for retraining in range(1, RETRAININGS + 1):
        wanted = best - retraining * acceptance.margin / 2
        challenger = blurred(models[retraining], truth, wanted, rng)
        window = tuple(start + (end - start) * part / RETRAININGS for part in (retraining - 1, retraining))
        period = tuple(moment.replace(minute=0, second=0, microsecond=0) for moment in window)
        inside = fleet.test.keys["timestamp"].dt.replace_time_zone(None).is_between(*period, closed="left").to_numpy()
        test = Rows(fleet.test.keys.filter(inside), fleet.test.values[inside])
        part = fleet._replace(test=test, periods={**fleet.periods, "test": period})
        rivals = [one.on(part.test.values, rng) for one in (champion, challenger)]
        rivals.append(rivals[0] if anchor is champion else anchor.on(part.test.values, rng))
        found = compared(part, rivals[0], rivals[1], acceptance, rivals[2])
        facts = Facts(1, "later", is_stale=True, has_anchor=champion is not anchor, latency=ALIKE, size=ALIKE)
        decision = decide({"base": found}, acceptance, facts)
        steps.append({"verdict": decision.verdict, "form": decision.form, "true_gain": challenger.true_pr_auc - best})
        if decision.verdict == "ACCEPT":
            champion = challenger
            anchor = challenger if decision.form == "improvement" else anchor
    return {"chain": steps}


def blurred(one: Contender, truth: dict[str, np.ndarray], wanted: float, rng: np.random.Generator) -> Contender:
    """Return the model with as much noise on its log-odds as brings its true PR-AUC down to what is wanted."""
    raw = one.model.log_odds(truth["values"])
    noise = rng.standard_normal(len(raw))

    def area(size: float) -> float:
        return float(average_precision_score(truth["labels"], raw + size * noise, sample_weight=truth["weights"]))

    least, most = 0.0, 8.0
    for _ in range(12):
        middle = (least + most) / 2
        least, most = (middle, most) if area(middle) > wanted else (least, middle)
    return one._replace(blur=one.model.slope * least, true_pr_auc=area(least))
