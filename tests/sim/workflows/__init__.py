"""Random workflows, run by the state machine and by a plain interpreter: both must say the same.

python -m tests.sim.workflows --seeds 5000
"""
