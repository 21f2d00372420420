"""Judges histories: what clients and workers asked and were told, against a sequential model of one task."""
