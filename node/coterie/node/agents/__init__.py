"""Agents: what their files say, which of their revisions runs, and what the agent loop asks its node for."""
