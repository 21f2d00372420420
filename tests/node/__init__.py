"""Tests of the node: shells, configuration, certificates."""
