"""Where raw data lies: what the demo, the import and the collectors write."""

from pathlib import Path

RAW = Path("data/raw")
TELEMETRY, INCIDENTS, COVERAGE = RAW / "telemetry", RAW / "incidents.parquet", RAW / "coverage.parquet"
TICKETS_FILE = RAW / "tickets.parquet"  # who said so and when, and the incident_id that each ticket is part of
TICKET_SOURCES = RAW / "ticket_sources.parquet"  # from when to when each system recorded tickets
TABLES = (TELEMETRY, INCIDENTS, COVERAGE, TICKET_SOURCES)  # what the stages read
DEMO_TRUTH = Path("data/demo")  # for an oracle, never for a model
