"""The files of published skills on this node: fetched when a task needs them, laid out for reading only."""

from __future__ import annotations

import asyncio
import compileall
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from uuid import uuid4

import grpc

from coterie.core.skillbook import RevisionState, SkillEntry, SkillRevision
from coterie.core.state import ClusterState
from coterie.node.blob_exchange import BlobExchange
from coterie.node.errors import ApiError
from coterie.node.skillhost.nouns import ConfinedSkill, SkillJob, SkillOutcome
from coterie.node.skillhost.scratch import Scratch
from coterie.node.skillhost.trees import remove_tree
from coterie.skills import bundle
from coterie.skills.described import Described, from_json


class Bundles:
    """One folder per revision, made once; again when somebody has tidied it away."""

    def __init__(
        self,
        state: Callable[[], ClusterState],
        exchange: BlobExchange,
        scratch: Scratch,
        trust: tuple[str, ...],
    ) -> None:
        self._state, self._exchange, self._scratch, self._trust = state, exchange, scratch, trust
        self._making: dict[str, asyncio.Lock] = {}

    async def resolve(self, job: SkillJob) -> SkillJob | SkillOutcome:
        """See SkillSource. Raises ApiError when no node that answers has the files."""
        entry = self._state().skillbook.get(job.skill)
        revision = entry.find(job.revision) if entry is not None else None
        if entry is None or revision is None:
            return _gone("REVISION_NOT_FOUND", f"revision {job.revision} of {job.skill} was removed")
        if revision.state is RevisionState.REVOKED:
            return _gone("SKILL_REVOKED", f"revision {job.revision} of {job.skill} was revoked")
        said = from_json(revision.manifest)
        return replace(job, confined=self._confined(entry, said, revision, await self._folder(revision)))

    def _confined(
        self, entry: SkillEntry, said: Described, revision: SkillRevision, folder: Path
    ) -> ConfinedSkill:
        policy = entry.policy
        return ConfinedSkill(
            folder=folder,
            handler=said.handler,
            name=said.folder_name or entry.skill_id.rpartition("/")[2],
            version=revision.version,
            effects=said.effects,
            timeout_ms=policy.timeout_ms or said.timeout_ms,
            network=said.network,
            memory_bytes=policy.memory_bytes or said.memory_bytes,
            cpus=policy.cpus or said.cpus,
            input=_text(said.input),
            output=_text(said.output),
            trusted=any(fnmatchcase(entry.skill_id, pattern) for pattern in self._trust),
        )

    async def _folder(self, revision: SkillRevision) -> Path:
        async with self._making.setdefault(revision.revision, asyncio.Lock()):
            folder = await asyncio.to_thread(self._scratch.folder) / revision.revision
            if not folder.exists():
                content = await self._exchange.load(revision.bundle)
                await asyncio.to_thread(_lay_out, content, revision.revision, folder)
            return folder

    async def close(self) -> None:
        """Remove the files."""
        await asyncio.to_thread(self._scratch.clear)


def _lay_out(content: bytes, revision: str, folder: Path) -> None:
    """Whole, or not at all. That of an attempt that was cancelled goes on beside the next one's: each fills a
    folder of its own, and who is first has made it."""
    if bundle.revision_of(content) != revision:
        raise ApiError(grpc.StatusCode.DATA_LOSS, "BUNDLE_DAMAGED", f"the bundle is not {revision}")
    half = folder.with_name(f"{revision}.{uuid4().hex[:8]}.half")
    try:
        _fill(half, content, folder)
        half.rename(folder)
        folder.chmod(0o555)
    except OSError:
        if not folder.exists():
            raise
    finally:
        remove_tree(half)


def _fill(half: Path, content: bytes, folder: Path) -> None:
    bundle.write(bundle.read(content), half)
    # Nobody may write there later, so what can be compiled is compiled now; it is not run.
    compileall.compile_dir(half, quiet=2, stripdir=str(half), prependdir=str(folder))
    for place, folders, names in os.walk(half, topdown=False):
        for name in folders + names:
            path = Path(place, name)
            path.chmod(0o555 if path.is_dir() else path.stat().st_mode & 0o555)


def _text(schema: Mapping[str, Any] | None) -> str:
    return json.dumps(schema) if schema is not None else ""


def _gone(code: str, message: str) -> SkillOutcome:
    """Another attempt would end no better."""
    return SkillOutcome("failed", code=code, message=message, retryable=False)
