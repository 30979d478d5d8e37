from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

from crashcast import run_summary
from crashcast.canonical import write_json
from crashcast.cli import app
from crashcast.errors import UserError
from crashcast.modeling import alarms, row_metrics
from crashcast.run_summary import Figures, Row
from crashcast.versioning import dvc_command

ROOT = Path(__file__).parents[2]
START = datetime(2026, 1, 1)
HOUR = timedelta(hours=1)


def evaluation() -> dict:
    """Judge one server over ten hours: one crash with a warning two hours ahead, and one false alarm."""
    scores = [0.1, 0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.7, 0.1]
    labels = pl.Series([0, 1, 1, 0, 0, 0, 0, 0, 0, 0])
    moments = pl.Series([START + hour * HOUR for hour in range(10)]).dt.replace_time_zone("UTC")
    rows = pl.DataFrame({"timestamp": moments, "server_id": "a", "label": labels, "observed": True, "score": scores})
    crashes = pl.DataFrame({"server_id": ["a"], "started_at": [(START + 4 * HOUR).replace(tzinfo=UTC)]})
    window, period = alarms.AlarmWindow(HOUR, 2 * HOUR, HOUR), (START, START + 10 * HOUR)
    judged = alarms.judge(rows, crashes, 0.5, window, period).metrics
    return {
        **row_metrics.row_metrics(labels.to_numpy(), rows["score"].to_numpy(), 0.5),
        **judged.as_dict(),
        **{"pr_auc_low": 0.4, "pr_auc_high": 0.9, "lift_low": 2.0, "lift_high": 1234.5},
        **{"event_recall_low": 0.25, "event_recall_high": 1.0},
        "mean_score_over_base_rate": 1.2,
        "false_alarm_budget": 4.8,
        "confidence": 0.9,
        "baselines": {
            "crashes_7d": baseline(pr_auc=0.3, gain_low=0.1),
            "hours_since_crash": baseline(pr_auc=0.5, gain_low=-0.2),
            "random": baseline(pr_auc=0.2, gain_low=0.2),
        },
        "slices": {},
    }


def baseline(pr_auc: float, gain_low: float) -> dict:
    gain = {"pr_auc_gain_low": gain_low, "pr_auc_gain_high": 0.4}
    return {"pr_auc": pr_auc, "event_recall": 0.125, "false_alarms_per_server_day": 0.02, **gain}


MEASURED = {
    "validate": {"warnings": 1, "critical_failures": 0},
    "clean": {"samples": 12_000, "rows": 11_000},
    "label": {"known": 10_000, "base_rate": 0.0123},
    "split": {
        "test": {"rows": 10, "crash_rows": 2, "servers": 1, "from": "2026-01-01T00:00:00", "to": "2026-01-01T10:00:00"}
    },
    "candidates": {
        "chosen": "logistic_regression C=1",
        "folds": 3,
        "expected": {"pr_auc": 0.6, "pr_auc_low": 0.5, "pr_auc_high": 0.8},
        "candidates": {
            name: {"pr_auc": pr_auc}
            for name, pr_auc in {
                "dummy": 0.2,
                "hist_gradient_boosting max_leaf_nodes=15": 0.5,
                "hist_gradient_boosting max_leaf_nodes=7": 0.55,
                "logistic_regression C=0.1": 0.6,
                "logistic_regression C=1": 0.65,
            }.items()
        },
    },
    "train": {
        "threshold": 0.5,
        "false_alarms_per_server_day": 0.25,
        "false_alarms_over_budget_low": 0.71,
        "false_alarms_over_budget_high": 1.32,
    },
}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Lay out what a run leaves behind."""
    for stage, figures in {**MEASURED, "evaluate": evaluation()}.items():
        write_json(tmp_path / "metrics" / f"{stage}.json", figures)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(path: Path, **figures: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **figures}))


def summary(project: Path) -> run_summary.Summary:
    return run_summary.summarise(run_summary.read(project / "metrics"))


def test_every_figure_stands_beside_what_it_is_compared_with(project):
    assert summary(project).rows == [
        Row("PR-AUC", "0.6", "0.4 to 0.9", "chance 0.2"),
        Row("lift over chance", "3", "2 to 1,234", "chance 1"),
        Row("gain over crashes_7d", "+0.3", "0.1 to 0.4", "PR-AUC 0.3, recall 12%"),
        Row("gain over hours_since_crash", "+0.1", "-0.2 to 0.4", "PR-AUC 0.5, recall 12%"),
        Row("event recall (1 of 1)", "100%", "25% to 100%", "random alarms 12%"),
        Row("median lead", "2.0 h", "", "0 crashes missed"),
        Row("false alarms per server-day", "2.4", "", "budget 4.8"),
        Row("alarm precision (1 of 2)", "50%", "", "1 false, 0 late, 0 unknown"),
        Row("pages a day, whole fleet", "4.8", "", "2 alarms in all"),
        Row("accuracy", "80.00%", "", "majority class 80.00%"),
        Row("mean score / base rate", "1.2", "", "calibrated 1"),
    ]


def test_data_test_part_and_choice_are_told_in_sentences(project):
    assert summary(project).about == [
        "Data: 12,000 samples, validated with 1 warning, became 11,000 rows; gaps are filled. "
        "10,000 rows have a known label; 1.23% of them precede a crash.",
        "Test: 10 rows of 1 servers, 2026-01-01 to 2026-01-01; 1 crashes.",
        "Model: logistic_regression C=1, chosen from 5 candidates by PR-AUC on 3 periods; on validation it is "
        "0.65 against 0.55 (hist_gradient_boosting max_leaf_nodes=7) and 0.2 (dummy); 0.6 is to be expected on new "
        "data (0.5 to 0.8). Its alarms open at a score of 0.5, with 0.25 false alarms per server-day on validation, "
        "0.71 to 1.32 times the budget (90% interval).",
    ]


@pytest.mark.parametrize(("side", "factor"), [("low", 0.49), ("high", 1.51)])
def test_a_validation_part_that_is_too_short_to_promise_the_budget_is_said_to_be(project, side, factor):
    change(project / "metrics" / "train.json", **{f"false_alarms_over_budget_{side}": factor})
    assert summary(project).about[2].endswith(" times the budget (90% interval): too few to promise that it holds.")


def test_mitigated_alarms_are_told_apart_and_what_that_means_for_figures(project):
    figures = {"alarms": 9, "alarms_unknown": 5, "alarms_mitigated": 3, "rows_mitigated": 40}
    change(project / "metrics" / "evaluate.json", **figures)
    found = summary(project)
    assert found.rows[7].beside == "1 false, 0 late, 2 unknown, 3 mitigated"
    assert found.about[2] == (
        "Mitigated: somebody acted, and no crash came, after 40 other rows, 3 of 9 alarms among them; figures of "
        "months in which people act on alarms cannot be compared with those of other months."
    )


def test_a_verdict_says_why_the_dummy_was_chosen(project):
    skill = {"best": "logistic_regression C=1", "lift": 1.52, "lift_low": 0.871, "confidence": 0.9}
    change(project / "metrics" / "candidates.json", chosen="dummy", skill=skill)
    assert summary(project).about[2] == (
        "Model: the dummy, which opens no alarm: none of the other 4 candidates is shown to be better than chance on 3 "
        "periods. The best, logistic_regression C=1, has a mean lift of 1.52 with a lower bound of 0.871 (90% "
        "confidence)."
    )


def test_nothing_is_expected_of_a_dummy_that_competes_alone(project):
    change(project / "metrics" / "candidates.json", expected={}, folds=1)
    assert "by PR-AUC on 1 period; on validation" in summary(project).about[2]
    assert "(dummy). Its alarms open" in summary(project).about[2]


def test_crashes_that_nobody_could_warn_of_are_told(project):
    change(project / "metrics" / "evaluate.json", crashes_without_observed_row=1)
    assert summary(project).about[1] == (
        "Test: 10 rows of 1 servers, 2026-01-01 to 2026-01-01; 1 crashes, 1 of them without an observed row before it."
    )


def conclude(
    lift_low: float = 2.0, lift: float = 3.0, false_alarms: float = 0.5, **gain_low: float
) -> tuple[str, bool]:
    chance = {"lift": lift, "lift_low": lift_low, "lift_high": 3.5}
    figures = {**chance, "false_alarms_per_server_day": false_alarms, "false_alarm_budget": 0.5}
    rules = {name: Figures({"pr_auc_gain_low": low}.items(), Path()) for name, low in gain_low.items()}
    return run_summary.conclude(Figures(figures.items(), Path()), rules)


def test_the_verdict_claims_only_what_the_intervals_show():
    words, holds = conclude(recent=0.1, often=0.01)
    assert words == "better than chance, recent and often; false alarms within budget (1 times the budget)."
    assert holds
    words, holds = conclude(recent=0.1, often=0.0)
    assert words.startswith("better than chance and recent; not shown to be better than often; ")
    assert not holds
    words, holds = conclude(lift_low=1.0, recent=-0.1)
    assert words.startswith(
        "no better than chance, as far as is shown (a lift of 3, 1 to 3.5; chance 1); "
        "not shown to be better than recent; "
    )
    assert words.endswith(f"; {run_summary.WHAT_MIGHT_HELP}.")
    assert not holds
    words, holds = conclude(lift_low=0.6, lift=0.79, recent=0.1)
    assert words.startswith("below chance (a lift of 0.79, 0.6 to 3.5; chance 1); better than recent; ")
    assert not holds
    words, holds = conclude(false_alarms=0.75)
    assert words == "better than chance; false alarms over budget (1.5 times the budget)."
    assert not holds


def test_what_cannot_be_divided_is_none(project):
    change(project / "metrics" / "evaluate.json", alarm_precision=None, median_lead_h=None)
    rows = {row.figure.partition(" (")[0]: row.test for row in summary(project).rows}
    assert (rows["alarm precision"], rows["median lead"]) == ("none", "none")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "is missing"),
        ('{"lift_low": NaN}', "NaN is no number"),
        ("<<<<<<< HEAD\n{}", "unreadable"),
        ("[1]", "expected named figures"),
        ('{"baselines": {}}', "lacks lift_low"),
        ('{"baselines": {"crashes_7d": {}}, "lift_low": 2}', "lacks pr_auc_gain_low"),
    ],
)
def test_a_bad_metrics_file_is_named_with_what_mends_it(project, content, reason):
    path = project / "metrics" / "evaluate.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=rf"evaluate\.json.*{reason}.*dvc repro"):
        summary(project)


def test_the_table_fits_a_terminal_of_80_columns(project):
    shown = StringIO()
    run_summary.show(summary(project), Console(file=shown, width=80))
    lines = shown.getvalue().splitlines()
    for row in summary(project).rows:
        assert any(all(cell in line for cell in row) for line in lines)


def test_the_command_shows_an_unflattering_verdict_and_succeeds(project):
    done = CliRunner().invoke(app, ["verdict"])
    assert done.exit_code == 0
    words = " ".join(done.output.split())
    assert "Verdict: better than chance and crashes_7d; not shown to be better than hours_since_crash; " in words
    assert "90% interval" in words


def test_the_command_writes_the_same_as_markdown(project):
    done = CliRunner().invoke(app, ["verdict", "--markdown"])
    assert done.exit_code == 0
    told = summary(project)
    table = [line for line in done.output.splitlines() if line.startswith("|")]
    assert table[0] == "| figure | test | 90% interval | compare with |"
    assert [tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in table[2:]] == told.rows
    assert done.output.rstrip().endswith(f"**Verdict: {told.verdict}**")
    assert all(sentence in done.output for sentence in told.about)


def test_stale_stages_are_named_before_the_figures_and_nothing_holds(project, monkeypatch):
    asked = {"evaluate": [], "train": [], "data/raw/telemetry.dvc": []}
    monkeypatch.setattr(dvc_command, "ask", lambda *_: asked)
    assert run_summary.stale_stages() == []  # without a lock, DVC does not know of any run
    Path("dvc.lock").touch()
    assert run_summary.stale_stages() == ["evaluate", "train"]
    done = CliRunner().invoke(app, ["verdict", "--markdown"])
    assert done.output.startswith(
        "These figures may be of several runs: evaluate and train must run again; `dvc repro`"
    )
    asked.clear()
    assert CliRunner().invoke(app, ["verdict", "--markdown"]).output.startswith("Data: ")
