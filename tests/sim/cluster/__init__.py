"""A whole cluster under simulation: real members, state machine, plan and agenda, in virtual time."""
