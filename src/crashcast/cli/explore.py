"""Commands to look at the fleet and its data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

commands = typer.Typer()


@commands.command()
def explore(
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("reports/explore.html"),
) -> None:
    """Write one page: the fleet, what happens before a crash, missed crashes and why, false alarms, the data."""
    from crashcast.explore import page

    page.write(out)
    print(f"The page: {out}")
