"""One node process: thin shells around the pure core."""
