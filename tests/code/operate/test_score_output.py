"""Moments and files that a user names, and what is printed."""

from __future__ import annotations

import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from crashcast.canonical import json_text
from crashcast.cli.operate import EVERY_BIT
from crashcast.errors import UserError
from crashcast.operate import score_output, textfile

MOMENT = datetime(2026, 1, 5, 12)


@pytest.mark.parametrize("name", ["scores", "scores.xlsx", "scores.CSV.gz"])
def test_a_file_whose_name_does_not_say_its_form_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"name a file that ends in \.parquet, \.csv, \.json"):
        score_output.check_name(Path(name))


def test_a_file_without_a_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").mkdir()
    (tmp_path / "file").write_text("")
    for place, told in {"x.csv": "this is a folder", "file/x.csv": "no folder .*file", "no/x.csv": "no folder"}.items():
        with pytest.raises(UserError, match=told):
            score_output.check_name(tmp_path / place)


def scores(risks: dict[str, float], silent: list[str]) -> Any:
    when = MOMENT.replace(tzinfo=UTC)
    rows = pl.DataFrame(
        {
            "server_id": list(risks),
            "timestamp": [when - timedelta(hours=2)] * len(risks),
            "age": [timedelta(hours=2)] * len(risks),
            "risk": list(risks.values()),
            "is_at_risk": [risk >= 0.5 for risk in risks.values()],
        }
    )
    label = SimpleNamespace(lead=timedelta(hours=1), reach=timedelta(hours=7))
    deployment = SimpleNamespace(name="v1.0.0", label=label, model=SimpleNamespace(threshold=0.5))
    return SimpleNamespace(
        deployment=deployment, moment=MOMENT, rows=rows, silent=silent, warnings=[], at_risk=rows.filter("is_at_risk")
    )


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what prints scores, each with the same reason."""
    monkeypatch.setattr(score_output, "reasons", lambda *_: ["cpu_pct 9 [fleet 1]: risk 0.90 -> 0.10"])

    def show(found: Any) -> str:
        console = Console(file=io.StringIO(), width=120)
        score_output.show(found, console)
        return console.file.getvalue()  # type: ignore[attr-defined]

    return show


def test_servers_at_risk_are_listed_with_a_reason_and_the_silent_ones_named(shown: Any) -> None:
    text = shown(scores({"db-1": 0.9, "web-1": 0.1}, ["web-2"]))
    assert "2 servers scored by v1.0.0: 1 at risk of a crash 1h to 7h later (alarm threshold 0.5)" in text
    assert re.search(r"db-1 +90% +05 Jan 10:00 +cpu_pct 9 \[fleet 1\]", text)
    assert "web-1" not in text
    assert "1 server silent, not scored: web-2" in text


def test_a_servers_id_is_shown_whole_and_is_no_markup(shown: Any) -> None:
    long = "ip-10-120-33-101.eu-central-1.compute.internal.fleet-of-many-servers.a-long-domain.example"
    odd = ["[red]x[/red]", "back\\", "a b", "😀"]
    text = shown(scores(dict.fromkeys([long, *odd], 0.9), ["[b]gone"]))
    assert long in re.sub(r"\s|(90%|05 Jan 10:00).*", "", text)
    assert next(line for line in text.splitlines() if line.startswith("back")).split()[0] == "back\\"
    for told in ("[red]x[/red] ", "a b ", "😀 ", "not scored: [b]gone"):
        assert told in text


def test_a_risk_at_the_threshold_is_no_lower_in_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each form has every bit, so whoever compares risk and threshold finds the servers at risk."""
    found = scores({"a,b": 0.123456789, 'q"': 0.1}, [])
    found.deployment.model.threshold = 0.123456789
    monkeypatch.setattr(score_output, "reasons", lambda *_: [])
    for name, read in {"s.csv": pl.read_csv, "s.json": pl.read_json, "s.parquet": pl.read_parquet}.items():
        score_output.write(found, tmp_path / name)
        assert read(tmp_path / name).select("server_id", "risk").rows() == [("a,b", 0.123456789), ('q"', 0.1)]
    assert "0.123456789" in json_text(score_output.as_json(found), EVERY_BIT)


def test_gauges_hold_any_servers_id_and_every_bit(tmp_path: Path) -> None:
    ids = ["a b", 'q"uote', "new\nline", "comma,x", "back\\slash", "😀", "{x}"]
    found = scores(dict.fromkeys(ids, 0.123456789), [])
    found.deployment.model.threshold, found.deployment.model.algorithm = 0.123456789, "dummy"
    text = textfile.write(score_output.samples(found), tmp_path, "crashcast_score").read_text()
    read = {
        (sample.name, sample.labels.get("server")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert {server for name, server in read if name == "crashcast_risk"} == {*ids}
    assert {read["crashcast_risk", server] for server in ids} == {read["crashcast_threshold", None]}


def test_a_long_list_says_how_many_more_there_are(shown: Any) -> None:
    text = shown(scores({f"s{number:02}": 0.9 for number in range(25)}, []))
    assert "s19" in text
    assert "s20" not in text
    assert "and 5 more" in text


def test_a_quiet_fleet_has_no_table(shown: Any) -> None:
    text = shown(scores({"db-1": 0.1}, []))
    assert "0 at risk" in text
    assert "first reason" not in text


def test_one_server_is_explained_or_it_is_said_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_output, "reasons", lambda _, server: [server])
    found = scores({"db-1": 0.9}, ["web-2"])
    assert score_output.explained(found, "db-1") == ["db-1"]
    with pytest.raises(UserError, match="web-2 is silent"):
        score_output.explained(found, "web-2")
    with pytest.raises(UserError, match="no server db-3 was scored: db-1"):
        score_output.explained(found, "db-3")
