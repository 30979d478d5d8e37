"""Evidence of crashes by hand: a few servers whose samples, tickets and annotations a person can follow."""

from __future__ import annotations

import json
import random
from datetime import datetime, timedelta
from itertools import pairwise

import polars as pl
import pytest
import yaml

from crashcast import tables
from crashcast.incidents import complete_incidents
from crashcast.labelling import believed, candidates, consensus, interruptions, labelling_functions, planned_work
from crashcast.labelling.candidates import ANNOTATIONS
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.tables import CRASH, INCIDENTS, MAINTENANCE, TIMESTAMP
from stages import label

START = datetime(2025, 3, 3)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SETTINGS = Telemetry.model_validate(
    {
        "interval": "1h",
        "partition": "day",
        "metrics": {"uptime_h": {"min": 0, "max": 99999}, "error_rate_pct": {"min": 0, "max": 100}},
    }
)
RULES = Label(
    lead="1h",
    horizon="6h",
    recovery="2h",
    aggregate="dawid_skene",
    evidence=["tickets", "restarts", "gaps", "storms", "annotations"],
    uptime_metric="uptime_h",
    error_metric="error_rate_pct",
)
RECORDING = Incidents(reporting_delay="4h", unresolved_outage="24h")
ALWAYS = [("a", -999, 9999), ("b", -999, 9999)]


def at(hour):
    return START + hour * HOUR


def frame_of(schema, rows):
    """Lay rows out as a frame; numbers in columns of times are hours from START."""
    naive = {name: pl.Datetime("us") if kind == TIMESTAMP else kind for name, kind in schema.items()}

    def told(value, kind):
        return at(value) if kind == TIMESTAMP and value is not None else value

    moved = [[told(*pair) for pair in zip(row, schema.values(), strict=True)] for row in rows]
    return pl.DataFrame(moved, schema=naive, orient="row").cast(dict(schema))


def hours(moments):
    """Return moments as hours from START."""
    return [None if moment is None else (moment.replace(tzinfo=None) - START) / HOUR for moment in moments]


def samples_of(server="a", first=0, last=48, booted=-100, down=(), lost=(), errors=()):
    """Return hourly (moment, server, uptime, error rate); `down` are (from, to) after which the uptime begins anew."""
    rows = []
    for hour in range(first, last):
        if any(begin <= hour < end for begin, end in down) or hour in lost:
            continue
        boot = max([booted, *(end for _, end in down if end <= hour)])
        rows.append((hour, server, hour - boot, 90.0 if hour in errors else 0.2))
    return rows


COLUMNS = {**tables.KEYS, "uptime_h": pl.Float32, "error_rate_pct": pl.Float32}


def stretches_of(*servers, borders=()):
    """Reduce samples to stretches, in one partition or in several."""
    rows = frame_of(COLUMNS, sorted(row for server in servers for row in server))
    found = []
    for first, last in pairwise([-9999, *borders, 9999]):
        own = rows.filter(pl.col("timestamp").is_between(*tables.utc(at(first), at(last)), closed="left"))
        partition = tables.Partition(at(first), at(last), "day")
        frame, counts = interruptions.stretches(partition, own, SETTINGS, "uptime_h", "error_rate_pct", 20)
        assert counts == {"samples": own.height}
        found.append(frame)
    return pl.concat(found)


def interruptions_of(*servers, borders=()):
    return interruptions.interruptions(stretches_of(*servers, borders=borders), HOUR)


def tickets_of(*rows):
    """Lay (server, kind, started, resolved, source) out as records, reported half an hour after their start."""
    numbered = [
        (f"INC-{number}", server, kind, started, resolved, started + 0.5, None, source, None)
        for number, (server, kind, started, resolved, source) in enumerate(rows)
    ]
    return frame_of(INCIDENTS, numbered)


def notes_of(*rows):
    """Lay (server, started, ended, verdict, crash_at, annotator) out as annotations."""
    return frame_of(ANNOTATIONS, [(*row, 999) for row in rows])


def sources_of(*rows):
    """Lay (source, from, to) out as the periods in which systems recorded tickets."""
    return frame_of(tables.TICKET_SOURCES, rows)


def found_in(stretches, tickets=None, notes=None):
    records = tickets_of() if tickets is None else tickets
    known = complete_incidents(records, RECORDING)
    return candidates.candidates(stretches, known, notes_of() if notes is None else notes, HOUR, 3 * HOUR)


# what telemetry shows


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
    frame, _ = interruptions.stretches(
        tables.Partition(at(0), at(48), "day"), rows, SETTINGS, None, "error_rate_pct", 20
    )
    found = interruptions.interruptions(frame, HOUR)
    assert found["restarted"].to_list() == [False]
    assert found["has_uptime"].to_list() == [False]
    assert interruptions.columns(SETTINGS, "uptime_h", "unknown", None) == ("timestamp", "server_id", "uptime_h")


# planned work


def work_of(*rows):
    schema = {"server_id": pl.String, "started_at": TIMESTAMP, "resolved_at": TIMESTAMP}
    return frame_of(schema, rows)


def test_recorded_work_explains_its_restart_and_its_silence():
    found = interruptions_of(samples_of(down=[(10.2, 12.5), (20.2, 21.5)], lost=[35, 36, 37]))
    work = work_of(("a", 10.25, 12.5), ("a", 34.5, 36), ("b", 20, 22))
    assert planned_work.is_recorded(found, work, HOUR).to_list() == [True, False, True]
    assert planned_work.is_recorded(found, work_of(), HOUR).to_list() == [False] * 3


WEEK = 7 * 24


def weekly(server, weeks, without=(), phase=2.0):
    return [(server, week * WEEK + phase, week * WEEK + phase + 1) for week in range(weeks) if week not in without]


def test_a_restart_when_work_was_due_and_none_is_on_record_is_in_rhythm():
    work = work_of(*weekly("a", 8, without=[3]), *weekly("b", 8))
    period, spread = planned_work.rhythm(work)
    assert (period, spread) == (7 * DAY, timedelta(0))
    down = [(3 * WEEK + 2.2, 3 * WEEK + 3.5), (3 * WEEK + 60.2, 3 * WEEK + 61.5), (5 * WEEK + 4.2, 5 * WEEK + 5.5)]
    found = interruptions_of(samples_of(last=7 * WEEK, down=down), samples_of("b", last=7 * WEEK, down=down[:1]))
    # due and not on record; not due; soon after work that is on record. On server b nothing was missing
    assert planned_work.is_in_rhythm(found, work, HOUR).to_list() == [True, False, False, False]


def test_without_a_rhythm_nothing_is_due():
    draw = random.Random(1)
    irregular = work_of(*(("a", hour, hour + 1) for hour in sorted(draw.sample(range(9999), 30))))
    assert planned_work.rhythm(irregular) is None
    assert planned_work.rhythm(work_of(*weekly("a", 5))) is None  # too few to tell
    found = interruptions_of(samples_of(down=[(10.2, 12.5)]))
    assert planned_work.is_in_rhythm(found, irregular, HOUR).to_list() == [False]


# candidate events


def test_tickets_are_about_the_interruption_in_which_they_begin_or_that_was_just_over():
    stretches = stretches_of(samples_of(down=[(10.2, 12.5), (40.2, 41.5)], lost=[20, 21, 22]), samples_of("b"))
    tickets = tickets_of(
        ("a", CRASH, 10.3, 12.5, "pager"),
        ("a", CRASH, 14.5, 15, "phone"),  # two hours late
        ("a", CRASH, 30, 31, "pager"),  # nothing happened
        ("a", CRASH, 32.5, 33, "phone"),  # the same nothing
        ("b", CRASH, 40.4, 41.5, "pager"),  # of another host
        ("a", MAINTENANCE, 46, 47, "phone"),
    )
    found, told, _ = found_in(stretches, tickets)
    assert found["server_id"].to_list() == ["a", "a", "a", "a", "b"]
    assert hours(found["began_after"]) == [10, 19, 30, 40, 40.4]
    assert dict(told.select("incident_id", "event").iter_rows()) == {
        "INC-0": 0, "INC-1": 0, "INC-2": 2, "INC-3": 2, "INC-4": 4
    }  # fmt: skip
    assert found["restarted"].to_list() == [True, False, False, True, False]
    assert found["hears_uptime"].all()


def test_a_ticket_prefers_a_restart_to_a_silence_and_both_to_planned_work():
    stretches = stretches_of(samples_of(down=[(10.2, 11.5), (18.2, 19.5)], lost=[14, 15]))
    work = ("a", MAINTENANCE, 18.2, 19.5, "phone")
    _, told, _ = found_in(stretches, tickets_of(work, ("a", CRASH, 14.3, 16, "pager"), ("a", CRASH, 17.5, 19, "pager")))
    # 14.3 is within three hours of the end of the outage at 11.5, 17.5 is within three of the silence's
    assert told["event"].to_list() == [0, 1]


def test_annotations_are_about_what_was_shown_or_when_the_crash_was_seen():
    stretches = stretches_of(samples_of(down=[(10.2, 12.5), (20.2, 22.5)]), samples_of("b"))
    notes = notes_of(
        ("a", 5, 25, "crash", 10.5, "ann"),  # and so what else was shown is none
        ("a", 15, 30, "no crash", None, "bob"),
        ("a", 0, 48, "unsure", None, "eve"),
        ("b", 0, 48, "crash", 30.0, "bob"),  # nothing else says so
        ("b", 0, 10, "no crash", None, "ann"),
    )
    found, _, verdicts = found_in(stretches, notes=notes)
    assert hours(found["began_after"]) == [10, 20, 30]
    assert verdicts.select("event", "verdict", "annotator").rows() == [
        (0, "crash", "ann"),
        (1, "no crash", "ann"),
        (1, "no crash", "bob"),
        (2, "crash", "bob"),
    ]
    assert labelling_functions.people(verdicts).rows() == [
        (0, "annotations", 1),
        (1, "annotations", 0),
        (2, "annotations", 1),
    ]


def test_divided_annotators_abstain_and_the_last_verdict_of_each_counts():
    schema = {"event": pl.Int64, "verdict": pl.String, "annotator": pl.String, "annotated_at": TIMESTAMP}
    verdicts = frame_of(
        schema,
        [(0, "crash", "ann", 1), (0, "no crash", "bob", 1), (1, "crash", "ann", 1), (1, "no crash", "ann", 2)],
    )
    assert labelling_functions.people(verdicts).rows() == [(1, "annotations", 0)]


# votes


def votes_of(stretches, tickets, coverage=ALWAYS, evidence=RULES.evidence, sources=()):
    found, told, verdicts = found_in(stretches, tickets)
    covered = frame_of({"server_id": pl.String, "covered_from": TIMESTAMP, "covered_to": TIMESTAMP}, coverage)
    votes = labelling_functions.collect(evidence, found, told, verdicts, covered, sources_of(*sources))
    return {
        event: {source: vote for number, source, vote in votes.iter_rows() if number == event}
        for event in range(found.height)
    }


def test_every_source_votes_on_every_event_that_it_watched():
    crash, reboot, silence = (10.2, 13.5), (20.2, 21.5), [30, 31, 32]
    stretches = stretches_of(samples_of(down=[crash, reboot], lost=silence, errors=[10]), samples_of("b"))
    tickets = tickets_of(
        ("a", CRASH, 10.3, 13, "pager, phone"), ("a", MAINTENANCE, 20.2, 21.5, "phone"), ("b", CRASH, 10.3, 13, "pager")
    )
    telemetry = dict.fromkeys(("restarts", "gaps", "storms"), 0)
    assert votes_of(stretches, tickets) == {
        0: {"pager": 1, "phone": 1, "restarts": 1, "gaps": 1, "storms": 1},
        1: {"pager": 1, "phone": 0, **telemetry},
        2: {"pager": 0, "phone": 0, **telemetry},
        3: {"pager": 0, "phone": 0, **telemetry, "gaps": 1},
    }
    assert votes_of(stretches, tickets, evidence=["gaps"])[3] == {"gaps": 1}
    # where no tickets were recorded silence says nothing, a ticket all the same does
    uncovered = votes_of(stretches, tickets, coverage=[("a", 15, 99)])
    assert uncovered[0] == {"pager": 1, "phone": 1, "restarts": 1, "gaps": 1, "storms": 1}
    assert uncovered[1] == {"pager": 1, **telemetry}
    assert uncovered[2] == {"pager": 0, "phone": 0, **telemetry}


def test_a_system_adopted_midway_says_nothing_of_the_time_before():
    down = [(10.2, 12.5), (20.2, 22.5), (30.2, 32.5), (40.2, 42.5)]
    tickets = tickets_of(("a", CRASH, 10.3, 12.5, "pager"), ("a", CRASH, 30.3, 32.5, "pager, phone"))

    def said(*periods, coverage=ALWAYS):
        found = votes_of(stretches_of(samples_of(down=down)), tickets, coverage, evidence=["tickets"], sources=periods)
        return [found[event] for event in sorted(found)]

    both = [{"pager": 1, "phone": 0}, {"pager": 0, "phone": 0}, {"pager": 1, "phone": 1}, {"pager": 0, "phone": 0}]
    assert said() == said(("phone", -99, 99)) == said(("phone", -99, 20), ("phone", 15, 99), ("fax", 0, 9)) == both
    # the phone's tickets are kept from the 25th hour to the 40th; one that it has all the same counts
    later = [{"pager": 1}, {"pager": 0}, {"pager": 1, "phone": 1}, {"pager": 0}]
    assert said(("phone", 25, 40)) == later
    assert said(("phone", -99, 15), ("phone", 35, 99)) == [both[0], later[1], both[2], both[3]]
    assert said(("phone", 25, 99), coverage=[("a", -99, 35)])[3] == {}


def test_telemetry_abstains_on_a_restart_that_was_due_and_tickets_decide():
    down = [(3 * WEEK + 2.2, 3 * WEEK + 3.5)]
    work = [("a", MAINTENANCE, begun, ended, "phone") for _, begun, ended in weekly("a", 8, without=[3])]
    work += [("b", MAINTENANCE, begun, ended, "phone") for _, begun, ended in weekly("b", 8)]
    stretches = stretches_of(samples_of(last=7 * WEEK, down=down), samples_of("b", last=7 * WEEK))
    elsewhere = ("b", CRASH, 900, 901, "pager")
    votes = votes_of(stretches, tickets_of(*work, elsewhere))
    assert votes[0] == {"pager": 0}
    votes = votes_of(stretches, tickets_of(*work, elsewhere, ("a", CRASH, 3 * WEEK + 2.2, 3 * WEEK + 3.5, "pager")))
    assert votes[0] == {"pager": 1}


def test_telemetry_abstains_on_a_server_that_it_did_not_hear():
    stretches = stretches_of(samples_of(last=20), samples_of("b"))
    tickets = tickets_of(("a", CRASH, 30, 31, None), ("c", CRASH, 30, 31, None))
    assert votes_of(stretches, tickets, coverage=[]) == {0: {"records": 1}, 1: {"records": 1}}


# what is believed


def test_a_late_start_is_corrected_and_the_correction_recorded():
    stretches = stretches_of(samples_of(down=[(10.2, 12.5), (20.2, 22.5), (30.2, 32.5), (40.2, 42.5)]))
    tickets = tickets_of(
        ("a", CRASH, 10.25, 12.5, "pager"), ("a", CRASH, 21.75, 23, "pager"), ("a", CRASH, 31.5, 32.5, "pager")
    )
    notes = notes_of(("a", 30, 33, "crash", 30.75, "ann"))
    found, told, verdicts = found_in(stretches, tickets, notes)
    rows = believed.started(found, told, verdicts)
    assert hours(rows["started_at"]) == [10.25, 20.5, 30.75, 40.5]
    assert hours(rows["recorded_start"]) == [None, 21.75, 31.5, None]
    assert rows["corrected_by"].to_list() == [None, "restarts", "annotations", None]


def fleet():
    """Forty crashes on twenty servers, some without a ticket, one late, one ticket for the wrong host; and reboots."""
    servers, tickets = [], []
    for number in range(20):
        name = f"s{number:02}"
        down = [(50.4 + number, 53.4 + number), (150.4 + number, 152.9 + number)]
        reboot = (250.4 + number, 251.4 + number)
        servers.append(samples_of(name, last=400, down=[*down, reboot], lost=[300 + number, 301 + number]))
        tickets.append((name, MAINTENANCE, *reboot, "phone"))
        if number:  # the first server's second crash left no ticket
            tickets.append((name, CRASH, down[1][0], down[1][1], "phone" if number % 3 else "pager"))
        late = 1.5 if number == 5 else 0
        host = "s17" if number == 6 else name
        tickets.append((host, CRASH, down[0][0] + late, None if number == 8 else down[0][1] + late, "pager"))
    return stretches_of(*servers), tickets_of(*tickets), [(f"s{number:02}", -999, 9999) for number in range(20)]


def weighed(rules=RULES, notes=None):
    stretches, tickets, coverage = fleet()
    covered = frame_of({"server_id": pl.String, "covered_from": TIMESTAMP, "covered_to": TIMESTAMP}, coverage)
    annotations = notes_of() if notes is None else notes
    return consensus.weigh(stretches, tickets, annotations, covered, sources_of(), SETTINGS, rules, RECORDING)


def test_a_fleet_whose_tickets_are_wrong_here_and_there():
    account = weighed()
    crashes = account.incidents.filter(kind=CRASH)
    expected = sorted(
        [(round(50.4 + number, 4), f"s{number:02}") for number in range(20)]
        + [(round(150.4 + number, 4), f"s{number:02}") for number in range(20)]
    )
    found = sorted(zip([round(hour, 4) for hour in hours(crashes["started_at"])], crashes["server_id"], strict=True))
    moved = {(55.5, "s05"), (56.5, "s06"), (150.5, "s00")}  # the middle of the hour in which the server went
    wrong = {(55.4, "s05"), (56.4, "s06"), (150.4, "s00")}
    assert set(found) == set(expected) - wrong | moved
    assert crashes["confidence"].min() > 0.9

    late = crashes.filter(server_id="s05").row(0, named=True)
    assert hours([late["recorded_start"]]) == pytest.approx([56.9])
    assert late["corrected_by"] == "restarts"
    made = crashes.filter(server_id="s00").row(1, named=True)
    assert made["incident_id"] == "s00-20250309T063000"
    assert made["source"] == "gaps, restarts"
    assert hours([made["resolved_at"]]) == pytest.approx([152.9], abs=1e-3)
    never_closed = crashes.filter(server_id="s08").row(0, named=True)
    assert hours([never_closed["resolved_at"]]) == pytest.approx([61.4], abs=1e-3)
    assert account.incidents.filter(kind=MAINTENANCE)["confidence"].null_count() == 20

    rejected = account.votes.filter((pl.col("server_id") == "s17") & (pl.col("confidence") < 0.5))
    assert "pager" in rejected.filter(vote="crash")["source"].to_list()
    figures = account.figures
    assert (figures["believed"], figures["believed_without_ticket"], figures["tickets_not_believed"]) == (40, 2, 1)
    assert figures["starts_corrected"] == 1
    assert figures["sources"]["pager"]["late"] == pytest.approx(1 / 26, abs=0.005)
    assert figures["sources"]["pager"]["median_late_h"] == pytest.approx(1.4)
    assert figures["sources"]["restarts"]["sensitivity"] > 0.95


def test_the_majority_and_the_tickets_alone_are_named_choices():
    account = weighed(RULES.model_copy(update={"aggregate": "tickets"}))
    assert account.incidents.filter(kind=CRASH).height == 39
    assert account.incidents.drop("confidence", "recorded_start", "corrected_by").equals(
        fleet()[1].sort("started_at", "server_id", "incident_id")
    )
    assert account.votes.is_empty()
    account = weighed(RULES.model_copy(update={"aggregate": "majority"}))
    assert account.figures["aggregate"] == "majority"
    assert account.incidents.filter(kind=CRASH)["confidence"].min() >= 0.5


def test_two_sources_are_too_few_to_weigh():
    account = weighed(RULES.model_copy(update={"evidence": ["gaps", "storms"]}))
    assert account.figures["aggregate"] == "tickets"
    assert account.incidents.filter(kind=CRASH).height == 39


def test_a_persons_word_changes_what_is_believed():
    notes = notes_of(*(("s17", 50, 60, "crash", 56.5, name) for name in ("ann", "bob")))
    before, after = weighed(), weighed(notes=notes)
    said = after.votes.filter(source="annotations")
    assert said["vote"].to_list().count("crash") == 1
    of_server = [account.votes.filter(server_id="s17")["confidence"].unique().sort() for account in (before, after)]
    assert not of_server[0].equals(of_server[1])


# the stage


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
        "execution": {"workers": 1, "memo_gb": 1},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / ".dvc").mkdir()
    tables.write(tmp_path / "incidents.parquet", tickets)
    tables.write(tmp_path / "coverage.parquet", coverage)
    tables.write(tmp_path / "ticket_sources.parquet", sources_of())
    tables.write(tmp_path / "annotations.parquet", pl.DataFrame(schema=ANNOTATIONS))

    def run(days):
        for day in range(days):
            partition = tables.partition_at(START + day * DAY, "day")
            own = rows.filter(
                pl.col("timestamp").is_between(*tables.utc(partition.start, partition.end), closed="left")
            )
            for name in ("clean", "telemetry"):
                if not partition.path(tmp_path / name).exists():
                    tables.write(partition.path(tmp_path / name), own)
        records = ("incidents", "coverage", "ticket_sources", "annotations")
        inputs = ("clean", "telemetry", *(f"{name}.parquet" for name in records))
        outputs = ("labels", "believed.parquet", "votes.parquet", "out.json")
        label.main(*(tmp_path / name for name in (*inputs, *outputs)))
        return json.loads((tmp_path / "out.json").read_text())

    return run


def test_the_stage_labels_by_what_is_believed_and_remembers_what_it_heard(project, tmp_path, capsys):
    figures = project(10)
    assert figures["evidence"]["believed"] == 20
    rows = tables.read_period(tmp_path / "labels", START, START + 10 * DAY)
    unticketed = rows.filter((pl.col("server_id") == "s00") & (pl.col("label") == 1))
    assert hours(unticketed["timestamp"]) == [44, 45, 46, 47, 48, 49]  # 50.5 lies in (t + 1, t + 7]
    assert "evidence: 10 partitions, 10 computed" in capsys.readouterr().err
    before = {path: path.read_bytes() for path in (tmp_path / "labels").rglob("*.parquet")}

    project(14)
    told = capsys.readouterr().err
    assert "evidence: 14 partitions, 4 computed" in told
    assert "label: 14 partitions, 4 computed" in told  # the earlier days' events are what they were
    assert all(path.read_bytes() == content for path, content in before.items())


def test_a_metric_that_telemetry_lacks_is_told(project, tmp_path, capsys):
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    params["label"] |= {"uptime_metric": "boot_h", "error_metric": None}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    project(10)
    told = [line for line in capsys.readouterr().err.splitlines() if "do not vote" in line]
    assert told == ["label: restarts do not vote: telemetry has no boot_h (params.yaml: label.uptime_metric)"]


def test_the_same_bytes_whatever_the_order_of_tickets(project, tmp_path):
    project(10)
    before = [(tmp_path / name).read_bytes() for name in ("believed.parquet", "votes.parquet", "out.json")]
    records = tables.read(tmp_path / "incidents.parquet")
    tables.write(tmp_path / "incidents.parquet", records.sample(fraction=1, shuffle=True, seed=3))
    project(10)
    assert [(tmp_path / name).read_bytes() for name in ("believed.parquet", "votes.parquet", "out.json")] == before
