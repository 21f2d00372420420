"""Runs of workflows, inside the state machine: what one end makes ready is queued in the same entry.

A run is a task of type `workflow` that waits for its nodes; its steps are what its nodes gave. `run` has the
records, `book` the look-ups, `walk` what happens, `parts` nodes of several tasks, `rules` the commands."""
