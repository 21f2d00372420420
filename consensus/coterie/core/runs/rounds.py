"""Nodes of many rounds: loops, whose iterations follow each other, and maps, whose items run side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from coterie.core.graph.evaluate import holds
from coterie.core.graph.model import ITEMS_MAX, GraphNode
from coterie.core.graph.refs import fill, references
from coterie.core.graph.values import ValueFault, type_name
from coterie.core.nouns import Data, Task, evolve
from coterie.core.runs.run import list_key, part_key
from coterie.core.runs.scope import described, inline, json_of, listed
from coterie.core.runs.tasks import begin_run, begin_task, input_of, parts_of
from coterie.core.state import held

if TYPE_CHECKING:
    from coterie.core.runs.walk import Walk


def loop(walk: Walk, node: GraphNode) -> None:
    walk.put(evolve(walk.run.nodes[node.node_id], total=node.max_iterations))
    begin_iteration(walk, node)


def begin_iteration(walk: Walk, node: GraphNode) -> None:
    """The next one that an earlier run has not left; its number begins at 1."""
    record = walk.run.nodes[node.node_id]
    place = record.issued
    known = walk.steps.find(part_key(node.node_id, place))
    if known is not None:
        walk.put(evolve(record, issued=place + 1))
        _after_iteration(walk, node, known.result, place)
        return
    before = walk.steps.find(part_key(node.node_id, place - 1))
    more = {
        "iteration": place + 1,
        "last": described(before.result, walk.meter) if before is not None else None,
    }
    begin_run(walk, node, place, _inputs(walk, node, more))


def _inputs(walk: Walk, node: GraphNode, more: dict[str, Any]) -> Data:
    """Of a run inside: the input of the node, and beside it what this round is."""
    given = described(input_of(walk, node, more), walk.meter) if node.input else {}
    return inline({**(given if isinstance(given, dict) else {"input": given}), **more}, walk.meter)


def iteration_ended(walk: Walk, node: GraphNode, task: Task, place: int) -> None:
    if walk.keep(part_key(node.node_id, place), task.result):
        _after_iteration(walk, node, task.result, place)


def _after_iteration(walk: Walk, node: GraphNode, result: Data, place: int) -> None:
    record = walk.put(evolve(walk.run.nodes[node.node_id], succeeded=place + 1))
    walk.meter.bytes += held(result)
    more = {"output": json_of(result, "output"), "last": None, "iteration": place + 1}
    if walk.counted(holds, node.expr, walk.scope(node, {**more, "last": more["output"]})):
        walk.succeed(node, result, message=f"after {place + 1} iterations")
    elif record.issued >= record.total:
        walk.fail(node, "MAX_ITERATIONS", f"{node.expr[:200]} did not hold after {place + 1} iterations")


def _items(walk: Walk, node: GraphNode) -> list[Any]:
    """The list a map goes over, the same at every look: see `_is_kept`. It is no work of an entry: a replica
    that was restored may have to make it again where the others remember it."""
    known: list[Any] | None = walk.book.values.get(f"~{node.node_id}")
    if known is not None:
        return known
    step = walk.steps.find(list_key(node.node_id))
    return _listed(
        walk, node, fill(node.over, walk.scope(node)) if step is None else json_of(step.result, "over")
    )


def _first_items(walk: Walk, node: GraphNode) -> list[Any]:
    """The same when the map begins, which is at the same entry on every replica: then it is work."""
    step = walk.steps.find(list_key(node.node_id))
    if step is not None:
        walk.meter.bytes += held(step.result)
        return _listed(walk, node, json_of(step.result, "over"))
    return _listed(walk, node, walk.counted(fill, node.over, walk.scope(node)))


def _listed(walk: Walk, node: GraphNode, items: Any) -> list[Any]:
    if not isinstance(items, list):
        raise ValueFault("TYPE_ERROR", f"`over` is a {type_name(items)}, not a list")
    if len(items) > ITEMS_MAX:
        raise ValueFault("TOO_MANY_ITEMS", f"{len(items)} items, the limit is {ITEMS_MAX}")
    if walk.steps.find(list_key(node.node_id)) is not None or not _may_change(node):
        walk.book.values[f"~{node.node_id}"] = items
    return items


def _may_change(node: GraphNode) -> bool:
    """Whether an alternative that comes first may be there only later: the join wants not all, or it is of a
    node on which the map does not stand. What is there stays there."""
    return any(len(ref.options) > 1 for ref in references(node.over))


def _is_kept(walk: Walk, node: GraphNode, items: list[Any]) -> bool:
    """A list that may change is a step of the run; False when that holds too much and was given up."""
    if not _may_change(node):
        return True
    return walk.keep(list_key(node.node_id), inline(items, walk.meter))


def map_items(walk: Walk, node: GraphNode) -> None:
    items = _first_items(walk, node)
    if _is_kept(walk, node, items):
        walk.put(evolve(walk.run.nodes[node.node_id], total=len(items)))
        map_over(walk, node)


def begin_item(walk: Walk, node: GraphNode) -> None:
    record = walk.run.nodes[node.node_id]
    place = record.issued
    if walk.steps.find(part_key(node.node_id, place)) is not None:
        walk.put(evolve(record, issued=place + 1, succeeded=record.succeeded + 1))
        map_over(walk, node)
        return
    items = _items(walk, node)
    if place >= len(items):  # of a map that an earlier version began, which kept no list
        raise ValueFault("LIST_CHANGED", f"`over` had {record.total} items and has {len(items)} now")
    more = {"item": items[place], "index": place}
    if node.body is None:
        payload = input_of(walk, node, more) if node.input else inline(more["item"], walk.meter)
        begin_task(walk, node, place, payload)
        return
    begin_run(walk, node, place, _inputs(walk, node, more))


def item_ended(walk: Walk, node: GraphNode, task: Task, place: int) -> None:
    if walk.keep(part_key(node.node_id, place), task.result):
        record = walk.run.nodes[node.node_id]
        walk.put(evolve(record, succeeded=record.succeeded + 1))
        map_over(walk, node)


def map_over(walk: Walk, node: GraphNode) -> None:
    """All items have ended: the list of what they gave, in their order."""
    record = walk.run.nodes[node.node_id]
    if record.succeeded + record.failed < record.total or record.live:
        return
    result = inline(listed(parts_of(walk, node), walk.meter), walk.meter)
    lost = f"{record.failed} of {record.total} items failed and are left out" if record.failed else ""
    walk.succeed(node, result, message=lost)
