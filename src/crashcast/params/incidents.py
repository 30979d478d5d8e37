"""The section `incidents` of params.yaml."""

from __future__ import annotations

from crashcast.params.base import Duration, PositiveDuration, Section


class Incidents(Section):
    """What incident records leave open."""

    reporting_delay: Duration
    unresolved_outage: PositiveDuration
