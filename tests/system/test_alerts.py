"""The alerting rules in deploy/, tested by promtool, and an alert on its whole way to a receiver.

The way is that of a team: a file of gauges, node_exporter, Prometheus, Alertmanager, a webhook; all of them are real.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
import yaml
from alerting import free_port, needs, pager, start, start_alertmanager, start_prometheus, wait_for

from crashcast.operate import score_output
from crashcast.operate.textfile import write

RULES = Path(__file__).parents[2] / "deploy/prometheus/crashcast.rules.yml"
RUNBOOK = Path(__file__).parents[2] / "docs/monitoring.md"
pytestmark = [
    pytest.mark.ci,
    needs("prometheus", "promtool", "prometheus-alertmanager", "prometheus-node-exporter"),
]
DAYS_MINUTES = 3 * 1440
NODE = '{job="node", instance="ops:9100"}'
RISK = 'crashcast_risk{job="node", instance="ops:9100", server="%s"}'


def series(name: str, values: str) -> dict[str, str]:
    return {"series": name if "{" in name else f"{name}{NODE}", "values": values}


def of_model(name: str) -> str:
    """Return the series of a gauge that names the model."""
    return f'{name}{{job="node", instance="ops:9100", model="v1.2.0"}}'


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alert(minute: int, name: str, *fires: dict[str, str]) -> dict[str, Any]:
    """Expect that just these alerts of a name fire at a minute; a label that is "" is none."""
    severity = next(rule["labels"]["severity"] for rule in rules() if rule["alert"] == name)
    labels = {"job": "node", "instance": "ops:9100", "severity": severity}
    found = [{"exp_labels": {label: value for label, value in {**labels, **one}.items() if value}} for one in fires]
    return {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": found}


FRESH = series("crashcast_score_timestamp_seconds", "0+60x1000")  # the fleet is scored each minute
OLD = series("crashcast_score_timestamp_seconds", "0x1000")
THRESHOLD = series("crashcast_threshold", "0.5x1000")
DB_1 = {"server": "db-1", "source": "textfile"}
SERVE = '{job="crashcast", instance="ops:9095"}'
OTHER = '{job="crashcast", instance="ops-2:9095"}'
ALARM = 'crashcast_alarm{job="crashcast", instance="ops:9095", server="%s", group="db"}'
DEGRADED = 'crashcast_degraded{job="crashcast", instance="ops:9095", problem="%s"}'
SERVED = {"server": "db-1", "group": "db", "job": "", "instance": ""}
MODEL = {"model": "v1.2.0"}
FINDINGS = 'crashcast_data_validation_findings{job="node", instance="ops:9100", severity="%s"}'
NOWHERE = {"job": "", "instance": ""}  # of a series that is absent
CASES = {
    "a server at risk pages, and for lead + horizon after its last high score": (
        [FRESH, THRESHOLD, series(RISK % "db-1", "0.1x4 0.9x4 0.1x600"), series(RISK % "db-2", "0.1x600")],
        [
            alert(4, "CrashPredicted"),
            alert(6, "CrashPredicted", DB_1),
            alert(400, "CrashPredicted", DB_1),
            alert(440, "CrashPredicted"),
        ],
    ),
    "old scores page nobody, and it is said that they are old": (
        [OLD, THRESHOLD, series(RISK % "db-1", "0.9x600")],
        [
            alert(60, "CrashPredicted", DB_1),
            alert(60, "ScoresStale"),
            alert(140, "ScoresStale", {}),
            alert(560, "CrashPredicted"),
        ],
    ),
    "an alarm of serve pages while it is open, and a failed scrape or a restart ends nothing": (
        [
            series(ALARM % "db-1", "0x4 1x20 _x9 1x100 0x100"),
            series(ALARM % "db-2", "0x300"),
        ],
        [
            alert(4, "CrashPredicted"),
            *(alert(minute, "CrashPredicted", SERVED) for minute in (5, 30, 60, 130, 148)),
            alert(155, "CrashPredicted"),
        ],
    ),
    "two instances of serve raise one alert, and one of them suffices": (
        [
            series(ALARM % "db-1", "1x20 _x200"),
            series((ALARM % "db-1").replace("ops:", "ops-2:"), "1x100 0x100"),
            series(f"crashcast_last_tick_timestamp_seconds{SERVE}", "0+60x20 _x200"),
            series(f"crashcast_last_tick_timestamp_seconds{OTHER}", "0+60x200"),
            series(f"crashcast_interval_seconds{OTHER}", "3600x200"),
        ],
        [
            *(alert(minute, "CrashPredicted", SERVED) for minute in (10, 90)),
            alert(130, "CrashPredicted"),
            alert(190, "TickMissing"),
        ],
    ),
    "if serve runs, the risks of the textfile page nobody a second time": (
        [
            FRESH,
            THRESHOLD,
            series(RISK % "db-1", "0.9x600"),
            series(ALARM % "db-1", "1x600"),
            series(f"crashcast_last_tick_timestamp_seconds{SERVE}", "0+60x600"),
        ],
        [alert(10, "CrashPredicted", SERVED), alert(590, "CrashPredicted", SERVED)],
    ),
    "risks of serve itself page nobody: its alarms do": (
        [
            *(series(one["series"].replace(NODE, SERVE), one["values"]) for one in (FRESH, THRESHOLD)),
            series((RISK % "db-1").replace('"node"', '"crashcast"').replace(":9100", ":9095"), "0.9x600"),
            series(f"crashcast_last_tick_timestamp_seconds{SERVE}", "0+60x600"),
        ],
        [alert(10, "CrashPredicted"), alert(590, "CrashPredicted")],
    ),
    "a tick that does not come is told within two intervals, and when one comes it is over": (
        [
            series(f"crashcast_last_tick_timestamp_seconds{SERVE}", "0x59 3600x200 15600x100"),
            series(f"crashcast_interval_seconds{SERVE}", "3600x400"),
        ],
        [
            alert(60, "TickMissing"),
            alert(149, "TickMissing"),
            alert(60 + 2 * 60, "TickMissing", NOWHERE),
            alert(265, "TickMissing"),
        ],
    ),
    "a serve that is gone is told within two intervals, too": (
        [
            series(f"crashcast_last_tick_timestamp_seconds{SERVE}", "0x30 _x400"),
            series(f"crashcast_interval_seconds{SERVE}", "3600x30 _x400"),
        ],
        [alert(60, "TickMissing"), alert(120, "TickMissing", NOWHERE)],
    ),
    "a state that is degraded is told, and that alerts are not delivered is told apart": (
        [
            series(DEGRADED % "prometheus", "_x4 1x40 _x60"),
            series(DEGRADED % "alertmanager", "_x59 1x40"),
        ],
        [
            alert(10, "ServeDegraded"),
            alert(20, "ServeDegraded", {"problem": "prometheus", **NOWHERE}),
            alert(20, "DeliveryFailing"),
            alert(60, "ServeDegraded"),
            alert(62, "DeliveryFailing"),
            alert(70, "DeliveryFailing", {"problem": "alertmanager", **NOWHERE}),
            alert(70, "ServeDegraded"),
        ],
    ),
    "fresh scores are not stale": ([FRESH], [alert(600, "ScoresStale")]),
    "scores that are not there are told, and a restart of node_exporter is not": (
        [series("crashcast_score_timestamp_seconds", "_x4 1x4 _x40")],
        [alert(5, "ScoresMissing"), alert(18, "ScoresMissing"), alert(40, "ScoresMissing", NOWHERE)],
    ),
    "input that the scores lack is told": (
        [series("crashcast_score_warnings", "0x9 1x100")],
        [alert(30, "ScoresBlind"), alert(75, "ScoresBlind", {})],
    ),
    "servers that stay silent are told": (
        [series("crashcast_servers_silent", "0x9 2x100")],
        [alert(30, "ServersSilent"), alert(75, "ServersSilent", {})],
    ),
    "a run that failed is told until it succeeds": (
        [series('crashcast_run_failed{job="node", instance="ops:9100", run="collect"}', "0x4 1x30 0x30")],
        [alert(10, "RunFailed"), alert(20, "RunFailed", {"run": "collect"}), alert(50, "RunFailed")],
    ),
    "a daily run that does not come is told after two days, and one by hand is not missed": (
        [
            series(
                'crashcast_run_last_success_timestamp_seconds{job="node", instance="ops:9100", run="collect"}', "0x4000"
            ),
            series(
                'crashcast_run_last_success_timestamp_seconds{job="node", instance="ops:9100", run="review"}', "0x4000"
            ),
        ],
        [alert(49 * 60, "RunOverdue"), alert(51 * 60, "RunOverdue", {"run": "collect"})],
    ),
    "drift is told, and a fleet that has not drifted is not": (
        [series("crashcast_drift", "0x20 2x40 0x40")],
        [alert(15, "Drift"), alert(45, "Drift", {}), alert(80, "Drift")],
    ),
    "a retraining that nobody starts is told after a week": (
        [series(of_model("crashcast_retrain_due"), "1x12000 0x200")],
        [
            alert(6 * 1440, "RetrainOverdue"),
            alert(8 * 1440, "RetrainOverdue", MODEL),
            alert(12100, "RetrainOverdue"),
        ],
    ),
    "a model whose data ended half a year ago is told": (
        # time begins at 0 here: the first of them lies before
        [series(of_model("crashcast_model_known_to_timestamp_seconds"), "-15552000x100 0x100")],
        [alert(59, "ModelOld"), alert(70, "ModelOld", MODEL), alert(150, "ModelOld")],
    ),
    "a model that exceeds its budget by half is told, and one that exceeds it by a quarter is not": (
        [
            series(of_model("crashcast_model_false_alarm_budget"), "0.02x400"),
            series(of_model("crashcast_model_false_alarms_per_server_day"), "0.025x100 0.031x300"),
        ],
        [alert(90, "FalseAlarmsOverBudget"), alert(200, "FalseAlarmsOverBudget", MODEL)],
    ),
    "a precision whose interval lies below that of the model's test is told": (
        [
            series(of_model("crashcast_model_alarm_precision"), "0.35x4000"),
            series("crashcast_live_precision_high", "0.4x100 0.3x4000"),
        ],
        [
            alert(100, "PrecisionBelowPromise"),
            alert(1500, "PrecisionBelowPromise"),
            alert(1600, "PrecisionBelowPromise", {}),
        ],
    ),
    "records of incidents that end are told after three days": (
        [series("crashcast_data_records_end_timestamp_seconds", "0x6000")],
        [alert(3 * 1440, "RecordsStale"), alert(3 * 1440 + 70, "RecordsStale", {})],
    ),
    "raw data that fails an expectation is told": (
        [series(FINDINGS % "warnings", "0x20 2x100"), series(FINDINGS % "critical_failures", "0x120")],
        [alert(15, "DataInvalid"), alert(40, "DataInvalid", {"severity": "info"})],
    ),
    "a disk that is nearly full, or will be soon, is told": (
        [
            series("crashcast_disk_size_bytes", "1000x3000"),
            series("crashcast_disk_free_bytes", "500x1440 500-0.1x1440"),
        ],
        [alert(1400, "DiskFilling"), alert(2800, "DiskFilling", {})],
    ),
    "a disk that is full and does not fill is told, too": (
        [series("crashcast_disk_size_bytes", "1000x300"), series("crashcast_disk_free_bytes", "500x60 99x200")],
        [alert(60, "DiskFilling"), alert(250, "DiskFilling", {})],
    ),
    "a remote with objects that nobody has needed for a quarter is told": (
        [series("crashcast_remote_unneeded_age_seconds", "7776000x50 7776001x200")],
        [alert(50, "RemoteFilling"), alert(120, "RemoteFilling", {})],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_each_alert_fires_when_it_should_and_only_then(case: str, tmp_path: Path) -> None:
    given, expected = CASES[case]
    conditions = [{name: value for name, value in rule.items() if name != "annotations"} for rule in rules()]
    groups = [{"name": "crashcast", "rules": conditions}]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    test = {"interval": "1m", "input_series": given, "alert_rule_test": expected}
    lasts_days = any(int(one["eval_time"].removesuffix("m")) > DAYS_MINUTES for one in expected)
    between = "10m" if lasts_days else "1m"  # looks at the rules
    content = {"rule_files": ["rules.yml"], "evaluation_interval": between, "tests": [test]}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(content))
    done = subprocess.run(["promtool", "test", "rules", "test.yml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_has_a_test() -> None:
    fired = {entry["alertname"] for _, entries in CASES.values() for entry in entries if entry["exp_alerts"]}
    assert fired == {rule["alert"] for rule in rules()}


def test_every_alert_has_an_entry_in_the_runbook() -> None:
    lines = [line for line in RUNBOOK.read_text().splitlines() if line.startswith("| `")]
    described = {name for line in lines for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    assert described == {rule["alert"] for rule in rules()}


def test_promtool_has_no_objection() -> None:
    done = subprocess.run(["promtool", "check", "rules", "--lint-fatal", str(RULES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def received() -> Iterator[SimpleNamespace]:
    with pager() as running:
        yield running


def test_a_server_at_risk_reaches_the_pager(tmp_path: Path, received: SimpleNamespace) -> None:
    now = datetime.now(UTC)
    rows = pl.DataFrame({"server_id": ["db-1", "db-2"], "timestamp": [now, now], "risk": [0.9, 0.1]})
    deployment = SimpleNamespace(name="v1.0.0", model=SimpleNamespace(threshold=0.5, algorithm="dummy"))
    scores: Any = SimpleNamespace(
        rows=rows, deployment=deployment, moment=now.replace(tzinfo=None), silent=[], warnings=[]
    )
    (tmp_path / "gauges").mkdir()
    write(score_output.samples(scores), tmp_path / "gauges", "crashcast_score")

    node, manager, prometheus = free_port(), free_port(), free_port()
    route = {"receiver": "pager", "group_wait": "0s", "group_by": ["alertname"]}
    receivers = [{"name": "pager", "webhook_configs": [{"url": received.url}]}]
    (tmp_path / "alertmanager.yml").write_text(yaml.safe_dump({"route": route, "receivers": receivers}))
    settings = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{manager}"]}]}]},
        "scrape_configs": [{"job_name": "node", "static_configs": [{"targets": [f"127.0.0.1:{node}"]}]}],
    }
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
    with ExitStack() as stack:
        start(
            stack, tmp_path, "prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{node}",
            "--collector.disable-defaults", "--collector.textfile",
            f"--collector.textfile.directory={tmp_path / 'gauges'}",
        )  # fmt: skip
        start_alertmanager(stack, tmp_path, manager)
        start_prometheus(stack, tmp_path, prometheus)
        wait_for(lambda: bool(received.alerts))
        time.sleep(2)  # no second one comes
    assert [one["labels"]["alertname"] for one in received.alerts] == ["CrashPredicted"]
    (page,) = received.alerts
    assert (page["status"], page["labels"]["server"]) == ("firing", "db-1")
    assert page["annotations"]["summary"] == "db-1 will crash within hours with probability 90% [crashcast]"
