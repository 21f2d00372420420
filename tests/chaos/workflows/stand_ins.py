"""Skills in the place of the outside world that the shipped workflows speak to. What each gives is a pure
function of its input; a line in a file, outside of the cluster, says that an attempt began."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from coterie.skills import SkillContext
from coterie.skills.decorator import skill
from coterie.skills.errors import NonRetryable
from coterie.skills.k8s_deploy.request import DeployRequest

WORK_S = 0.1


async def began(ctx: SkillContext) -> None:
    """One atomic append, then a little work: long enough for nodes to die in the middle of it."""
    path = ctx.settings.get("witness")
    if path:
        fd = os.open(str(path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(fd, f"{ctx.task_id} {ctx.attempt}\n".encode())
        finally:
            os.close(fd)
    await asyncio.sleep(WORK_S)


@skill(name="no-k8s-deploy", effects="idempotent")
async def deploy(ctx: SkillContext, input: Any) -> Any:
    """Deploys anything but `broken`."""
    await began(ctx)
    request = DeployRequest.model_validate(input)  # the workflow says what the shipped skill takes
    [manifest] = request.manifests
    if manifest["metadata"]["name"] == "broken":
        raise NonRetryable("the image of broken cannot be pulled")
    return {"objects": [{"kind": manifest["kind"], "name": manifest["metadata"]["name"]}]}


@skill(name="feishu-message", effects="external")
async def message(ctx: SkillContext, input: Any) -> Any:
    """Sends nothing."""
    await began(ctx)
    return {"sent": input["text"]}


@skill(name="collect", effects="none")
async def collect(ctx: SkillContext, input: Any) -> Any:
    """The rows of a source, unless it is down."""
    await began(ctx)
    if input.get("down"):
        raise NonRetryable(f"source {input['name']} does not answer")
    return [{"source": input["name"], "value": value} for value in input["values"]]


@skill(name="statistics", effects="none")
async def statistics(ctx: SkillContext, input: Any) -> Any:
    """Count and sum of a column."""
    await began(ctx)
    values = [row[input["of"]] for row in input["rows"]]
    return {"count": len(values), "sum": sum(values)}


@skill(name="page-on-call", effects="external")
async def page(ctx: SkillContext, input: Any) -> Any:
    """Pages nobody."""
    await began(ctx)
    return {"paged": input["ticket"]}


@skill(name="review-draft", effects="none")
async def review(ctx: SkillContext, input: Any) -> Any:
    """Content from the second round on."""
    await began(ctx)
    return {"good": input["round"] >= 2, "remark": f"round {input['round']}"}


@skill(name="send-reply", effects="external")
async def send(ctx: SkillContext, input: Any) -> Any:
    """Sends nothing."""
    await began(ctx)
    return {"to": input["ticket"], "text": input["text"]}
