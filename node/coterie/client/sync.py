"""The client for programs without asyncio: the same methods, each returning when it is done.

```python
from coterie.client.sync import Cluster

with Cluster() as c:  # that of `coterie dev`, after `source .coterie-dev/env`
    job = c.submit_task(type="summarize", payload={"text": "…"})
    print(job.wait(timeout="10m"))
```

One event loop runs in one thread of its own for as long as the Cluster is open. Methods may be called from
any thread. `on_progress` callbacks run in that thread and must not call the Cluster themselves.
"""

from coterie.client.sync_cluster import Cluster
from coterie.client.sync_job import Job
from coterie.client.sync_map_reduce import map_reduce, start_map_reduce

__all__ = ["Cluster", "Job", "map_reduce", "start_map_reduce"]
