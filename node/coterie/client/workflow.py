"""Workflows in Python: nodes, `>>` for what comes first, and functions that say what a node is given.

```python
from coterie.client import Workflow

flow = Workflow("report", inputs=["topic"])
find = flow.task("find", skill="search", input={"q": flow.ref("topic")})
@flow.node(skill="summarize", timeout="5m")
def summary(find):                     # its parameters are what it stands on
    return {"text": find["hits"][0]}   # its input; never called again
check = flow.condition("good", "summary.words > 5")
summary >> check
check.when(True) >> flow.task("publish", skill="publish")
job = await cluster.run_workflow(flow, topic="rafts")
```

Everything else a file can say (loops, maps, waits, approvals) goes as keyword arguments of `flow.add`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coterie.client.rpc_errors import invalid

BINARY_MAX = 3 << 20  # bytes of a workflow's text


@dataclass(frozen=True, slots=True)
class Ref:
    """A value that will be there when a node begins: `ref["key"]`, `ref[0]` and `ref.key` go into it."""

    path: str

    def __getitem__(self, key: str | int) -> Ref:
        return Ref(f"{self.path}[{json.dumps(key)}]")

    def __getattr__(self, name: str) -> Ref:
        if name.startswith("_"):
            raise AttributeError(name)
        return Ref(f"{self.path}.{name}")

    def default(self, value: Any) -> Ref:
        """This, or the value where it is missing."""
        return Ref(f"{self.path} | {json.dumps(value)}")

    def __str__(self) -> str:
        return f"{{{{ {self.path} }}}}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One outcome of a branching node: `check.when(True) >> next`."""

    node: Node
    when: str

    def __rshift__(self, others: Node | Iterable[Node]) -> Node | Iterable[Node]:
        for other in _each(others):
            other.after(self)
        return others


@dataclass(eq=False, slots=True)
class Node:
    """One node of a workflow that is being built. `a >> b`: b stands on a; both sides may be lists."""

    flow: Workflow
    id: str
    options: dict[str, Any]
    depends_on: list[Any] = field(default_factory=list)

    def after(self, *others: Node | Outcome | str) -> Node:
        """Stands on these too."""
        for other in others:
            if isinstance(other, Outcome):
                edge: Any = {"node": other.node.id, "when": other.when}
            else:
                edge = other.id if isinstance(other, Node) else other
            if edge not in self.depends_on:
                self.depends_on.append(edge)
        return self

    def when(self, outcome: bool | str) -> Outcome:
        """That outcome of it: True or False of a condition or an approval, a case of a switch."""
        text = {True: "true", False: "false"}[outcome] if isinstance(outcome, bool) else outcome
        return Outcome(self, text)

    @property
    def output(self) -> Ref:
        """What it gives."""
        return Ref(self.options.get("output_var", self.id))

    def __rshift__(self, others: Node | Iterable[Node]) -> Node | Iterable[Node]:
        for other in _each(others):
            other.after(self)
        return others

    def __rrshift__(self, others: Iterable[Node | Outcome]) -> Node:
        return self.after(*others)


def _each(others: Node | Iterable[Node]) -> list[Node]:
    return [others] if isinstance(others, Node) else list(others)


class Workflow:
    """A workflow that is being built, or one that was read from a file.

    - `inputs`: names of what a run is given, or a dict of names and defaults (None: required).
    - `outputs`: what a run gives: any JSON value with references; else what the last nodes gave.
    - `on_failure`: abort, continue, skip-dependents or compensate.
    - `timeout`: of a whole run. `max_parallel`: tasks of a run at once.
    """

    def __init__(
        self,
        name: str = "workflow",
        *,
        inputs: Iterable[str] | Mapping[str, Any] = (),
        outputs: Any = None,
        on_failure: str = "abort",
        timeout: str | float | None = None,
        max_parallel: int | None = None,
    ) -> None:
        self.name = name
        self.nodes: dict[str, Node] = {}
        self._inputs = dict(inputs) if isinstance(inputs, Mapping) else list(inputs)
        self._outputs, self._text = outputs, ""
        options = {"on_failure": on_failure, "timeout": timeout, "max_parallel": max_parallel}
        self._options = {key: value for key, value in options.items() if value is not None}
        self.rule = ""

    @classmethod
    def from_yaml(cls, text: str, *, name: str = "workflow", rule: str = "") -> Workflow:
        """One written as YAML or JSON, in any form the cluster reads. It is checked by the cluster."""
        flow = cls(name)
        flow._text, flow.rule = text, rule
        return flow

    @classmethod
    def from_file(cls, path: str | Path, *, rule: str = "") -> Workflow:
        """The same from a file."""
        return cls.from_yaml(Path(path).read_text(encoding="utf-8-sig"), name=Path(path).stem, rule=rule)

    def ref(self, name: str) -> Ref:
        """An input of the run, or the output of a node."""
        return Ref(name)

    # --- nodes

    def add(self, id: str, *, after: Any = (), **options: Any) -> Node:
        """A node of any type, with the keys it has in a file. Raises InvalidRequest for an id given twice."""
        if id in self.nodes:
            raise invalid([("id", f"{id!r} is the id of a node already; choose another")])
        node = self.nodes[id] = Node(self, id, options)
        return node.after(*([after] if isinstance(after, Node | Outcome | str) else after))

    def task(self, id: str, *, skill: str, input: Any = None, after: Any = (), **options: Any) -> Node:
        """A node that a skill runs."""
        given = {} if input is None else {"input": input}
        return self.add(id, after=after, skill=skill, **given, **options)

    def agent(self, id: str, *agents: str, input: Any = None, after: Any = (), **options: Any) -> Node:
        """A node for one agent, or for several whose answers `join` makes one."""
        given = {} if input is None else {"input": input}
        return self.add(id, after=after, agents=list(agents), **given, **options)

    def condition(self, id: str, condition: str, *, after: Any = (), **options: Any) -> Node:
        """A node that is true or false: `node.when(True) >> …`."""
        return self.add(id, after=after, condition=condition, **options)

    def node(self, *, id: str = "", **options: Any) -> Callable[[Callable[..., Any]], Node]:
        """Decorates a function whose parameters are what the node stands on and which returns its input. It
        is called here and now, with references; the node takes its name."""

        def decorate(function: Callable[..., Any]) -> Node:
            names = list(inspect.signature(function).parameters)
            given = function(*(Ref(name) for name in names))
            before = [name for name in names if name in self.nodes]
            extra = {} if given is None else {"input": given}
            return self.add(id or function.__name__, after=before, **extra, **options)

        return decorate

    # --- as text

    def to_dict(self) -> dict[str, Any]:
        """The native form."""
        nodes = [
            {**_plain(node.options), "id": node.id, "depends_on": node.depends_on}
            for node in self.nodes.values()
        ]
        outputs = {} if self._outputs is None else {"outputs": _plain(self._outputs)}
        return {"name": self.name, "inputs": self._inputs, **self._options, **outputs, "nodes": nodes}

    def text(self) -> str:
        """What is sent to the cluster."""
        return self._text or json.dumps(self.to_dict(), ensure_ascii=False)


def _plain(value: Any) -> Any:
    """References as text; a workflow inside as its own form."""
    if isinstance(value, Ref):
        return str(value)
    if isinstance(value, Node):
        return str(value.output)
    if isinstance(value, Workflow):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
