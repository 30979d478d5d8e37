"""The command line: each command parses, calls and prints. What it needs is imported when it runs."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated

import typer

from crashcast.cli import data, explore, labels, operate, pipeline, review, storage, watch
from crashcast.errors import UserError, refusal
from crashcast.text import clean_output

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
GROUPS = {
    "Bring in data": data.commands,
    "Run the pipeline and read its results": pipeline.commands,
    "Look at the fleet and its data": explore.commands,
    "Judge and register models": review.commands,
    "Warn of crashes": operate.commands,
    "Know when to train again": watch.commands,
    "Keep data safe": storage.commands,
    "Ask people, and find labels that help": labels.commands,
}
RECORDED = ("collect", "incidents", "import", "review", "score")  # their costs are kept (run_record.py)
for title, commands in GROUPS.items():
    for command in commands.registered_commands:
        command.rich_help_panel = title
    for group in commands.registered_groups:
        group.rich_help_panel = title
    app.add_typer(commands)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        print(f"crashcast {version('crashcast')}")
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version, and exit.")
    ] = False,
) -> None:
    """Predict server crashes: bring in data, then `dvc repro`. Run commands from the root of the project."""


@clean_output()
def main() -> None:
    """Run a command. An error ends in exit status 2: what the user can mend with a message, others with a traceback."""
    with _recorded():  # outside, so that it is told the exit status
        try:
            _check_folder()
            app()
        except Exception as error:
            told = refusal(error)
            print(f"crashcast: {told}" if told else traceback.format_exc(), file=sys.stderr)
            sys.exit(2)  # Python's own exit status, 1, means REJECT


def _recorded() -> AbstractContextManager[None]:
    """Return what records the cost of a command, if it is one that collects data or judges a model."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command not in RECORDED or "--help" in sys.argv:
        return nullcontext()
    from crashcast.run_record import recorded

    return recorded(command)


def _check_folder() -> None:
    """Refuse to work below the project's root, where every file would seem to be missing, or where DVC cannot."""
    here, needed = Path.cwd(), ("dvc.yaml", "params.yaml")
    if {*str(here)} & {"{", "}"}:
        raise UserError(f"DVC fails in a folder with braces in its path: rename it ({here})")
    if {"--help", "--version"} & {*sys.argv} or any((here / name).exists() for name in needed):
        return
    if root := next((folder for folder in here.parents if all((folder / name).exists() for name in needed)), None):
        raise UserError(f"run from the root of the project: cd {os.path.relpath(root)}")
