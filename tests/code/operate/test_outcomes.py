"""What came of alarms: cases and figures by hand, and intervals on fleets whose truth is known."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from issued_log import HOUR, NOON, REACH, hour
from scipy.stats import beta

from crashcast import tables
from crashcast.console import Console
from crashcast.operate import outcomes_output
from crashcast.operate.issued_alarms import by_opening
from crashcast.operate.outcomes import DELIVERED, HELD_BACK, MONTH, Counts, Outcomes, figures, follow
from crashcast.operate.served_log import aware
from crashcast.params.base import DAY
from crashcast.params.evaluate import Evaluate
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
import holdback

PARAMS = Path(__file__).parents[3] / "params.yaml"
LABEL, INCIDENTS, EVALUATE = (section.read(PARAMS) for section in (Label, Incidents, Evaluate))
INSTANT = timedelta(microseconds=1)
DELAY = timedelta(hours=4)  # of reports


def issued(*rows: tuple[str, float, float, bool]) -> pl.DataFrame:
    """Return openings and renewals: server, hours of the row and of the opening, and whether it was delivered."""
    values = [
        (server, aware(hour(at)), aware(hour(opened)), aware(hour(at) + REACH), 0.5 + at / 100, 0.5, "v1", delivered)
        for server, at, opened, delivered in rows
    ]
    return pl.DataFrame(values, tables.ALARMS, orient="row")


def at(rows: Sequence[tuple[str, timedelta]], name: str) -> pl.DataFrame:
    """Return moments of servers, as times since noon."""
    values = [(server, aware(NOON + since)) for server, since in rows]
    return pl.DataFrame(values, {"server_id": pl.String, name: tables.TIMESTAMP}, orient="row")


def covered(*rows: tuple[str, timedelta, timedelta]) -> pl.DataFrame:
    values = [(server, aware(NOON + first), aware(NOON + end)) for server, first, end in rows]
    schema = {name: tables.COVERAGE[name] for name in ("server_id", "covered_from", "covered_to")}
    return pl.DataFrame(values, schema, orient="row")


def followed(
    crashes: Sequence[timedelta] = (),
    actions: Sequence[timedelta] = (),
    records: tuple[timedelta, timedelta] = (-DAY, DAY),
) -> tuple[bool, bool, bool]:
    """Follow an alarm of noon; return whether it is acted on, known, and before a crash."""
    found = follow(
        by_opening(issued(("a", 0, 0, True))),
        at([("a", since) for since in actions] + [("b", HOUR)], "at"),
        at([("a", since) for since in crashes] + [("b", 2 * HOUR)], "started_at"),
        covered(("a", *records), ("b", -DAY, DAY)),
        LABEL,
        INCIDENTS,
    )
    return found.select("is_acted_on", "is_known", "is_crash").row(0)  # type: ignore[return-value]


def test_renewals_belong_to_their_opening() -> None:
    found = by_opening(issued(("a", 0, 0, False), ("b", 3, 3, True), ("a", 6, 0, False), ("a", 40, 40, True)))
    assert found.drop("score").rows() == [
        ("a", aware(hour(0)), aware(hour(7)), aware(hour(13)), False),
        ("b", aware(hour(3)), aware(hour(10)), aware(hour(10)), True),
        ("a", aware(hour(40)), aware(hour(47)), aware(hour(47)), True),
    ]
    assert found["score"].to_list() == [0.56, 0.53, 0.9]


@pytest.mark.parametrize(
    ("crashes", "is_crash"),
    [
        ([], False),
        ([HOUR], False),  # within the lead: nobody could have acted
        ([HOUR + INSTANT], True),
        ([REACH], True),
        ([REACH + INSTANT], False),  # of which a renewal may speak
        ([-HOUR, HOUR / 2, 3 * HOUR], True),
    ],
)
def test_a_crash_counts_in_the_window_of_the_opening(crashes: list[timedelta], is_crash: bool) -> None:
    assert followed(crashes) == (False, True, is_crash)


@pytest.mark.parametrize(
    ("actions", "crashes", "is_acted_on"),
    [
        ([timedelta(0)], [], True),
        ([-INSTANT], [], False),
        ([REACH], [], True),
        ([REACH + INSTANT], [], False),
        ([2 * HOUR, 3 * HOUR], [], True),  # two actions are one alarm
        ([2 * HOUR], [3 * HOUR], True),
        ([3 * HOUR], [2 * HOUR], False),  # the repair of the crash
        ([HOUR], [HOUR / 2, 3 * HOUR], False),  # of a crash within the lead
    ],
)
def test_an_alarm_is_acted_on_if_somebody_acted_before_any_crash(
    actions: list[timedelta], crashes: list[timedelta], is_acted_on: bool
) -> None:
    assert followed(crashes, actions)[0] is is_acted_on


@pytest.mark.parametrize(
    ("records", "is_known"),
    [
        ((timedelta(0), REACH + DELAY + INSTANT), True),
        ((timedelta(0), REACH + DELAY), False),  # a crash may not be reported yet
        ((INSTANT, DAY), False),
    ],
)
@pytest.mark.parametrize("crashes", [[], [2 * HOUR]])  # or alarms before a crash would be known sooner, and too many
def test_the_outcome_is_known_if_all_of_the_window_is_recorded(
    records: tuple[timedelta, timedelta], is_known: bool, crashes: list[timedelta]
) -> None:
    assert followed(crashes, records=records)[1] is is_known


def alarms(*groups: tuple[int, dict[str, Any]]) -> pl.DataFrame:
    """Return followed alarms, each on a day and a server of its own: so many of each kind, in what it is not quiet."""
    plain = {"delivered": True, "is_acted_on": False, "is_known": True, "is_crash": False}
    rows = [plain | changes for number, changes in groups for _ in range(number)]
    opened = [aware(NOON + 2 * number * DAY) for number in range(len(rows))]  # not of adjoining days
    return pl.DataFrame(rows).with_columns(
        server_id=pl.Series([f"s{number:03}" for number in range(len(rows))]),
        opened_at=pl.Series(opened, dtype=tables.TIMESTAMP),
        window_to=pl.Series([moment + REACH for moment in opened], dtype=tables.TIMESTAMP),
    )


ACTED, CRASH, HELD, UNKNOWN = {"is_acted_on": True}, {"is_crash": True}, {"delivered": False}, {"is_known": False}
UNMEASURED = alarms((20, {}), (10, CRASH), (50, ACTED), (8, ACTED | CRASH), (3, ACTED | UNKNOWN), (1, UNKNOWN))
MEASURED = alarms(
    (1, HELD | CRASH), (70, ACTED), (10, ACTED | CRASH), (10, {}), (10, CRASH), (7, HELD | CRASH), (12, HELD),
    (2, HELD | UNKNOWN),
)  # fmt: skip


def test_without_a_control_group_there_are_bounds() -> None:
    found = figures(UNMEASURED, [], EVALUATE)
    assert found.counts == {
        (DELIVERED, True): Counts(61, 8, 50, 3),
        (DELIVERED, False): Counts(31, 10, 20, 1),
        (HELD_BACK, True): Counts(0, 0, 0, 0),
        (HELD_BACK, False): Counts(0, 0, 0, 0),
    }
    assert found.compared == {DELIVERED: 88, HELD_BACK: 0}
    assert found.live_precision == (None, 18 / 88, 68 / 88)
    months = (174 * DAY + REACH) / MONTH
    assert found.prevented_per_month == (None, 0, 50 / months)
    assert found.price_per_month is None


def test_the_control_group_measures() -> None:
    found = figures(MEASURED, [], EVALUATE)
    assert found.compared == {DELIVERED: 100, HELD_BACK: 20}
    months = (238 * DAY + REACH) / MONTH
    assert found.live_precision is not None
    assert found.prevented_per_month is not None
    assert found.price_per_month is not None
    assert found.live_precision.value == 8 / 20
    assert found.prevented_per_month.value == pytest.approx(100 * (8 / 20 - 20 / 100) / months)
    assert found.price_per_month.value == pytest.approx(20 * (8 / 20 - 20 / 100) / months)
    assert found.price_per_month.low == pytest.approx(found.prevented_per_month.low / 5)


def test_the_interval_of_independent_alarms_is_the_binomial_one() -> None:
    found = figures(MEASURED, [], EVALUATE).live_precision
    assert found is not None
    assert found.low == pytest.approx(beta.ppf(0.05, 8.5, 12.5), abs=0.03)
    assert found.high == pytest.approx(beta.ppf(0.95, 8.5, 12.5), abs=0.03)
    none = figures(alarms((1, HELD), (30, {}), (9, HELD)), [], EVALUATE).live_precision
    assert none == (0, 0, pytest.approx(beta.ppf(0.95, 0.5, 10.5)))  # none of ten is not none of all
    every = figures(alarms((1, HELD | CRASH), (30, {}), (9, HELD | CRASH)), [], EVALUATE).live_precision
    assert every == (1, pytest.approx(beta.ppf(0.05, 10.5, 0.5)), 1)


def test_alarms_of_one_server_or_one_day_count_as_fewer() -> None:
    def width(frame: pl.DataFrame) -> float:
        found = figures(frame, [], EVALUATE).live_precision
        assert found is not None
        return found.high - found.low

    numbers = pl.int_range(pl.len()) // 4
    one_server = MEASURED.with_columns(server_id=pl.format("s{}", numbers))
    one_day = MEASURED.with_columns(opened_at=pl.lit(aware(NOON)) + 2 * numbers * pl.duration(days=1))
    assert width(one_server) > 1.15 * width(MEASURED)
    assert width(one_day.with_columns(window_to=pl.col("opened_at") + REACH)) > 1.15 * width(MEASURED)


@pytest.mark.parametrize("servers", [1, 2])
def test_a_share_without_spread_has_an_interval(servers: int) -> None:
    """Of one server on one day, or the same on every server and day."""
    number = pl.int_range(pl.len())
    day = pl.lit(aware(NOON)) + pl.duration(days=4 * (number // 2 % servers), minutes=number)
    frame = alarms((1, HELD), (2, HELD | CRASH), (1, HELD)).with_columns(
        server_id=pl.format("s{}", number % servers), opened_at=day
    )
    found = figures(frame.with_columns(window_to=pl.col("opened_at") + REACH), [], EVALUATE).live_precision
    assert found is not None
    shape = servers / 2 + 0.5, servers / 2 + 0.5  # of four alarms, as many count as there are servers
    assert found == (0.5, *(pytest.approx(beta.ppf(tail, *shape)) for tail in (0.05, 0.95)))


def test_alarms_that_chance_did_not_choose_are_not_compared() -> None:
    excluded = alarms((5, CRASH), (1, HELD), (40, {}), (10, HELD | CRASH), (9, HELD))
    found = figures(excluded, ["s000", "s010", "s055"], EVALUATE)  # two were delivered, one was held back at that time
    # the first five opened before any was held back
    assert found.compared == {DELIVERED: 39, HELD_BACK: 19}
    assert found.live_precision is not None
    assert found.live_precision.value == 9 / 19
    assert found.counts[DELIVERED, False].alarms == 45


def test_what_is_not_known_is_not_estimated() -> None:
    found = figures(alarms((2, UNKNOWN), (3, HELD | UNKNOWN)), [], EVALUATE)
    assert (found.live_precision, found.prevented_per_month, found.price_per_month) == (None, None, None)
    assert figures(alarms((3, HELD | UNKNOWN), (2, CRASH)), [], EVALUATE).live_precision == (None, 1, 1)
    nothing = figures(UNMEASURED.clear(), [], EVALUATE)
    assert (nothing.since, nothing.live_precision) == (None, None)


def told(found: Outcomes) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        outcomes_output.show(found, console)
    return "\n".join(" ".join(line.split()) for line in capture.get().splitlines())


def test_outcomes_are_told_with_what_is_not_known() -> None:
    assert " ".join(told(figures(UNMEASURED, [], EVALUATE)).split()) == (
        "Alarms that opened from 2026-01-05 12:00 to 2026-07-06 12:00 UTC, and what followed in the time that they "
        "covered: alarms crash no crash not known yet delivered, acted on 61 8 50 3 "
        "delivered, not acted on 31 10 20 1 Live precision: from 20% to 77%. "
        "Crashes prevented a month: from 0 to 8.7. "
        "More is not known: 50 alarms that somebody acted on had no crash, because it was prevented or because there "
        "would have been none. A holdback tells (docs/outcomes.md)."
    )
    measured = told(figures(MEASURED, [], EVALUATE))
    assert "\nheld back 22 8 12 2\n" in measured
    assert "\nLive precision: 40% (90% interval " in measured
    assert ", by 20 alarms that were held back.\nCrashes prevented a month: 2.6 (90% interval " in measured
    assert "\nCrashes a month that were not prevented, because the alarms were held back: 0.5 (90% interval" in measured
    assert "`crashcast alarms`" in told(figures(UNMEASURED.clear(), [], EVALUATE))
    assert "Of none of them the outcome is known yet" in told(figures(alarms((2, UNKNOWN)), [], EVALUATE))


def test_programs_get_every_figure() -> None:
    found = outcomes_output.as_json(figures(MEASURED, [], EVALUATE))
    assert found["counts"]["held_back"]["not_acted_on"] == {
        "alarms": 22, "crash": 8, "no_crash": 12, "not_known_yet": 2,
    }  # fmt: skip
    assert found["live_precision"]["value"] == 0.4
    gauges = {
        (one.name, *one.labels.values()): one.value for one in outcomes_output.samples(figures(MEASURED, [], EVALUATE))
    }
    assert gauges["crashcast_outcomes", "held_back", "false", "crash"] == 8
    assert gauges["crashcast_outcomes", "delivered", "true", "no_crash"] == 70
    assert gauges["crashcast_live_precision",] == 0.4
    assert gauges["crashcast_live_precision_low",] < 0.4 < gauges["crashcast_live_precision_high",]
    bounds = {one.name for one in outcomes_output.samples(figures(UNMEASURED, [], EVALUATE))}
    assert {name for name in bounds if "precision" in name} == {
        "crashcast_live_precision_low", "crashcast_live_precision_high",
    }  # fmt: skip


@pytest.mark.parametrize(("days", "per_day", "precision"), [(90, 10, 0.4), (30, 6, 0.15)])
def test_intervals_cover_the_truth_as_often_as_they_say(days: int, per_day: float, precision: float) -> None:
    held, known = holdback.coverage(range(100), days, per_day, precision)
    assert known > 95
    assert min(held) >= 0.88  # 90 % by 2 in 100: one standard deviation is 3


def test_intervals_say_something() -> None:
    found = holdback.widths(10, 0.05)
    assert found["precision_high"] - found["precision_low"] < 0.28
    assert 0 < found["prevented_low"] < found["prevented_in_truth"] < found["prevented_high"]
