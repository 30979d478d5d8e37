"""Where raw data lies: what the demo and the import write."""

from pathlib import Path

RAW = Path("data/raw")
TELEMETRY, INCIDENTS, COVERAGE = RAW / "telemetry", RAW / "incidents.parquet", RAW / "coverage.parquet"
DEMO_TRUTH = Path("data/demo")  # for an oracle, never for a model
