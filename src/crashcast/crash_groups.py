"""Groups of crashes: how many a fleet has, how many a verdict needs, and when it will have them.

It is said when data comes in and when it is labelled: before anything is trained.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from crashcast.dates import MONTH
from crashcast.params.acceptance import Acceptance
from crashcast.params.base import DAY
from crashcast.params.label import Label
from crashcast.params.split import Split
from crashcast.text import counted


def incident_groups(started_at: Iterable[datetime], block: timedelta) -> int:
    """Count groups of crashes: one takes in all that start within a block's length after its first, on any server."""
    groups, end = 0, None
    for moment in sorted(started_at):
        if end is None or moment >= end:
            groups, end = groups + 1, moment + block
    return groups


def shortest_block(acceptance: Acceptance, interval: timedelta) -> timedelta:
    """Return the length of a group: that of the policy, or what one crash touches, or the cadence if it is longer."""
    return max(acceptance.block, Label.read().reach, interval)


class Outlook(NamedTuple):
    """The crashes that a review would judge, and the minimum.

    Attributes
    ----------
    windows : int
        Of the test part, or more.
    length : timedelta
        Of all of them.
    has, needs : (int, int)
        Groups of crashes, and servers with crashes.
    months : float or None
        Until there are enough groups, at the rate of the whole history; None if that rate is enough.
    more_windows : (int, int) or None
        The least number of windows that holds enough, and its groups; None if none does, or if no more are needed.
    """

    windows: int
    length: timedelta
    has: tuple[int, int]
    needs: tuple[int, int]
    months: float | None
    more_windows: tuple[int, int] | None

    @property
    def is_enough(self) -> bool:
        """Whether a review can come to a verdict."""
        return all(one >= least for one, least in zip(self.has, self.needs, strict=True))

    def __str__(self) -> str:
        many = self.windows > 1
        part = f"the {self.windows} test windows" if many else "the test part"
        groups, servers = self.has
        text = (
            f"{part}, the last {self.length / DAY:.0f} days, {'hold' if many else 'holds'} "
            f"{counted(groups, 'group')} of crashes on {counted(servers, 'server')}"
        )
        needs = f"a verdict needs {self.needs[0]} groups on {self.needs[1]} servers"
        if self.is_enough:
            return f"{text}; {needs}"
        text = f"{text}, but {needs}"
        if self.months is not None:
            text += f"; at this rate it will in about {self.months:.0f} months"
        if self.more_windows:
            windows, found = self.more_windows
            text += f"; with acceptance.windows: {windows} recipes are judged now, on {found} groups (docs/review.md)"
        return text


def outlook(
    crashes: Collection[tuple[str, datetime]], period: tuple[datetime, datetime], interval: timedelta
) -> Outlook | None:
    """Count the groups of crashes that a review would judge, by params.yaml.

    Parameters
    ----------
    crashes : collection of (str, datetime)
        Servers and starts, in the period.
    period : (datetime, datetime)
        The first and the last moment of the history.
    interval : timedelta
        The cadence.

    Returns
    -------
    Outlook or None
        None if the split is not by time, or has its borders in a later period (`split.since`).
    """
    split, acceptance = Split.read(), Acceptance.read()
    if split.method != "time" or split.since:
        return None
    first, last = period
    block = shortest_block(acceptance, interval)
    length, needs = split.test * (last - first), (acceptance.min_groups, acceptance.min_servers)

    def on(windows: int) -> Outlook:
        inside = [(server, start) for server, start in crashes if start > last - windows * length]
        has = incident_groups((start for _, start in inside), block), len({server for server, _ in inside})
        return Outlook(windows, windows * length, has, needs, None, None)

    found = on(acceptance.windows)
    per_history = incident_groups((start for _, start in crashes), block) * split.test * acceptance.windows
    if found.is_enough or not per_history:
        return found
    longer = (acceptance.min_groups / per_history - 1) * (last - first)
    most = int(split.train / split.test)  # each needs a train part
    more = next((one for one in map(on, range(acceptance.windows + 1, most + 1)) if one.is_enough), None)
    return found._replace(
        months=max(longer, MONTH) / MONTH if longer > timedelta(0) else None,
        more_windows=more and (more.windows, more.has[0]),
    )
