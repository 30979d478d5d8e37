from __future__ import annotations

import json
from contextlib import chdir
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from crashcast import tables
from crashcast.errors import UserError
from crashcast.files import md5
from crashcast.modeling import alarms, compared_servers, split_rule
from crashcast.modeling.baselines import with_baselines
from crashcast.modeling.model import load
from crashcast.modeling.row_counts import count_rows
from crashcast.modeling.split_rule import assign, partitions_of, period, read_rule
from crashcast.params.evaluate import Evaluate
from crashcast.params.train import Train
from stages import evaluate

HOUR = timedelta(hours=1)
OUTPUTS = ("data/predictions", "metrics/evaluate.json", "plots")
LOGISTIC = {"logistic_regression": {"C": [1.0]}}


def known_test_rows(project):
    rule = read_rule(project.root / "data" / "split.json")
    rows = project.table("data/labels")
    return rows.filter(assign(rows, rule) == "test").select("timestamp", "server_id", "label").drop_nulls()


def known_rows(project):
    return project.table("data/labels").select("timestamp", "server_id", "label").drop_nulls()


def by_hand(project):
    """Recompute the figures from the predictions, server by server and row by row."""
    predictions = project.table("data/predictions")
    threshold = load(project.root / "models").threshold
    incidents = tables.read(project.root / "data" / "incidents.parquet")
    start, end = period(read_rule(project.root / "data" / "split.json"), "test")
    count, crashes, caught, false, lead_times = 0, 0, 0, 0, []
    for (server,), rows in predictions.group_by("server_id"):
        starts = [at.replace(tzinfo=None) for at in incidents.filter(server_id=server)["started_at"]]
        opened, closed_until = [], datetime.min
        for moment, score in rows.sort("timestamp").select("timestamp", "score").iter_rows():
            at = moment.replace(tzinfo=None)
            if score >= threshold and at >= closed_until:
                closed_until = at + 6 * HOUR
                opened.append(at)
        count += len(opened)
        false += sum(not any(at < crash <= at + 7 * HOUR for crash in starts) for at in opened)
        for crash in starts:
            if start <= crash - HOUR - timedelta.resolution < end:
                crashes += 1
                warned = [at for at in opened if at + HOUR < crash <= at + 7 * HOUR]
                caught += bool(warned)
                lead_times += [(crash - warned[0]) / HOUR] if warned else []
    label, score = predictions["label"].to_numpy(), predictions["score"].to_numpy()
    steps = [score >= step for step in np.unique(score[label == 1])[::-1]]
    recalls = np.array([label[high].sum() / label.sum() for high in steps])
    precisions = np.array([label[high].mean() for high in steps])
    return {
        "rows": len(label),
        "positives": label.sum(),
        "base_rate": label.mean(),
        "pr_auc": np.sum(np.diff(recalls, prepend=0) * precisions),
        "lift": np.sum(np.diff(recalls, prepend=0) * precisions) / label.mean(),
        "brier": np.mean((score - label) ** 2),
        "accuracy": np.mean((score >= threshold) == label),
        "accuracy_of_majority": 1 - label.mean(),
        "precision": label[score >= threshold].mean(),
        "recall": (score[label == 1] >= threshold).mean(),
        "crashes": crashes,
        "crashes_caught": caught,
        "event_recall": caught / crashes,
        "alarms": count,
        "alarms_false": false,
        "false_alarms_per_server_day": false / (len(label) / 24),
        "pages_per_day": count / ((end - start) / timedelta(days=1)),
        "median_lead_h": np.median(lead_times),
        "mean_score_over_base_rate": score.mean() / label.mean(),
    }


def test_predictions_hold_every_known_test_row_once(judged):
    predictions = judged.table("data/predictions")
    assert predictions.columns == ["timestamp", "server_id", "label", "observed", "score"]
    assert predictions["observed"].all()  # labels without that column: alarms open on the rows of known label
    assert predictions.drop("score", "observed").equals(known_test_rows(judged))
    assert not predictions.select("timestamp", "server_id").is_duplicated().any()


def test_predictions_are_what_the_saved_model_says(judged):
    features = judged.table("data/features").join(
        judged.table("data/predictions"), on=["timestamp", "server_id"], how="right", maintain_order="right"
    )
    assert (load(judged.root / "models").predict(features) == features["score"].to_numpy()).all()


def test_figures_are_those_of_a_plain_recomputation(judged):
    figures = judged.json("metrics/evaluate.json")
    expected = by_hand(judged)
    assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert expected["crashes_caught"] > 10  # or there would be little to compare
    assert expected["alarms_false"] > 0


def test_the_model_is_better_than_chance_and_one_rule(judged):
    """And its rivals have the feature that ranks train best by itself among them, which is hard to beat here."""
    figures = judged.json("metrics/evaluate.json")
    best = figures["baselines"].pop("cpu_latency_combo")
    assert set(figures["baselines"]) == {"random", "hours_since_crash", "crashes_7d"}
    assert figures["lift"] > 5
    assert best["pr_auc"] > 5 * figures["base_rate"]
    for baseline in figures["baselines"].values():
        assert baseline["pr_auc"] < 3 * figures["base_rate"]
        assert 0 < baseline["pr_auc_gain_low"] <= figures["pr_auc"] - baseline["pr_auc"] <= baseline["pr_auc_gain_high"]
        assert all(baseline[f"pr_auc_gain_{side}"] < figures[f"pr_auc_{side}"] for side in ("low", "high"))


def test_intervals_contain_the_estimate(judged):
    figures = judged.json("metrics/evaluate.json")
    for name in ("pr_auc", "lift", "event_recall"):
        assert figures[f"{name}_low"] < figures[name] < figures[f"{name}_high"]
    assert 0 <= figures["event_recall_low"] < figures["event_recall_high"] <= 1


def test_a_higher_confidence_is_wider_and_moves_no_figure(project):
    before = project.json("metrics/evaluate.json")
    project.set("evaluate", confidence=0.98)
    project.run("evaluate")
    after = project.json("metrics/evaluate.json")
    assert after["pr_auc_low"] < before["pr_auc_low"]
    assert after["pr_auc_high"] > before["pr_auc_high"]
    for name in by_hand(project):
        assert after[name] == before[name]


def test_the_same_input_makes_the_same_bytes(project):
    before = {name: md5(project.root / name) for name in OUTPUTS}
    project.run("evaluate")
    assert {name: md5(project.root / name) for name in OUTPUTS} == before


def test_pieces_and_batches_change_nothing(project, monkeypatch):
    before = {name: md5(project.root / name) for name in OUTPUTS}
    monkeypatch.setattr(split_rule, "PIECE_ROWS", 1000)
    monkeypatch.setattr(alarms, "BATCH_ROWS", 1000)
    project.run("evaluate")
    assert {name: md5(project.root / name) for name in OUTPUTS} == before


def test_another_seed_moves_intervals_and_chance_alone(project):
    before = project.json("metrics/evaluate.json")
    project.set("evaluate", seed=2)
    project.run("evaluate")
    after = project.json("metrics/evaluate.json")
    assert after["pr_auc_low"] != before["pr_auc_low"]
    assert after["baselines"]["random"]["pr_auc"] != before["baselines"]["random"]["pr_auc"]
    assert after["baselines"]["crashes_7d"]["pr_auc"] == before["baselines"]["crashes_7d"]["pr_auc"]
    assert after["pr_auc"] == before["pr_auc"]


def test_a_test_part_of_servers_never_seen(project):
    project.set("split", method="server", train=0.6, validation=0.2, test=0.2)
    project.set("train", candidates=LOGISTIC)
    project.run("split", "train", "evaluate")
    rule = read_rule(project.root / "data" / "split.json")
    predictions = project.table("data/predictions")
    assert set(predictions["server_id"]) == set(rule["servers"]["test"])
    slices = project.json("metrics/evaluate.json")["slices"]
    assert "seen_servers" not in slices
    assert slices["unseen_servers"]["rows"] == predictions.height == known_test_rows(project).height
    figures = project.json("metrics/evaluate.json")
    assert slices["unseen_servers"]["crashes"] == figures["crashes"]
    assert slices["unseen_servers"]["pr_auc"] == figures["pr_auc"]
    assert figures["pr_auc_low"] < figures["pr_auc"]


@pytest.mark.parametrize(("method", "max_rows"), [("server", 10_000), ("time", 1_000)])
def test_a_baselines_threshold_is_set_on_the_servers_that_the_models_is(project, method, max_rows, monkeypatch):
    monkeypatch.setattr(compared_servers, "MIN_CRASHES", 1)
    project.set("split", method=method, train=0.6, validation=0.2, test=0.2)
    project.set("train", candidates=LOGISTIC, max_compared_rows=max_rows)
    project.set("alarms", false_alarms_per_server_day=1.0)
    project.run("split", "train", "evaluate")
    rule, labels = read_rule(project.root / "data" / "split.json"), project.root / "data" / "labels"
    seed = Train.read(project.root / "params.yaml").seed
    with chdir(project.root):
        counted = count_rows(labels, rule)
    compared = compared_servers.draw_servers(rule, counted, max_rows, 6, seed)
    assert compared.are_all == (method == "server")
    incidents = tables.read(project.root / "data" / "incidents.parquet", ["server_id", "started_at"])
    rows = project.table("data/features").join(known_rows(project), on=["timestamp", "server_id"])
    seed, window = Evaluate.read(project.root / "params.yaml").seed, alarms.AlarmWindow(HOUR, 6 * HOUR, HOUR)
    rules = {"crashes_7d": 1, "cpu_latency_combo": 1}
    scored = with_baselines(rows.with_columns(observed=True), rules, seed).cast({"server_id": pl.String})
    of_part = {part: scored.filter(assign(rows, rule) == part) for part in ("validation", "test")}
    own = incidents.filter(pl.col("server_id").is_in(of_part["test"]["server_id"].unique().to_list()))
    is_compared = pl.col("server_id").is_in(compared.servers)
    for name, found in project.json("metrics/evaluate.json")["baselines"].items():
        if name != "hours_since_crash":
            set_on = evaluate.by(name, of_part["validation"].filter(is_compared))
            threshold = alarms.choose_threshold(set_on, incidents.filter(is_compared), 1.0, window).threshold
            judged = alarms.judge(evaluate.by(name, of_part["test"]), own, threshold, window, period(rule, "test"))
            assert 0 < found["event_recall"] == pytest.approx(judged.metrics.event_recall, rel=1e-5)
            expected = judged.metrics.false_alarms_per_server_day
            assert found["false_alarms_per_server_day"] == pytest.approx(expected, rel=1e-5)


def test_a_crash_of_a_server_without_a_known_row_counts_and_can_be_drawn(project):
    before = project.json("metrics/evaluate.json")
    lost = pl.col("server_id") == "server-03"
    project.rewrite("data/labels", lambda rows: rows.with_columns(label=pl.when(~lost).then("label")))
    project.run("evaluate")
    after = project.json("metrics/evaluate.json")
    incidents = tables.read(project.root / "data" / "incidents.parquet").filter(lost)
    start, end = tables.utc(*period(read_rule(project.root / "data" / "split.json"), "test"))
    crashes = incidents.filter(pl.col("started_at").is_between(start + HOUR, end + HOUR)).height
    assert crashes > 0
    assert after["crashes"] == before["crashes"]
    assert after["crashes_without_observed_row"] >= crashes


def test_alarms_that_somebody_acted_on_are_counted_apart(project):
    threshold, keys = load(project.root / "models").threshold, pl.struct("timestamp", "server_id")
    high = project.table("data/predictions").filter(pl.col("score") >= threshold).select(keys).to_series()
    before = project.json("metrics/evaluate.json")
    assert (before["rows_mitigated"], before["alarms_mitigated"]) == (0, 0)
    is_acted = keys.is_in(high.implode()) & (pl.col("label") == 0)
    project.rewrite(
        "data/labels",
        lambda rows: rows.with_columns(
            observed=pl.col("label").is_not_null(),
            label=pl.when(~is_acted).then("label"),
            reason=pl.when(is_acted).then(pl.lit("mitigated")).otherwise("reason"),
        ),
    )
    project.run("evaluate")
    after = project.json("metrics/evaluate.json")
    assert after["rows_mitigated"] >= after["alarms_mitigated"] == before["alarms_false"] > 0
    for name, number in {"alarms": before["alarms"], "alarms_true": before["alarms_true"], "alarms_false": 0}.items():
        assert after[name] == number


def test_the_first_week_of_a_server_that_was_added_is_a_slice(project):
    assert "first_week" not in project.json("metrics/evaluate.json")["slices"]  # all begin with the data
    start = period(read_rule(project.root / "data" / "split.json"), "test")[0] + timedelta(days=2)
    added = pl.col("server_id").is_in(["server-01", "server-02"])
    begun = pl.col("timestamp") >= tables.utc(start, start)[0]
    for table in ("data/features", "data/labels"):
        project.rewrite(table, lambda rows: rows.filter(~added | begun))
    project.run("evaluate")
    week = pl.col("timestamp") < tables.utc(start, start + timedelta(days=7))[1]
    rows = known_test_rows(project).filter(added & week)
    found = project.json("metrics/evaluate.json")["slices"]["first_week"]
    assert found["rows"] == rows.height > 0
    assert found["base_rate"] == pytest.approx(rows["label"].mean(), rel=1e-5)
    assert found["base_rate"] > 0


def test_the_usual_test_part_has_no_servers_never_seen(judged):
    slices = judged.json("metrics/evaluate.json")["slices"]
    assert "unseen_servers" not in slices
    assert slices["group_web"]["rows"] + slices["group_database"]["rows"] == slices["seen_servers"]["rows"]


def test_baselines_whose_feature_is_not_computed_are_left_out(project):
    project.rewrite("data/features", lambda rows: rows.drop("hours_since_crash", "crashes_7d"))
    project.set("train", candidates=LOGISTIC)
    project.run("train", "evaluate")
    assert list(project.json("metrics/evaluate.json")["baselines"]) == ["cpu_latency_combo", "random"]


def test_a_feature_that_the_model_needs_is_named(project):
    before = {name: md5(project.root / name) for name in OUTPUTS}
    project.rewrite("data/features", lambda rows: rows.drop("memory_pct"))
    with pytest.raises(UserError, match="column memory_pct is missing"):
        project.run("evaluate")
    assert {name: md5(project.root / name) for name in OUTPUTS} == before


def test_a_test_part_without_crashes_says_so(project):
    project.rewrite("data/labels", lambda rows: rows.with_columns(label=pl.col("label") * 0))
    with pytest.raises(UserError, match=r"none of the \d+ rows precede a crash"):
        project.run("evaluate")


def frame(**columns):
    return pl.DataFrame(columns).with_columns(pl.selectors.datetime().dt.replace_time_zone("UTC"))


def at(day):
    return datetime(2025, 1, 1) + timedelta(days=day)


SLICES = {
    "seen_servers": {"a"},
    "unseen_servers": {"b"},
    "group_web": {"a", "b"},
    "group_database": {"c"},
}


def test_slices_by_hand(monkeypatch):
    """Two servers: a was trained on and crashed before, b is new; crashes 40 days after the last are fresh."""
    monkeypatch.setattr(evaluate, "MIN_SLICE_CRASHES", 2)
    rows = frame(
        timestamp=[at(day) for day in (60, 60, 61, 61)],
        server_id=["a", "b"] * 2,
        label=[1, 1, 0, 0],
        score=[0.9, 0.1, 0.2, 0.8],
    )
    crashes = frame(server_id=["a", "a", "a", "b"], started_at=[at(day) for day in (20, 60, 61, 62)])
    judged = crashes[1:].with_columns(caught=pl.Series([True, False, True]))
    found = evaluate.by_slice(rows, judged, crashes, SLICES, {})
    assert found == {
        "fresh_crashes": {"crashes": 2, "event_recall": 1.0},
        "repeated_crashes": {"crashes": 1, "event_recall": None},  # too few to say
        "seen_servers": {"rows": 2, "pr_auc": 1.0, "base_rate": 0.5, "crashes": 2, "event_recall": 0.5},
        "unseen_servers": {"rows": 2, "pr_auc": 0.5, "base_rate": 0.5, "crashes": 1, "event_recall": None},
        "group_web": {
            "rows": 4,
            "pr_auc": pytest.approx((1 + 2 / 4) / 2),
            "base_rate": 0.5,
            "crashes": 3,
            "event_recall": pytest.approx(2 / 3),
        },
    }


@pytest.mark.parametrize("label", [0, 1])
def test_a_slice_of_one_class_is_left_out(label):
    rows = frame(timestamp=[at(1), at(1)], server_id=["a", "b"], label=[label, 1 - label], score=[0.5, 0.6])
    crashes = frame(server_id=["a"], started_at=[at(2)])
    found = evaluate.by_slice(
        rows, crashes.with_columns(caught=True), crashes, {"seen_servers": {"a"}, "unseen_servers": {"b"}}, {}
    )
    assert set(found) == {"fresh_crashes", "repeated_crashes"}


def test_the_first_week_of_an_added_server_by_hand():
    """b was added on day 60: its rows of day 67 and later, and its crash of that day, are not of its first week."""
    days, labels, scores = (60, 61, 66.9, 67, 70), (0, 1, 0, 1, 0), (0.2, 0.1, 0.3, 0.8, 0.9)
    rows = frame(
        timestamp=[at(day) for day in days] * 2,
        server_id=["a"] * 5 + ["b"] * 5,
        label=labels * 2,
        score=scores * 2,
    )
    crashes = frame(server_id=["a", "b", "b"], started_at=[at(61.2), at(61.2), at(67.2)])
    judged = crashes.with_columns(last_warning_at=pl.col("started_at") - timedelta(hours=2), caught=True)
    found = evaluate.by_slice(rows, judged, crashes, {}, {"b": at(60).replace(tzinfo=UTC)})
    # the row of label 1 is the last of three
    third = {"pr_auc": pytest.approx(1 / 3), "base_rate": pytest.approx(1 / 3)}
    assert found["first_week"] == {"rows": 3, **third, "crashes": 1, "event_recall": None}
    assert "first_week" not in evaluate.by_slice(rows, judged, crashes, {}, {"c": at(60).replace(tzinfo=UTC)})


def test_only_what_the_model_uses_is_important(judged):
    """A feature without influence loses nothing; shuffling what matters does, the same way each time."""
    model = load(judged.root / "models")
    rows = judged.table("data/features").join(known_test_rows(judged), on=["timestamp", "server_id"])
    sample = rows.select("label", *model.features)
    found = evaluate.importance(model, sample, seed=1)
    lost = dict(zip(model.features, found, strict=True))
    assert max(lost, key=lost.__getitem__) == "cpu_latency_combo"
    assert abs(lost["memory_pct"]) < 0.02 < lost["cpu_latency_combo"]
    assert evaluate.importance(model, sample, seed=1) == found


def test_the_sample_for_importance_holds_some_of_each_label(judged, monkeypatch):
    monkeypatch.setattr(evaluate, "SAMPLE_ROWS", 7)
    monkeypatch.setattr(evaluate, "importance", lambda model, sample, seed: samples.append(sample) or [0.0])
    rule, models, samples, rows = read_rule(judged.root / "data" / "split.json"), judged.root / "models", [], 0
    listed = partitions_of(judged.root / "data" / "labels", period(rule, "test"))
    for partition in listed:
        files = (partition.path(judged.root / "data" / name) for name in ("features", "labels"))
        _, counts = evaluate.score_partition(partition, *files, models, rule, 1)
        assert (counts["drawn_crash_rows"], counts["lost"]) == (7, [0.0])
        rows += counts["rows"]
    assert rows == known_test_rows(judged).height
    assert len(samples) == len(listed) > 0
    for sample in samples:
        assert sample["label"].value_counts().sort("label").rows() == [(label, 7) for label in (0, 1)]


def test_a_feature_matters_as_much_as_in_the_mean_over_crash_rows():
    counts = [
        {"drawn_crash_rows": 30, "lost": [0.1, 0.2, 0.3]},
        {"drawn_crash_rows": 10, "lost": [0.5, 0.2, -0.1]},
        {"drawn_crash_rows": 5, "lost": []},  # without other rows: nothing to rank
    ]
    found = evaluate.mean_importance(counts, ["a", "b", "c"])
    assert found["feature"].to_list() == ["a", "b", "c"]
    assert found["pr_auc_lost"].to_list() == pytest.approx([0.2, 0.2, 0.2])
    assert evaluate.mean_importance(counts[1:], ["a", "b", "c"]).rows() == [("a", 0.5), ("b", 0.2), ("c", -0.1)]
    found = evaluate.mean_importance([{"drawn_crash_rows": 1, "lost": [0.0, 0.3, 0.0]}], ["b", "risk", "a"])
    assert found["feature"].to_list() == ["risk", "a", "b"]  # the costliest first, and equal ones by name
    assert evaluate.mean_importance(counts[2:], ["a"])["pr_auc_lost"].to_list() == [None]


@pytest.mark.ci
def test_two_processes_write_what_one_writes(project):
    made = (
        "models",
        "data/predictions",
        "plots",
        "metrics/train.json",
        "metrics/candidates.json",
        "metrics/evaluate.json",
    )
    before = {name: md5(project.root / name) for name in made}
    project.set("execution", workers=2)
    project.run("train", "evaluate")
    assert {name: md5(project.root / name) for name in made} == before


def test_the_evaluation_is_what_dvc_can_compare(judged):
    text = (judged.root / "metrics" / "evaluate.json").read_text()

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse)
