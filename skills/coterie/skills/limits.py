"""The limits of one skill process, as the node hands them to the zygote."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB

REQUESTS_MAX = 256
"""Steps, calls and the like of one run that the node serves at once; the others wait in its process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a child may use and send. None means: no limit of ours. JSON-encodable by `asdict`."""

    result_bytes_max: int = 16 * MIB
    """A larger result fails the task."""
    step_bytes_max: int = MIB
    """A larger step result fails the task."""
    checkpoint_bytes_max: int = 16 * MIB
    """A larger checkpoint fails the task."""
    log_bytes_max: int = 64 * KIB
    """Log and printed output kept of one run; the rest is dropped with a note."""
    message_chars_max: int = 4 * KIB
    """Error messages are cut to this."""
    traceback_chars_max: int = 16 * KIB
    """Tracebacks are cut to this."""
    runs_max: int = 1_000
    """A child is replaced after this many runs."""
    rss_bytes_max: int = 512 * MIB
    """A child whose memory once grew above this is replaced after its run."""
    memory_bytes_max: int | None = None
    """RLIMIT_AS of a child: allocations above it raise MemoryError in the skill."""
    open_files_max: int | None = 512
    """RLIMIT_NOFILE of a child."""
    processes_max: int | None = None
    """RLIMIT_NPROC of a child: processes and threads of the whole user; the kernel ignores it for root."""
    nice: int = 5
    """Added to the niceness of children, so that busy skills do not delay the node."""
    load_timeout_ms: int = 5_000
    """A skill whose import takes longer is skipped."""
