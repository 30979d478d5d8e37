"""The same work on many items, in threads, with progress."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from crashcast.progress import progress

Item = TypeVar("Item")


def side_by_side(
    work: Callable[[Item], None],
    items: Sequence[Item],
    parallel: int,
    title: str | None,
    noun: str,
    stop: Callable[[], object] = lambda: None,
) -> None:
    """Do some work on each item; the first failure ends it all.

    Parameters
    ----------
    work : callable
        Takes an item.
    items : sequence
    parallel : int
        Number of threads.
    title : str or None
        The command, for the progress; None shows none.
    noun : str
        An item, in the singular.
    stop : callable
        Called after a failure, to end the work on other items.
    """
    with ThreadPoolExecutor(parallel) as pool, _progress(title, len(items), noun) as advance:
        try:
            for future in as_completed([pool.submit(work, item) for item in items]):
                future.result()
                advance()
        except BaseException:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _progress(title: str | None, total: int, noun: str) -> AbstractContextManager[Callable[..., None]]:
    def advance() -> None:
        pass

    return nullcontext(advance) if title is None else progress(title, total, noun)
