"""Series become one row for each server and time."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashcast.errors import UserError
from crashcast.params.collect import Collect
from crashcast.sources.prometheus.series import COLUMNS, rows

ROOT = Path(__file__).parents[4]
SETTINGS = Collect.read(ROOT / "params.yaml")
START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def series(values: list[tuple[float, str]], **labels: str) -> dict[str, Any]:
    """Return a series as the API gives it, hours after the start."""
    return {"metric": labels, "values": [[START.timestamp() + 3600 * hour, value] for hour, value in values]}


def test_labels_become_servers_and_groups_and_no_number_becomes_no_row() -> None:
    given = [
        series([(0, "1"), (1, "NaN"), (2, "2.5e-07")], instance="b:9100", job="web", mode="idle"),
        series([(0, "-0.1"), (1, "+Inf"), (2, "-Inf")], instance="[::1]:9100", job="db"),
        series([(1, "3")], instance="a"),
    ]
    frame = rows(given, "m", SETTINGS)
    assert frame.rows() == [
        (START, "[::1]", "db", -0.1),
        (START, "b", "web", 1.0),
        (START + HOUR, "a", None, 3.0),
        (START + 2 * HOUR, "b", "web", 2.5e-07),
    ]
    assert dict(frame.schema) == COLUMNS
    assert rows([], "m", SETTINGS).schema == frame.schema
    without = SETTINGS.model_copy(update={"group_label": None, "server_pattern": r"([^:]+:\d+)"})
    assert rows(given[:1], "m", without).rows()[0] == (START, "b:9100", None, 1.0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([series([(0, "1")], job="web")], "gives series without the label instance: {job='web'}; keep it"),
        ([series([(0, "1")], instance=":9100")], "collect.server_pattern does not match instance=':9100'"),
        (
            [series([(0, "1"), (1, "1")], instance="a", disk="x"), series([(1, "2")], instance="a", disk="y")],
            "two values for a at 2026-01-01 01:00: {disk='x', instance='a'} and {disk='y', instance='a'}",
        ),
        ([{"metric": {"instance": "a"}, "histograms": []}], "gives native histograms"),
    ],
)
def test_series_that_are_not_one_per_server_are_refused(given: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(UserError) as caught:
        rows(given, "disk", SETTINGS.model_copy(update={"server_pattern": "([^:]+)(:.*)?"}))
    assert message in str(caught.value)
    assert "collect.queries.disk" in str(caught.value)


def test_one_server_may_change_its_labels_over_time() -> None:
    given = [series([(0, "1")], instance="a", job="old"), series([(1, "2")], instance="a", job="new")]
    assert rows(given, "m", SETTINGS)["group"].to_list() == ["old", "new"]


@pytest.mark.parametrize(
    "given",
    [
        [3],
        [{"values": []}],
        [{"metric": None, "values": []}],
        [{"metric": {"instance": "a"}, "values": [[1]]}],
        [{"metric": {"instance": "a"}, "values": [[1, "x"]]}],
        [{"metric": {"instance": "a"}, "values": [[1e300, "1"]]}],
        [{"metric": {"instance": "a"}, "values": [["NaN", "1"]]}],
        [{"metric": {"instance": 3}, "values": []}],
        [{"metric": {"instance": "a", "job": []}, "values": [[1, "1"]]}],
        [{"metric": {"instance": "a"}, "values": 3}],
    ],
)
def test_what_is_no_series_is_refused(given: list[Any]) -> None:
    with pytest.raises(UserError, match=r"collect\.queries\.m gives series that are not as Prometheus's API has them"):
        rows(given, "m", SETTINGS)


NUMBERS = st.one_of(
    st.floats().map(repr),
    st.floats(-1e9, 1e9).map(lambda number: f"{number:.20g}"),
    st.integers().map(str),
    st.sampled_from(["NaN", "+Inf", "-Inf", "1e400", " 1", "1_0", "1e-400", "5e-324", ".5", "5.", "+3"]),
)


@given(st.lists(NUMBERS, min_size=1, max_size=30))
def test_numbers_are_read_as_python_reads_them(texts: list[str]) -> None:
    frame = rows([series(list(enumerate(texts)), instance="a")], "m", SETTINGS)
    expected = {START + hour * HOUR: float(text) for hour, text in enumerate(texts) if math.isfinite(float(text))}
    assert dict(frame.select("timestamp", "value").iter_rows()) == expected


@pytest.mark.parametrize("text", ["", "many", "0x10", "1,5", "--1", "1e", "None"])
def test_what_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"could not convert string to float: '{text}'"):
        rows([series([(0, "1"), (1, text)], instance="a")], "m", SETTINGS)
