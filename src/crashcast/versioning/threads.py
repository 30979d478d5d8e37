"""One function on many items at once, with progress if much is read."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import TypeVar

from crashcast.progress import progress

SHOWN_FROM_BYTES = 500_000_000  # takes seconds

Item = TypeVar("Item")
Result = TypeVar("Result")


def side_by_side(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    workers: int,
    title: str = "",
    size_bytes: Callable[[Item], int | None] = lambda item: 0,
) -> Iterator[Result]:
    """Yield `function(item)` of each item, in the items' order.

    Parameters
    ----------
    function : callable
        Run in so many threads as there are `workers`.
    title : str
        Names the work in its progress.
    size_bytes : callable
        How much of an item is read.
    """
    sizes = [size_bytes(item) or 0 for item in items]
    total = sum(sizes)
    shown = progress(title, total, "byte") if total > SHOWN_FROM_BYTES else nullcontext(_unshown)
    with shown as advance, ThreadPoolExecutor(workers) as pool:
        waiting = deque(zip([pool.submit(function, item) for item in items], sizes, strict=True))
        try:
            while waiting:  # a result that was handed on takes no more memory here
                future, size = waiting.popleft()
                yield future.result()
                advance(size)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _unshown(size_bytes: int) -> None:
    """Show no progress."""
