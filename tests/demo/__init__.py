"""Tests of the demo: its two skills, its judge, its processes."""
