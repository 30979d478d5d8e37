"""What each family of servers says besides an answer: that it is incomplete, too large, or not possible just now.

Sources: Prometheus's HTTP API; VictoriaMetrics's documentation of its cluster (`isPartial`, `deny_partial_response`)
and the messages of vmselect; Thanos's documentation of the querier (partial response, custom response fields); Mimir's
runbook (`err-mimir-...`) and Cortex's query frontend; M3's documentation of query limits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Family:
    """The words of one family of servers.

    Attributes
    ----------
    form : dict
        Parameters of a query that ask for all series or an error; other families ignore them.
    flags, headers : tuple of str
        Keys of an answer, and headers, that say that something is missing, if they are true or not empty.
    too_large, passing : str
        Regular expressions of refusals: a smaller query may be answered; the same query may be answered later.
    """

    form: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    headers: tuple[str, ...] = ()
    too_large: str = r"(?!)"
    passing: str = r"(?!)"


FAMILIES = {
    "Prometheus": Family(too_large=r"load too many samples|exceeded maximum resolution|query timed out"),
    "VictoriaMetrics": Family(
        form={"deny_partial_response": "1"},
        flags=("isPartial",),
        too_large=r"cannot (select|process) more than -search\.max|number of matching (unique )?timeseries exceeds"
        r"|too many points for the given|not enough memory for processing|-search\.maxResponseSeries"
        r"|timeout exceeded during query",
        passing=r"vmstorage|couldn't start executing the request",
    ),
    "Thanos": Family(
        form={"partial_response": "false"},
        too_large=r"exceeded (series|chunks|samples|bytes) limit|limit \d+ violated",
        passing=r"rpc error: code = (Aborted|Canceled|DeadlineExceeded|Unavailable|Unknown)|No StoreAPIs matched",
    ),
    "Mimir, Cortex": Family(
        too_large=r"err-mimir-max-|query time range exceeds the limit|the query hit the (max number|aggregated)",
        passing=r"err-mimir-(store-consistency-check-failed|bucket-index-too-old)|store-gateway",
    ),
    "M3": Family(headers=("M3-Results-Limited",)),
}
FORM = {name: value for family in FAMILIES.values() for name, value in family.form.items()}


def is_too_large(words: str) -> bool:
    """Tell whether a refusal says that the query is too large."""
    return any(re.search(family.too_large, words, re.IGNORECASE) for family in FAMILIES.values())


def may_pass(words: str) -> bool:
    """Tell whether a refusal says that a part of the server is away, or busy."""
    return any(re.search(family.passing, words, re.IGNORECASE) for family in FAMILIES.values())


def what_is_missing(content: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
    """Return how an answer says that it is incomplete; None if it does not."""
    # Prometheus 3 warns of odd queries too; any other warning says that something is missing
    given = [place.get("warnings") or [] for place in (content, content["data"])]
    warnings = [str(text) for some in given for text in (some if isinstance(some, list) else [some])]
    said = [text for text in warnings if not text.startswith("PromQL ")]
    for family in FAMILIES.values():
        said += [f'"{flag}": true' for flag in family.flags if content.get(flag)]
        said += [f"{name}: {headers[name]}" for name in family.headers if headers.get(name)]
    return said[0] if said else None
