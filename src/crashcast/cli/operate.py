"""Commands that put the model to work."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from crashcast.cli.shared import AsJson, InUse, print_result

EVERY_BIT = 17  # digits: a risk is compared with the threshold
commands = typer.Typer()
WithoutSkill = Annotated[
    bool, typer.Option("--without-skill", help="Use even a model that is not shown to be better than chance.")
]
Textfile = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Write gauges to this folder, for node_exporter's textfile collector."),
]


@commands.command()
def score(
    at: Annotated[
        str | None,
        typer.Option(help="Score as at this moment, such as 2026-01-31T12:00 (UTC).", show_default="the newest sample"),
    ] = None,
    revision: InUse = None,
    explain: Annotated[str | None, typer.Option(metavar="SERVER", help="Say why this server has its risk.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write every server's risk to this file: .parquet, .csv or .json.")
    ] = None,
    textfile: Textfile = None,
    without_skill: WithoutSkill = False,
    as_json: AsJson = False,
) -> None:
    """List the servers at risk: those whose newest row reaches the alarm threshold, and why."""
    import sys

    from crashcast.dates import read_moment
    from crashcast.operate import deployment, score_output
    from crashcast.operate.score import score as score_fleet
    from crashcast.operate.textfile import write

    moment = None if at is None else read_moment(at, "--at")
    if out is not None:
        score_output.check_name(out)
    used, note = deployment.find(revision, without_skill)
    if note:
        print(f"score: {note}", file=sys.stderr)
    found = score_fleet(used, moment)
    why = None if explain is None else score_output.explained(found, explain)  # refused before anything is written
    if out is not None:
        score_output.write(found, out)
    if textfile is not None:
        write(score_output.samples(found), textfile, "crashcast_score")
    if why is None:
        print_result(found, as_json, score_output.as_json, score_output.show, EVERY_BIT)
    else:
        print_result(why, as_json, score_output.reasons_as_json, score_output.show_reasons, EVERY_BIT)


@commands.command()
def alarms(
    again: Annotated[bool, typer.Option("--again", help="Read the whole log again.")] = False,
) -> None:
    """Bring alarms and actions into data/raw, from serve's log and Alertmanager's silences; `collect` does, too."""
    from crashcast.operate.collect_alarms import collect
    from crashcast.operate.state import utc_now
    from crashcast.params.serve import Serve

    done = collect(Serve.read(), utc_now(), again)
    print("\n".join(done) or "Nothing is new: no alarm was issued, and no action reported.")
    if done:
        print('Next:\n  git add data/raw/*.dvc && git commit -m "Collect alarms and actions"\n  dvc repro')


@commands.command()
def outcomes(
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Alarms that opened from this day on, UTC.")
    ] = None,
    until: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Up to the start of this day, UTC.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what came of the alarms, and what acting on them was worth (docs/outcomes.md)."""
    from crashcast.operate import outcomes, outcomes_output

    print_result(outcomes.read(since, until), as_json, outcomes_output.as_json, outcomes_output.show)


@commands.command()
def metrics(
    textfile: Textfile = None,
    with_remote: Annotated[
        bool,
        typer.Option(
            "--remote", help="With --textfile: also count the objects of DVC's remote, and those that no commit needs."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what the last run of each stage and command cost.

    With --textfile, write it for Prometheus, beside figures of the model in use, the data, the disk and the alarms.
    """
    from crashcast import run_record
    from crashcast.operate import outcomes, outcomes_output
    from crashcast.operate import run_metrics as costs
    from crashcast.operate.textfile import write
    from crashcast.paths import ALARMS_PATH
    from crashcast.watch import project_gauges

    runs = run_record.last_of_each()
    if textfile is None:
        print_result(runs, as_json, list, costs.show)
    else:
        print(f"Written: {write(costs.samples(runs), textfile, 'crashcast_runs')}")
        print(f"Written: {write(project_gauges.samples(with_remote), textfile, 'crashcast_project')}")
        if ALARMS_PATH.exists() and (found := outcomes.read()).since is not None:
            print(f"Written: {write(outcomes_output.samples(found), textfile, 'crashcast_outcomes')}")


@commands.command()
def acted(
    server: Annotated[
        str | None, typer.Argument(help="The server that was acted on; without it, the open alarms are listed.")
    ] = None,
    what: Annotated[str | None, typer.Option(help="What was done, such as restart or drain.")] = None,
    at: Annotated[
        str | None, typer.Option(help="When it was done, such as 2026-01-31T12:00 (UTC).", show_default="now")
    ] = None,
    who: Annotated[str | None, typer.Option(help="Who did it.")] = None,
) -> None:
    """Report what was done about an alarm, or list the open alarms and what was done about each."""
    from crashcast.console import Console
    from crashcast.dates import read_moment
    from crashcast.errors import UserError
    from crashcast.operate import acted as reporting
    from crashcast.operate import page
    from crashcast.operate.served_log import ServedLog
    from crashcast.operate.state import utc_now
    from crashcast.params.label import Label
    from crashcast.params.serve import Serve
    from crashcast.versioning import commit_limits

    log, now = ServedLog(Serve.read().log), utc_now()
    commit_limits.check_places()  # a log that a commit brought would be taken for this machine's own
    if server is None:
        if what or at or who:
            raise UserError("name the server that was acted on: crashcast acted SERVER --what restart")
        reporting.show(reporting.find_open(log, Label.read(), now), Console())
        return
    if what is None:
        raise UserError(f"say what was done: crashcast acted {server} --what restart")
    done = reporting.report(log, server, what, None if at is None else read_moment(at, "--at"), who, now)
    print(f"Recorded: {done.server_id}, {page.done(done)}")


@commands.command()
def serve(
    once: Annotated[
        bool, typer.Option("--once", help="Tick once, as for cron; exit status 1 says that the state is degraded.")
    ] = False,
    without_skill: WithoutSkill = False,
) -> None:
    """Score the fleet at each interval, and warn of crashes, with the registered version in stage prod."""
    from crashcast.operate.alertmanager import Alertmanager
    from crashcast.operate.http_app import HttpServer
    from crashcast.operate.serving import ModelInUse, run
    from crashcast.operate.tick import Service
    from crashcast.params.collect import Collect
    from crashcast.params.serve import Serve

    section, models = Serve.read(), ModelInUse(without_skill)
    service = Service.of(section, Collect.read())
    if once:
        raise typer.Exit(run(service, models, [Alertmanager(section).push], once))
    with (
        HttpServer(section, models.find().telemetry.interval, service.log) as server,
        Alertmanager(section, server.show) as alertmanager,
    ):
        print(f"serve: {server.url} shows the fleet and its metrics")
        raise typer.Exit(run(service, models, [server.show, alertmanager.push]))
