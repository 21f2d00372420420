"""Run tasks on a Coterie cluster from a Python program.

```python
from coterie.client import TLS, Cluster

async with Cluster("10.0.1.1:8080,10.0.1.2:8080,10.0.1.3:8080", tls=TLS.of("tls")) as c:
    job = await c.submit_task(type="summarize", payload={"text": "…"}, timeout="10m",
                              on_progress=lambda p: print(p.percent, p.message))
    print(await job.wait())
```

**Submitting.** `submit_task` returns once the task is on the disks of a majority. `submit_tasks([...])`
takes many. Every submit carries a request_id; give your own to make your program's restart safe as well:
the same request_id with the same body never runs twice. Payloads may be any JSON value or bytes; large ones
travel as blobs, and large results come back the same way, without you noticing.

**Waiting.** `await job.wait(timeout="10m")` gives the result or raises TaskFailed, TaskCancelled,
TaskTimedOut or TaskDeadLettered. `async for event in job.watch()` shows what happens to the task.
Both outlive leader changes, dead nodes and broken connections. `c.job(id)` gives the handle back, in any
process.

**Many documents.** `await map_reduce(c, documents, map="extract", reduce="merge", on_map_failure=skip(100))`
runs as one task inside the cluster, with a window of children open at once; see `coterie.client.map_reduce`.

**When nodes fail.** Calls go round robin over the nodes that answer. What fails by the network, a leader
change or a shutdown is repeated on another node with the same request_id, with growing random pauses, up to
`Timeouts.call` seconds in all; then Unavailable names every endpoint and its last error.

**Errors** are listed in `coterie.client.errors`; those of the cluster have `.code` and `.reason`.

**Without asyncio**, `coterie.client.sync.Cluster` offers the same methods for plain code.
"""

from coterie.client.agents import Agent
from coterie.client.breakers import Breaker
from coterie.client.cluster import Cluster
from coterie.client.errors import (
    Aborted,
    AlreadyExists,
    ClusterClosed,
    ClusterError,
    ConfigError,
    CoterieError,
    DataLoss,
    FailedPrecondition,
    InvalidRequest,
    NodeLost,
    NotFound,
    OutOfRange,
    PermissionDenied,
    QueueFull,
    ResourceExhausted,
    SubmitErrors,
    TaskCancelled,
    TaskDeadLettered,
    TaskError,
    TaskFailed,
    TaskTimedOut,
    Unavailable,
    WaitTimeout,
)
from coterie.client.job import Job
from coterie.client.map_reduce import FailedMap, MapReduceResult, map_reduce, skip, start_map_reduce
from coterie.client.models import Event, NodeInfo, Progress, Status, StepInfo, TaskFailure, TaskInfo
from coterie.client.queueing import Limit, Tenant
from coterie.client.routes import Route, RouteCandidate, RouteTerm
from coterie.client.settings import TLS, Timeouts
from coterie.client.skills import PublishedSkill, SkillPolicy, SkillRevision
from coterie.client.spec import TaskSpec
from coterie.client.task_router import TaskRouter
from coterie.client.tokens import TokenChunk, TokenText
from coterie.client.usage import Budget, DoubtfulCall, UsageRow
from coterie.client.workflow import Workflow

__all__ = [
    "TLS",
    "Aborted",
    "Agent",
    "AlreadyExists",
    "Breaker",
    "Budget",
    "Cluster",
    "ClusterClosed",
    "ClusterError",
    "ConfigError",
    "CoterieError",
    "DataLoss",
    "DoubtfulCall",
    "Event",
    "FailedMap",
    "FailedPrecondition",
    "InvalidRequest",
    "Job",
    "Limit",
    "MapReduceResult",
    "NodeInfo",
    "NodeLost",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "Progress",
    "PublishedSkill",
    "QueueFull",
    "ResourceExhausted",
    "Route",
    "RouteCandidate",
    "RouteTerm",
    "SkillPolicy",
    "SkillRevision",
    "Status",
    "StepInfo",
    "SubmitErrors",
    "TaskCancelled",
    "TaskDeadLettered",
    "TaskError",
    "TaskFailed",
    "TaskFailure",
    "TaskInfo",
    "TaskRouter",
    "TaskSpec",
    "TaskTimedOut",
    "Tenant",
    "Timeouts",
    "TokenChunk",
    "TokenText",
    "Unavailable",
    "UsageRow",
    "WaitTimeout",
    "Workflow",
    "map_reduce",
    "skip",
    "start_map_reduce",
]
