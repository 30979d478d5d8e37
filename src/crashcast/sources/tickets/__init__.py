"""Incidents from ticket systems, merged into one incident per outage."""
