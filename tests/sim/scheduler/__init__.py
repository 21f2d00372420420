"""Scheduler and state machine alone, on virtual time: no engine, no network, no real clock."""
