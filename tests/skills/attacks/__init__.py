"""A skill that tries to get out of its sandbox."""
