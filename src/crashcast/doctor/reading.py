"""Many things read side by side, with progress where somebody watches."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

MB = 1_000_000
TELL_BYTES = 500 * MB  # what takes seconds

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    title: str = "",
    size_bytes: Callable[[Item], int | None] = lambda item: 0,
) -> Iterator[Result]:
    """Yield `function(item)` of each item, in order, a few at a time.

    Parameters
    ----------
    function : callable
        Run in threads, `workers` of them.
    title : str
        What a terminal shows beside a bar, and a log in one line where there is much to read.
    size_bytes : callable
        What an item adds to the bar.
    """
    sizes = [size_bytes(item) or 0 for item in items]
    total = sum(sizes)
    if total > TELL_BYTES and not sys.stderr.isatty():
        print(f"{title}: reading {len(items)} objects, {total / MB:,.0f} MB", file=sys.stderr)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    is_shown = console.is_terminal and total > TELL_BYTES
    with (
        Progress(*columns, console=console, transient=True, disable=not is_shown) as progress,
        ThreadPoolExecutor(workers) as pool,
    ):
        bar = progress.add_task(title, total=total)
        waiting = deque(zip([pool.submit(function, item) for item in items], sizes, strict=True))
        try:
            while waiting:
                future, size = waiting.popleft()
                yield future.result()
                progress.advance(bar, size)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
