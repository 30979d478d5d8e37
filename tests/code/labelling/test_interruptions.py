"""Up intervals and interruptions of a few servers, by hand."""

from __future__ import annotations

import polars as pl
import pytest
from evidence import (
    COLUMNS,
    HOUR,
    SETTINGS,
    at,
    found_in,
    frame_of,
    hours,
    interruptions_of,
    notes_of,
    samples_of,
    tickets_of,
    up_intervals_of,
)
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from crashcast import tables
from crashcast.labelling import interruptions
from crashcast.tables import CRASH

LOST, RESTARTED, NO_UPTIME, STORM, NO_ERRORS, REPEATED = range(6)
SAMPLES = {
    ".": {},
    " ": {LOST},
    "?": {NO_UPTIME},
    "e": {STORM},
    "E": {STORM, NO_UPTIME},
    "-": {NO_ERRORS},
    "R": {RESTARTED},
    "r": {RESTARTED, NO_UPTIME},
    "x": {RESTARTED, LOST},
    "2": {REPEATED},
}


def samples_like(line, server="a"):
    """Return hourly samples, one for each of SAMPLES in `line`; restarts are half an hour before."""
    rows, boot = [], -100.0
    for hour, letter in enumerate(line):
        is_ = SAMPLES[letter]
        boot = hour - 0.5 if RESTARTED in is_ else boot
        if LOST not in is_:
            uptime = None if NO_UPTIME in is_ else hour - boot
            rate = None if NO_ERRORS in is_ else 90.0 if STORM in is_ else 0.2
            rows += [(hour, server, uptime, rate)] * (2 if REPEATED in is_ else 1)
    return rows


def test_a_crash_a_short_restart_a_lost_sample_and_a_silence():
    # down from 10.2 to 12.5; from 20.2 to 20.8, between two samples; one sample lost at 30; three at 35
    found = interruptions_of(samples_of(down=[(10.2, 12.5), (20.2, 20.8)], lost=[30, 35, 36, 37]))
    assert hours(found["began_after"]) == [10, 20, 34]
    assert hours(found["began_by"]) == pytest.approx([11, 20.8, 35], abs=1e-4)
    assert hours(found["over"]) == pytest.approx([12.5, 20.8, 38], abs=1e-4)
    assert found["restarted"].to_list() == [True, True, False]
    assert found["silent"].to_list() == [True, False, True]  # from 10 to 13 two samples are missing


def test_silence_is_two_samples_in_a_row():
    found = interruptions_of(samples_of(lost=[10, 20, 21, 30, 32]))
    assert hours(found["began_after"]) == [19]
    assert found["silent"].to_list() == [True]


def test_samples_may_jitter_by_half_an_interval():
    for again, is_silent in ((12.5, False), (12.51, True)):  # one sample is missing, or two are
        samples = [row for row in samples_of() if not 10 < row[0] < again]
        found = interruptions_of([*samples, (again, "a", again + 100, 0.2)])
        assert found["silent"].to_list() == [True] * is_silent


def test_a_restart_is_a_boot_more_than_a_minute_after_the_last_sample():
    for boot, is_restart in ((10 + 1 / 60, False), (10 + 1 / 60 + 1e-9, True), (10.7, True)):
        uptimes = [hour + 100.0 if hour < boot else hour - boot for hour in range(20)]
        rows = frame_of(COLUMNS | {"uptime_h": pl.Float64}, [(hour, "a", up, 0.2) for hour, up in enumerate(uptimes)])
        day = tables.Partition(at(0), at(24), "day")
        up, _ = interruptions.up_intervals(day, rows, SETTINGS, "uptime_h", "error_rate_pct", 20)
        found = interruptions.interruptions(up, HOUR)
        # to half a microsecond
        assert hours(found["over"]) == [pytest.approx(boot, abs=1.4e-10)] * is_restart
        assert up.height == 1 + is_restart


def test_a_dying_servers_last_sample_lies_after_the_crash():
    dying = [*samples_of(down=[(10, 13)]), (10, "a", 110, 90.0)]
    found = interruptions_of(dying)
    assert found["storm"].to_list() == [True]
    assert (hours(found["began_after"]), hours(found["began_by"])) == ([9], [10])
    # errors that had grown before are no sign that it was dying at that sample
    grown = interruptions_of(samples_of(down=[(10.5, 13)], errors=[8, 9, 10]))
    assert (hours(grown["began_after"]), hours(grown["began_by"])) == ([10], [11])
    assert grown["storm"].to_list() == [True]


LINES = st.lists(st.tuples(st.sampled_from(sorted(SAMPLES)), st.integers(1, 4)), min_size=1, max_size=20)


def derived_from(servers, borders=()):
    """Return all that the label stage derives from telemetry: interruptions, and events with their statements."""
    tickets = tickets_of(*((name, CRASH, hour, hour + 1, "web") for name in "abc" for hour in (5.7, 20, 33)))
    notes = notes_of(("a", 0, 40, CRASH, 12, "ann"), ("b", 10, 30, "no crash", None, "ann"))
    up = up_intervals_of(*servers, borders=borders)
    return interruptions.interruptions(up, HOUR), *found_in(up, tickets, notes)


def same(derived, others):
    return all(frame.equals(other) for frame, other in zip(derived, others, strict=True))


@hypothesis_settings(max_examples=60)
@given(
    st.lists(LINES, min_size=1, max_size=3),
    st.sets(st.integers(0, 40), min_size=1, max_size=8) | st.just(set(range(41))),
)
def test_borders_between_partitions_change_nothing(lines, borders):
    written = ["".join(letter * times for letter, times in line)[:40] for line in lines]
    servers = [samples_like(line, name) for line, name in zip(written, "abc", strict=False)]
    whole = derived_from(servers)
    assert same(derived_from(servers, sorted(borders)), whole)
    alone = pl.concat([interruptions_of(server) for server in servers])
    assert alone.equals(whole[0])  # no server touches another


@pytest.mark.parametrize(
    ("line", "began_after"),
    [
        ("........R...", [7]),
        ("......   ...", [5]),
        ("......xx  ....", [5]),
        ("e  R......", [-1]),
        (".....e  R...", [4]),  # errors that begin with the last sample: it was going down already
        ("....ee  R...", [5]),
        ("...eee  R...", [5]),
        ("...-e  R...", [3]),  # whether errors had begun before is not known
        ("...e-  R...", [4]),
        ("...e-e  R...", [4]),
        ("......-e", []),
        ("...e....", []),
        ("...?   ??...", [3]),
        ("...???", []),
        ("...   ???   ...", [2, 8]),
        ("...?R...", [3]),
        ("...?r.......", []),  # it had booted before the last sample without uptime: between which is not known
        ("...   r?...", [2]),
        ("???R...", []),
        ("???  r...", [2]),
        ("...???  R...", [5]),
        ("...   ?R...", [2, 6]),
        ("..  .... xR  R", [1, 7, 10]),
        ("...2R2..", [3]),
    ],
)
def test_no_border_changes_an_interruption(line, began_after):
    # no sample of the other server has an uptime before its restart, so that does not show
    servers = samples_like(line), samples_like(" " * len(line) + "?R....???", "b")
    whole = derived_from(servers)
    assert hours(whole[0]["began_after"]) == began_after
    for borders in (*([hour] for hour in range(1, len(line) + 3)), range(len(line) + 9)):
        assert same(derived_from(servers, borders), whole), borders


def test_an_interruption_has_uptime_if_some_sample_on_either_side_reports_it():
    for line, has_uptime in (("?.?   ?.?", True), ("???   ...", False), ("...   ???", False)):
        assert interruptions_of(samples_like(line))["has_uptime"].to_list() == [has_uptime], line


def test_an_uptime_or_error_rate_that_some_sample_reports_is_reported():
    for line in ("-?", "?-", "-?-?-"):
        fleet = interruptions.seen(up_intervals_of(samples_like(line)))
        assert fleet.select("reports_uptime", "reports_errors").row(0) == (True, True)
    fleet = interruptions.seen(up_intervals_of(samples_like("???"), samples_like("---", "b")))
    assert fleet["reports_uptime"].to_list() == [False, True]
    assert fleet["reports_errors"].to_list() == [True, False]


def test_a_server_that_stops_for_good_is_not_interrupted():
    assert interruptions_of(samples_of(last=10), samples_of("b", first=20)).is_empty()


def test_repeated_samples_are_no_restart():
    samples = samples_of(down=[(10, 12)])
    assert interruptions_of(samples + samples[5:15]).equals(interruptions_of(samples))


def test_a_server_that_boots_at_the_moment_of_a_sample_restarts_once():
    assert hours(interruptions_of(samples_of(down=[(9.5, 12)]))["over"]) == [12]


def test_impossible_uptimes_and_telemetry_without_uptime_show_no_restart():
    broken = [(hour, name, -5.0 if hour == 20 else uptime, rate) for hour, name, uptime, rate in samples_of()]
    assert interruptions_of(broken).is_empty()
    rows = frame_of(COLUMNS, samples_of(down=[(10.2, 12.5), (20.2, 20.8)])).drop("uptime_h")
    frame, _ = interruptions.up_intervals(
        tables.Partition(at(0), at(48), "day"), rows, SETTINGS, None, "error_rate_pct", 20
    )
    assert frame.height == 2  # not one for each sample
    found = interruptions.interruptions(frame, HOUR)
    assert found["restarted"].to_list() == [False]
    assert found["has_uptime"].to_list() == [False]
    assert interruptions.columns(SETTINGS, "uptime_h", "unknown", None) == ("timestamp", "server_id", "uptime_h")
