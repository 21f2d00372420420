"""Requests in words: rules route them, a language model plans the others, the cluster runs the plan."""
