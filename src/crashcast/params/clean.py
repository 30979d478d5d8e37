"""The section `clean` of params.yaml."""

from __future__ import annotations

from crashcast.params.base import Duration, PositiveDuration, Section


class Clean(Section):
    """How samples become rows."""

    fill_limit: Duration
    stuck_after: PositiveDuration
