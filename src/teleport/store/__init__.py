"""Typed reads and writes over the storage, and the local copy that services read."""
