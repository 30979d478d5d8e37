"""Estimators, event metrics, thresholds, model files."""
