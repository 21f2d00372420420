"""Skills loaded into the zygote, each tried in a throw-away process first.

An import runs foreign code: it may hang, crash or start threads. The trial finds that out; what passes is
imported into the zygote, so that children share its memory; what starts threads is imported in each child.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import signal
import threading
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from coterie.skills import confine
from coterie.skills.frames import Frame, FrameDecoder, encode_frame
from coterie.skills.registry import LoadError, Problem, Skill, Source, discover, load
from coterie.skills.status import describe_status

TRIAL_BODY_BYTES_MAX = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A skill on offer. `loaded` is None when its module must not be imported before the fork."""

    source: Source
    name: str
    version: str
    description: str
    timeout_ms: int | None
    effects: str
    loaded: Skill | None
    input: str = ""
    manual: str = ""
    output: str = ""

    def described(self) -> dict[str, Any]:
        """What the node is told."""
        return {
            "name": self.name,
            "version": self.version,
            "description": self.description,
            "timeout_ms": self.timeout_ms,
            "effects": self.effects,
            "input": self.input,
            "manual": self.manual,
            "output": self.output,
        }


class Catalogue:
    """All skills of this node, by name."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self.problems: list[Problem] = []

    def entries(self) -> Iterable[Entry]:
        """The skills on offer, in the order in which they were found."""
        return self._entries.values()

    def fill(self, skill_dirs: Sequence[Path], load_timeout_ms: int) -> None:
        """Find, try and load. What cannot be used becomes a problem; the others load."""
        _load_shared()
        sources, self.problems = discover(skill_dirs)
        for source, verdict in _try_all(sources, load_timeout_ms):
            try:
                self._add(source, verdict)
            except LoadError as error:
                self.problems.append(Problem(str(source.path), str(error)))

    def find(self, name: str) -> Skill | None:
        """The skill of that name, imported now if it was not before. Raises LoadError."""
        entry = self._entries.get(name)
        if entry is None or entry.loaded is not None:
            return entry.loaded if entry else None
        for skill in load(entry.source):
            if skill.name == name:
                self._entries[name] = replace(entry, loaded=skill)
                return skill
        raise LoadError(f"{entry.source.path.name} has no skill {name!r} any more")

    def _add(self, source: Source, verdict: Frame) -> None:
        header = verdict.header
        if header["op"] == "bad":
            raise LoadError(header["message"])
        if header["op"] == "threads":
            skills = [Entry(source=source, loaded=None, **described) for described in header["skills"]]
        else:
            skills = [_entry(source, skill, skill) for skill in load(source)]
        if not skills:
            raise LoadError("the file has no function marked with @skill")
        for skill in skills:
            if skill.name in self._entries:
                self.problems.append(
                    Problem(str(source.path), f"another skill is called {skill.name!r} already")
                )
            else:
                self._entries[skill.name] = skill


def _load_shared() -> None:
    """What most skills import: once here, not again in each trial."""
    with contextlib.suppress(ImportError):
        importlib.import_module("pydantic")


def _entry(source: Source, skill: Skill, loaded: Skill | None) -> Entry:
    return Entry(
        source,
        skill.name,
        skill.version,
        skill.description,
        skill.timeout_ms,
        skill.effects,
        loaded,
        skill.input,
        skill.manual,
        skill.output,
    )


def _try_all(sources: Sequence[Source], load_timeout_ms: int) -> Iterable[tuple[Source, Frame]]:
    """Each source with the verdict of its trial. One process tries all, until one of them breaks it."""
    at = 0
    while at < len(sources):
        trial = _Trial(sources[at:])
        for source in sources[at:]:
            verdict = trial.next_verdict(load_timeout_ms)
            at += 1
            if verdict is None:
                yield source, Frame({"op": "bad", "message": trial.end()}, b"")
                break
            yield source, verdict
            if verdict.header["op"] == "threads":
                # Its threads would be counted against the skills after it.
                break
        trial.end()


class _Trial:
    """A forked process that imports skills one by one and says how each went."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._verdicts: list[Frame] = []
        self._decoder = FrameDecoder(TRIAL_BODY_BYTES_MAX)
        self._pipe, write_end = os.pipe()
        parent = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            _run_trial(parent, sources, write_end)
        os.close(write_end)
        self._said = ""

    def next_verdict(self, timeout_ms: int) -> Frame | None:
        """The next verdict, or None when the process died or the time is up."""
        give_up_at = time.monotonic() + timeout_ms / 1_000
        while not self._verdicts:
            left_s = give_up_at - time.monotonic()
            if left_s <= 0 or not select.select([self._pipe], [], [], left_s)[0]:
                self._said = f"importing it took longer than {timeout_ms} ms"
                return None
            data = os.read(self._pipe, 65_536)
            if not data:
                return None
            self._verdicts += self._decoder.feed(data)
        return self._verdicts.pop(0)

    def end(self) -> str:
        """Kill the process and say how it ended. May be called twice."""
        if self._pid == 0:
            return self._said
        for kill in (os.kill, os.killpg):
            try:
                # A process that ended by itself is not waited for yet: its status stays as it is.
                kill(self._pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        os.close(self._pipe)
        self._said = self._said or f"importing it ended the process ({describe_status(status)})"
        return self._said


def _run_trial(parent: int, sources: Sequence[Source], write_end: int) -> NoReturn:
    try:
        os.setsid()
        confine.die_with_parent(parent, signal.SIGKILL)
        for source in sources:
            os.write(write_end, encode_frame(_try_one(source)))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _try_one(source: Source) -> dict[str, Any]:
    try:
        skills = load(source)
    except LoadError as error:
        return {"op": "bad", "message": str(error)[:4_096]}
    if not _has_threads():
        return {"op": "good"}
    described = [_entry(source, skill, None).described() for skill in skills]
    return {"op": "threads", "skills": described}


def _has_threads() -> bool:
    """Python's threads, and where the system tells, those of native libraries."""
    try:
        return len(os.listdir("/proc/self/task")) > 1
    except OSError:
        return threading.active_count() > 1
