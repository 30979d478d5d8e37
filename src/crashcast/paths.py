"""Paths of raw data, which the demo, the import and the collectors write, and of what the stages write of it."""

from pathlib import Path

RAW = Path("data/raw")
TELEMETRY_PATH, INCIDENTS_PATH, COVERAGE_PATH = RAW / "telemetry", RAW / "incidents.parquet", RAW / "coverage.parquet"
TICKETS_PATH = RAW / "tickets.parquet"  # each system's tickets, with the incident_id that each is part of
TICKET_SOURCES_PATH = RAW / "ticket_sources.parquet"  # from when to when each system recorded tickets
ALARMS_PATH = RAW / "alarms.parquet"  # as `crashcast serve` issued them
ACTIONS_PATH = RAW / "actions.parquet"  # done to servers, in time to prevent a crash
TABLES = (  # what the stages read
    TELEMETRY_PATH,
    INCIDENTS_PATH,
    COVERAGE_PATH,
    TICKET_SOURCES_PATH,
    ALARMS_PATH,
    ACTIONS_PATH,
)
CLEAN_PATH, FEATURES_PATH, LABELS_PATH = Path("data/clean"), Path("data/features"), Path("data/labels")
CONFIRMED_PATH = Path("data/incidents.parquet")  # the incidents that `label` confirmed
SPLIT_PATH, PREDICTIONS_PATH = Path("data/split.json"), Path("data/predictions")
DEMO_TRUTH = Path("data/demo")  # for an oracle, never for a model
