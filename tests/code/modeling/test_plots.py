from __future__ import annotations

import csv
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from dvc_render import VegaRenderer

from crashcast.modeling import plots
from crashcast.params.label import Label

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / ".dvc" / "plots"
MIDNIGHT = datetime(2026, 1, 10, tzinfo=UTC)
HOUR = timedelta(hours=1)
LABEL = Label(lead="1h", horizon="6h", recovery="2h")

LABELS = np.array([1, 0, 1, 0], dtype=np.int8)
SCORES = np.array([0.9, 0.8, 0.7, 0.1])


def crash(server: str, day: int, lead_h: float | None = None, *, known: bool = True) -> dict:
    lead_time = None if lead_h is None else lead_h * HOUR
    started_at = MIDNIGHT + timedelta(days=day)
    return {
        "server_id": server,
        "started_at": started_at,
        "caught": lead_h is not None,
        "lead_time": lead_time,
        "had_observed_row": known,
    }


def crashes_of(*crashes: dict) -> pl.DataFrame:
    return pl.DataFrame(crashes, schema_overrides={"lead_time": pl.Duration("us")})


def scores_before(server: str, scores: list[float], until: datetime = MIDNIGHT, step: timedelta = HOUR) -> pl.DataFrame:
    """One row a step, the last one a step before `until`."""
    moments = [until - (len(scores) - i) * step for i in range(len(scores))]
    return pl.DataFrame({"timestamp": moments, "server_id": server, "label": 0, "score": scores})


def test_confusion_counts_a_row_at_the_threshold_as_predicted():
    assert plots.confusion(LABELS, SCORES, threshold=0.8).rows() == [
        ("crash", "crash", 1),
        ("crash", "no crash", 1),
        ("no crash", "crash", 1),
        ("no crash", "no crash", 1),
    ]
    assert plots.confusion(LABELS, SCORES, threshold=0.95)["rows"].to_list() == [0, 2, 0, 2]


def test_typical_crashes_have_the_median_lead_of_each_third_of_the_period():
    caught = [crash(f"c{day}", day, lead) for day, lead in enumerate([2, 6, 4, 3, 5, 1, 7, 7, 3])]
    missed = [crash(f"m{day}", day) for day in range(3)]
    chosen = plots.typical_crashes(crashes_of(*reversed(caught), *reversed(missed)))
    assert chosen["server_id"].to_list() == ["c2", "c3", "c6", "m0", "m1", "m2"]


def test_typical_crashes_are_as_many_as_there_are_with_something_to_show():
    chosen = plots.typical_crashes(crashes_of(crash("a", 2, 3), crash("b", 1, 5), crash("c", 0, known=False)))
    assert chosen["server_id"].to_list() == ["b", "a"]
    assert plots.typical_crashes(crashes_of(crash("c", 0, known=False))).is_empty()


def test_timelines_follow_the_crashed_server_alone_up_to_its_crash():
    test = pl.concat(
        [
            scores_before("a", [0.1, 0.2, 0.3, 0.4], until=MIDNIGHT + 2 * HOUR),  # the last row lies after the crash
            scores_before("a", [0.9], until=MIDNIGHT - 23 * HOUR),  # 24 hours before it is too early
            scores_before("b", [0.5]),
            scores_before("c", [0.6]),
        ]
    )
    crashes = crashes_of(crash("b", 0, lead_h=1), crash("a", 0))
    assert plots.timelines(test, crashes, 0.25, LABEL).rows() == [
        ("b at 2026-01-10 00:00", "caught", 1, 0.5, 0.25, 7, 1),
        ("a at 2026-01-10 00:00", "missed", 2, 0.1, 0.25, 7, 1),
        ("a at 2026-01-10 00:00", "missed", 1, 0.2, 0.25, 7, 1),
        ("a at 2026-01-10 00:00", "missed", 0, 0.3, 0.25, 7, 1),
    ]


def test_timelines_of_two_crashes_of_one_server_overlap():
    test = scores_before("a", [0.1, 0.2])
    later = crash("a", 0) | {"started_at": MIDNIGHT + HOUR}
    found = plots.timelines(test, crashes_of(crash("a", 0), later), 0.25, LABEL)
    assert found["hours_to_crash"].to_list() == [2, 1, 3, 2]


def test_timelines_reach_back_as_far_as_an_alarm_counts():
    test = scores_before("a", [0.1] * 60)
    label = Label(lead="1h", horizon="2d", recovery="2h")
    assert plots.timelines(test, crashes_of(crash("a", 0)), 0.25, label)["hours_to_crash"].max() == 48


def test_timelines_keep_the_highest_scores_of_a_dense_fleet():
    scores = np.random.default_rng(1).permutation(1440) / 1440
    test = scores_before("a", scores.tolist(), step=timedelta(minutes=1))
    shown = plots.timelines(test, crashes_of(crash("a", 0)), 0.25, LABEL)
    assert shown.height == plots.MAX_POINTS
    assert shown["hours_to_crash"].is_sorted(descending=True)
    assert set(np.sort(scores)[-20:]) <= set(shown["score"])


def test_neither_server_nor_metric_can_end_the_script_that_dvc_writes_it_into(tmp_path):
    name = "</script><script>x()"
    test = scores_before(name, [0.5, 0.6]).with_columns(label=pl.Series([1, 0], dtype=pl.Int8))
    importance = pl.DataFrame({"feature": [f"{name}_mean_6h"], "pr_auc_lost": [0.1]})
    plots.write(tmp_path, test, crashes_of(crash(name, 0)), 0.25, importance, LABEL)
    for table, column, shown in (
        ("timelines", "incident", " at 2026-01-10 00:00"),
        ("importance", "feature", "_mean_6h"),
    ):
        found = pl.read_csv(tmp_path / f"{table}.csv")
        assert found[column][0] == f"\u2039/script>\u2039script>x(){shown}"
        x, y = found.columns[-1], found.columns[0]
        page = VegaRenderer(found.to_dicts(), table, x=x, y=y, template="simple").generate_html()
        assert page.count("<script") == page.count("</script>") == 1


def test_numbers_have_six_significant_digits():
    frame = pl.DataFrame({"name": ["a, b"], "share": [1 / 3], "small": [1.23456789e-7], "rows": [12345678]})
    assert plots.as_csv(frame) == 'name,share,small,rows\n"a, b",0.333333,1.23457e-07,12345678\n'


@pytest.fixture(scope="module")
def fleet() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Five servers over two days; two crash at midnight, one of them with a warning."""
    rng = np.random.default_rng(1)
    test = pl.concat([scores_before(server, rng.random(48).tolist()) for server in "abcde"])
    last_hours = (pl.col("timestamp") >= MIDNIGHT - 7 * HOUR) & pl.col("server_id").is_in(["a", "b"])
    test = test.with_columns(label=last_hours.cast(pl.Int8)).sort("timestamp", "server_id")
    importance = pl.DataFrame({"feature": [f"f{i:02}" for i in range(30)], "pr_auc_lost": np.linspace(0.3, 0.01, 30)})
    return test, crashes_of(crash("a", 0, lead_h=3), crash("b", 0)), importance


def test_files_depend_on_the_rows_not_on_their_order(tmp_path, fleet):
    test, crashes, importance = fleet
    plots.write(tmp_path / "one", test, crashes, 0.5, importance, LABEL)
    shuffled = test.sample(fraction=1, shuffle=True, seed=2)
    plots.write(tmp_path / "two", shuffled, crashes.reverse(), 0.5, importance, LABEL)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert [name.removesuffix(".csv") for name in names] == [
        "calibration", "confusion", "importance", "precision_recall", "roc", "timelines",
    ]  # fmt: skip
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_twenty_most_important_features_are_shown(tmp_path, fleet):
    plots.write(tmp_path, *fleet[:2], 0.5, fleet[2], LABEL)
    rows = (tmp_path / "importance.csv").read_text().splitlines()
    assert (rows[0], rows[1], len(rows)) == ("feature,pr_auc_lost", "f00,0.3", 1 + plots.TOP_FEATURES)


def definitions() -> list[tuple[str, dict]]:
    content = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    return [item for plot in content.get("plots", []) for item in plot.items()]


@pytest.mark.parametrize(("name", "definition"), definitions())
def test_dvc_can_draw_every_plot_of_dvc_yaml(tmp_path, monkeypatch, fleet, name, definition):
    monkeypatch.chdir(tmp_path)
    plots.write(tmp_path / "plots", *fleet[:2], 0.5, fleet[2], LABEL)
    ((path, y),) = definition["y"].items()
    with Path(path).open(newline="") as file:
        rows = [row | {"rev": "workspace"} for row in csv.DictReader(file)]  # text, as DVC reads it
    properties = definition | {"y": y, "template_dir": str(TEMPLATES)}
    spec = VegaRenderer(rows, name, **properties).get_filled_template()
    assert "DVC_METRIC" not in json.dumps(spec)


@pytest.mark.parametrize("template", sorted(TEMPLATES.glob("*.json")), ids=lambda path: path.stem)
def test_templates_name_columns_that_are_written(tmp_path, fleet, template):
    plots.write(tmp_path, *fleet[:2], 0.5, fleet[2], LABEL)
    spec = json.loads(template.read_text(encoding="utf-8"))
    table = {"calibration": "calibration", "confusion_counts": "confusion", "timelines": "timelines"}[template.stem]
    columns = set((tmp_path / f"{table}.csv").read_text().splitlines()[0].split(","))
    parsed = set(spec["data"]["format"]["parse"])
    computed = {"rev", *(name for name in values(spec, "as"))}
    assert parsed <= columns
    assert {name for name in values(spec, "field") if not name.startswith("<DVC_METRIC_")} <= columns | computed


def values(spec: object, key: str) -> list[str]:
    """Return every text under `key`, at any depth."""
    if isinstance(spec, list):
        return [found for item in spec for found in values(item, key)]
    if isinstance(spec, dict):
        own = [spec[key]] if isinstance(spec.get(key), str) else []
        return own + [found for item in spec.values() for found in values(item, key)]
    return []
