"""What a skill author sees, and the shipped skills.

A skill is a folder with a `SKILL.md` whose metadata names a handler:

    async def run(ctx: SkillContext, input: Args) -> Result:
        page = await ctx.step("fetch", fetch, input.url)   # recorded; not repeated after a failover
        await ctx.progress(50, "fetched")
        answer = await ctx.wait_signal("approved", timeout=86_400)  # no process, no slot meanwhile
        return {"words": len(page.split())}

Handlers run in child processes of the node, never in the node itself.
"""

from __future__ import annotations

from coterie.skills.children import Child
from coterie.skills.context import SkillContext, SyncSkillContext
from coterie.skills.decisions import Decision, Effect
from coterie.skills.decorator import Effects, skill
from coterie.skills.errors import (
    CallFailed,
    CallRefused,
    Cancelled,
    DeterminismError,
    Fenced,
    InDoubt,
    LockHeld,
    LockLost,
    NonRetryable,
    NotDone,
    NotRecorded,
    SkillError,
    TaskFailed,
    VersionMismatch,
    WaitTimedOut,
)
from coterie.skills.mcp import McpAnswer, McpTool
from coterie.skills.models import BadAnswer, LlmAnswer, LlmUsage, ToolCall
from coterie.skills.tools import ToolFailed

__all__ = [
    "BadAnswer",
    "CallFailed",
    "CallRefused",
    "Cancelled",
    "Child",
    "Decision",
    "DeterminismError",
    "Effect",
    "Effects",
    "Fenced",
    "InDoubt",
    "LlmAnswer",
    "LlmUsage",
    "LockHeld",
    "LockLost",
    "McpAnswer",
    "McpTool",
    "NonRetryable",
    "NotDone",
    "NotRecorded",
    "SkillContext",
    "SkillError",
    "SyncSkillContext",
    "TaskFailed",
    "ToolCall",
    "ToolFailed",
    "VersionMismatch",
    "WaitTimedOut",
    "skill",
]
