"""Walls around skills that nobody here vouches for.

Each run gets a process of its own, forked from a zygote that holds no secret, and that process walls itself
in before it reads a line of the skill: its own network namespace, its own user, no capabilities, no new
privileges, limits, Landlock for files, a seccomp filter for system calls, an empty environment, its own
working folder. The node, outside, adds wall time, output size and the proxy. No privilege is needed.
"""

from __future__ import annotations

from coterie.skills.sandbox.box import Box, Grant, Walls, grant_from, prepare
from coterie.skills.sandbox.probe import NETWORK, OWN_USER, REQUIRED, Layer, probe

__all__ = [
    "NETWORK",
    "OWN_USER",
    "REQUIRED",
    "Box",
    "Grant",
    "Layer",
    "Walls",
    "grant_from",
    "prepare",
    "probe",
]
