"""The section `incidents` of params.yaml."""

from __future__ import annotations

from crashcast.params.base import Duration, PositiveDuration, Section


class Incidents(Section):
    """Defaults for times that incident records lack."""

    reporting_delay: Duration
    unresolved_outage: PositiveDuration
