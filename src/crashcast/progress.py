"""Progress of long work on standard error: a bar on a terminal, else a few plain lines."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from crashcast.console import Console
from crashcast.text import clean_output

LINES = 5  # at most, if standard error is no terminal
MB = 1_000_000


@contextmanager
def progress(title: str, total: int, noun: str) -> Iterator[Callable[..., None]]:
    """Show how much of some work is done, while the block runs.

    Parameters
    ----------
    title : str
        The stage or command, named first.
    total : int
        How many items there are.
    noun : str
        An item, in the singular. Of "byte", megabytes are shown.

    Yields
    ------
    function
        `advance(items=1)`: to be called after each item, from one thread at a time.
    """
    in_bytes = noun == "byte"
    console = Console(stderr=True)
    if console.is_terminal:
        count = DownloadColumn() if in_bytes else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True) as bars, clean_output():  # past its own streams
            bar = bars.add_task(title, total=total)
            yield lambda items=1: bars.advance(bar, items)
        return
    done, line_every = 0, max(1, math.ceil(total / LINES))

    def advance(items: int = 1) -> None:
        nonlocal done
        lines_before, done = done // line_every, done + items
        if done // line_every > lines_before or done == total:
            shown = f"{done / MB:,.0f} of {total / MB:,.0f} MB" if in_bytes else f"{noun} {done:,} of {total:,}"
            print(f"{title}: {shown}", file=sys.stderr, flush=True)

    yield advance
