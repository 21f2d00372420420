"""Calls of language models: what is intended, spent, in doubt, and kept for the next one."""
