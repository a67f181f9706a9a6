"""Frozen values that people write and services exchange, and how files that people write are read into them."""
