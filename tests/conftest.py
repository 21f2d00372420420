"""For all tests: how long an example takes says something of the machine, not of the code; the processes that
they start keep their byte code, and clusters of tests that run side by side never take the same ports."""

from __future__ import annotations

import os
import re

from hypothesis import HealthCheck, settings

from coterie.node import localcluster

settings.register_profile("coterie", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("coterie")

# Tests start hundreds of processes: each of them would compile all modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# A port is found free some seconds before a node takes it: each worker of pytest-xdist has ports of its own.
_worker = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))
if _worker is not None:
    _share = (localcluster.PORT_LAST - localcluster.PORT_FIRST) // int(
        os.environ["PYTEST_XDIST_WORKER_COUNT"]
    )
    localcluster.PORT_FIRST += int(_worker[1]) * _share
    localcluster.PORT_LAST = localcluster.PORT_FIRST + _share
