"""Prints the bytes that a queued task takes with everything that leads to it, without its request id, which
is forgotten earlier."""

from __future__ import annotations

import tracemalloc

from coterie.core.commands import ConfigureCluster
from coterie.core.nouns import Data, Policy
from coterie.raft import codec
from coterie.raft.replica import Replica
from tests.core.builders import CoreCluster, submit_command

COUNT, BEFORE = 2_000, 100


def weigh() -> float:
    """Bytes each, of COUNT tasks that come after BEFORE others."""
    cluster = CoreCluster()
    cluster.do(ConfigureCluster("c", "c", Policy(requests_kept_max=1)))
    commands = [
        submit_command(f"{number:032}", payload=Data(b"%d" % number)) for number in range(COUNT + BEFORE)
    ]
    batches = [codec.encode_batch([command]) for command in commands]
    replica = Replica(lambda index, events: None, lambda index: None)
    replica.adopt(cluster.state, 0)
    for number, batch in enumerate(batches[:BEFORE]):
        replica.apply(number, 2_000 + number, batch)
    tracemalloc.start()
    try:
        for number, batch in enumerate(batches[BEFORE:]):
            replica.apply(BEFORE + number, 2_100 + number, batch)
        each = tracemalloc.get_traced_memory()[0] / COUNT
    finally:
        tracemalloc.stop()
    assert len(replica.state.indexes.queue) == COUNT + BEFORE
    return each


if __name__ == "__main__":
    print(f"{weigh():.0f}")
