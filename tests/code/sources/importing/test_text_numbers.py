"""Numbers that exports write as text."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crashcast.sources.importing.text_numbers import Written, looks_numeric, read_written


@pytest.mark.parametrize(
    ("name", "texts", "expected", "unit", "how"),
    [
        ("cpu_pct", ["6.92 %", "7%"], [6.92, 7], "%", "unit %"),
        ("load", ["6,92", "7", "-0,5"], [6.92, 7, -0.5], "", "decimal commas"),
        ("latency_ms", ["12 ms", "3.5ms"], [12, 3.5], "ms", "unit ms"),
        ("latency_ms", ["0.5 ms", "1.2 s", "40 \N{MICRO SIGN}s"], [0.5, 1200, 0.04], "ms", None),
        ("latency", ["500 ms", "2 s"], [0.5, 2], "s", "unit ms, s, converted to s"),
        ("uptime_seconds", ["2 h", "1 d", "90 s"], [7200, 86400, 90], "s", None),
        ("memory", ["1.5 GiB", "512 MiB", "0 B"], [1.5 * 2**30, 2**29, 0], "B", None),
        ("disk_mb", ["2 GB", "1.5 GB"], [2000, 1500], "MB", "unit GB, converted to MB"),
        ("net", ["1.5 Mb/s", "900 kb/s"], [1.5e6, 9e5], "b/s", None),
        ("requests", ["12 req/s", "3 req/s"], [12, 3], "req/s", "unit req/s"),
        ("inlet", ["21.5 °C", "\N{MINUS SIGN}3 °C"], [21.5, -3], "°C", "unit °C"),
        ("io", ["1,234.5", "12", "1,234,567"], [1234.5, 12, 1234567], "", "thousands separated by commas"),
        ("io", ["1.234,5", "12"], [1234.5, 12], "", "decimal commas"),
        ("io", ["1 234,5", "7,25"], [1234.5, 7.25], "", "thousands separated by blanks, decimal commas"),
        ("io", ["1\N{NO-BREAK SPACE}234 kB", "12 kB"], [1234, 12], "kB", None),
        ("io", ["1'234.5"], [1234.5], "", "thousands separated by apostrophes"),
        ("io", ["1.234,5 ms", "0,75 ms"], [1234.5, 0.75], "ms", "unit ms, decimal commas"),
        ("io", ["1e3 ms", "2.5E-1 ms"], [1000, 0.25], "ms", "unit ms"),
    ],
)
def test_a_column_in_one_form(
    name: str, texts: list[str | None], expected: list[float | None], unit: str, how: str | None
) -> None:
    written = read_written(name, pl.Series(texts))
    assert isinstance(written, Written)
    assert written.values.to_list() == pytest.approx(expected, rel=1e-12)
    assert written.unit == unit
    assert how in (None, written.how)


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (["6.92 %", "6,92"], "several ways"),
        (["6.92", "6,92"], "several ways"),
        (["1,234.5", "1.234,5"], "several ways"),
        (["6.92 %", "7"], "some values have a unit"),
        (["12 ms", "3 %"], "cannot be converted"),
        (["12 °C", "50 °F"], "cannot be converted"),
        (["1,234", "12"], "1,234 could be a thousand and more, or have a decimal comma"),
    ],
)
def test_mixed_and_ambiguous_forms_are_not_guessed(texts: list[str], reason: str) -> None:
    assert reason in str(read_written("x", pl.Series(texts)))


@pytest.mark.parametrize(
    "texts", [["10.0.0.1"], ["192.168.100.200"], ["1.2.3"], ["2026-01-01"], ["4xlarge"], ["7", "fast"], ["12,34,56"]]
)
def test_other_text_is_no_number(texts: list[str]) -> None:
    assert read_written("x", pl.Series(texts)) is None


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["12 foo", "13 foo"], True),
        (["offline", "offline", "6.9"], True),
        (["fine", "slow"], False),
        (["10.0.0.1", "1.2.3", "2026-01-01", "12:30"], False),
        ([None], False),
    ],
)
def test_a_lost_metric_is_told_from_text(texts: list[str], expected: bool) -> None:
    assert looks_numeric(pl.Series(texts, dtype=pl.String)) == expected


@given(
    st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=5),
    st.sampled_from([(",", "."), (".", ","), (" ", ","), ("'", ".")]),
    st.sampled_from(["", " %", "ms", " GiB"]),
)
def test_what_is_written_in_one_form_is_read_back(thousandths: list[int], marks: tuple[str, str], unit: str) -> None:
    numbers = [number / 100 for number in thousandths]
    spelled = [f"{number:,.2f}".translate(str.maketrans(",.", "".join(marks))) + unit for number in numbers]
    written = read_written("x", pl.Series(spelled))
    assert isinstance(written, Written)
    assert written.values.to_list() == numbers
