"""Commands that tell when the model is to be trained again."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crashcast.cli.operate import Textfile
from crashcast.cli.shared import AsJson, InUse, parsed_duration, print_result
from crashcast.watch.steps import Step

if TYPE_CHECKING:
    from crashcast.operate.deployment import Deployment
    from crashcast.versioning.revision import Revision

NOT_DUE = 1  # exit status
DRIFTED, NOT_KNOWN = 1, 3
commands = typer.Typer()


@commands.command()
def drift(
    revision: InUse = None,
    page: Annotated[
        Path | None, typer.Option(help="Write one page with pictures of the figures that have moved most.")
    ] = None,
    textfile: Textfile = None,
    as_json: AsJson = False,
) -> None:
    """Compare the newest week with those that the model was trained on. Exit status: 0 none, 1 drift, 3 not known."""
    from crashcast.operate.textfile import write
    from crashcast.watch import drift as comparing
    from crashcast.watch import drift_output, drift_page

    used, commit = _in_use("drift", revision)
    report = comparing.read(used, commit)
    if textfile is not None:
        write(drift_output.samples(report), textfile, "crashcast_drift")
    if page is not None:
        drift_page.write(report, page)
    print_result(report, as_json, drift_output.as_json, drift_output.show)
    if not report.is_known:
        raise typer.Exit(NOT_KNOWN)
    if report.alarms:
        raise typer.Exit(DRIFTED)


@commands.command()
def due(revision: InUse = None, textfile: Textfile = None, as_json: AsJson = False) -> None:
    """Say whether the model is to be trained again, and why. Exit status: 0 due, 1 not due."""
    from crashcast.operate.state import utc_now
    from crashcast.operate.textfile import write
    from crashcast.watch import due as deciding
    from crashcast.watch import due_output

    used, commit = _in_use("due", revision)
    found = deciding.read(used, commit, deciding.last_look(), utc_now())
    if textfile is not None:
        write(due_output.samples(found), textfile, "crashcast_retrain")
    print_result(found, as_json, due_output.as_json, due_output.show)
    if not found.is_due:
        raise typer.Exit(NOT_DUE)


@commands.command()
def changed(
    what: Annotated[str | None, typer.Option(help="Such as a release: app 4.2.")] = None,
    servers: Annotated[
        list[str] | None, typer.Option(help="A server; may be repeated.", show_default="all servers")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="When it began, such as 2026-01-31T12:00 (UTC).", show_default="now")
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="A file with the columns at, what and servers, separated by blanks.")
    ] = None,
) -> None:
    """Report a change of the fleet, such as a release or new hardware; without options, list the changes."""
    from crashcast.dates import read_moment
    from crashcast.errors import UserError
    from crashcast.operate.state import utc_now
    from crashcast.watch import reported_changes

    if csv is not None and (what or servers or at):
        raise UserError("--csv names all of these: leave out --what, --servers and --at")
    if csv is not None and not csv.is_file():
        raise UserError(f"{csv} is missing")
    if csv is None and what is None:
        if servers or at:
            raise UserError('say what was changed: crashcast changed --what "app 4.2"')
        print("\n".join(map(str, reported_changes.read())) or "No change is reported.")
        return
    began = read_moment(at, "--at") if at else utc_now()
    new = reported_changes.read(csv) if csv else [reported_changes.named(what or "", servers or [], began)]
    added = reported_changes.add(new)
    print("\n".join(f"Recorded: {change}" for change in added) or "Nothing is new.")
    if added:
        print(f'Next:\n  git add {reported_changes.PATH} && git commit -m "Report a change of the fleet"')


@commands.command()
def retrain(
    reason: Annotated[str | None, typer.Option(help="Train for this reason, whatever `crashcast due` says.")] = None,
    no_collect: Annotated[
        bool, typer.Option("--no-collect", help="Take the raw data of this work tree, instead of collecting.")
    ] = False,
    only: Annotated[
        Step | None, typer.Option(help="Do only this step, for a scheduler that retries each step.")
    ] = None,
    api: Annotated[
        str | None,
        typer.Option(help="URL of the API of GitHub or GitLab.", show_default="of CI, or of the git remote's host"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what it would do, and do nothing.")] = False,
) -> None:
    """Collect data, train if it is due, and open a pull request; never merges.

    Exit status: 0 a pull request is open, 1 not due, 4 nothing is new, 2 an error.
    """
    from crashcast.watch import retrain as retraining

    if dry_run:
        print(retraining.plan(api))
        return
    done = retraining.retrain(reason, not no_collect, only, api)
    print(done.text)
    raise typer.Exit(done.status)


@commands.command()
def plan(
    projects: Annotated[
        list[Path] | None, typer.Argument(metavar="[PROJECT]...", help="Plan these projects together.")
    ] = None,
    servers: Annotated[int | None, typer.Option(min=1, help="The fleet from now on.", show_default="as now")] = None,
    interval: Annotated[
        timedelta | None,
        typer.Option(
            parser=parsed_duration, metavar="DURATION", help="The interval between rows.", show_default="as now"
        ),
    ] = None,
    months: Annotated[
        float | None, typer.Option(min=0.1, help="The history at the start of the year.", show_default="as now")
    ] = None,
    metrics: Annotated[int | None, typer.Option(min=1, help="The number of metrics.", show_default="as now")] = None,
    retrain_every: Annotated[
        timedelta | None,
        typer.Option(
            parser=parsed_duration,
            metavar="DURATION",
            help="The time between retrainings.",
            show_default="params.yaml: retrain.max_age",
        ),
    ] = None,
    measure_decay: Annotated[
        bool, typer.Option("--measure-decay", help="First fit models to data of several ages, and store their figures.")
    ] = False,
    answers: Annotated[
        Path | None, typer.Option(help="Label Studio's export as JSON, which tells how long an answer takes.")
    ] = None,
    budget_hours: Annotated[
        float | None, typer.Option(min=0, help="With projects: people's hours in the year.")
    ] = None,
    budget_money: Annotated[float | None, typer.Option(min=0, help="With projects: money in the year.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write one page with pictures.")] = None,
    as_json: AsJson = False,
) -> None:
    """Forecast the next 12 months from recorded runs: computers, storage, people, money (docs/planning.md)."""
    from crashcast.planning import command, report
    from crashcast.planning.forecast import Growth

    growth = Growth(servers, interval, months, metrics, retrain_every)
    content, reports = (
        command.portfolio(projects, growth, budget_hours, budget_money)
        if projects
        else command.this_project(growth, measure_decay, answers)
    )
    if page is not None:
        report.write(reports, page)
    print_result(content, as_json, dict, lambda _, console: report.show(reports[0], console))  # a page has all


def _in_use(command: str, revision: str | None) -> tuple[Deployment, Revision]:
    """Return the model in use and its commit, and say on stderr what there is to say of the choice."""
    from crashcast.operate.deployment import Deployment, find_revision

    name, commit, note = find_revision(revision)
    if note:
        print(f"{command}: {note}", file=sys.stderr)
    return Deployment.of(name, commit), commit
