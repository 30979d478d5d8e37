"""Write the Grafana dashboards: python deploy/grafana/dashboards.py (docs/monitoring.md).

They are made from code, so that a gauge stands in one line, and the tests run every query. For Grafana 11.
"""

from __future__ import annotations

from pathlib import Path
from string import ascii_uppercase
from typing import NamedTuple

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import GraphDrawStyle, LegendDisplayMode, LegendPlacement, LineInterpolation
from grafana_foundation_sdk.models.dashboard import Dashboard, DataSourceRef, Threshold, ThresholdsMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

OUT = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${source}")
AGE = "time() - max by (%s) (%s)"
WIDTH, HEIGHT, WHOLE = 12, 8, 24  # of a panel; a row of Grafana has 24 columns
SMALL, LOW = 6, 4


class Line(NamedTuple):
    """A query, and what its series are called: text with labels in double braces."""

    query: str
    name: str = ""


def query(line: Line, *, instant: bool = False, ref: str = "A") -> prometheus.Dataquery:
    """Return a query of a panel: of the newest values only, or of the whole period."""
    made = prometheus.Dataquery().ref_id(ref).expr(line.query).legend_format(line.name or "__auto").datasource(SOURCE)
    return made.instant().format(PromQueryFormat.TABLE) if instant else made.range()


def figure(title: str, line: Line, unit: str = "short", bad_from: float | None = None) -> stat.Panel:
    """Return one number; red from `bad_from` on."""
    panel = stat.Panel().title(title).unit(unit).datasource(SOURCE).span(SMALL).height(LOW)
    if bad_from is not None:
        steps = [Threshold(value=None, color="green"), Threshold(value=bad_from, color="red")]
        panel.thresholds(dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))
    return panel.with_target(query(line))


def lines(title: str, *targets: Line, unit: str = "short", about: str = "", steps: bool = False) -> timeseries.Panel:
    """Return lines over time; what changes with a run alone is drawn in steps."""
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    panel = timeseries.Panel().title(title).unit(unit).datasource(SOURCE).span(WIDTH).height(HEIGHT).description(about)
    panel.draw_style(GraphDrawStyle.LINE).legend(legend.show_legend(True))
    if steps:
        panel.line_interpolation(LineInterpolation.STEP_AFTER)
    for ref, target in zip(ascii_uppercase, targets, strict=False):
        panel.with_target(query(target, ref=ref))
    return panel


def listing(title: str, line: Line, unit: str = "short", about: str = "") -> table.Panel:
    """Return a table of the newest values."""
    panel = table.Panel().title(title).unit(unit).datasource(SOURCE).span(WIDTH).height(HEIGHT).description(about)
    return panel.with_target(query(line, instant=True))


FLEET = [
    figure("Open alarms", Line("count(max by (server) (crashcast_alarm) == 1) or vector(0)"), bad_from=1),
    figure("Servers scored", Line("max(crashcast_servers_scored)")),
    figure("Servers that are silent", Line("max(crashcast_servers_silent)"), bad_from=1),
    figure("Since the last tick", Line(AGE % ("job", "crashcast_last_tick_timestamp_seconds")), "s", bad_from=5400),
    listing(
        "Servers at risk",
        Line("topk(20, max by (server, group) (crashcast_risk))"),
        "percentunit",
        "The 20 highest risks now. The page of `crashcast serve` says why.",
    ),
    lines(
        "Highest risks",
        Line("topk(5, max by (server) (crashcast_risk))", "{{server}}"),
        Line("max(crashcast_threshold)", "alarm threshold"),
        unit="percentunit",
    ),
    lines("Open alarms by group", Line("sum by (group) (max by (server, group) (crashcast_alarm))", "{{group}}")),
    lines(
        "Problems",
        Line("count by (problem) (crashcast_degraded) or vector(0)", "{{problem}}"),
        about="Why scores are not to be trusted: docs/operate.md, If it is degraded.",
    ),
    lines(
        "Duration of a tick",
        Line(
            "sum(rate(crashcast_tick_duration_seconds_sum[6h])) / sum(rate(crashcast_tick_duration_seconds_count[6h]))",
            "mean",
        ),
        unit="s",
    ),
    lines(
        "Age of what is scored",
        Line(AGE % ("job", "crashcast_newest_sample_timestamp_seconds"), "newest sample"),
        Line(AGE % ("job", "crashcast_newest_ticket_timestamp_seconds"), "records of incidents"),
        unit="s",
    ),
]

MODEL = [
    figure("End of its data", Line(AGE % ("model", "crashcast_model_known_to_timestamp_seconds"), "{{model}}"), "s"),
    figure("New crashes", Line("max by (model) (crashcast_retrain_new_crashes)", "{{model}}")),
    figure("Retraining due", Line("max(crashcast_retrain_due)"), bad_from=1),
    figure("Shifts that matter", Line("max(crashcast_drift)"), bad_from=1),
    lines(
        "Crashes that the model warned of in its test",
        *(
            Line(f"max by (model) (crashcast_model_event_recall{part})", f"{{{{model}}}}{told}")
            for part, told in (("", ""), ("_low", ", lower limit"), ("_high", ", upper limit"))
        ),
        unit="percentunit",
        steps=True,
    ),
    lines(
        "Alarms that were right",
        Line("max by (model) (crashcast_model_alarm_precision)", "{{model}}, in its test"),
        Line("max(crashcast_live_precision)", "live"),
        Line("max(crashcast_live_precision_low)", "live, lower limit"),
        Line("max(crashcast_live_precision_high)", "live, upper limit"),
        unit="percentunit",
        about="Live: docs/outcomes.md. A single value of it needs alarms that were held back.",
        steps=True,
    ),
    lines(
        "What followed the alarms",
        Line("sum by (group, outcome) (crashcast_outcomes)", "{{group}}, {{outcome}}"),
        steps=True,
    ),
    lines(
        "False alarms of the test, per server and day",
        Line("max by (model) (crashcast_model_false_alarms_per_server_day)", "{{model}}"),
        Line("max by (model) (crashcast_model_false_alarm_budget)", "{{model}}, budget"),
        steps=True,
    ),
    listing(
        "Figures that have moved most",
        Line("bottomk(10, max by (layer, name, figure) (crashcast_drift_p_value))"),
        about="The smallest p-values of the newest week: docs/drift.md.",
    ),
    lines(
        "Observed over expected crash rows in a week",
        Line('max(crashcast_drift_value{figure="observed / expected"})', "newest week"),
        Line('max(crashcast_drift_expected{figure="observed / expected"})', "the model's test"),
        steps=True,
    ),
]

PIPELINE = [
    figure("Newest sample", Line(AGE % ("job", "crashcast_data_newest_sample_timestamp_seconds")), "s"),
    figure("Records of incidents", Line(AGE % ("job", "crashcast_data_records_end_timestamp_seconds")), "s", 259200),
    figure("Newest ticket", Line(AGE % ("job", "crashcast_data_newest_ticket_timestamp_seconds")), "s"),
    figure("Runs that failed", Line("sum(crashcast_run_failed) or vector(0)"), bad_from=1),
    lines(
        "Wall time of the last run",
        Line("max by (run) (crashcast_run_duration_seconds)", "{{run}}"),
        unit="s",
        steps=True,
    ),
    lines(
        "CPU time of the last run", Line("max by (run) (crashcast_run_cpu_seconds)", "{{run}}"), unit="s", steps=True
    ),
    lines(
        "Peak memory of the last run",
        Line("max by (run) (crashcast_run_peak_memory_bytes)", "{{run}}"),
        unit="bytes",
        steps=True,
    ),
    lines("Rows", Line("max by (run) (crashcast_run_rows)", "{{run}}"), steps=True),
    lines(
        "Since the last success",
        Line(AGE % ("run", "crashcast_run_last_success_timestamp_seconds"), "{{run}}"),
        unit="s",
    ),
    lines(
        "Partitions",
        Line("sum by (source, run) (crashcast_run_partitions)", "{{run}}, {{source}}"),
        about="From the memo, or computed.",
        steps=True,
    ),
    lines(
        "Values that are missing, in the newest week",
        Line('max by (name) (crashcast_drift_value{figure="missing"})', "{{name}}"),
        unit="percentunit",
        steps=True,
    ),
    lines(
        "Disk",
        Line("max(crashcast_disk_free_bytes)", "free"),
        Line("max by (store) (crashcast_store_bytes)", "{{store}}"),
        unit="bytes",
    ),
    lines("Objects on DVC's remote", Line("max by (use) (crashcast_remote_objects)", "{{use}}"), steps=True),
]

DASHBOARDS = {
    "fleet": ("Crashcast: fleet at risk", "6h", FLEET),
    "model": ("Crashcast: model", "30d", MODEL),
    "pipeline": ("Crashcast: pipeline, data and infrastructure", "30d", PIPELINE),
}


def build(name: str) -> Dashboard:
    """Return a dashboard."""
    title, period, panels = DASHBOARDS[name]
    made = dashboard.Dashboard(title).uid(f"crashcast-{name}").tags(["crashcast"]).time(f"now-{period}", "now")
    made.refresh("1m").timezone("utc").readonly()
    made.with_variable(dashboard.DatasourceVariable("source").label("Prometheus").type("prometheus"))
    for panel in panels:
        made.with_panel(panel)
    return made.build()


def main() -> None:
    """Write the dashboards."""
    for name in DASHBOARDS:
        (OUT / f"{name}.json").write_text(JSONEncoder(sort_keys=True, indent=2).encode(build(name)) + "\n")


if __name__ == "__main__":
    main()
