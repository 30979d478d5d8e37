"""Judge the model on the test part, which nothing before this stage has looked at.

In: features, labels, the split's rule, incidents and coverage, the model. Out: `data/predictions` (the
scores of the test rows, those of unknown label among them: alarms open there too), `metrics/evaluate.json`, and the
tables that `dvc plots` draws.

Three questions, each with its baseline: does the score rank rows better than chance (PR-AUC against the base rate),
does it beat the rules of one feature that anybody would try first and the best one on train, and would the alarms have
warned of crashes at a price that on-call can bear? Intervals come from resampling servers and, independently, blocks of
time.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from crashcast import tables
from crashcast.canonical import write_json
from crashcast.execution import runner
from crashcast.execution.runner import SMALL_TO_SCORE_BYTES
from crashcast.execution.task import Folder
from crashcast.files import replacing_folder
from crashcast.incidents import read_covered_crashes
from crashcast.modeling import alarms, plots, row_metrics
from crashcast.modeling.baselines import FILE, RANDOM, Rules, read_rules, with_baselines, without_itself
from crashcast.modeling.bootstrap import (
    TwoWayDraws,
    percentile_interval,
    pr_auc_replicates,
    ratio_replicates,
    total_replicates,
)
from crashcast.modeling.compared_servers import draw_servers
from crashcast.modeling.model import FILES, Model, loaded
from crashcast.modeling.part_tasks import part_tasks
from crashcast.modeling.row_counts import count_rows
from crashcast.modeling.slices import beginnings, crash_kinds, in_first_week, names, server_slices
from crashcast.modeling.split_rule import (
    HAS_LABEL,
    KEYS_AND_LABEL,
    Rule,
    crashes_of_part,
    mitigated_rows,
    period,
    read_part,
    read_pieces,
    read_rule,
    row_hash,
)
from crashcast.params.alarms import Alarms
from crashcast.params.evaluate import Evaluate
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Train
from crashcast.tables import Partition

Floats = NDArray[np.float64]
SAMPLE_ROWS = 3_000  # of each label and partition, to measure what features matter
MIN_SLICE_CRASHES = 10  # a recall of fewer says nothing


def main(
    features: Path,
    labels: Path,
    split: Path,
    incidents: Path,
    coverage: Path,
    models: Path,
    predictions: Path,
    plots_folder: Path,
    evaluation: Path,
) -> None:
    """Score the test part and write what came out."""
    settings, label, limits, rules = Telemetry.read(), Label.read(), Alarms.read(), Evaluate.read()
    window, budget = alarms.AlarmWindow.of(label, settings.interval), limits.false_alarms_per_server_day
    rule, model = read_rule(split), loaded(models)
    crashes = read_covered_crashes(incidents, coverage, Incidents.read())
    rules_to_beat = read_rules(models / FILE, model.features)
    baselines = without_itself(rules_to_beat, model.algorithm, model.hyperparameters)

    # a baseline sets its threshold on the rows that the model's was set on
    train, counted = Train.read(), count_rows(labels, rule)
    some = draw_servers(rule, counted, train.max_compared_rows, label.horizon / settings.interval, train.seed).drawn
    validation = read_part(features, labels, rule, "validation", list(baselines), servers=some)
    rows = pl.concat(with_baselines(piece, baselines, rules.seed) for _, piece in validation)
    earlier = crashes_of_part(crashes, rule, "validation", some)
    thresholds = {
        name: alarms.choose_threshold(by(name, rows), earlier, budget, window).threshold
        for name in (RANDOM, *baselines)
    }
    del rows

    found = score_test(features, labels, rule, models, predictions, rules.seed)
    test = with_scores(features, labels, rule, predictions, baselines, rules.seed)
    own = crashes_of_part(crashes, rule, "test")
    judged = alarms.judge(test, own, model.threshold, window, period(rule, "test"))
    mitigated = mitigated_rows(labels, rule, "test")
    known = test.drop(f"by_{name}" for name in thresholds).filter(HAS_LABEL)  # the baselines' scores would double it
    target, scores = known["label"].to_numpy(), known["score"].to_numpy()
    figures: dict[str, Any] = {
        **row_metrics.row_metrics(target, scores, model.threshold),
        **judged.metrics.as_dict(),
        "rows_mitigated": mitigated.height,
        "alarms_mitigated": alarms.on_mitigated(judged.alarms, mitigated),
        "mean_score_over_base_rate": scores.mean() / target.mean(),
        "false_alarm_budget": budget,
        "confidence": rules.confidence,
    }
    servers = names(known) | names(judged.crashes)  # a crash may have no known row
    draws = TwoWayDraws.draw(
        pl.Series(sorted(servers)), period(rule, "test"), rules.block, rules.replicates, rules.seed
    )
    cells = draws.cells(known["server_id"], known["timestamp"])
    replicates = pr_auc_replicates(target, row_metrics.steps_of(target, scores), cells, draws)
    figures |= intervals(target, cells, judged, replicates, draws, rules.confidence)

    figures["baselines"] = {}
    for name, threshold in thresholds.items():
        scored = by(name, test)
        rival = alarms.judge(scored, own, threshold, window, period(rule, "test")).metrics
        score = scored.select(pl.col("score").filter(HAS_LABEL)).to_series().to_numpy()
        rivals = pr_auc_replicates(target, row_metrics.steps_of(target, score), cells, draws)
        gain = percentile_interval(replicates - rivals, rules.confidence)
        figures["baselines"][name] = {
            "pr_auc": row_metrics.pr_auc(target, score),
            "event_recall": rival.event_recall,
            "false_alarms_per_server_day": rival.false_alarms_per_server_day,
            "pr_auc_gain_low": gain.low,
            "pr_auc_gain_high": gain.high,
        }

    slices = server_slices(servers, coverage, rule, tables.partitions(labels), lambda partition: partition.path(labels))
    figures["slices"] = by_slice(known, judged.crashes, crashes, slices, beginnings(labels))
    write_json(evaluation, figures)
    with replacing_folder(plots_folder) as aside:
        plots.write(aside, known, judged.crashes, model.threshold, mean_importance(found, model.features), label)


def score_test(
    features: Path, labels: Path, rule: Rule, models: Path, predictions: Path, seed: int
) -> list[dict[str, Any]]:
    """Score the test part by tasks of partitions, and write the predictions.

    Returns
    -------
    list of dict
        What `score_partition` counts of each partition.
    """
    tasks = part_tasks(features, labels, rule, "test", models=Folder(models, FILES), seed=seed)
    return runner.run("evaluate", score_partition, tasks, predictions, small_bytes=SMALL_TO_SCORE_BYTES)


def score_partition(
    partition: Partition, features: Path, labels: Path, models: Path, rule: Rule, seed: int
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Score the test rows of one partition's files, and measure on some of them what features matter.

    Returns
    -------
    DataFrame
        `timestamp`, `server_id`, `label` (null: unknown), `observed`, `score`.
    dict
        `rows`; of some that are drawn, the `drawn_crash_rows` and the PR-AUC that is `lost` without each feature.
    """
    model, scored, drawn = loaded(models), [], []
    for rows in read_pieces(partition, features, labels, rule, "test", model.features):
        scored.append(rows.select(*KEYS_AND_LABEL, tables.OBSERVED, score=model.predict(rows)))
        drawn += lowest(rows.with_columns(drawn=row_hash(rows, seed, "importance sample")))
    if not scored:
        return pl.DataFrame(), {"rows": 0, "drawn_crash_rows": 0, "lost": []}
    written, sample = pl.concat(scored), pl.concat(lowest(pl.concat(drawn)))
    crash_rows = int(sample["label"].sum())
    lost = importance(model, sample, seed) if 0 < crash_rows < sample.height else []
    return written, {"rows": written.height, "drawn_crash_rows": crash_rows, "lost": lost}


def lowest(hashed: pl.DataFrame) -> list[pl.DataFrame]:
    """Return, of each label, the rows first in order of `drawn`."""
    keys = hashed.select("label", "drawn").with_row_index("row").sort("drawn")
    return [hashed[keys.filter(label=label)["row"].head(SAMPLE_ROWS)] for label in (0, 1)]


def with_scores(
    features: Path, labels: Path, rule: Rule, predictions: Path, baselines: Rules, seed: int
) -> pl.DataFrame:
    """Return every test row with its score and that of each baseline (see `with_baselines`)."""
    found = []
    for partition in tables.partitions(predictions):
        scored, own = tables.read(partition.path(predictions)), (partition.path(features), partition.path(labels))
        pieces = read_pieces(partition, *own, rule, "test", list(baselines))
        rows = pl.concat(pieces)
        if not rows.select(*tables.KEYS).equals(scored.select(*tables.KEYS)):
            raise ValueError(f"{partition.name} was scored in another order than its features have")
        found.append(with_baselines(scored.hstack(rows.select(*baselines)), baselines, seed))
    return pl.concat(found, rechunk=True)


def by(name: str, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with the score of a baseline."""
    return rows.select("timestamp", "server_id", "label", "observed", score=pl.col(f"by_{name}").cast(pl.Float64))


def intervals(
    target: NDArray[np.integer],
    cells: NDArray[np.integer],
    judged: alarms.Judgement,
    replicates: Floats,
    draws: TwoWayDraws,
    confidence: float,
) -> dict[str, float]:
    """Return the two-way intervals of PR-AUC, lift and event recall."""
    positives = total_replicates(target, cells, draws)
    base_rate = ratio_replicates(positives, total_replicates(np.ones(len(cells)), cells, draws))
    crashes = judged.crashes
    of_crash = draws.cells(crashes["server_id"], crashes["last_warning_at"])
    caught = total_replicates(crashes["caught"].to_numpy(), of_crash, draws)
    recall = ratio_replicates(caught, total_replicates(np.ones(crashes.height), of_crash, draws))
    found = {"pr_auc": replicates, "lift": ratio_replicates(replicates, base_rate), "event_recall": recall}
    limits = {name: percentile_interval(values, confidence) for name, values in found.items()}
    return {f"{name}_{side}": getattr(limit, side) for name, limit in limits.items() for side in ("low", "high")}


def by_slice(
    rows: pl.DataFrame,
    judged: pl.DataFrame,
    crashes: pl.DataFrame,
    slices: dict[str, frozenset[str]],
    begun: dict[str, datetime],
) -> dict[str, dict[str, float | None]]:
    """Judge parts of the fleet and kinds of crash by themselves.

    Parameters
    ----------
    rows : DataFrame
        The scored test rows of known label.
    judged : DataFrame
        The test part's crashes with `caught`.
    crashes : DataFrame
        Every covered crash: it tells repeated crashes from fresh ones.
    slices : dict of str to frozenset
        The servers of each slice.
    begun : dict of str to datetime
        See `beginnings`: the first week of these servers is a slice, too.
    """
    figures = {name: _recall(judged.filter(some)) for name, some in crash_kinds(judged, crashes).items()}
    members = {name: (pl.col("server_id").is_in(sorted(servers)),) * 2 for name, servers in slices.items()}
    if begun:
        members["first_week"] = in_first_week("timestamp", begun), in_first_week("last_warning_at", begun)
    labels, scores = rows["label"].to_numpy(), rows["score"].to_numpy()
    for name, (of_rows, of_crashes) in members.items():
        inside = rows.select(of_rows).to_series().to_numpy()
        target, score = labels[inside], scores[inside]
        if 0 < target.sum() < len(target):
            measured = {"pr_auc": row_metrics.pr_auc(target, score), "base_rate": float(target.mean())}
            figures[name] = {"rows": len(target), **measured, **_recall(judged.filter(of_crashes))}
    return figures


def _recall(crashes: pl.DataFrame) -> dict[str, float | None]:
    recall = float(crashes["caught"].to_numpy().mean()) if crashes.height >= MIN_SLICE_CRASHES else None
    return {"crashes": crashes.height, "event_recall": recall}


def importance(model: Model, sample: pl.DataFrame, seed: int) -> list[float]:
    """Return how much PR-AUC is lost when one feature's values are shuffled, for each feature.

    Source: Breiman, Random forests, 2001, section 10.

    Parameters
    ----------
    model : Model
        What to ask.
    sample : DataFrame
        `label`, of both classes, `server_id` and the features.
    seed : int
        Of the shuffle, the same for every feature.
    """
    target, order = sample["label"].to_numpy(), np.random.default_rng(seed).permutation(sample.height)
    whole = row_metrics.pr_auc(target, model.predict(sample))
    return [
        whole - row_metrics.pr_auc(target, model.predict(sample.with_columns(sample[name].gather(order))))
        for name in model.features
    ]


def mean_importance(counts: list[dict[str, Any]], features: list[str]) -> pl.DataFrame:
    """Return the mean of `importance` over the partitions that have rows of both classes.

    Parameters
    ----------
    counts : list of dict
        See `score_partition`; a partition counts as much as crash rows of it were drawn.
    features : list of str

    Returns
    -------
    DataFrame
        `feature`, `pr_auc_lost`, the largest first.
    """
    measured = [one for one in counts if one["lost"]]
    weights = np.array([one["drawn_crash_rows"] for one in measured])
    lost = weights @ np.array([one["lost"] for one in measured]) / weights.sum() if measured else [None] * len(features)
    return pl.DataFrame({"feature": features, "pr_auc_lost": lost}).sort(
        "pr_auc_lost", "feature", descending=[True, False]
    )
