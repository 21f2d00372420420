"""Skills in their own processes."""
