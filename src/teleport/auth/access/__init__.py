"""Answers about access before it happens: why somebody gets in or not, and what other roles would change."""
