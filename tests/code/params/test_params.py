from __future__ import annotations

import copy
import re
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from crashcast.errors import UserError
from crashcast.params import every_section
from crashcast.params.base import SECTIONS, format_duration, parse_duration
from crashcast.params.clean import Clean
from crashcast.params.telemetry import Telemetry
from crashcast.params.train import Train

ROOT = Path(__file__).parents[3]
CONTENT = yaml.safe_load((ROOT / "params.yaml").read_text())


def changed(key, value):
    """Return the content of params.yaml with one dotted key set."""
    content = node = copy.deepcopy(CONTENT)
    *parents, last = key.split(".")
    for parent in parents:
        node = node[parent]
    node[last] = value
    return content


@pytest.fixture
def refusal(tmp_path):
    """Return the message with which a section of some content is refused."""

    def read(section, content):
        path = tmp_path / "params.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        with pytest.raises(UserError) as caught:
            every_section.section(section).read(path)
        return str(caught.value).replace(str(path), "params.yaml")

    return read


@pytest.mark.parametrize("section", SECTIONS)
def test_the_projects_own_file_is_valid(section):
    assert every_section.section(section).read(ROOT / "params.yaml")


def test_every_section_of_the_projects_own_file_is_known():
    assert set(CONTENT) == set(SECTIONS)


def test_numbers_arrive_with_their_units():
    rules = Clean.read(ROOT / "params.yaml")
    assert rules.fill_limit == timedelta(hours=2)
    assert Telemetry.read(ROOT / "params.yaml").metrics["latency_ms"].max == 60_000


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("cleen", {}, "params.yaml: unknown section 'cleen'; did you mean 'clean'?"),
        ("clean.fil_limit", "2h", "params.yaml: clean.fil_limit: unknown key; did you mean 'fill_limit'?"),
        (
            "telemetry.metrics.cpu_pct.agregate",
            "mean",
            "params.yaml: telemetry.metrics.cpu_pct.agregate: unknown key; did you mean 'aggregate'?",
        ),
        (
            "train.candidates.logistic_regresion",
            {"C": [1.0]},
            "params.yaml: train.candidates.logistic_regresion: unknown key; did you mean 'logistic_regression'?",
        ),
        (
            "train.candidates.hist_gradient_boosting.max_itre",
            5,
            "params.yaml: train.candidates.hist_gradient_boosting.max_itre: unknown key; did you mean 'max_iter'?",
        ),
        ("train.candidates.logistic_regression.penalty", "l1", "unknown key; known are C"),
    ],
)
def test_a_misspelt_name_is_refused_with_a_suggestion(refusal, key, value, message):
    assert message in refusal(key.split(".")[0] if "." in key else "clean", changed(key, value))


def test_a_misspelt_section_is_refused_whichever_section_is_read(refusal):
    assert "'labels'; did you mean 'label'?" in refusal("clean", changed("labels", {}))


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        # of another type
        ("clean", None, "dictionary"),
        ("train.seed", "seven", "valid integer"),
        ("features.rolling_mean", "6h", "valid list"),
        ("features.columns", "some", "Input should be 'all'"),
        ("features.interactions.cpu_latency_combo", "cpu_pct", "valid tuple"),
        ("features.fleet_relative", "perhaps", "valid boolean"),
        ("features.categories", {"group": ["web", "db", "web"]}, "group lists 'web' twice"),
        ("demo.start", "soon", "valid date"),
        ("telemetry.metrics.cpu_pct.aggregate", "median", "'mean', 'min', 'max', 'sum' or 'last'"),
        ("split.method", "group", "'time', 'server' or 'random'"),
        ("split.since", "soon", "valid date"),
        ("split.test_groups", "new-site", "valid list"),
        ("execution.workers", "many", "Input should be 'auto'"),
        # out of range
        ("train.seed", -1, "greater than or equal to 0"),
        ("split.test", 1, "less than 1"),
        ("alarms.false_alarms_per_server_day", 0, "greater than 0"),
        ("evaluate.replicates", 10, "greater than or equal to 100"),
        ("demo.start", "2025-01-15", "must be the first day of a month"),
        ("telemetry.metrics.cpu_pct.max", float("inf"), "finite"),
        ("train.negatives_per_positive", float("nan"), "finite"),
        ("telemetry.metrics", {}, "at least 1 item"),
        ("execution.workers", 0, "greater than or equal to 1"),
        # durations
        ("clean.fill_limit", 7, "a whole number and a unit: 90s, 30m, 6h or 7d"),
        ("clean.fill_limit", "2 hours", "a whole number and a unit: 90s, 30m, 6h or 7d"),
        ("clean.fill_limit", "1.5h", "a whole number and a unit: 90s, 30m, 6h or 7d"),
        ("clean.fill_limit", "-2h", "a whole number and a unit: 90s, 30m, 6h or 7d"),
        ("clean.fill_limit", "9999999999d", "a whole number and a unit: 90s, 30m, 6h or 7d"),
        ("clean.fill_limit", "999999999d", "at most a century"),
        ("label.horizon", "0h", "greater than"),
        ("telemetry.interval", "7h", "must divide a day"),
        ("demo.interval", "2d", "must divide a day"),
        # between keys
        ("telemetry.metrics.cpu_pct.min", 100, "min must be below max"),
        ("telemetry.interval", "7d", "an interval of 7d needs partition: week"),
        ("split.train", 0.9, "train + validation + test must be 1, not 1.2"),
        ("split.test_groups", ["new-site"], "test_groups needs method: server, not time"),
    ],
)
def test_a_bad_value_is_refused_with_file_key_and_what_was_given(refusal, key, value, problem):
    message = refusal(key.split(".")[0], changed(key, value))
    between_keys = key in ("telemetry.metrics.cpu_pct.min", "split.train") or " needs " in problem
    where = key.rpartition(".")[0] if between_keys else key
    for line in message.splitlines():
        assert line.startswith(f"params.yaml: {where}: ")
        assert "(got " in line
    assert problem in message
    assert between_keys or message.endswith(f"(got {value!r})")


@pytest.mark.parametrize(
    ("key", "value", "where"),
    [
        ("train.candidates.logistic_regression.C", [0.1, -1], "train.candidates.logistic_regression.C.1"),
        ("train.candidates.logistic_regression.C", [], "train.candidates.logistic_regression.C"),
        ("train.candidates.hist_gradient_boosting.learning_rate", 0.05, "hist_gradient_boosting.learning_rate"),
        ("train.candidates.hist_gradient_boosting.max_leaf_nodes", [7, 1], "hist_gradient_boosting.max_leaf_nodes.1"),
        ("features.rolling_mean", ["6h", "x"], "features.rolling_mean.1"),
        ("features.columns", ["cpu_pct", 1], "features.columns.1"),
        ("features.categories.group", ["web", 7], "features.categories.group.1"),
        ("features.categories.model", ["r640"], "features.categories.model: Input should be 'group'"),
        ("features.interactions.combo", ["cpu_pct"], "features.interactions.combo.1: Field required"),
    ],
)
def test_a_bad_value_in_a_grid_is_named_by_its_place(refusal, key, value, where):
    assert where in refusal(key.split(".")[0], changed(key, value))


def test_a_missing_key_and_a_missing_section_are_named(refusal):
    content = copy.deepcopy(CONTENT)
    del content["label"]["lead"]
    assert refusal("label", content) == "params.yaml: label.lead: Field required"
    del content["label"]
    assert refusal("label", content) == "params.yaml: section 'label' is missing"


def test_every_mistake_is_listed_at_once(refusal):
    content = changed("clean.fill_limit", "soon")
    content["clean"]["stuck_after"] = "never"
    assert [line.split(": ")[1] for line in refusal("clean", content).splitlines()] == [
        "clean.fill_limit",
        "clean.stuck_after",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "params.yaml must hold named sections, not a NoneType"),
        ("[1, 2]", "params.yaml must hold named sections, not a list"),
        ("clean: [", "params.yaml is not valid YAML: .*line 1, column 9"),
        ("clean:\n\tfill_limit: 2h", "params.yaml is not valid YAML: .*line 2"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_in_one_line(refusal, text, message):
    found = refusal("clean", text)
    assert re.fullmatch(f"{message}.*", found)


def test_a_missing_file_says_where_to_run(tmp_path):
    with pytest.raises(UserError, match="is missing: run from the root of the project"):
        Clean.read(tmp_path / "params.yaml")


def test_every_section_is_checked_at_once(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"clean": {"fill_limit": "2h"}, "split": changed("split.train", 2)["split"]}))
    with pytest.raises(UserError) as refused:
        every_section.check(path)
    lines = str(refused.value).splitlines()
    assert lines[0] == f"{path}: clean.stuck_after: Field required"
    assert lines[1].startswith(f"{path}: split.train: Input should be less than 1")
    path.write_text(yaml.safe_dump({"clena": {}}))
    with pytest.raises(UserError, match=r"unknown section 'clena'; did you mean 'clean'\?$"):
        every_section.check(path)
    every_section.check(ROOT / "params.yaml")


def test_parameters_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Clean.read(ROOT / "params.yaml").fill_limit = timedelta(0)
    with pytest.raises(ValidationError, match="frozen"):
        Train.read(ROOT / "params.yaml").candidates.logistic_regression.C = [1.0]


def test_a_number_written_without_a_point_is_a_number(tmp_path):
    path = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    assert "C: [0.01, 0.1]" in text
    path.write_text(text.replace("C: [0.01, 0.1]", "C: [1e-2, 1]"))  # YAML 1.1 takes 1e-2 for text
    assert Train.read(path).candidates.logistic_regression.C == [0.01, 1.0]


def test_an_algorithm_may_be_left_out(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(changed("train.candidates", {})))
    assert Train.read(path).candidates.hist_gradient_boosting is None


SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@given(st.integers(0, 36_525), st.sampled_from("smhd"), st.sampled_from(["", " "]))
def test_durations_round_trip(number, unit, gap):
    duration = parse_duration(f"{number}{gap}{unit}")
    assert duration == timedelta(seconds=number * SECONDS[unit])
    assert parse_duration(format_duration(duration)) == duration


@given(st.integers(1, 10**9))
def test_a_duration_is_written_in_its_largest_whole_unit(seconds):
    written = format_duration(timedelta(seconds=seconds))
    whole = [unit for unit, length in SECONDS.items() if seconds % length == 0]
    assert written == f"{seconds // SECONDS[whole[-1]]}{whole[-1]}"


@pytest.mark.parametrize("name", ["timestamp", "server_id", "label"])
def test_a_metric_cannot_take_the_name_of_a_key(name):
    with pytest.raises(ValueError, match=f"{name} cannot be the name of a metric"):
        Telemetry(interval="1h", partition="month", metrics={name: {"min": 0, "max": 1}})
