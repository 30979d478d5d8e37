"""Resolve conflicting evidence of crashes: from the votes of all sources to confirmed incidents with a confidence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from crashcast.incidents import complete_incidents
from crashcast.labelling import candidate_events, confirmed_incidents, label_model, labelling_functions, source_quality
from crashcast.labelling.confirmed_incidents import DIGITS, THRESHOLD, VOTED
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.tables import CRASH

PRIOR = 1.0  # see label_model.dawid_skene
DAWID_SKENE, MAJORITY, RECORDED = "dawid_skene", "majority", "tickets"


@dataclass(frozen=True)
class Consensus:
    """The confirmed incidents and their evidence.

    Attributes
    ----------
    incidents : DataFrame
        confirmed.CONFIRMED.
    votes : DataFrame
        confirmed.VOTED: the votes on every candidate event, confirmed or not.
    figures : dict
        The section `evidence` of `metrics/label.json`.
    """

    incidents: pl.DataFrame
    votes: pl.DataFrame
    figures: dict[str, Any]

    def __str__(self) -> str:
        figures = self.figures
        if figures["aggregate"] == RECORDED:
            return f"every ticket is taken as it is; {figures['tickets']:,} are of crashes"
        without, rejected = figures["believed_without_ticket"], figures["tickets_not_believed"]
        return (
            f"{figures['believed']:,} crashes confirmed, {without:,} of them without a ticket; "
            f"{rejected:,} of {figures['tickets']:,} tickets rejected"
        )


def resolve(
    up: pl.DataFrame,
    records: pl.DataFrame,
    annotations: pl.DataFrame,
    coverage: pl.DataFrame,
    ticket_sources: pl.DataFrame,
    actions: pl.DataFrame,
    telemetry: Telemetry,
    label: Label,
    incidents: Incidents,
) -> Consensus:
    """Let the sources vote on every candidate event, and confirm those that are crashes by their votes.

    Parameters
    ----------
    up : DataFrame
        interruptions.UP_INTERVALS of all partitions; empty if every ticket is taken as it is.
    records : DataFrame
        tables.INCIDENTS.
    annotations : DataFrame
        candidates.ANNOTATIONS.
    coverage : DataFrame
        `server_id`, `covered_from`, `covered_to`.
    ticket_sources : DataFrame
        tables.TICKET_SOURCES.
    actions : DataFrame
        tables.ACTIONS.
    telemetry, label, incidents : Telemetry, Label, Incidents
        The parameters.
    """
    crashes = records.filter(kind=CRASH).height
    if label.aggregate == RECORDED:
        return as_recorded(records, crashes)
    up, records, annotations, coverage, actions = _coded(up, records, annotations, coverage, actions)
    known = complete_incidents(records, incidents)
    found, tickets, verdicts = candidate_events.candidates(
        up, known, annotations, actions, telemetry.interval, label.same_event
    )
    votes = labelling_functions.votes_of_all(label.evidence, found, tickets, verdicts, coverage, ticket_sources)
    sources = votes["source"].unique().sort().to_list()
    table = label_model.matrix(votes, found.height, sources)

    estimate = None
    if label.aggregate == MAJORITY:
        confidence = label_model.majority(table)
    elif label_model.is_identifiable(table):
        estimate = label_model.dawid_skene(table, PRIOR)
        confidence = estimate.probability
    else:
        return as_recorded(records, crashes)
    confidence = np.round(confidence, DIGITS)
    found = confirmed_incidents.with_start(found.with_columns(confidence=pl.Series(confidence)), tickets, verdicts)
    resolved = confirmed_incidents.incidents(records, found, tickets, votes)
    voted = (
        found.select("event", "server_id", "started_at", "confidence")
        .sort("started_at", "server_id", "event")
        .join(votes, on="event", maintain_order="left_right")  # cheaper than to sort all votes
        .with_columns(vote=pl.when(vote=1).then(pl.lit(CRASH)).otherwise(pl.lit(candidate_events.NO_CRASH)))
        .select(*VOTED)
        .cast(VOTED)  # type: ignore[arg-type]
    )
    crashes_found = found.filter(pl.col("confidence") >= THRESHOLD)
    of_sources, late = (
        source_quality.of_sources(sources, table, confidence, estimate),
        source_quality.lateness(tickets, found),
    )
    pairs = label_model.dependence(table) if estimate else []
    sharing = [item for item in pairs if item.correlation > 0]
    figures = {
        "aggregate": label.aggregate,
        "events": found.height,
        "believed": crashes_found.height,
        "believed_without_ticket": crashes_found.join(tickets, on="event", how="anti").height,
        "tickets": crashes,
        "tickets_not_believed": tickets.join(crashes_found, on="event", how="anti").height,
        "starts_corrected": crashes_found["corrected_by"].count(),
        "sharing_errors": len(sharing),
        "estimates_reliable": not sharing,
        "sources": {name: row | late.get(name, {}) for name, row in of_sources.items()},
    }
    if pairs:
        figures["dependence"] = {
            f"{rank}: {sources[item.pair[0]]} and {sources[item.pair[1]]}": {
                "error_correlation": item.correlation,
                "log_likelihood_ratio": item.log_ratio,
            }
            for rank, item in enumerate(pairs, start=1)
        }
    return Consensus(resolved, voted, figures)


def _coded(*frames: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Return the tables with server ids as an Enum in the order of the names: sorting and joining cost half."""
    servers = pl.Enum(pl.concat([frame["server_id"] for frame in frames]).unique().sort())
    return (frame.with_columns(pl.col("server_id").cast(servers)) for frame in frames)


def as_recorded(records: pl.DataFrame, crashes: int) -> Consensus:
    """Take every ticket as it is: if params.yaml says so, or too few sources vote to tell their errors apart."""
    figures = {"aggregate": RECORDED, "believed": crashes, "tickets": crashes, "tickets_not_believed": 0}
    return Consensus(confirmed_incidents.in_order(records), pl.DataFrame(schema=VOTED), figures)
