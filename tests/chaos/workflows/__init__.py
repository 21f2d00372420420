"""The shipped workflows on real nodes: what each run must give, and runs of them while nodes are killed."""
