"""From the evidence of a small fleet to its confirmed crashes."""

from __future__ import annotations

import polars as pl
import pytest
from evidence import (
    RECORDING,
    RULES,
    SETTINGS,
    actions_of,
    frame_of,
    hours,
    notes_of,
    samples_of,
    sources_of,
    tickets_of,
    up_intervals_of,
)

from crashcast.labelling import consensus
from crashcast.tables import CRASH, MAINTENANCE, TIMESTAMP


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
    return up_intervals_of(*servers), tickets_of(*tickets), [(f"s{number:02}", -999, 9999) for number in range(20)]


def resolved(rules=RULES, notes=None):
    up, tickets, coverage = fleet()
    covered = frame_of({"server_id": pl.String, "covered_from": TIMESTAMP, "covered_to": TIMESTAMP}, coverage)
    annotations = notes_of() if notes is None else notes
    return consensus.resolve(up, tickets, annotations, covered, sources_of(), actions_of(), SETTINGS, rules, RECORDING)


def test_a_fleet_whose_tickets_are_wrong_here_and_there():
    result = resolved()
    crashes = result.incidents.filter(kind=CRASH)
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
    assert result.incidents.filter(kind=MAINTENANCE)["confidence"].null_count() == 20

    rejected = result.votes.filter((pl.col("server_id") == "s17") & (pl.col("confidence") < 0.5))
    assert "pager" in rejected.filter(vote="crash")["source"].to_list()
    figures = result.figures
    assert (figures["believed"], figures["believed_without_ticket"], figures["tickets_not_believed"]) == (40, 2, 1)
    assert figures["starts_corrected"] == 1
    assert figures["sources"]["pager"]["late"] == pytest.approx(1 / 26, abs=0.005)
    assert figures["sources"]["pager"]["median_late_h"] == pytest.approx(1.4)
    assert figures["sources"]["restarts"]["sensitivity"] > 0.95


def test_the_majority_and_the_tickets_alone_are_named_choices():
    found = resolved(RULES.model_copy(update={"aggregate": "tickets"}))
    assert found.incidents.filter(kind=CRASH).height == 39
    assert found.incidents.drop("confidence", "recorded_start", "corrected_by").equals(
        fleet()[1].sort("started_at", "server_id", "incident_id")
    )
    assert found.votes.is_empty()
    found = resolved(RULES.model_copy(update={"aggregate": "majority"}))
    assert found.figures["aggregate"] == "majority"
    assert found.incidents.filter(kind=CRASH)["confidence"].min() >= 0.5


def test_two_sources_are_too_few_to_estimate_their_errors():
    found = resolved(RULES.model_copy(update={"evidence": ["gaps", "storms"]}))
    assert found.figures["aggregate"] == "tickets"
    assert found.incidents.filter(kind=CRASH).height == 39


def test_an_annotation_changes_the_confidence():
    notes = notes_of(*(("s17", 50, 60, "crash", 56.5, name) for name in ("ann", "bob")))
    before, after = resolved(), resolved(notes=notes)
    said = after.votes.filter(source="annotations")
    assert said["vote"].to_list().count("crash") == 1
    of_server = [found.votes.filter(server_id="s17")["confidence"].unique().sort() for found in (before, after)]
    assert not of_server[0].equals(of_server[1])


def of_two_systems(tickets_for):
    """Resolve 64 crashes, some without a gap, some without a storm, and 64 gaps; `tickets_for` names the tickets."""
    servers, tickets = [], []
    for number in range(64):
        name, is_short = f"s{number:02}", number % 4 == 0  # between two samples
        crash = (50.2, 50.8) if is_short else (50.2, 53.5)
        storm = [] if number % 8 == 5 else [50]
        servers.append(samples_of(name, last=150, down=[crash], lost=[100, 101, 102], errors=storm))
        tickets += [(name, CRASH, 50.4, 53, source) for source in tickets_for(number)]
    covered = [(f"s{number:02}", -999, 9999) for number in range(64)]
    coverage = frame_of({"server_id": pl.String, "covered_from": TIMESTAMP, "covered_to": TIMESTAMP}, covered)
    up, records = up_intervals_of(*servers), tickets_of(*tickets)
    nobody = notes_of(), coverage, sources_of(), actions_of()
    return consensus.resolve(up, records, *nobody, SETTINGS, RULES, RECORDING).figures


def test_systems_that_miss_the_same_crashes_make_the_estimates_unreliable():
    figures = of_two_systems(lambda number: ["pager", "phone"] if number // 16 else [])
    assert (figures["sharing_errors"], figures["estimates_reliable"]) == (1, False)
    (pair, found), *_ = figures["dependence"].items()
    assert pair == "1: pager and phone"
    assert found["error_correlation"] > 0.9


def test_systems_that_miss_crashes_independently_do_not():
    figures = of_two_systems(lambda number: ["pager"] * (number % 16 // 2 % 4 != 1) + ["phone"] * (number // 16 != 1))
    assert (figures["sharing_errors"], figures["estimates_reliable"]) == (0, True)
    assert (figures["events"], figures["believed"], figures["tickets"]) == (128, 64, 96)
    assert (figures["believed_without_ticket"], figures["tickets_not_believed"]) == (4, 0)


def test_systems_of_which_one_is_enough_share_no_errors():
    figures = of_two_systems(lambda number: ["pager" if number // 16 % 2 else "phone"])
    assert figures["dependence"]
    assert all(found["error_correlation"] < 0 for found in figures["dependence"].values())
    assert (figures["sharing_errors"], figures["estimates_reliable"]) == (0, True)


def test_the_votes_are_listed_by_start_server_and_source():
    votes = resolved().votes
    assert votes.columns == ["server_id", "started_at", "confidence", "source", "vote"]
    assert votes.equals(votes.sort("started_at", "server_id", "source"))
    first = votes.filter(server_id="s00").head(5)
    assert first.select("source", "vote").rows() == [
        ("gaps", "crash"), ("pager", "crash"), ("phone", "no crash"), ("restarts", "crash"), ("storms", "no crash")
    ]  # fmt: skip
    assert first["confidence"].n_unique() == first["started_at"].n_unique() == 1
