"""Up intervals and interruptions of a few servers, by hand."""

from __future__ import annotations

import pytest
from evidence import COLUMNS, HOUR, SETTINGS, at, frame_of, hours, interruptions_of, samples_of

from crashcast import tables
from crashcast.labelling import interruptions


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


def test_a_dying_servers_last_sample_lies_after_the_crash():
    dying = [*samples_of(down=[(10, 13)]), (10, "a", 110, 90.0)]
    found = interruptions_of(dying)
    assert found["storm"].to_list() == [True]
    assert (hours(found["began_after"]), hours(found["began_by"])) == ([9], [10])
    # errors that had grown before are no sign that it was dying at that sample
    grown = interruptions_of(samples_of(down=[(10.5, 13)], errors=[8, 9, 10]))
    assert (hours(grown["began_after"]), hours(grown["began_by"])) == ([10], [11])
    assert grown["storm"].to_list() == [True]


def test_borders_between_partitions_change_nothing():
    servers = samples_of(down=[(10.2, 12.5), (30.2, 30.8)], lost=[20, 21]), samples_of("b", down=[(23.5, 26)])
    whole = interruptions_of(*servers)
    assert whole["server_id"].to_list() == ["a", "a", "a", "b"]
    for borders in ([12], [24], [11, 12, 13], [20.5, 30.5], list(range(1, 48))):
        assert interruptions_of(*servers, borders=borders).equals(whole), borders


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
    found = interruptions.interruptions(frame, HOUR)
    assert found["restarted"].to_list() == [False]
    assert found["has_uptime"].to_list() == [False]
    assert interruptions.columns(SETTINGS, "uptime_h", "unknown", None) == ("timestamp", "server_id", "uptime_h")
