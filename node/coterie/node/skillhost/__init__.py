"""Runs skills in child processes, so that nothing a skill does can hurt the node.

    host = SkillHost.spawn(options)   # first thing in the process, before grpc, uvloop or any thread
    await host.start()
    outcome = await host.run(job, port)

A zygote forks one child per concurrent run and kills it for the host (coterie.skills.zygote says more).
Children are used again, one run at a time, while their runs leave nothing behind. Every run ends in one
SkillOutcome; its codes:

    SKILL_FAILED, NON_RETRYABLE, BAD_INPUT, NOT_JSON, TOO_LARGE, OUT_OF_MEMORY, SKILL_EXITED, NOT_RECORDED,
    UNKNOWN_SKILL, SKILL_LOAD_FAILED (failed) · SKILL_CRASHED, SKILL_START_FAILED, PROTOCOL_ERROR, HOST_LOST,
    HOST_STOPPED (crashed) · CANCELLED · TIMED_OUT · LEASE_LOST · FENCED, and what a NonRetryable says.
"""

from __future__ import annotations

from coterie.node.skillhost.host import SkillHost
from coterie.node.skillhost.nouns import (
    JobPort,
    OnSkillLog,
    SkillHostError,
    SkillHostOptions,
    SkillHostStats,
    SkillInfo,
    SkillJob,
    SkillOutcome,
    SkillProblem,
)

__all__ = [
    "JobPort",
    "OnSkillLog",
    "SkillHost",
    "SkillHostError",
    "SkillHostOptions",
    "SkillHostStats",
    "SkillInfo",
    "SkillJob",
    "SkillOutcome",
    "SkillProblem",
]
