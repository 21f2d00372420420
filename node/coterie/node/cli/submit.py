"""`coterie submit`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from coterie.node.cli.failures import bad_input
from coterie.node.cli.following import follow, print_end, progress_line, watch_events
from coterie.node.cli.framework import DURATION, LeafCommand
from coterie.node.cli.payloads import read_payload
from coterie.node.cli.session import Session
from coterie.node.cli.text import one_line

if TYPE_CHECKING:
    from rich.console import Console

    from coterie.client.cluster import Cluster
    from coterie.client.job import Job
    from coterie.client.models import TaskInfo

PRIORITIES: Final = ("low", "normal", "high", "critical")


@dataclass(frozen=True, slots=True)
class Order:
    """What to submit, and whether to stay for it."""

    task: dict[str, Any]
    wait: bool
    stream: bool
    goal: dict[str, Any] | None = None


class LabelType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A pair, from `key=value`."""

    name = "k=v"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        key, equals, text = str(value).partition("=")
        if not equals or not key:
            self.fail(f"{value!r} is not a label: write key=value", param, ctx)
        return key, text


class WishType(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A pair, from `key=value`; lists, dicts, true and false are JSON, anything else is a text."""

    name = "k=v"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        if isinstance(value, tuple):
            return value
        key, equals, text = str(value).partition("=")
        if not equals or not key or not text:
            self.fail(f"{value!r} is not a constraint: write key=value, such as memory=2GiB", param, ctx)
        if text[0] not in '[{"' and text not in ("true", "false"):
            return key, int(text) if key == "gpus" and text.isdecimal() else text
        try:
            return key, json.loads(text)
        except (ValueError, RecursionError) as error:
            self.fail(f"the value of {key}, {one_line(text, 60)!r}, is not JSON ({error})", param, ctx)


WISH: Final = WishType()
WISH_HELP: Final = (
    'What the node must have, or should: memory=2GiB, gpus=1, zones=\'["a"]\', labels=\'{"disk":"ssd"}\', '
    'max_latency=20ms, require_node=coordinator, session=S, prefer_zone=a, affinity=\'[{"type":"map"}]\' '
    "… Repeatable."
)


@click.command(cls=LeafCommand)
@click.argument("type_", metavar="[TYPE]", required=False)
@click.option("--goal", default=None, metavar="TEXT|@FILE|-", help="What is wanted, in words.")
@click.option("--payload", default=None, metavar="JSON|@FILE|-", help="Input: JSON, a file of it, or stdin.")
@click.option("--priority", type=click.Choice(PRIORITIES, case_sensitive=False), default="normal")
@click.option("--timeout", type=DURATION, help="For one attempt. Default: the skill's own.")
@click.option("--deadline", type=DURATION, help="For the whole task, retries included.")
@click.option(
    "--label", "labels", type=LabelType(), multiple=True, help="Your own words, for lists. Repeatable."
)
@click.option(
    "--delay", "start_delay", type=DURATION, help="Not to be started earlier than so long from now."
)
@click.option("--require-gpu", is_flag=True, help="Only on a node with a GPU.")
@click.option("--constraint", "wishes", type=WISH, multiple=True, help=WISH_HELP)
@click.option("--node", "target_node", help="On this node only.")
@click.option("--request-id", help="Idempotency key: the same key and body give the same task.")
@click.option("--max-attempts", type=click.IntRange(min=1), help="Default: the cluster's own.")
@click.option("--key", default="", help="What limits per key count by: a customer, a session.")
@click.option("--agent", default="", help="On whose behalf it runs.")
@click.option("--parent", default="", metavar="ID", help="A live task whose end and deadline bind this one.")
@click.option(
    "--initial-backoff", type=DURATION, help="The most the first pause takes; each next one twice that."
)
@click.option("--max-backoff", type=DURATION, help="The most any pause takes.")
@click.option(
    "--non-retryable", multiple=True, metavar="CODE", help="An error that ends it at once. Repeatable."
)
@click.option("--dead-letter", is_flag=True, help="Out of attempts it is kept as a dead letter.")
@click.option("--no-checkpoint", is_flag=True, help="A resumed task starts from zero.")
@click.option("--context", default=None, metavar="JSON|@FILE|-", help="What belongs to the goal.")
@click.option("--rule", default="", help="Of the goal: this routing rule.")
@click.option("--aggregate", default="", help="Of the goal: llm, answer, list, concat, merge, vote …")
@click.option("--approve/--no-approve", default=None, help="Of the goal: a person looks at the plan first.")
@click.option("--plan-only", is_flag=True, help="Of the goal: make the plan, and run nothing.")
@click.option("--wait", is_flag=True, help="Stay until it ends, and print the result.")
@click.option("--stream", is_flag=True, help="Like --wait, and print each event.")
@click.pass_obj
def submit(session: Session, /, type_: str | None, wait: bool, stream: bool, **options: Any) -> None:
    """Submit a task of TYPE, the name of a skill, or a goal. Prints its id, or with --wait its result.

    \b
    coterie submit echo --payload '{"text": "hello"}' --wait
    coterie submit sleep --payload '{"seconds": 5, "steps": 10}' --stream
    coterie submit train --delay 10m --constraint memory=2GiB --constraint zones='["a"]'
    coterie submit --goal "compare the three reports and tell me what changed" --wait
    """
    from coterie.node.cli.goal import goal_of

    goal = goal_of(options, type_)
    order = Order(_task(type_ or "goal", options), wait or stream, stream, goal)
    if order.wait:
        session.call(lambda cluster: _submit_and_stay(session, cluster, order), patient=True)
        return
    task = session.call(lambda cluster: _submit(cluster, order))
    session.emit({"task": task}, lambda out: _print_submitted(session, out, task))


async def _submit(cluster: Cluster, order: Order) -> TaskInfo:
    job = await _send(cluster, order)
    return job.task or await job.get()


async def _send(cluster: Cluster, order: Order) -> Job:
    if order.goal is None:
        return await cluster.submit_task(**order.task)
    options = {key: value for key, value in order.task.items() if key not in ("type", "payload")}
    if options.pop("target_node"):
        raise bad_input("--node", "is not for goals: their tasks run wherever there is room")
    return await cluster.goals.submit(**order.goal, **options)


async def _submit_and_stay(session: Session, cluster: Cluster, order: Order) -> None:
    job = await _send(cluster, order)
    session.say(f"submitted {job.id}")
    events: list[Any] = []
    if order.stream:
        # Events are the output of a stream; with --json that place belongs to the one document.
        await watch_events(session, job, events)
    task, result = await follow(session, job, None if order.stream else progress_line(session))
    print_end(session, task, result, events if order.stream else None)


def _print_submitted(session: Session, out: Console, task: TaskInfo) -> None:
    # The id alone, so that a script can say id=$(coterie submit …).
    click.echo(task.id)
    if out.is_terminal:
        session.say(f"{task.type} is {task.state}; `coterie task watch {task.id}` follows it")


def _task(type_: str, options: dict[str, Any]) -> dict[str, Any]:
    labels = _once("--label", options.pop("labels"))
    constraints = _once("--constraint", options.pop("wishes")) | (
        {"require_gpu": True} if options.pop("require_gpu") else {}
    )
    retry = {name: options.pop(name) for name in ("initial_backoff", "max_backoff", "dead_letter")}
    retry["non_retryable"] = list(options.pop("non_retryable"))
    return {
        "type": type_,
        "payload": read_payload(options.pop("payload")),
        "checkpoint": not options.pop("no_checkpoint"),
        "labels": labels or None,
        "constraints": constraints or None,
        "retry": {name: value for name, value in retry.items() if value} or None,
        **options,
    }


def _once(option: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if found.setdefault(key, value) != value:
            raise bad_input(option, f"{key} is given as {found[key]!r} and {value!r}; give it once")
    return found
