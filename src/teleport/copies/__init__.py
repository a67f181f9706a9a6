"""Copies of audit events elsewhere, written from the log by a cursor (`docs/audit-log.md`, Copies)."""
