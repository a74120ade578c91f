"""Metrics, logs, traces: closed label sets, redaction last, off means free."""
