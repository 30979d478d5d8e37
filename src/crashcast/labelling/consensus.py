"""From everything that is known of a fleet's crashes to the incidents that are believed, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from crashcast.incidents import complete_incidents
from crashcast.labelling import believed, candidates, label_model, labelling_functions, report
from crashcast.labelling.believed import DIGITS, THRESHOLD, VOTED
from crashcast.params.incidents import Incidents
from crashcast.params.label import Label
from crashcast.params.telemetry import Telemetry
from crashcast.tables import CRASH

PRIOR = 1.0  # a vote of each kind that every source is taken to have cast: see aggregate.dawid_skene
DAWID_SKENE, MAJORITY, RECORDED = "dawid_skene", "majority", "tickets"


@dataclass(frozen=True)
class Account:
    """What is believed.

    Attributes
    ----------
    incidents : DataFrame
        believed.BELIEVED.
    votes : DataFrame
        believed.VOTED: who said what of every candidate event, believed or not.
    figures : dict
        What `metrics/label.json` says of the sources.
    """

    incidents: pl.DataFrame
    votes: pl.DataFrame
    figures: dict[str, Any]

    def __str__(self) -> str:
        told = self.figures
        if told["aggregate"] == RECORDED:
            return f"every ticket is believed: {told['tickets']:,} of crashes"
        return (
            f"{told['believed']:,} crashes believed, {told['believed_without_ticket']:,} of them without a ticket; "
            f"{told['tickets_not_believed']:,} of {told['tickets']:,} tickets not"
        )


def weigh(
    stretches: pl.DataFrame,
    records: pl.DataFrame,
    annotations: pl.DataFrame,
    coverage: pl.DataFrame,
    ticket_sources: pl.DataFrame,
    settings: Telemetry,
    rules: Label,
    recording: Incidents,
) -> Account:
    """Let the sources vote on every candidate event and say what is believed.

    Parameters
    ----------
    stretches : DataFrame
        heard.STRETCHES of all partitions; none where `rules` name no evidence of telemetry.
    records : DataFrame
        tables.INCIDENTS.
    annotations : DataFrame
        events.ANNOTATIONS.
    coverage : DataFrame
        `server_id`, `covered_from`, `covered_to`.
    ticket_sources : DataFrame
        tables.TICKET_SOURCES.
    settings, rules, recording : Telemetry, Label, Incidents
        The parameters.
    """
    crashes = records.filter(kind=CRASH).height
    if rules.aggregate == RECORDED:
        return as_recorded(records, crashes)
    stretches, records, annotations, coverage = _coded(stretches, records, annotations, coverage)
    known = complete_incidents(records, recording)
    found, tickets, verdicts = candidates.candidates(stretches, known, annotations, settings.interval, rules.same_event)
    votes = labelling_functions.collect(rules.evidence, found, tickets, verdicts, coverage, ticket_sources)
    sources = votes["source"].unique().sort().to_list()
    table = label_model.matrix(votes, found.height, sources)

    estimate = None
    if rules.aggregate == MAJORITY:
        confidence = label_model.majority(table)
    elif label_model.is_identifiable(table):
        estimate = label_model.dawid_skene(table, PRIOR)
        confidence = estimate.probability
    else:
        return as_recorded(records, crashes)
    confidence = np.round(confidence, DIGITS)
    found = believed.started(found.with_columns(confidence=pl.Series(confidence)), tickets, verdicts)
    incidents = believed.incidents(records, found, tickets, votes)
    voted = (
        found.select("event", "server_id", "started_at", "confidence")
        .sort("started_at", "server_id", "event")
        .join(votes, on="event", maintain_order="left_right")  # cheaper than to sort all votes
        .with_columns(vote=pl.when(vote=1).then(pl.lit(CRASH)).otherwise(pl.lit(candidates.NO_CRASH)))
        .select(*VOTED)
        .cast(VOTED)  # type: ignore[arg-type]
    )
    is_believed = found.filter(pl.col("confidence") >= THRESHOLD)
    of_sources, late = report.of_sources(sources, table, confidence, estimate), report.lateness(tickets, found)
    pairs = label_model.dependence(table) if estimate else []
    sharing = [item for item in pairs if item.correlation > 0]
    figures = {
        "aggregate": rules.aggregate,
        "events": found.height,
        "believed": is_believed.height,
        "believed_without_ticket": is_believed.join(tickets, on="event", how="anti").height,
        "tickets": crashes,
        "tickets_not_believed": tickets.join(is_believed, on="event", how="anti").height,
        "starts_corrected": is_believed["corrected_by"].count(),
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
    return Account(incidents, voted, figures)


def _coded(*frames: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Give tables whose server ids are numbers, in the order of the names: sorted and joined at half the cost."""
    servers = pl.Enum(pl.concat([frame["server_id"] for frame in frames]).unique().sort())
    return (frame.with_columns(pl.col("server_id").cast(servers)) for frame in frames)


def as_recorded(records: pl.DataFrame, crashes: int) -> Account:
    """Believe every ticket: where that is asked for, or too few sources vote for their errors to be told apart."""
    figures = {"aggregate": RECORDED, "believed": crashes, "tickets": crashes, "tickets_not_believed": 0}
    return Account(believed.in_order(records), pl.DataFrame(schema=VOTED), figures)
