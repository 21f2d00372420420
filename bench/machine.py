"""What the figures depend on: cores, Python, load, and how long this disk takes to sync."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc

from bench.figures import percentile

SYNCS = 200
RECORD_BYTES = 64
MIB = 1 << 20


def facts() -> dict[str, Any]:
    """The machine as it is now."""
    sync_p50, sync_p99 = sync_ms()
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB,
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "grpcio": grpc.__version__,
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "data_directory": tempfile.gettempdir(),
        "sync_ms_p50": round(sync_p50, 3),
        "sync_ms_p99": round(sync_p99, 3),
    }


def sentence(machine: dict[str, Any]) -> str:
    """The facts in one line for people."""
    loads = " ".join(f"{load:.2f}" for load in machine["load_average"])
    return (
        f"{machine['cores']} cores ({machine['cpu']}), {machine['memory_mib']} MiB, {machine['system']}, "
        f"{machine['python']}, grpcio {machine['grpcio']}; load average {loads}; "
        f"append of {RECORD_BYTES} B + fdatasync in {machine['data_directory']}: "
        f"p50 {machine['sync_ms_p50']:.2f} ms, p99 {machine['sync_ms_p99']:.2f} ms"
    )


def cpu_model() -> str:
    """As the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def sync_ms() -> tuple[float, float]:
    """Median and 99th percentile, in ms, of appending a small record and syncing it, where nodes keep it."""
    took: list[float] = []
    with tempfile.TemporaryFile() as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(b"x" * RECORD_BYTES)
            file.flush()
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    return percentile(took, 0.5), percentile(took, 0.99)
