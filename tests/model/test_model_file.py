from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import fields, replace

import numpy as np
import polars as pl
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from crashcast.errors import UserError
from crashcast.modeling.algorithms import ALGORITHMS, candidates
from crashcast.modeling.archive import canonical
from crashcast.modeling.model import Model, calibration, fit, load, loaded, matrix, save
from crashcast.params.train import Candidates

FEATURES = ["cpu_pct", "latency_ms", "cpu_latency_combo"]
GRIDS = Candidates.model_validate(
    {
        "one_rule": {"rules": {"cpu_latency_combo": 1}},
        "logistic_regression": {"C": [1.0]},
        "extra_trees": {"n_estimators": 10, "min_samples_leaf": [20], "max_features": [0.7]},
        "hist_gradient_boosting": {
            "learning_rate": [0.1],
            "max_iter": 15,
            "max_leaf_nodes": [5],
            "min_samples_leaf": 20,
            "l2_regularization": 1.0,
        },
    }
)


def fleet():
    draw = np.random.default_rng(0)
    cpu, latency = draw.uniform(0, 100, 3000), draw.gamma(2, 60, 3000)
    rows = pl.DataFrame({"cpu_pct": cpu, "latency_ms": latency}).with_columns(
        pl.when(pl.Series(draw.random(3000) > 0.05)).then("cpu_pct"),
        cpu_latency_combo=pl.col("cpu_pct") * pl.col("latency_ms"),
    )
    return rows, draw.random(3000) < expit((cpu * latency - 15_000) / 3_000)


def train(folder):
    """Fit and save every candidate in a folder of its own."""
    rows, crash = fleet()
    for candidate in candidates(GRIDS, 1, FEATURES):
        model = fit(candidate, FEATURES, matrix(rows, FEATURES), crash)
        slope, intercept = calibration(np.linspace(-9, 3, len(crash)) + crash, crash)
        described = {"sampling_offset": -2.25, "slope": slope, "intercept": intercept, "threshold": 0.123456789012}
        save(replace(model, **described), folder / candidate.algorithm)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    train(folder)
    return folder


@pytest.fixture
def boosted(models, tmp_path):
    """Return a copy of a model, to be damaged."""
    for name in ("model.skops", "model.json"):
        (tmp_path / name).write_bytes((models / "hist_gradient_boosting" / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize("threads", ["1", "2"])
def test_another_process_writes_the_same_bytes_whatever_its_threads(models, tmp_path, threads):
    code = f"import runpy, pathlib; runpy.run_path({__file__!r})['train'](pathlib.Path('.'))"
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS", "LOKY_MAX_CPU_COUNT")
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, check=True, env=os.environ | dict.fromkeys(names, threads)
    )
    for algorithm in ALGORITHMS:
        for name in ("model.skops", "model.json"):
            assert (tmp_path / algorithm / name).read_bytes() == (models / algorithm / name).read_bytes(), algorithm


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_model_reloaded_is_the_same_model(models, tmp_path, algorithm):
    rows, crash = fleet()
    candidate = next(candidate for candidate in candidates(GRIDS, 1, FEATURES) if candidate.algorithm == algorithm)
    fitted = fit(candidate, FEATURES, matrix(rows, FEATURES), crash)
    reloaded = load(models / algorithm)
    original = replace(reloaded, estimator=fitted.estimator)
    assert (original.predict(rows) == reloaded.predict(rows)).all()
    assert reloaded.hyperparameters == candidate.hyperparameters
    assert reloaded.threshold == 0.123456789012  # every digit: an alarm depends on it
    save(reloaded, tmp_path)
    for name in ("model.skops", "model.json"):
        assert (tmp_path / name).read_bytes() == (models / algorithm / name).read_bytes()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_model_of_weighted_rows_is_read_again(tmp_path, algorithm):
    rows, crash = fleet()
    candidate = next(candidate for candidate in candidates(GRIDS, 1, FEATURES) if candidate.algorithm == algorithm)
    fitted = fit(candidate, FEATURES, matrix(rows, FEATURES), crash, weight=np.where(crash, 0.6, 1.0))
    save(fitted, tmp_path)
    assert (load(tmp_path).predict(rows) == fitted.predict(rows)).all()


def test_tasks_of_one_process_read_a_model_once_until_it_changes(models, tmp_path):
    for name in ("one_rule", "dummy"):
        for file in ("model.skops", "model.json"):
            (tmp_path / file).unlink(missing_ok=True)
            (tmp_path / file).write_bytes((models / name / file).read_bytes())
        assert loaded(tmp_path) is loaded(tmp_path)
        assert loaded(tmp_path).algorithm == name
    (tmp_path / "model.json").unlink()
    with pytest.raises(UserError, match="holds no readable model"):
        loaded(tmp_path)


def test_corrections_by_server_are_kept_to_the_last_digit(models, tmp_path):
    model = replace(load(models / "logistic_regression"), local={"db-1": 0.123456789012, "web é": -1.5})
    save(model, tmp_path)
    assert load(tmp_path).local == model.local
    save(replace(model, local={}), tmp_path)  # as before there were any
    assert (tmp_path / "model.json").read_bytes() == (models / "logistic_regression" / "model.json").read_bytes()


@pytest.mark.parametrize("local", ['{"db-1": NaN}', '{"db-1": "0.5"}', "[0.5]", "null"])
def test_corrections_that_are_no_numbers_are_refused(boosted, local):
    file = boosted / "model.json"
    file.write_text(file.read_text().replace("{", f'{{"local": {local}, ', 1))
    with pytest.raises(UserError, match="local"):
        load(boosted)


def test_an_archive_has_neither_times_nor_addresses_nor_compression(models):
    with zipfile.ZipFile(models / "hist_gradient_boosting" / "model.skops") as archive:
        members = archive.infolist()
        schema = json.loads(archive.read("schema.json"))
    assert {member.date_time for member in members} == {(1980, 1, 1, 0, 0, 0)}
    assert {member.compress_type for member in members} == {zipfile.ZIP_STORED}
    names = [member.filename for member in members]
    assert names[0] == "schema.json"
    assert len(names) > 15
    assert all(int(name.split(".")[0]) < 10_000 for name in names[1:])
    ids = set()
    waiting = [schema]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            ids |= {node["__id__"]} if "__id__" in node else set()
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node
    assert ids <= set(range(1, 10_000))


def test_an_archive_made_canonical_again_is_itself(models):
    archive = (models / "logistic_regression" / "model.skops").read_bytes()
    assert canonical(archive) == archive


def test_objects_that_were_shared_stay_shared():
    shared = np.arange(3.0)
    one, two, other = skops.io.loads(canonical(skops.io.dumps([shared, shared, np.arange(3.0)])))
    assert one is two
    assert other is not one


def test_equal_text_need_not_be_one_object():
    one, two = (DummyClassifier(strategy=text).fit([[0.0]], [True]) for text in ("prior", "".join(["pri", "or"])))
    assert one.strategy is not two.strategy
    two._strategy = "".join(["pr", "ior"])
    assert canonical(skops.io.dumps(one)) == canonical(skops.io.dumps(two))


def dump(folder, estimator):
    (folder / "model.skops").write_bytes(canonical(skops.io.dumps(estimator)))


def test_a_file_with_another_type_is_refused_before_it_is_loaded(boosted, monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError("loaded")

    monkeypatch.setattr(skops.io, "loads", fail)
    dump(boosted, make_pipeline(FunctionTransformer(os.system)))
    with pytest.raises(UserError, match=r"model.skops is refused: it holds \w+\.system, .*which no model of crashcast"):
        load(boosted)


@pytest.mark.parametrize(
    "loader", ["ObjectNode", "TypeNode", "FunctionNode", "ReduceNode", "ConstructorFromReduceNode"]
)
def test_a_forged_file_runs_nothing(boosted, tmp_path, loader):
    canary = tmp_path / "executed"
    text = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": json.dumps(str(canary))}
    arguments = {"__class__": "tuple", "__module__": "builtins", "__loader__": "TupleNode", "content": [text]}
    forged = {"__class__": "mkdir", "__module__": os.name, "__loader__": loader, "content": arguments, "protocol": 2}
    with zipfile.ZipFile(boosted / "model.skops", "w") as archive:
        archive.writestr("schema.json", json.dumps(forged))
    with pytest.raises(UserError, match=rf"{os.name}\.mkdir|holds no readable model"):
        load(boosted)
    assert not canary.exists()


@pytest.mark.parametrize(("column", "sign"), [(3, 1), (-1, 1), (0, 2), (0, 0)])
def test_a_rule_of_no_column_is_refused(models, tmp_path, column, sign):
    estimator = load(models / "one_rule").estimator
    estimator.column, estimator.sign = column, sign
    shutil.copytree(models / "one_rule", tmp_path / "one_rule")
    dump(tmp_path / "one_rule", estimator)
    with pytest.raises(UserError, match=rf"model.skops holds a rule of column {column}, sign {sign}"):
        load(tmp_path / "one_rule")


def test_a_rule_of_the_first_column_is_none_of_those(models, tmp_path):
    estimator = load(models / "one_rule").estimator
    estimator.column, estimator.sign = 0, -1
    shutil.copytree(models / "one_rule", tmp_path / "one_rule")
    dump(tmp_path / "one_rule", estimator)
    assert load(tmp_path / "one_rule").estimator.column == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [("left", 10**6), ("right", 10**6), ("left", 0), ("feature_idx", 3), ("feature_idx", -1), ("is_categorical", 1)],
)
def test_a_tree_that_leads_outside_itself_is_refused(boosted, column, value):
    estimator = load(boosted).estimator
    estimator._predictors[3][0].nodes[column][0] = value
    dump(boosted, estimator)
    with pytest.raises(UserError, match="holds a tree that leads outside itself"):
        load(boosted)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("left_child", 10**6),
        ("right_child", 10**6),
        ("left_child", 0),
        ("right_child", -1),
        ("feature", 3),
        ("feature", -2),
    ],
)
def test_a_forest_that_leads_outside_a_tree_is_refused(models, tmp_path, place, value):
    (tmp_path / "model.json").write_bytes((models / "extra_trees" / "model.json").read_bytes())
    estimator = load(models / "extra_trees").estimator
    tree = estimator.estimators_[3].tree_
    state = tree.__getstate__()
    state["nodes"][place][0] = value
    tree.__setstate__(state)
    dump(tmp_path, estimator)
    with pytest.raises(UserError, match="holds a tree that leads outside itself"):
        load(tmp_path)


@pytest.mark.parametrize(("key", "value"), [("node_count", 10**9), ("max_depth", 10**9)])
def test_a_tree_that_says_it_is_larger_than_it_is_crashes_nothing(models, tmp_path, key, value):
    (tmp_path / "model.json").write_bytes((models / "extra_trees" / "model.json").read_bytes())
    with zipfile.ZipFile(models / "extra_trees" / "model.skops") as source:
        members = {name: source.read(name) for name in source.namelist()}
    schema = members["schema.json"].decode()
    forged = re.sub(rf'("{key}": {{[^}}]*?"content": )"\d+"', rf'\1"{value}"', schema)
    assert forged != schema
    with zipfile.ZipFile(tmp_path / "model.skops", "w", zipfile.ZIP_STORED) as target:
        for name, content in (members | {"schema.json": forged.encode()}).items():
            target.writestr(name, content)
    rows, _ = fleet()
    assert (load(tmp_path).predict(rows) == load(models / "extra_trees").predict(rows)).all()


def forge(models, tmp_path, algorithm, change):
    """Change the schema of a model's archive in place, and keep its arrays."""
    (tmp_path / "model.json").write_bytes((models / algorithm / "model.json").read_bytes())
    with zipfile.ZipFile(models / algorithm / "model.skops") as source:
        members = {name: source.read(name) for name in source.namelist()}
    schema = json.loads(members["schema.json"])
    change(schema["content"]["content"])
    with zipfile.ZipFile(tmp_path / "model.skops", "w", zipfile.ZIP_STORED) as target:
        for name, content in (members | {"schema.json": json.dumps(schema).encode()}).items():
            target.writestr(name, content)


def plain(value):
    return {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode", "content": json.dumps(value),
            "is_json": True}  # fmt: skip


def swap_steps(attributes):
    steps = attributes["steps"]["content"]
    steps[1]["content"][1] = steps[0]["content"][1]["content"]["content"]["statistics_"]


def encoder_in_place_of_scaler(attributes):
    encoder = {"__class__": "LabelEncoder", "__module__": "sklearn.preprocessing._label", "__loader__": "ObjectNode",
               "content": plain(None), "__id__": 999}  # fmt: skip
    attributes["steps"]["content"][1]["content"][1] = encoder


@pytest.mark.parametrize(
    ("algorithm", "change", "told"),
    [
        # its content is trusted, but scikit-learn asks it to transform the features
        (
            "hist_gradient_boosting",
            lambda own: own.update(_preprocessor=own["_label_encoder"]),
            "_preprocessor: no model of this algorithm holds sklearn.preprocessing._label.LabelEncoder there",
        ),
        # it says how many columns of scores to allocate
        (
            "hist_gradient_boosting",
            lambda own: own.update(n_trees_per_iteration_=plain(10**9)),
            "n_trees_per_iteration_: no model of this algorithm has 1000000000 there",
        ),
        (
            "hist_gradient_boosting",
            lambda own: own["_bin_mapper"]["content"]["content"].update(n_threads=plain(10**6)),
            "n_threads: no model of this algorithm has 1000000 there",
        ),
        # a list that holds itself
        (
            "hist_gradient_boosting",
            lambda own: own["_predictors"]["content"][0].update(__id__=own["_predictors"]["__id__"]),
            "two objects share a mark and differ",
        ),
        # skops would put the one into the other's place
        (
            "hist_gradient_boosting",
            lambda own: own["_bin_mapper"].update(__id__=own["_label_encoder"]["__id__"]),
            "two objects share a mark and differ",
        ),
        ("hist_gradient_boosting", lambda own: own.update(more=plain(1)), "more: no model of this algorithm holds"),
        ("hist_gradient_boosting", lambda own: own.update(max_iter=plain("15")), "max_iter: .* has '15' there"),
        ("extra_trees", lambda own: own.update(n_jobs=plain(10**6)), "n_jobs: no model of this algorithm has 1000000"),
        ("extra_trees", lambda own: own.update(n_outputs_=plain(10**9)), "n_outputs_: .* has 1000000000 there"),
        (
            "logistic_regression",
            encoder_in_place_of_scaler,
            "holds sklearn.*LabelEncoder(, which no model of crashcast does| there)",
        ),
        ("logistic_regression", swap_steps, "steps.* holds numpy.ndarray there"),
        ("dummy", lambda own: own.update(constant=own["classes_"]), "constant: .* holds numpy.ndarray there"),
    ],
)
def test_what_no_model_of_the_algorithm_holds_is_refused_before_it_is_loaded(
    models, tmp_path, monkeypatch, algorithm, change, told
):
    forge(models, tmp_path, algorithm, lambda own: None)
    load(tmp_path)
    forge(models, tmp_path, algorithm, change)
    monkeypatch.setattr(skops.io, "loads", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(UserError, match=told):
        load(tmp_path)


@pytest.mark.parametrize("content", [{"a": 1}, [1.5], "text", LogisticRegression()])
def test_harmless_content_that_is_no_model_is_refused(boosted, content):
    dump(boosted, content)
    with pytest.raises(
        UserError, match=rf"holds \S+\.{type(content).__name__}(, which no model of crashcast does| there)"
    ):
        load(boosted)


def test_a_description_of_another_model_is_refused(models, boosted):
    described = json.loads((boosted / "model.json").read_text())
    (boosted / "model.json").write_text(json.dumps(described | {"features": FEATURES[:2]}))
    with pytest.raises(UserError, match="n_features_in_: no model of this algorithm has 3 there"):
        load(boosted)


def test_a_feature_that_is_named_twice_is_refused(boosted):
    described = json.loads((boosted / "model.json").read_text())
    (boosted / "model.json").write_text(json.dumps(described | {"features": [*FEATURES[:2], FEATURES[0]]}))
    with pytest.raises(UserError, match=r"model\.json: features: one is there twice"):
        load(boosted)


@pytest.mark.parametrize("rows", [2, 3])
def test_an_array_that_fits_one_number_of_rows_alone_is_refused(models, tmp_path, rows):
    (tmp_path / "model.json").write_bytes((models / "logistic_regression" / "model.json").read_bytes())
    estimator = load(models / "logistic_regression").estimator
    estimator[2].mean_ = np.zeros((rows, 1))  # subtracted from as many rows, each its own
    dump(tmp_path, estimator)
    with pytest.raises(UserError, match="could not be broadcast"):
        load(tmp_path)


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99, -1])
def test_a_truncated_file_is_refused(boosted, kept):
    whole = (boosted / "model.skops").read_bytes()
    (boosted / "model.skops").write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.raises(UserError, match=r"holds no readable model .*`dvc pull` or `dvc repro train`"):
        load(boosted)


@settings(deadline=None)  # it writes files
@given(st.data())
def test_a_damaged_file_is_refused_or_scores_as_before(models, tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    folder.mkdir(exist_ok=True)
    (folder / "model.json").write_bytes((models / "logistic_regression" / "model.json").read_bytes())
    damaged = bytearray((models / "logistic_regression" / "model.skops").read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(damaged) - 1), min_size=1, max_size=3)):
        damaged[place] ^= data.draw(st.integers(1, 255))
    (folder / "model.skops").write_bytes(damaged)
    rows, _ = fleet()
    try:
        model = load(folder)
    except UserError:
        return
    assert np.array_equal(model.predict(rows), load(models / "logistic_regression").predict(rows))


@pytest.mark.parametrize("key", [field.name for field in fields(Model) if field.name not in ("estimator", "local")])
def test_a_description_that_lacks_a_key_is_refused(boosted, key):
    described = json.loads((boosted / "model.json").read_text())
    del described[key]
    (boosted / "model.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=rf"holds no readable model \(.*{key}.*`dvc repro train`"):
        load(boosted)


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{", "\xff\xfe", '{"estimator": 1}', '{"unknown": 1}'], ids=lambda text: repr(text)
)
def test_a_description_that_is_none_is_refused(boosted, text):
    (boosted / "model.json").write_bytes(text.encode("latin1"))
    with pytest.raises(UserError, match=r"holds no readable model"):
        load(boosted)


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("slope", "1.0", "slope: Input should be a valid number"),
        ("slope", -1.0, "slope: Input should be greater than 0"),
        ("threshold", float("nan"), "threshold: Input should be a finite number"),
        ("intercept", None, "intercept: Input should be a valid number"),
        ("features", ["cpu_pct", {}], "features.1: Input should be a valid string"),
        ("more", 1, "more: Extra inputs are not permitted"),
    ],
)
def test_a_description_with_a_wrong_value_is_refused(boosted, key, value, told):
    described = json.loads((boosted / "model.json").read_text()) | {key: value}
    (boosted / "model.json").write_text(json.dumps(described))
    with pytest.raises(UserError, match=rf"holds no readable model \(model\.json: {told}"):
        load(boosted)


def test_a_model_that_cannot_predict_is_refused_when_it_is_loaded(models, tmp_path):
    """Its parts are each of an allowed type, and do not fit together."""
    shutil.copytree(models / "logistic_regression", tmp_path / "model")
    loaded = load(tmp_path / "model")
    loaded.estimator[-1].coef_ = loaded.estimator[-1].coef_[:, :1]
    save(loaded, tmp_path / "model")
    with pytest.raises(UserError, match="holds no readable model"):
        load(tmp_path / "model")
    loaded.estimator[-1].coef_ = np.full((1, len(loaded.features)), np.nan)
    save(loaded, tmp_path / "model")
    with pytest.raises(UserError, match="holds no readable model"):
        load(tmp_path / "model")


@pytest.mark.parametrize("name", ["model.json", "model.skops"])
def test_a_missing_file_says_what_to_do(boosted, name):
    (boosted / name).unlink()
    with pytest.raises(UserError, match=rf"holds no readable model .*{name}.*`dvc pull` or `dvc repro train`"):
        load(boosted)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_features_that_are_missing_are_all_named(models, algorithm):
    rows, _ = fleet()
    with pytest.raises(UserError, match="the model needs latency_ms, cpu_latency_combo, which the features lack"):
        load(models / algorithm).predict(rows.select("cpu_pct", other="latency_ms"))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_features_are_taken_by_name(models, algorithm):
    rows, _ = fleet()
    model = load(models / algorithm)
    shuffled = rows.select("cpu_latency_combo", pl.lit(7.0).alias("other"), "cpu_pct", "latency_ms")
    assert (model.predict(shuffled) == model.predict(rows)).all()


def test_a_matrix_has_nan_where_a_value_is_missing():
    rows = pl.DataFrame({"b": [1, None], "a": [None, 0.1]})
    values = matrix(rows, ["a", "b"])
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.array([[np.nan, 1], [0.1, np.nan]], dtype=np.float32))


def test_a_probability_is_rounded_and_keeps_the_ranking():
    model = Model(None, "none", {}, [], 0.0, slope=2.0, intercept=-1.0)
    raw = np.linspace(-30, 10, 999)
    probability = model.probability(raw)
    assert probability == pytest.approx(expit(2 * raw - 1), rel=1e-8)
    assert (np.diff(probability) >= 0).all()
    assert probability.tolist() == pytest.approx([float(f"{value:.9g}") for value in probability], rel=1e-15, abs=0)


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.floats(-20, 20), st.booleans()), min_size=4, max_size=50).filter(
        lambda rows: 0 < sum(crash for _, crash in rows) < len(rows)
    )
)
def test_calibrated_probabilities_average_to_the_observed_rate(rows):
    raw, crash = (np.array(column) for column in zip(*rows, strict=True))
    slope, intercept = calibration(raw, crash)
    assert slope > 0
    assert expit(slope * raw + intercept).mean() == pytest.approx(crash.mean(), abs=1e-4)


def test_calibration_finds_what_was_bent():
    draw = np.random.default_rng(0)
    truth = draw.normal(-2, 2, 200_000)
    slope, intercept = calibration((truth - 1) / 3, draw.random(200_000) < expit(truth))
    assert (slope, intercept) == pytest.approx((3, 1), rel=0.03)


def test_scores_that_rank_backwards_are_not_turned_over():
    raw = np.array([-1.0, -2.0, 1.0, 2.0])
    slope, intercept = calibration(raw, np.array([True, True, False, False]))
    assert slope == 1
    assert intercept == pytest.approx(0, abs=1e-7)


def test_a_constant_score_becomes_the_observed_rate():
    slope, intercept = calibration(np.full(8, 3.0), np.arange(8) == 0)
    assert (slope, expit(3 + intercept)) == pytest.approx((1, 1 / 8))
