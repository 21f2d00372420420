"""Nodes that run what the agenda says, die, come back, and are cut off while their work goes on."""

from __future__ import annotations

from dataclasses import dataclass

from coterie.core.agenda import Cancel, GiveBack, Move, Pause, Start, Stop, agenda
from coterie.core.commands import (
    Accepted,
    Command,
    ConfirmCancel,
    FailAttempt,
    FinishTask,
    Outcome,
    RecordStep,
    RegisterNode,
    ReleaseTask,
    SetDrain,
    StartTask,
    SuspendTask,
)
from coterie.core.nouns import NO_DATA, NodeId, SkillRef, Task, TaskError, TaskId, WaitReason
from tests.sim.scheduler.world import World

BEAT_MS = 200


@dataclass
class Execution:
    """A skill that runs. It is over when `alive` says so, whatever it still wanted to report."""

    task: Task
    steps_left: int
    alive: bool = True
    pausing: bool = False


class SimNode:
    """One node's worker and its skills."""

    def __init__(self, world: World, node_id: str, capacity: int, skills: tuple[str, ...]) -> None:
        self.world, self.node_id = world, NodeId(node_id)
        self.capacity, self.skills = capacity, skills
        self.incarnation = 0
        self.up = False
        self.cut = False  # it hears and says nothing, and goes on working
        self.running: dict[TaskId, Execution] = {}
        self._looking = False
        self.deadly: tuple[str, ...] = ()  # skills whose processes mostly die here, until it is calm
        world.bells.append(self.ring)
        self._beat()

    # --- life and death

    def boot(self) -> None:
        self.incarnation += 1
        self.up = True
        refs = tuple(SkillRef(name, "1") for name in self.skills)
        register = RegisterNode(self.node_id, "host:1", self.incarnation, self.capacity, skills=refs)
        self.world.propose([register])
        self.world.beats[self.node_id] = self.world.now
        self.world.in_a_row[self.node_id] = 0

    def kill(self) -> None:
        if self.up:
            self.up = False
            for execution in self.running.values():
                execution.alive = False
            self.running.clear()
            self.world.later(self.world.dice.randint(100, 3_000), self.boot)

    def cut_off(self) -> None:
        self.cut = True
        self.world.later(self.world.dice.randint(100, 3_000), self.heal)

    def heal(self) -> None:
        self.cut = False
        self.ring()

    def drain(self) -> None:
        self.world.propose([SetDrain(self.node_id, True)])
        self.world.later(1_000, lambda: self.world.propose([SetDrain(self.node_id, False)]))

    def _beat(self) -> None:
        if self.up and not self.cut:
            self.world.heard(self.node_id)
        self.world.later(BEAT_MS, self._beat)

    # --- the worker

    def ring(self) -> None:
        if not self._looking:
            self._looking = True
            self.world.later(self.world.dice.randint(1, 10), self._look)

    def _look(self) -> None:
        self._looking = False
        state = self.world.state
        known = state.nodes.get(self.node_id)
        if not self.up or self.cut or known is None or known.incarnation != self.incarnation:
            return
        running = {task_id: execution.task.attempt for task_id, execution in self.running.items()}
        for execution in self.running.values():
            execution.pausing = False
        for action in agenda(state, self.node_id, self.incarnation, running):
            match action:
                case Start(task):
                    self._start(task)
                case Stop(task_id, _):
                    self.running.pop(task_id).alive = False
                case Cancel(task_id, attempt):
                    self._end(task_id, ConfirmCancel(task_id, attempt))
                case Pause(task_id, attempt):
                    self._pause(task_id, attempt)
                case Move(task_id, attempt) | GiveBack(task_id, attempt):
                    self._pause(task_id, attempt)

    def _pause(self, task_id: TaskId, attempt: int) -> None:
        if task_id in self.running:
            self.running[task_id].pausing = True
        else:
            self.world.propose([ReleaseTask(task_id, attempt, "paused")])

    def _end(self, task_id: TaskId, command: Command) -> None:
        execution = self.running.pop(task_id, None)
        if execution is not None:
            execution.alive = False
        self._say(command)

    def _say(self, command: Command) -> None:
        """A node that is cut off says it when it can again."""
        if self.cut:
            self.world.later(100, lambda: self._say(command))
        else:
            self.world.propose([command])

    # --- skills

    def _start(self, task: Task) -> None:
        dice = self.world.dice
        if task.task_id in self.running:
            return
        execution = Execution(task, 0 if self.world.calm else dice.choice([0, 0, 0, 0, 1, 1, 3, 15]))
        self.running[task.task_id] = execution
        if dice.random() < 0.5:
            self._say(StartTask(task.task_id, task.attempt))
        self.world.later(dice.randint(1, 300), lambda: self._go_on(execution))

    def _go_on(self, execution: Execution) -> None:
        if not execution.alive:
            return
        task = execution.task
        if execution.steps_left:
            execution.steps_left -= 1
            step = RecordStep(task.task_id, task.attempt, f"{task.attempt}.{execution.steps_left}", NO_DATA)
            self.world.propose([step], lambda outcome: self._stepped(execution, outcome))
            return
        command = self._ending(task)
        if isinstance(command, SuspendTask):
            self.world.propose([command], lambda outcome: self._suspended(execution, outcome))
        else:
            self._end(task.task_id, command)

    def _stepped(self, execution: Execution, outcome: Outcome) -> None:
        task = execution.task
        if not execution.alive or not isinstance(outcome, Accepted):
            return
        if execution.pausing:
            self._end(task.task_id, ReleaseTask(task.task_id, task.attempt, "paused"))
        else:
            self.world.later(self.world.dice.randint(1, 200), lambda: self._go_on(execution))

    def _suspended(self, execution: Execution, outcome: Outcome) -> None:
        task = execution.task
        if not execution.alive:
            return
        if isinstance(outcome, Accepted):
            execution.alive = False
            if self.running.get(task.task_id) is execution:
                del self.running[task.task_id]
        else:
            self._end(task.task_id, FinishTask(task.task_id, task.attempt, NO_DATA))

    def _ending(self, task: Task) -> Command:
        dice, draw = self.world.dice, self.world.dice.random()
        if not self.world.calm and task.type in self.deadly and draw < 0.8:
            error = TaskError("SKILL_CRASHED", "died")
            return FailAttempt(task.task_id, task.attempt, error, dice.getrandbits(32))
        if self.world.calm or draw < 0.7:
            return FinishTask(task.task_id, task.attempt, NO_DATA)
        if draw < 0.9:
            code = dice.choice(["SKILL_FAILED", "SKILL_CRASHED", "BAD_INPUT"])
            return FailAttempt(task.task_id, task.attempt, TaskError(code, "no"), dice.getrandbits(32))
        reason = dice.choice([WaitReason.SIGNAL, WaitReason.TIMER, WaitReason.CHILD])
        name = "go" if reason is WaitReason.SIGNAL else f"timer:{task.attempt}"
        seen = sum(signal.name == name for signal in task.signals)
        timeout_ms = dice.randint(10, 500) if reason is WaitReason.TIMER else dice.choice([0, 300])
        return SuspendTask(task.task_id, task.attempt, reason, name, seen, timeout_ms)
