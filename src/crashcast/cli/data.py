"""Commands that bring in data, and show it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from crashcast.errors import UserError

commands = typer.Typer()
NEXT = """Next:
  git add params.yaml data/raw/*.dvc data/.gitignore data/raw/.gitignore && git commit -m "{}"
  dvc repro"""


@commands.command()
def collect(
    sources: Annotated[
        list[str] | None,
        typer.Argument(
            help="Samples: files, folders or s3://bucket/prefix; by default, the server that params.yaml names."
        ),
    ] = None,
    since: Annotated[
        datetime | None,
        typer.Option(formats=["%Y-%m-%d"], help="The first day, UTC; by default, the end of the last collection."),
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Up to the start of this day, UTC; by default, now.")
    ] = None,
    is_open: Annotated[bool, typer.Option("--open", help="Also the partition that has not ended yet.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Also partitions that were collected before.")] = False,
    incidents: Annotated[
        Path | None, typer.Option(help="Incidents: a table, or an export of tickets, as for import.")
    ] = None,
    coverage: Annotated[
        Path | None, typer.Option(help="The period of each server's incident records, as for import.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Start over, instead of merging.")] = False,
) -> None:
    """Collect telemetry from a Prometheus-compatible server, S3 or files, from where the last collection ended.

    Alarms that `crashcast serve` issued, and actions, are brought in with it.
    """
    from crashcast.operate.collect_alarms import collect as bring_in_alarms
    from crashcast.operate.state import utc_now
    from crashcast.params.serve import Serve
    from crashcast.sources.collect import collect as bring_in

    done = bring_in(sources or (), since, until, is_open, again, incidents, coverage, replace)
    try:
        issued = bring_in_alarms(Serve.read(), utc_now(), again)
    except UserError as error:
        if not done:
            raise
        _tell(done, "Collect telemetry")
        raise UserError(f"telemetry is collected, but alarms and actions are not: {error}") from None
    if done or issued:
        _tell([*issued, *done], "Collect telemetry" if done else "Collect alarms and actions")
    if not done:
        print(f"Nothing to collect: no partition has ended since{'' if is_open else '; see --open'}")


@commands.command()
def incidents(
    source: Annotated[
        list[str] | None,
        typer.Option(help="One source, by its name under tickets.sources; may be repeated. By default, all."),
    ] = None,
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="The first day; by default, tickets.since.")
    ] = None,
    until: Annotated[
        datetime | None,
        typer.Option(
            formats=["%Y-%m-%d"], help="Up to the start of this day, UTC; by default, up to the last full hour."
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop what these sources gave before, instead of merging.")
    ] = False,
) -> None:
    """Collect tickets from the systems and files under `tickets` in params.yaml; one outage is one incident."""
    from crashcast.sources.tickets.collect import collect

    first, end = (None if moment is None else moment.date() for moment in (since, until))
    print("\n".join(collect(source or [], first, end, replace)))
    print("Next:")
    print('  git add data/raw/*.dvc data/raw/.gitignore && git commit -m "Collect incidents"')
    print("  dvc repro")


@commands.command("import")
def import_(
    telemetry: Annotated[
        list[Path] | None,
        typer.Option(
            help="Samples: a file, or a folder of them; may be repeated. Without it, those that are there stay."
        ),
    ] = None,
    incidents: Annotated[
        Path | None,
        typer.Option(help="Incidents: a table, or an export of tickets; without it, those that are there stay."),
    ] = None,
    coverage: Annotated[
        Path | None,
        typer.Option(
            help="The period of each server's incident records; by default, the period of the server's telemetry."
        ),
    ] = None,
    actions: Annotated[Path | None, typer.Option(help="What was done to servers, and when: a table.")] = None,
    interval: Annotated[
        str | None,
        typer.Option(help="The interval between rows, such as 5m; by default, that of the samples."),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Start over, instead of merging.")] = False,
    time_zone: Annotated[
        str | None, typer.Option(help="The zone of times that have none, such as Europe/Berlin; by default, UTC.")
    ] = None,
    incident_time_zone: Annotated[
        str | None, typer.Option(help="That of incidents and coverage; by default, that of --time-zone.")
    ] = None,
    ambiguous: Annotated[
        Literal["earlier", "later"] | None,
        typer.Option(
            help="Which moment is meant by a time that occurs twice in its zone, if the order of rows does not tell."
        ),
    ] = None,
    new_names: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="OLD=NEW", help="Rename a column or metric of the samples; may be repeated."),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="The metric of files with a column for each server; by default, the file's name."),
    ] = None,
    rate: Annotated[
        list[str] | None,
        typer.Option(help="A counter to import as its rate per second, such as of bytes sent; may be repeated."),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse files with a column that looks like numbers, but cannot be read.")
    ] = False,
    short_names: Annotated[
        bool, typer.Option("--short-names", help="Incidents and actions may name servers without their domain.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the report, and write nothing.")] = False,
) -> None:
    """Import your own fleet: telemetry and incident records from files, in most forms that tools export."""
    from crashcast.sources.importing.layouts import Layout
    from crashcast.sources.importing.local_time import Clock
    from crashcast.sources.importing.run_import import import_files

    clock = Clock(time_zone, ambiguous)
    incident_clock = Clock(incident_time_zone or time_zone, ambiguous, "--incident-time-zone")
    done = import_files(
        telemetry or [],
        incidents,
        coverage,
        replace,
        interval,
        is_strict=strict,
        clock=clock,
        incident_clock=incident_clock,
        layout=Layout(new_names=_pairs(new_names or []), metric=metric, rates=rate or []),
        actions=actions,
        is_short=short_names,
        is_dry=dry_run,
    )
    _tell(done, None if dry_run else "Import telemetry and incidents")


def _pairs(written: list[str]) -> dict[str, str]:
    pairs = dict(text.rpartition("=")[::2] for text in written)
    if "" in pairs or "" in pairs.values():
        raise UserError("--map takes OLD=NEW, such as --map system.cpu.user=cpu_pct")
    return pairs


def _tell(report: list[str], commit_message: str | None) -> None:
    from crashcast.sources.importing.report import LOST

    end = report.index(LOST) if LOST in report else len(report)  # a warning is read if it comes last
    following = [] if commit_message is None else [NEXT.format(commit_message)]
    print("\n".join([*report[:end], *following, *report[end:]]))


@commands.command()
def demo() -> None:
    """Simulate the fleet that params.yaml describes under `demo`, and track it with DVC."""
    from crashcast.sources.demo.simulator import OUTPUTS, write
    from crashcast.versioning.tracked_data import track

    summary = write()
    track(OUTPUTS)
    print(summary)


@commands.command()
def docs() -> None:
    """Build Great Expectations' Data Docs of the raw data, valid or not, as pages that fetch nothing."""
    from crashcast.data_docs import build
    from crashcast.paths import TABLES

    html = build(*TABLES, out=Path("reports/data_docs"))
    print(f"Data Docs: {html}")
