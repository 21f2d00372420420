"""For all tests: how long an example takes says something of the machine, not of the code; the processes that
they start keep their byte code."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("coterie", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("coterie")

# Tests start hundreds of processes: each of them would compile all modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
