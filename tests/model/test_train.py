from __future__ import annotations

import json
import re
from contextlib import chdir
from dataclasses import replace
from datetime import timedelta

import numpy as np
import polars as pl
import polars.selectors as cs
import pytest
import yaml

from crashcast import tables
from crashcast.errors import UserError
from crashcast.files import md5
from crashcast.modeling import compared_servers, local, row_metrics, sampling
from crashcast.modeling.alarms import AlarmWindow, open_alarms
from crashcast.modeling.compared_servers import draw_servers
from crashcast.modeling.folds import forward_chained
from crashcast.modeling.model import calibration, load, matrix
from crashcast.modeling.row_counts import count_rows
from crashcast.modeling.row_metrics import pr_auc
from crashcast.modeling.split_rule import PARTS, period, read_part, read_rule, read_uncovered
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Train

HOUR = timedelta(hours=1)
OUTPUTS = ("models/model.skops", "models/model.json", "metrics/candidates.json", "metrics/train.json")
LOGISTIC = {"logistic_regression": {"C": [1.0]}}


def part_of(project, part):
    """Read the rows of one part with their features."""
    rule = read_rule(project.root / "data" / "split.json")
    found = read_part(project.root / "data" / "features", project.root / "data" / "labels", rule, part)
    return pl.concat(rows for _, rows in found)


def outputs(project):
    return {name: (project.root / name).read_bytes() for name in OUTPUTS}


def false_alarms(rows, threshold, crashes, lead_h=1, horizon_h=6):
    """Count false alarms as one would by hand: server by server, row by row."""
    count = 0
    for (server,), of_server in rows.sort("timestamp").group_by("server_id", maintain_order=True):
        starts, closed_until = crashes.get(server, []), None
        for moment, score in of_server.select("timestamp", "score").iter_rows():
            if score >= threshold and (closed_until is None or moment >= closed_until):
                closed_until = moment + (lead_h + horizon_h) * HOUR
                count += not any(moment < start <= closed_until for start in starts)
    return count


def crashes_by_server(project):
    incidents = tables.read(project.root / "data" / "incidents.parquet", ["server_id", "started_at"])
    return dict(incidents.group_by("server_id").agg("started_at").iter_rows())


def test_all_crash_rows_are_kept_and_ten_negatives_for_each(judged):
    figures = judged.json("metrics/train.json")
    rows = part_of(judged, "train")
    crash_rows = int(rows["label"].sum())
    assert figures["training_crash_rows"] == crash_rows
    assert figures["training_rows"] - crash_rows == pytest.approx(10 * crash_rows, rel=0.02)
    assert figures["share_of_negatives"] == pytest.approx(10 * crash_rows / (rows.height - crash_rows), rel=1e-5)


@pytest.mark.parametrize("method", ["time", "server", "random"])
def test_the_sample_is_the_share_it_says_under_every_split(project, method):
    """The log-odds are shifted by the logarithm of that share."""
    project.set("split", method=method, seed=1)
    project.set("train", seed=1, candidates={}, negatives_per_positive=4)
    project.run("split", "train")
    figures = project.json("metrics/train.json")
    rows = part_of(project, "train")
    negatives = rows.height - figures["training_crash_rows"]
    sampled = figures["training_rows"] - figures["training_crash_rows"]
    assert sampled / negatives == pytest.approx(figures["share_of_negatives"], rel=0.05)


def test_all_negatives_are_kept_where_there_are_few(project):
    project.set("train", negatives_per_positive=1000, candidates={})
    project.run("train")
    assert project.json("metrics/train.json")["share_of_negatives"] == 1
    assert project.json("metrics/train.json")["training_rows"] == part_of(project, "train").height
    assert project.json("models/model.json")["sampling_offset"] == 0


def test_beyond_the_limit_both_kinds_are_thinned_alike(project):
    before = project.json("metrics/train.json")
    project.set("train", candidates={}, max_rows=before["training_rows"] // 2)
    project.run("train")
    after = project.json("metrics/train.json")
    for count in ("training_rows", "training_crash_rows"):
        assert after[count] == pytest.approx(before[count] / 2, rel=0.1)
    assert after["share_of_negatives"] == pytest.approx(before["share_of_negatives"] / 2, rel=0.02)


def test_candidates_are_compared_and_the_threshold_is_set_on_servers_drawn_by_lot(project, monkeypatch):
    monkeypatch.setattr(compared_servers, "MIN_CRASHES", 1)
    rows = part_of(project, "validation")
    known = rows.filter(pl.col("label").is_not_null())
    found = []
    for max_rows in (known.height, known.height // 3):
        project.set("train", candidates=LOGISTIC, max_compared_rows=max_rows)
        project.run("train")
        found.append((project.json("metrics/candidates.json"), load(project.root / "models")))
    (on_all, _), (on_some, model) = found
    assert on_some["chosen"] == on_all["chosen"] == "logistic_regression C=1"

    rule, labels = read_rule(project.root / "data" / "split.json"), project.root / "data" / "labels"
    seed, label = Train.read(project.root / "params.yaml").seed, Label.read(project.root / "params.yaml")
    window = AlarmWindow.of(label, Telemetry.read(project.root / "params.yaml").interval)
    with chdir(project.root):
        counted = count_rows(labels, rule)
    compared = draw_servers(rule, counted, known.height // 3, label.horizon / window.interval, seed)
    assert on_all["servers"] == known["server_id"].n_unique() > 2 * on_some["servers"]
    assert on_some["servers"] == len(compared.servers)
    is_compared = pl.col("server_id").is_in(compared.servers)
    for of_rows, evidence in ((known, on_all), (known.filter(is_compared), on_some)):
        expected = row_metrics.pr_auc(of_rows["label"].to_numpy(), model.predict(of_rows))
        assert evidence["candidates"][evidence["chosen"]]["pr_auc"] == pytest.approx(expected, rel=1e-5)

    # calibration and threshold: as of a fleet of these servers alone
    some, figures = rows.filter(is_compared), project.json("metrics/train.json")
    alarms = open_alarms(some.with_columns(score=model.predict(some)), model.threshold, window)
    assert figures["alarms"] == alarms.height > 0
    some = some.filter(pl.col("label").is_not_null())
    assert figures["rows"] == some.height
    uncalibrated = model.log_odds(matrix(some, model.features))
    assert calibration(uncalibrated, some["label"].to_numpy() == 1) == pytest.approx((model.slope, model.intercept))


@pytest.mark.parametrize("max_rows", [1_000_000, 3000], ids=["all crash rows", "some crash rows"])
@pytest.mark.parametrize(
    ("algorithm", "tolerance"),
    [("dummy", 0.05), ("logistic_regression", 0.1), ("hist_gradient_boosting", 0.25)],  # few trees are not sure enough
)
def test_sampling_is_undone(project, algorithm, tolerance, max_rows):
    """Before any calibration, the mean prediction over all training rows is their base rate."""
    grids = yaml.safe_load((project.root / "params.yaml").read_text())["train"]["candidates"]
    grid = {name: grid for name, grid in grids.items() if name == algorithm}
    project.set("train", candidates=grid, negatives_per_positive=3, max_rows=max_rows)
    project.run("train")
    model, figures = load(project.root / "models"), project.json("metrics/train.json")
    assert model.algorithm == algorithm
    rows = part_of(project, "train")
    share_of_crash_rows = figures["training_crash_rows"] / rows["label"].sum()
    assert (share_of_crash_rows < 1) == (max_rows == 3000)
    is_weighted = algorithm == "logistic_regression"
    offset = 0 if is_weighted else np.log(figures["share_of_negatives"] / share_of_crash_rows)
    assert model.sampling_offset == pytest.approx(offset, abs=0.05 if max_rows == 3000 else 1e-5)
    uncalibrated = replace(model, slope=1.0, intercept=0.0)
    assert uncalibrated.predict(rows).mean() == pytest.approx(rows["label"].mean(), rel=tolerance)
    if not is_weighted:
        sampled_as_is = replace(uncalibrated, sampling_offset=0.0)
        assert sampled_as_is.predict(rows).mean() > 2 * rows["label"].mean()


def test_probabilities_are_calibrated_on_validation(judged):
    model, rows = load(judged.root / "models"), part_of(judged, "validation")
    assert model.predict(rows).mean() == pytest.approx(rows["label"].mean(), rel=1e-4)
    figures = judged.json("metrics/train.json")
    assert figures["brier"] < figures["brier_of_base_rate"]


def test_the_threshold_keeps_to_the_budget_and_uses_it(judged):
    model, rows = load(judged.root / "models"), part_of(judged, "validation")
    figures, crashes = judged.json("metrics/train.json"), crashes_by_server(judged)
    rows = rows.with_columns(score=model.predict(rows))
    server_days = rows.height / 24
    count = false_alarms(rows, model.threshold, crashes)
    assert figures["alarms_false"] == count
    assert figures["false_alarms_per_server_day"] == pytest.approx(count / server_days, rel=1e-5)
    next_score = rows.filter(pl.col("score") < model.threshold)["score"].max()
    assert count / server_days < 0.05 < false_alarms(rows, next_score, crashes) / server_days
    low, high = figures["false_alarms_over_budget_low"], figures["false_alarms_over_budget_high"]
    assert low < count / server_days / 0.05 < high
    assert figures["threshold"] == pytest.approx(model.threshold, rel=1e-5)


def test_the_surer_the_budget_the_higher_the_threshold_and_the_fewer_alarms(project):
    found = []
    for confidence in (0.2, 0.8):
        project.set("alarms", false_alarms_per_server_day=0.05, confidence=confidence)
        project.set("train", candidates=LOGISTIC)
        project.run("train")
        found.append(project.json("metrics/train.json"))
    assert found[0]["threshold"] < found[1]["threshold"]
    assert found[0]["alarms_false"] > found[1]["alarms_false"] > 0
    assert found[1]["false_alarms_over_budget_high"] < found[0]["false_alarms_over_budget_high"]


@pytest.mark.parametrize("budget", [0.02, 0.2])
def test_a_larger_budget_lowers_the_threshold(project, budget):
    before = load(project.root / "models").threshold
    project.set("alarms", false_alarms_per_server_day=budget)
    project.set("train", candidates=LOGISTIC)
    project.run("train")
    assert (load(project.root / "models").threshold < before) == (budget > 0.05)
    assert project.json("metrics/train.json")["false_alarms_per_server_day"] < 1.5 * budget


def test_the_simplest_within_the_error_of_the_best_on_the_folds_is_chosen(judged):
    """On this fleet trees see the interaction, and the linear model has it as a feature."""
    found = judged.json("metrics/candidates.json")
    lifts = {name: row["fold_lift"] for name, row in found["candidates"].items()}
    assert found["folds"] == 2
    assert lifts["dummy"] == 1
    assert load(judged.root / "models").algorithm == found["chosen"].split()[0]
    assert found["skill"]["best"] == found["chosen"]
    low, high = found["expected"]["pr_auc_low"], found["expected"]["pr_auc_high"]
    assert low < found["expected"]["pr_auc"] < high
    assert low < judged.json("metrics/evaluate.json")["pr_auc"] < high


@pytest.mark.parametrize("method", ["server", "random"])
def test_a_split_without_an_order_has_one_fold(project, method):
    project.set("split", method=method, seed=1)
    project.set("train", candidates=LOGISTIC)
    project.run("split", "train")
    found = project.json("metrics/candidates.json")
    assert found["folds"] == 1
    for row in found["candidates"].values():
        assert row["fold_lift"] == pytest.approx(row["lift"], rel=1e-5)


def test_a_rule_competes_and_its_model_is_scored_and_judged(project):
    rules = {"hours_since_crash": -1, "cpu_latency_combo": 1, "memory_pct": 1, "of_another_fleet": 1}
    project.set("train", candidates={"one_rule": {"rules": rules}})
    project.run("train", "evaluate")
    found, model = project.json("metrics/candidates.json"), load(project.root / "models")
    assert [name for name in found["candidates"] if "of_another" in name] == []
    assert model.algorithm == "one_rule"
    ((name, sign),) = model.hyperparameters.items()
    assert found["chosen"] == f"one_rule {name}={sign}"
    pr_auc = {name: row["pr_auc"] for name, row in found["candidates"].items()}
    assert pr_auc[found["chosen"]] == max(pr_auc.values())
    rows = part_of(project, "test").drop_nulls(name)
    order = np.argsort(model.predict(rows), kind="stable")
    assert (np.diff((sign * rows[name].to_numpy())[order]) >= 0).all()
    assert name not in project.json("metrics/evaluate.json")["baselines"]


def test_the_bound_of_a_skilled_candidates_lift_is_told(judged):
    found = judged.json("metrics/candidates.json")
    skill, chosen = found["skill"], found["candidates"][found["chosen"]]
    assert skill["best"] == found["chosen"]
    assert 1 < skill["lift_low"] < skill["lift"] == chosen["fold_lift"]
    assert "no alarm" not in (judged.root / "models" / "card.md").read_text()


@pytest.fixture
def without_signal(project):
    """Return a project whose labels of each server are another's, a fortnight later."""

    labels = project.table("data/labels")
    servers = labels["server_id"].unique().sort().to_list()
    other = dict(zip(servers, servers[7:] + servers[:7], strict=True))
    moved = labels.select(
        pl.col("timestamp").dt.offset_by("14d"), pl.col("server_id").replace_strict(other), moved="label"
    )

    def shuffle(rows):
        found = rows.join(moved, on=["timestamp", "server_id"], how="left", maintain_order="left")
        return found.with_columns(label="moved").drop("moved")

    project.rewrite("data/labels", shuffle)
    return project


@pytest.mark.parametrize("self_training", [None, {"certainty": 0.5}], ids=["", "self-training"])
def test_without_signal_the_dummy_is_chosen_which_opens_no_alarm(without_signal, capsys, self_training):
    # a budget that an alarm at all times would keep to
    without_signal.set("alarms", false_alarms_per_server_day=1000.0)
    without_signal.set("train", self_training=self_training)
    without_signal.run("train")
    found, figures = without_signal.json("metrics/candidates.json"), without_signal.json("metrics/train.json")
    assert found["chosen"] == "dummy"
    assert found["skill"]["best"] != "dummy"
    assert found["skill"]["lift_low"] <= 1
    assert figures["alarms"] == 0
    model = load(without_signal.root / "models")
    assert model.predict(part_of(without_signal, "test")).max() < model.threshold == 1
    reason = "no candidate is shown to rank better than chance, so the dummy is chosen, which opens no alarm"
    assert reason in capsys.readouterr().err
    assert reason[3:] in (without_signal.root / "models" / "card.md").read_text()


def test_a_higher_confidence_lowers_the_bound(project):
    bounds = []
    for confidence in (0.5, 0.99):
        project.set("train", candidates=LOGISTIC, skill_confidence=confidence)
        project.run("train")
        bounds.append(project.json("metrics/candidates.json")["skill"]["lift_low"])
    assert bounds[0] > 1.1 * bounds[1]


def test_neither_the_test_part_nor_the_embargo_is_looked_at(project):
    """Poison their features, turn their labels over, lose the incidents from the test part on."""
    before, card = outputs(project), (project.root / "models" / "card.md").read_text()
    rule = read_rule(project.root / "data" / "split.json")
    inside = [
        pl.col("timestamp").is_between(*tables.utc(*period(rule, part)), closed="left")
        for part in ("train", "validation")
    ]
    is_seen = pl.any_horizontal(inside)
    poisoned = pl.when(is_seen).then(cs.float()).otherwise(1e30).cast(pl.Float32).name.keep()
    project.rewrite("data/features", lambda rows: rows.with_columns(poisoned))
    turned = pl.when(is_seen).then("label").otherwise(1 - pl.col("label"))
    project.rewrite("data/labels", lambda rows: rows.with_columns(label=turned))
    begins, _ = tables.utc(*period(rule, "test"))
    incidents = project.root / "data" / "incidents.parquet"
    tables.write(incidents, tables.read(incidents).filter(pl.col("started_at") < begins))
    project.run("train")
    assert outputs(project) == before
    hashes = re.compile(r"`[0-9a-f]{32}(\.dir)?`")
    assert hashes.sub("", (project.root / "models" / "card.md").read_text()) == hashes.sub("", card)


def test_the_same_input_makes_the_same_bytes(project):
    before = md5(project.root / "models"), outputs(project)
    project.run("train")
    assert (md5(project.root / "models"), outputs(project)) == before


def test_rows_count_as_much_as_their_crash_is_certain(project, monkeypatch):
    monkeypatch.chdir(project.root)
    believed = tables.read(project.root / "data" / "incidents.parquet")
    doubted = pl.when(pl.col("server_id") < "server-12").then(0.6)
    tables.write(project.root / "data" / "incidents.parquet", believed.with_columns(confidence=doubted))
    paths = [project.root / "data" / name for name in ("features", "labels", "split.json", "incidents.parquet")]
    features, labels, split, incidents = paths
    rules = Train.read(project.root / "params.yaml")
    rule = read_rule(split)
    sample = sampling.draw_sample(features, labels, rule, ["cpu_pct"], rules)
    crash, weights = sample.crash, sampling.confidence_weights(sample, incidents, HOUR)
    assert weights.shape == crash.shape
    assert set(weights[~crash]) == {1.0}
    drawn = part_of(project, "train").filter(pl.col("label") == 1)  # all of them are
    expected = (drawn["server_id"] < "server-12").to_numpy()
    assert np.array_equal(weights[crash], np.where(expected, 0.6, 1.0))

    before = (project.root / "models" / "model.skops").read_bytes()
    project.run("train")
    assert (project.root / "models" / "model.skops").read_bytes() == before
    project.set("train", weigh_by_confidence=True)
    project.run("train")
    assert (project.root / "models" / "model.skops").read_bytes() != before
    assert project.json("metrics/train.json")["lift"] > 5


def test_another_seed_draws_other_negatives(project):
    archives = set()
    for seed in (1, 2):
        project.set("train", seed=seed, candidates=LOGISTIC)
        project.run("train")
        archives.add((project.root / "models" / "model.skops").read_bytes())
    assert len(archives) == 2


def test_three_hundred_features_are_no_obstacle(project):
    draw = np.random.default_rng(0)

    def widen(rows):
        rows = rows.filter(pl.col("server_id") < "server-06")
        noise = draw.normal(size=(rows.height, 298)).astype(np.float32)
        return rows.hstack([pl.Series(f"noise_{number}", noise[:, number]) for number in range(298)])

    project.rewrite("data/features", widen)
    project.rewrite("data/labels", lambda rows: rows.filter(pl.col("server_id") < "server-06"))
    project.set("train", candidates={"logistic_regression": {"C": [0.01]}})
    project.run("train")
    model = load(project.root / "models")
    assert len(model.features) == 304
    assert model.features[:2] == ["cpu_pct", "latency_ms"]
    assert project.json("metrics/candidates.json")["chosen"] == "logistic_regression C=0.01"
    assert project.json("metrics/train.json")["lift"] > 3
    assert model.predict(part_of(project, "test")).max() > 0.2


def test_a_metric_that_was_never_sent_does_not_stop_training(project):
    project.rewrite("data/features", lambda rows: rows.with_columns(memory_pct=pl.lit(None, dtype=pl.Float32)))
    project.run("train")
    assert project.json("metrics/train.json")["lift"] > 5


def test_the_card_names_what_went_in_and_what_came_out(judged):
    card = (judged.root / "models" / "card.md").read_text()
    for name in ("features", "labels", "split.json", "incidents.parquet", "raw/coverage.parquet"):
        assert f"`{md5(judged.root / 'data' / name)}`" in card
    split = judged.json("metrics/split.json")
    for part in PARTS:
        assert f"| {part} | {split[part]['from']} | {split[part]['to']} |" in card
    evidence = judged.json("metrics/candidates.json")["candidates"]
    for name, row in evidence.items():
        figures = " | ".join(f"{row[figure]:.6g}" for figure in ("fold_lift", "pr_auc", "lift", "event_recall"))
        assert f"| {name} | {figures} |" in card
    for name in load(judged.root / "models").features:
        assert f"`{name}`" in card
    assert "\n## Intended use\n" in card


def test_a_missing_feature_table_is_the_users_to_mend(project):
    (project.root / "data" / "features").rename(project.root / "data" / "elsewhere")
    with pytest.raises(UserError, match=r"data/features is missing: `dvc pull` or `dvc repro` brings it"):
        project.run("train")


@pytest.fixture
def half_covered(project):
    """Return a project whose records begin in the middle of what they covered before, for half of the servers."""
    end = period(read_rule(project.root / "data" / "split.json"), "train")[1]
    all_rows = project.table("data/labels")["timestamp"].dt.replace_time_zone(None)
    middle = all_rows.min() + (end - all_rows.min()) / 2
    servers = project.table("data/labels")["server_id"].unique().sort().gather_every(2).implode()

    def forget(rows):
        lost = (pl.col("timestamp").dt.replace_time_zone(None) < middle) & pl.col("server_id").is_in(servers)
        label, reason = pl.when(~lost).then("label"), pl.when(lost).then(pl.lit(tables.UNCOVERED)).otherwise("reason")
        return rows.with_columns(label=label, reason=reason)

    project.rewrite("data/labels", forget)
    project.set("train", candidates=LOGISTIC)
    project.run("train")
    return project


def read_all_uncovered(project):
    data, rule = project.root / "data", read_rule(project.root / "data" / "split.json")
    columns = load(project.root / "models").features
    return pl.concat(rows for _, rows in read_uncovered(data / "features", data / "labels", rule, columns))


def test_what_no_records_cover_is_labelled_where_the_model_is_certain(half_covered):
    data, rule = half_covered.root / "data", read_rule(half_covered.root / "data" / "split.json")
    half_covered.set("train", self_training={"certainty": 0.3})
    model, rules = load(half_covered.root / "models"), Train.read(half_covered.root / "params.yaml")
    tables_read = data / "features", data / "labels", rule
    with chdir(half_covered.root):
        sample = sampling.draw_sample(*tables_read, model.features, rules)
    whole = sampling.with_pseudo_labels(*tables_read, model, sample, rules)
    values, guessed = whole.values[len(sample.crash) :], whole.crash[len(sample.crash) :]

    risk = model.predict(read_all_uncovered(half_covered))
    base_rate = part_of(half_covered, "train")["label"].mean()
    likely, safe = int((risk >= 0.3).sum()), int((risk <= 0.7 * base_rate).sum())
    assert len(values) == len(guessed)
    assert guessed.sum() == likely > 10  # of crash rows, all are drawn
    assert (~guessed).sum() == pytest.approx(sample.shares[0] * safe, rel=0.1)
    assert safe < 0.95 * len(risk)  # there are some of which it is not certain


def test_self_training_changes_the_model_and_nothing_else(half_covered):
    before, model = outputs(half_covered), load(half_covered.root / "models")
    half_covered.set("train", self_training={"certainty": 0.3})
    half_covered.run("train")
    after, taught = outputs(half_covered), load(half_covered.root / "models")
    assert after["metrics/candidates.json"] == before["metrics/candidates.json"]
    assert after["models/model.skops"] != before["models/model.skops"]
    assert taught.features == model.features
    half_covered.run("train")
    assert outputs(half_covered) == after


@pytest.mark.parametrize("method", ["time", "server"])
def test_a_model_does_not_guess_at_rows_of_another_part(project, method):
    """Unlabelled or not, what validation and test are made of stays unseen."""
    project.set("split", method=method)
    project.run("split")
    project.rewrite(
        "data/labels", lambda rows: rows.with_columns(label=pl.lit(None, pl.Int8), reason=pl.lit("uncovered"))
    )
    rule = read_rule(project.root / "data" / "split.json")
    found = read_all_uncovered(project)
    if method == "server":
        assert set(found["server_id"].unique()) == set(rule["servers"]["train"])
    else:
        assert found["timestamp"].dt.replace_time_zone(None).max() < period(rule, "train")[1]
    assert found.height > 1000


def test_rows_that_are_unknown_for_another_reason_are_not_guessed_at(half_covered):
    labels = half_covered.table("data/labels")
    assert labels["label"].null_count() > labels.filter(reason=tables.UNCOVERED).height
    assert read_all_uncovered(half_covered).height == labels.filter(reason=tables.UNCOVERED).height


@pytest.fixture
def uneven(project):
    """Return a project in which six servers of 24 have all the crashes, and no feature shows it."""

    def at_six(rows):
        kept = pl.col("server_id") < "server-06"
        return rows.with_columns(label=pl.when(kept | pl.col("label").is_null()).then("label").otherwise(0))

    project.rewrite("data/labels", at_six)
    project.rewrite("data/features", lambda rows: rows.drop("hours_since_crash", "crashes_7d"))
    incidents = project.root / "data" / "incidents.parquet"
    tables.write(incidents, tables.read(incidents).filter(pl.col("server_id") < "server-06"))
    project.set("train", candidates=LOGISTIC, local="server")
    project.run("train")
    return project


def test_a_server_that_crashes_more_often_than_expected_has_a_higher_risk(uneven):
    found, model = uneven.json("metrics/candidates.json")["local"], load(uneven.root / "models")
    assert found["strength"] < np.inf
    assert found["log_pr_auc"][f"{found['strength']:g}"] > found["log_pr_auc"]["off"]
    assert min(model.local[f"server-{number:02}"] for number in range(6)) > 0.3
    assert max(model.local[f"server-{number:02}"] for number in range(6, 24)) < 0
    rows = part_of(uneven, "test")
    fleet = replace(model, local={})
    gain = [pr_auc(rows["label"].to_numpy(), one.predict(rows)) for one in (fleet, model)]
    assert gain[1] > 1.2 * gain[0]


def test_the_threshold_and_the_figures_are_those_of_corrected_scores(uneven):
    model, rows = load(uneven.root / "models"), part_of(uneven, "validation")
    score, figures = model.predict(rows), uneven.json("metrics/train.json")
    assert figures["pr_auc"] == pytest.approx(pr_auc(rows["label"].to_numpy(), score), rel=1e-5)
    assert figures["alarms_false"] == false_alarms(
        rows.with_columns(score=score), model.threshold, crashes_by_server(uneven)
    )


def test_corrections_are_part_of_every_prediction_of_evaluate(uneven):
    uneven.run("evaluate")
    predictions, model = uneven.table("data/predictions"), load(uneven.root / "models")
    features = uneven.table("data/features").join(
        predictions, on=["timestamp", "server_id"], how="right", maintain_order="right"
    )
    assert (model.predict(features) == predictions["score"].to_numpy()).all()
    assert (replace(model, local={}).predict(features) != predictions["score"].to_numpy()).any()


def test_labels_of_the_test_part_change_no_correction(uneven):
    """Nor the choice of their strength: every label that counts is ripe before the test part begins."""
    before = outputs(uneven)
    begin = period(read_rule(uneven.root / "data" / "split.json"), "test")[0]
    is_test = pl.col("timestamp") >= pl.lit(begin).dt.replace_time_zone("UTC")
    uneven.rewrite(
        "data/labels",
        lambda rows: rows.with_columns(label=pl.when(is_test).then(1 - pl.col("label")).otherwise("label")),
    )
    uneven.run("train")
    assert outputs(uneven) == before


def test_corrections_of_a_fold_come_from_the_rows_before_it(uneven, monkeypatch):
    newest, evidence = [], local.evidence

    def spy(model, sample, window):
        newest.append(sample.keys["timestamp"].max().replace(tzinfo=None))
        return evidence(model, sample, window)

    monkeypatch.setattr(local, "evidence", spy)
    uneven.run("train")
    rule, label = read_rule(uneven.root / "data" / "split.json"), Label.read(uneven.root / "params.yaml")
    folds = forward_chained(rule, 2, label.reach + label.recovery)
    assert len(newest) == 3  # two folds, and the model
    for last, fold in zip(newest, [*folds, rule], strict=True):
        assert last + label.reach <= period(fold, "validation")[0]


def test_if_corrections_do_not_pay_the_model_has_none(project):
    """Six servers have all the crashes until the first fold's validation part, then the others have."""
    rule, label = read_rule(project.root / "data" / "split.json"), Label.read(project.root / "params.yaml")
    begin = period(forward_chained(rule, 2, label.reach + label.recovery)[0], "validation")[0]
    is_later = pl.col("timestamp") >= pl.lit(begin).dt.replace_time_zone("UTC")
    kept = is_later != (pl.col("server_id") < "server-06")
    of_kept = pl.when(kept | pl.col("label").is_null()).then("label").otherwise(0)
    project.rewrite("data/labels", lambda rows: rows.with_columns(label=of_kept))
    project.rewrite("data/features", lambda rows: rows.drop("hours_since_crash", "crashes_7d"))
    project.set("train", candidates=LOGISTIC)
    project.run("train")
    before = outputs(project)
    project.set("train", local="server")
    project.run("train")
    after = outputs(project)
    assert json.loads(after["metrics/candidates.json"])["local"]["strength"] is None
    before.pop("metrics/candidates.json")
    assert {name: after[name] for name in before} == before


def test_a_split_by_server_knows_no_server_of_its_other_parts(uneven):
    uneven.set("split", method="server", seed=1)
    uneven.run("split", "train")
    assert load(uneven.root / "models").local == {}


def test_pseudo_labels_and_corrections_exclude_each_other(project):
    project.set("train", local="server", self_training={"certainty": 0.9})
    with pytest.raises(UserError, match="set either local or self_training"):
        project.run("train")
