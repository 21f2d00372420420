"""What earlier attempts of a task recorded, and whether this attempt goes the same way.

A step is found again by its name. An attempt that asks for a new one while steps that were recorded have not
been asked for yet goes another way than the one that recorded them: its code is another, or depends on time,
chance or the attempt. What was recorded does not fit it, so it fails, and says what it asked for and what
there is. Three things explain a difference, and are no error:

- A step that raised leaves no result, so a later attempt calls it again, and may fare better. The same holds
  for steps that were in the air at the crash. Which these were is recorded with the next step (`beside`);
  once one of them is asked for anew, nothing is expected of what came after it.
- Steps from before a checkpoint need not be asked for again.
- While other tasks or threads of the skill are alive, one of them may ask later. It is looked at again when
  they have ended, and at the end of a run that never had any.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from coterie.skills import confine
from coterie.skills.errors import DeterminismError
from coterie.skills.link import RunFacts

BESIDE_MAX = 64  # names told with one record; the others follow with the next
ANYTHING = "*"  # beside a step: nobody knows what else was asked for, as when a person recorded it
STEP_KEY_CHARS_MAX = 160  # a name, and which use of it this is


def step_names(told: object) -> tuple[str, ...]:
    """What a run told beside a step. Raises ValueError: it comes from a process that is not trusted."""
    if not isinstance(told, list | tuple) or len(told) > BESIDE_MAX:
        raise ValueError(f"beside: not a list of at most {BESIDE_MAX} names")
    names = tuple(name for name in told if isinstance(name, str) and len(name) <= STEP_KEY_CHARS_MAX)
    if len(names) < len(told):
        raise ValueError("beside: not names of steps")
    return names


class Replay:
    """The journal of one run. All methods belong to the loop."""

    def __init__(self, facts: RunFacts) -> None:
        self._steps, self._revision = facts.steps, facts.revision
        self._places = {key: place for place, key in enumerate(facts.steps)}
        checkpointed = facts.checkpointed
        if facts.checkpoint is not None and not checkpointed:
            checkpointed = len(facts.steps)  # not known: from before the checkpoint, for all we know
        self._due = dict.fromkeys(key for key, place in self._places.items() if place >= checkpointed)
        self._explains: dict[str, int] = {}
        for key, names in facts.beside.items():
            for name in names:
                self._explains.setdefault(name, self._places[key])
        self._unsaid: dict[str, None] = {}  # asked for, without a result, and not yet told to the cluster
        self._had_company = False
        self.in_thread = False
        """The handler is a plain function: it waits in a thread while its calls run as tasks."""

    def claim(self, key: str) -> None:
        """The skill has named the step; it may await it later."""
        self._due.pop(key, None)

    def result(self, key: str) -> bytes | None:
        """What was recorded; None: the step is to be done. Raises DeterminismError."""
        self.claim(key)
        recorded = self._steps.get(key)
        if recorded is None:
            self._begin(key)
        elif self._due:
            self._is_alone()
        return recorded

    def beside(self, key: str) -> tuple[str, ...]:
        """What is to be recorded with the step."""
        return tuple([name for name in self._unsaid if name != key][:BESIDE_MAX])

    def recorded(self, key: str, beside: Sequence[str]) -> None:
        """The step was recorded, with these."""
        self._unsaid.pop(key, None)
        for name in beside:
            self._unsaid.pop(name, None)

    def end(self) -> None:
        """The handler has returned. Raises DeterminismError."""
        if self._due and self._is_alone() and not self._had_company:
            raise DeterminismError.of_steps(*self._first_due(), None, self._revision)

    def _begin(self, key: str) -> None:
        since = min(self._explains.get(name, len(self._places)) for name in (key, ANYTHING))
        if self._due and since < len(self._places):
            self._due = {name: None for name in self._due if self._places[name] < since}
        if self._due and self._is_alone():
            raise DeterminismError.of_steps(*self._first_due(), key, self._revision)
        self._unsaid[key] = None

    def _first_due(self) -> tuple[int, str]:
        key = next(iter(self._due))
        return self._places[key] + 1, key

    def _is_alone(self) -> bool:
        """Whether nothing of the skill is alive but the one that asks."""
        others = len(asyncio.all_tasks()) - 1
        alone = others <= 1 and not confine.has_foreign_threads() if self.in_thread else not others
        self._had_company = self._had_company or not alone
        return alone
