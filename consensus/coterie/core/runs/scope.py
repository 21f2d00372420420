"""What expressions and references of a node can see: inputs of the run, outputs of its nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from coterie.core.graph.evaluate import MISSING, WEIGHT_STEP_BITS, Meter
from coterie.core.graph.model import GraphNode
from coterie.core.graph.refs import fill, whole
from coterie.core.graph.values import VALUE_BYTES_MAX, ValueFault, encoded, read_json, weight, written
from coterie.core.nouns import Data, Task
from coterie.core.runs.book import Book
from coterie.core.runs.run import Run
from coterie.core.shown import shown
from coterie.core.state import held
from coterie.core.steplog import StepLog

NOTHING: Mapping[str, Any] = {}


class RunScope:
    """See coterie.core.graph.evaluate.Scope."""

    def __init__(
        self, run: Run, task: Task, steps: StepLog, more: Mapping[str, Any], meter: Meter, seen: set[str]
    ) -> None:
        assert run.book is not None
        self._run, self._task, self._steps, self._more = run, task, steps, more
        self._meter, self._seen = meter, seen
        self._book: Book = run.book
        self.node: GraphNode | None = None

    def value(self, name: str) -> Any:
        if name in self._more:
            return self._more[name]
        producer = self._book.producers.get(name)
        if producer is not None:
            return self._output(producer, name)
        if name in self._book.inputs:
            return self._book.inputs[name]
        if name == "input":
            return self._book.inputs
        if name == "run":
            return {"id": self._task.task_id, "name": self._book.graph.name}
        raise ValueFault(MISSING, f"there is no value {shown(name)} in this run")

    def ends(self, node: str) -> list[str]:
        names = [node] if node else [edge.node for edge in self.node.depends_on] if self.node else []
        records = [self._run.nodes.get(name) for name in names]
        return [record.state.name for record in records if record is not None]

    def _output(self, node_id: str, name: str) -> Any:
        """It is read once: see `Book.values`. So is what is no JSON, which tells nothing of its name."""
        known = self._book.values
        self._count(node_id)
        if node_id not in known:
            data = self.data(node_id, name)
            known[node_id] = json_of(data, name) if data.sha256 else _value_or_fault(data)
        found = known[node_id]
        if isinstance(found, ValueFault):
            raise ValueFault(found.code, found.text)
        return found

    def _count(self, node_id: str) -> None:
        """Once in each visit, remembered or not: who was restored has to read what others remember."""
        if node_id not in self._seen:
            self._seen.add(node_id)
            step = self._steps.find(node_id)
            self._meter.bytes += held(step.result) if step is not None else 0

    def data(self, node_id: str, name: str) -> Data:
        """What a node gave, as it is. Raises ValueFault MISSING_VALUE."""
        step = self._steps.find(node_id)
        if step is None:
            record = self._run.nodes.get(node_id)
            state = record.state.name if record is not None else "not begun"
            raise ValueFault(MISSING, f"{shown(name)} is not there: node {node_id} is {state}")
        return step.result

    def filled(self, template: str, meter: Meter) -> Data:
        """A template as a task's payload. Nothing but one reference to a whole output is handed on as it is,
        a blob too. Raises ValueFault."""
        meter.bytes += len(template)
        ref = whole(template)
        if ref is not None and len(ref.paths) == 1 and not ref.paths[0].parts:
            name = ref.paths[0].name
            producer = self._book.producers.get(name)
            if producer is not None and name not in self._more and self._steps.find(producer) is not None:
                return self.data(producer, name)
        return inline(fill(template, self, meter, limit=VALUE_BYTES_MAX), meter)


def json_of(data: Data, name: str) -> Any:
    """The value in what a task gave. Raises ValueFault."""
    if data.sha256:
        text = f"{shown(name)} is a blob of {data.size_bytes} bytes: only a whole input can be one, such as "
        raise ValueFault("BLOB_VALUE", text + f'input: "{{{{ {name} }}}}"')
    return read_json(data.inline) if data.inline else None


def _value_or_fault(data: Data) -> Any:
    try:
        return json_of(data, "")
    except ValueFault as fault:
        return ValueFault(fault.code, fault.text)  # without its traceback, which would keep the text


def described(data: Data, meter: Meter) -> Any:
    """The value, or where it is: for lists of what tasks gave."""
    meter.bytes += held(data)
    if data.sha256:
        return {"blob": {"sha256": data.sha256, "size_bytes": data.size_bytes}}
    try:
        return read_json(data.inline) if data.inline else None
    except ValueFault:
        return {"bytes": len(data.inline)}


def listed(found: Iterable[Data], meter: Meter) -> list[Any]:
    """What tasks gave, each as `described`. Of more than a value may be no more is read than shows that it is
    more. Raises ValueFault VALUE_TOO_LARGE."""
    values, read, bytes_ = [], 0, 0
    for data in found:
        values.append(described(data, meter))
        read += held(data)
        if read > VALUE_BYTES_MAX:  # which tells nothing yet: what a task gave may be written with blanks
            more = weight(values[-1], VALUE_BYTES_MAX)
            meter.steps += more >> WEIGHT_STEP_BITS
            bytes_ += more
        if bytes_ > VALUE_BYTES_MAX:
            raise ValueFault("VALUE_TOO_LARGE", f"results of more than {VALUE_BYTES_MAX} bytes")
    return values


def bounded(value: Any, meter: Meter) -> Any:
    """The same value, if it may be one: to weigh it takes less than to write what is far too large. Raises
    ValueFault VALUE_TOO_LARGE."""
    if isinstance(value, list | dict):
        bytes_ = weight(value, VALUE_BYTES_MAX)
        meter.steps += bytes_ >> WEIGHT_STEP_BITS
        if bytes_ > VALUE_BYTES_MAX:
            raise ValueFault("VALUE_TOO_LARGE", f"a value of more than {VALUE_BYTES_MAX} bytes")
    return value


def inline(value: Any, meter: Meter) -> Data:
    """Raises ValueFault VALUE_TOO_LARGE, or NOT_JSON."""
    text = written(value)
    meter.bytes += len(text)
    return Data(encoded(text))
