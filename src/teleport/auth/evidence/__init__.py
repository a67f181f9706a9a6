"""Audit events and recordings: taken in, kept, found, proved."""
