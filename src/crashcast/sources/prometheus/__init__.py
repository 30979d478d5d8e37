"""Telemetry from a Prometheus-compatible server."""
