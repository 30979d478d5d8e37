"""The label stage with evidence of several sources: a small fleet through `main`."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from evidence import (
    COLUMNS,
    DAY,
    RECORDING,
    RULES,
    SETTINGS,
    START,
    actions_of,
    frame_of,
    hours,
    samples_of,
    sources_of,
    tickets_of,
)

from crashcast import tables
from crashcast.labelling.candidate_events import ANNOTATIONS
from crashcast.tables import CRASH
from stages import label

DEFAULTS = yaml.safe_load((Path(__file__).parents[3] / "params.yaml").read_text())


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Write params.yaml and a fleet; return what runs the stage."""
    monkeypatch.chdir(tmp_path)
    servers = [
        samples_of(
            f"s{number:02}", last=24 * 14, down=[(50.4 + number, 53.4 + number)], lost=[90 + number, 91 + number]
        )
        for number in range(20)
    ]
    rows = frame_of(COLUMNS, sorted(row for server in servers for row in server))
    sources = ["pager", "phone"]
    tickets = tickets_of(
        *((f"s{number:02}", CRASH, 50.4 + number, 53.4 + number, sources[number % 2]) for number in range(1, 20))
    )
    coverage = frame_of(tables.COVERAGE, [(f"s{number:02}", -99, 24 * 14, "web") for number in range(20)])
    params = {
        "telemetry": SETTINGS.model_dump(mode="json"),
        "label": RULES.model_dump(mode="json"),
        "incidents": RECORDING.model_dump(mode="json"),
        **{name: DEFAULTS[name] for name in ("split", "acceptance")},
        "execution": {"workers": 1, "memo_gb": 1},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / ".dvc").mkdir()
    tables.write(tmp_path / "incidents.parquet", tickets)
    tables.write(tmp_path / "coverage.parquet", coverage)
    tables.write(tmp_path / "ticket_sources.parquet", sources_of())
    tables.write(tmp_path / "alarms.parquet", pl.DataFrame(schema=tables.ALARMS))
    tables.write(tmp_path / "actions.parquet", actions_of())
    tables.write(tmp_path / "annotations.parquet", pl.DataFrame(schema=ANNOTATIONS))

    def run(days):
        for day in range(days):
            partition = tables.partition_at(START + day * DAY, "day")
            own = rows.filter(
                pl.col("timestamp").is_between(*tables.utc(partition.start, partition.end), closed="left")
            )
            for name in ("clean", "telemetry"):
                if not partition.path(tmp_path / name).exists():
                    tables.write(partition.path(tmp_path / name), own.with_columns(observed=pl.lit(True)))
        records = ("incidents", "coverage", "ticket_sources", "alarms", "actions", "annotations")
        inputs = ("clean", "telemetry", *(f"{name}.parquet" for name in records))
        outputs = ("labels", "confirmed.parquet", "votes.parquet", "out.json")
        label.main(*(tmp_path / name for name in (*inputs, *outputs)))
        return json.loads((tmp_path / "out.json").read_text())

    return run


def test_the_stage_labels_by_the_confirmed_crashes_and_remembers_up_intervals(project, tmp_path, capsys):
    figures = project(10)
    assert figures["evidence"]["believed"] == 20
    rows = tables.read_period(tmp_path / "labels", START, START + 10 * DAY)
    unticketed = rows.filter((pl.col("server_id") == "s00") & (pl.col("label") == 1))
    assert hours(unticketed["timestamp"]) == [44, 45, 46, 47, 48, 49]  # 50.5 lies in (t + 1, t + 7]
    told = capsys.readouterr().err
    assert "evidence: 10 partitions, 10 computed" in told
    assert "do not vote" not in told
    before = {path: path.read_bytes() for path in (tmp_path / "labels").rglob("*.parquet")}

    project(14)
    told = capsys.readouterr().err
    assert "evidence: 14 partitions, 4 computed" in told
    assert "label: 14 partitions, 4 computed" in told  # the earlier days' events are what they were
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_restart_is_no_crash_once_somebody_says_that_it_was_to_prevent_one(project, tmp_path, capsys):
    def rows_of_the_first():
        rows = tables.read_period(tmp_path / "labels", START, START + 14 * DAY).filter(server_id="s00")
        return rows.filter(pl.col("label").is_null() | (pl.col("label") == 1))

    project(14)
    assert rows_of_the_first().filter(label=1).height == 6
    before = {path: path.read_bytes() for path in (tmp_path / "labels").rglob("*.parquet")}
    capsys.readouterr()

    tables.write(tmp_path / "actions.parquet", actions_of(("s00", 50.5)))
    figures = project(14)
    assert figures["evidence"]["believed"] == 19
    found = rows_of_the_first()
    assert found["label"].null_count() == found.height
    mitigated = found.filter(reason="mitigated")
    assert hours(mitigated["timestamp"]) == [44, 45, 46, 47, 48, 49, 50]
    assert figures["unknown_mitigated"] == 7
    # the action was reported late: only the two days that it touches are computed again
    assert "label: 14 partitions, 2 computed" in capsys.readouterr().err
    changed = {path.parent.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {tables.partition_at(START + day * DAY, "day").name for day in (1, 2)}


def test_a_metric_that_telemetry_lacks_is_named(project, tmp_path, capsys):
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["label"] |= {"uptime_metric": "boot_h", "error_metric": None}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    project(10)
    told = [line for line in capsys.readouterr().err.splitlines() if "do not vote" in line]
    assert told == ["label: restarts do not vote: telemetry has no boot_h (params.yaml: label.uptime_metric)"]


def test_the_same_bytes_whatever_the_order_of_tickets(project, tmp_path):
    project(10)
    before = [(tmp_path / name).read_bytes() for name in ("confirmed.parquet", "votes.parquet", "out.json")]
    records = tables.read(tmp_path / "incidents.parquet")
    tables.write(tmp_path / "incidents.parquet", records.sample(fraction=1, shuffle=True, seed=3))
    project(10)
    assert [(tmp_path / name).read_bytes() for name in ("confirmed.parquet", "votes.parquet", "out.json")] == before
