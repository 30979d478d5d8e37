"""Files of telemetry and incidents."""
