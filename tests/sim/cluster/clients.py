"""Clients in virtual time: submit, read and cancel at any node, over a network that loses messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from coterie.core.commands import SubmitTask
from coterie.core.nouns import Data, RetryPolicy, TaskId
from tests.checker.history import Call, Kind, Told, View
from tests.sim.cluster.gateway import Reply
from tests.sim.cluster.job import Program
from tests.sim.cluster.settings import MILLISECOND, SKILL

if TYPE_CHECKING:
    from tests.sim.cluster.process import Process
    from tests.sim.cluster.world import ClusterWorld

ATTEMPT_MS = 600
CALL_MS = 2_000
PAUSE_MS = 30

Ask = Callable[["Process", Reply], None]


class SimClient:
    """One call after the other. A call that got no answer in time has an unknown outcome."""

    def __init__(self, world: ClusterWorld, name: str, loss: float, pause_ms: int) -> None:
        self._world, self._name, self._loss, self._pause_ms = world, name, loss, pause_ms
        self._count = 0
        self._open: Call | None = None
        self._deadline_us = 0
        self._try = 0

    @property
    def is_busy(self) -> bool:
        return self._open is not None

    def start(self) -> None:
        self._later(self._world.rng.randint(0, self._pause_ms), self._act)

    def _later(self, delay_ms: int, what: Callable[[], None]) -> None:
        self._world.later(delay_ms * MILLISECOND, what)

    def _act(self) -> None:
        if not self._world.open_for_clients:
            return
        known = self._world.task_ids
        dice = self._world.rng.random()
        if not known or dice < 0.35:
            self._submit()
        elif dice < 0.85:
            self._read(self._pick())
        else:
            self._cancel(self._pick())

    def _pick(self) -> str:
        """Rather a young task: more happens to it."""
        known = self._world.task_ids
        back = min(len(known), 1 + int(self._world.rng.expovariate(0.3)))
        return known[-back]

    def _submit(self) -> None:
        rng, world = self._world.rng, self._world
        self._count += 1
        request_id = f"{self._name}-{self._count}"
        fails_at = 1 if rng.random() < 0.1 else 0
        program = Program(rng.randint(1, 4), rng.choice([5, 40, 150]), fails_at)
        world.history.steps[request_id] = program.keys
        call = world.history.call(Kind.SUBMIT, request_id=request_id)

        def ask(process: Process, reply: Reply) -> None:
            command = SubmitTask(
                task_id=TaskId(world.new_task_id()),
                tenant="default",
                type=SKILL,
                payload=Data(program.payload),
                priority=rng.randint(1, 4),
                retry=RetryPolicy(attempts_max=2, backoff_initial_ms=50, backoff_max_ms=200),
                request_id=request_id,
                digest=program.payload,
            )
            process.gateway.submit(command, reply)

        self._run(call, ask)

    def _read(self, task_id: str) -> None:
        call = self._world.history.call(Kind.READ, task_id=task_id)
        self._run(call, lambda process, reply: process.gateway.read(task_id, reply))

    def _cancel(self, task_id: str) -> None:
        call = self._world.history.call(Kind.CANCEL, task_id=task_id)
        self._run(call, lambda process, reply: process.gateway.cancel(task_id, reply))

    # --- one call, with its retries ---

    def _run(self, call: Call, ask: Ask) -> None:
        self._open, self._deadline_us = call, self._world.now_us + CALL_MS * MILLISECOND
        self._attempt(call, ask, 1)

    def _attempt(self, call: Call, ask: Ask, number: int) -> None:
        """Request, work, reply; each may be lost or late. Late answers to earlier tries count too."""
        world, self._try = self._world, number
        process = world.process_at(world.rng.choice(world.ids))

        def reply(answer: Told | View | None, task_id: str) -> None:
            if world.rng.random() >= self._loss:
                world.later(
                    world.rng.randint(100, 2_000), lambda: self._reply(call, ask, number, answer, task_id)
                )

        if process is not None and world.rng.random() >= self._loss:
            there = process
            world.later(world.rng.randint(100, 2_000), lambda: there.run(lambda: ask(there, reply)))
        self._later(ATTEMPT_MS, lambda: self._again(call, ask, number))

    def _reply(self, call: Call, ask: Ask, number: int, answer: Told | View | None, task_id: str) -> None:
        if self._open is not call:
            return
        if answer is None:
            self._later(PAUSE_MS, lambda: self._again(call, ask, number))
            return
        self._open = None
        call.task_id = task_id
        self._world.history.answered(call, answer, number)
        if call.kind is Kind.SUBMIT:
            self._world.task_ids.append(task_id)
        self._rest()

    def _again(self, call: Call, ask: Ask, number: int) -> None:
        if self._open is not call or self._try != number:
            return
        if self._world.now_us >= self._deadline_us:
            self._open = None
            self._rest()
        else:
            self._attempt(call, ask, number + 1)

    def _rest(self) -> None:
        self._later(self._world.rng.randint(0, 2 * self._pause_ms), self._act)
