"""Commands that tell when the model is to be trained again."""

from __future__ import annotations

from typing import Annotated

import typer

from crashcast.cli.operate import Textfile
from crashcast.cli.shared import AsJson, print_result

NOT_KNOWN = 3  # exit status; 1 means drift
commands = typer.Typer()


@commands.command()
def drift(
    revision: Annotated[
        str | None,
        typer.Option(help="A registered version or a commit: whose model.", show_default="the version in stage prod"),
    ] = None,
    textfile: Textfile = None,
    as_json: AsJson = False,
) -> None:
    """Compare the newest week with those that the model was trained on. Exit status: 0 none, 1 drift, 3 not known."""
    import sys

    from crashcast.operate.deployment import Deployment, find_revision
    from crashcast.operate.textfile import write
    from crashcast.watch import drift as comparing
    from crashcast.watch import drift_output

    name, commit, note = find_revision(revision)
    if note:
        print(f"drift: {note}", file=sys.stderr)
    report = comparing.read(Deployment.of(name, commit), commit)
    if textfile is not None:
        write(drift_output.samples(report), textfile, "crashcast_drift")
    print_result(report, as_json, drift_output.as_json, drift_output.show)
    if not report.is_known:
        raise typer.Exit(NOT_KNOWN)
    if report.alarms:
        raise typer.Exit(1)
