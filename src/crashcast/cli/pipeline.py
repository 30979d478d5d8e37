"""Commands about runs of the pipeline: their figures, their memo, and whether they can be reproduced."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crashcast.cli.shared import AsJson, print_result

commands = typer.Typer()


@commands.command()
def verdict(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown, as for a pull request.")] = False,
) -> None:
    """Show the figures of the last run beside chance and the one-rule baselines."""
    from crashcast import run_summary
    from crashcast.console import Console

    summary = run_summary.summarise(run_summary.read(Path("metrics")), run_summary.stale_stages())
    if markdown:
        print(run_summary.as_markdown(summary))
    else:
        run_summary.show(summary, console := Console())
        if outlook := run_summary.too_few_crashes():
            console.print(f"No review accepts a model yet: {outlook}.", highlight=False, markup=False)


@commands.command()
def memo(
    clear: Annotated[
        bool, typer.Option("--clear", help="Delete them all: the next run computes everything again.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read them all, and delete those whose hash is wrong.")
    ] = False,
) -> None:
    """Show the remembered results of partitions, which stages reuse; check or delete them."""
    from crashcast.console import Console
    from crashcast.execution import memo as past
    from crashcast.versioning import cache

    store = past.Memo(cache.shared_root() / past.NAME)
    if verify:
        damaged = [f"damaged, and deleted: {entry.stage} {entry.partition}" for entry in store.verify()]
        print("\n".join(damaged) or "Every result has the right hash.")
    if clear:
        store.clear()
        print(f"{store.folder} is empty")
    else:
        past.show(store, Console())


@commands.command()
def reproduced(revision: Annotated[str, typer.Argument(help="The commit to compare with.")] = "HEAD") -> None:
    """List the outputs of this run that differ from a commit's, and say whether the figures still agree."""
    from crashcast.history.byte_comparison import compare

    print("\n".join(compare(revision)) or f"Every output has the bytes of {revision}, by dvc.lock.")


@commands.command()
def reproduce(
    revision: Annotated[str, typer.Argument(metavar="REV", help="The commit to rebuild.")] = "HEAD",
    trust_authors: Annotated[
        bool,
        typer.Option("--trust-authors", help="Rebuild a commit that is not in HEAD's history: its code runs here."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Rebuild a commit from its raw data, in a worktree, and compare every output with its dvc.lock.

    Exit status: 0 the same bytes, 3 other bytes whose figures agree, 1 it differs, 2 it could not be rebuilt.
    """
    from crashcast.history import rebuild

    found = rebuild.rebuild(revision, trust_authors)
    print_result(found, as_json, rebuild.as_json, rebuild.show)
    raise typer.Exit(rebuild.EXIT_STATUS[found.verdict])
