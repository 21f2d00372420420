"""A skill that does what ordinary programs do."""
